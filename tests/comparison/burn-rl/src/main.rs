//! Gradient updates and decisions a CPU second of burn-rl's DQN, in the lines that `agent/burn/examples/learner_speed.rs` prints.
//! `RAYON_NUM_THREADS=1 MATMUL_NUM_THREADS=1 comparison-burn-rl`.
//!
//! Its `DQN::train` on its `Memory`, with burn's ndarray backend: two forward passes, a mean squared error, AdamW with
//! the clipping of its configuration, a soft target. The network and how the target follows it are the user's to write.
//! One decision is `Agent::react`; several at once are the network's, since burn-rl has no call for them.

use burn::backend::{Autodiff, NdArray};
use burn::module::{AutodiffModule, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamWConfig;
use burn::tensor::activation::relu;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Distribution, Tensor};
use burn_rl::agent::{DQNModel, DQNTrainingConfig, DQN};
use burn_rl::base::{Action, Agent, ElemType, Environment, Memory, Model, Snapshot, State};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
const CAPACITY: usize = 20_000;

type Training = Autodiff<NdArray<ElemType>>;
type Deciding = NdArray<ElemType>;

#[derive(Module, Debug)]
struct Net<B: Backend> {
    layers: [Linear<B>; 3],
}

impl<B: Backend> Net<B> {
    fn new() -> Self {
        Self { layers: [(4, 120), (120, 84), (84, 2)].map(|(from, to)| LinearConfig::new(from, to).init(&B::Device::default())) }
    }
}

impl<B: Backend> Model<B, Tensor<B, 2>, Tensor<B, 2>> for Net<B> {
    fn forward(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        let [first, second, last] = &self.layers;
        last.forward(relu(second.forward(relu(first.forward(input)))))
    }

    fn infer(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        self.forward(input)
    }
}

impl DQNModel<Training> for Net<Training> {
    fn soft_update(this: Self, that: &Self, tau: ElemType) -> Self {
        let mut online = that.layers.iter();
        let layers = this.layers.map(|target| {
            let online = online.next().expect("as many layers");
            let bias = target.bias.map(|bias| nearer(bias, online.bias.as_ref().expect("both have one"), tau));
            Linear { weight: nearer(target.weight, &online.weight, tau), bias }
        });
        Self { layers }
    }
}

// Only `DQN::new` asks for it here.
impl DQNModel<Deciding> for Net<Deciding> {
    fn soft_update(_: Self, _: &Self, _: ElemType) -> Self {
        panic!("what decides does not learn")
    }
}

/// Outside the graph, which would otherwise grow with every update.
fn nearer<B: AutodiffBackend, const D: usize>(
    target: Param<Tensor<B, D>>,
    online: &Param<Tensor<B, D>>,
    tau: ElemType,
) -> Param<Tensor<B, D>> {
    let mixed = target.val().inner() * (1.0 - tau) + online.val().inner() * tau;
    Param::initialized(target.id, Tensor::from_inner(mixed))
}

#[derive(Debug, Clone, Copy)]
struct Seen([ElemType; 4]);

impl State for Seen {
    type Data = [ElemType; 4];

    fn to_tensor<B: Backend>(&self) -> Tensor<B, 1> {
        Tensor::from_floats(self.0, &B::Device::default())
    }

    fn size() -> usize {
        4
    }
}

#[derive(Debug, Clone, Copy)]
struct Chosen(u32);

impl From<u32> for Chosen {
    fn from(index: u32) -> Self {
        Self(index)
    }
}

impl From<Chosen> for u32 {
    fn from(action: Chosen) -> Self {
        action.0
    }
}

impl Action for Chosen {
    fn enumerate() -> Vec<Self> {
        vec![Self(0), Self(1)]
    }
}

/// Observations and rewards by chance.
#[derive(Debug)]
struct Chance;

impl Environment for Chance {
    type StateType = Seen;
    type ActionType = Chosen;
    type RewardType = ElemType;

    fn new(_: bool) -> Self {
        Self
    }

    fn state(&self) -> Seen {
        Seen(std::array::from_fn(|_| rand::random::<ElemType>() * 2.0 - 1.0))
    }

    fn reset(&mut self) -> Snapshot<Self> {
        Snapshot::new(self.state(), 0.0, false)
    }

    fn step(&mut self, _: Chosen) -> Snapshot<Self> {
        Snapshot::new(self.state(), -rand::random::<ElemType>(), false)
    }
}

fn main() {
    // burn's ndarray backend asks rayon: on a pool of one worker every question would be a hand-over to another thread and back.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
    pool.expect("no one built it before");
    println!("burn-rl: 4-120-84-2; medians of {ROUNDS} rounds");
    for batch in [32, 128, 1024] {
        println!("  batch {batch:6}: {:8.0} updates/s", updates(batch));
    }
    for size in [1, 100, 10_000] {
        println!("  {size:12}: {:8.0} decisions/s", decisions(size));
    }
}

fn updates(batch: usize) -> f64 {
    let mut environment = Chance::new(false);
    let mut memory = Box::<Memory<Chance, Training, CAPACITY>>::default();
    let mut seen = environment.state();
    for step in 0..CAPACITY {
        let action = Chosen(step as u32 % 2);
        let snapshot = environment.step(action);
        memory.push(seen, *snapshot.state(), action, *snapshot.reward(), snapshot.done());
        seen = *snapshot.state();
    }
    let config = DQNTrainingConfig { batch_size: batch, ..DQNTrainingConfig::default() };
    let mut optimizer = AdamWConfig::new().with_grad_clipping(config.clip_grad.clone()).init();
    let mut online = Some(Net::<Training>::new());
    let mut agent = DQN::<Chance, Training, _>::new(online.clone().expect("just made"));
    median((200_000 / batch).clamp(40, 4000), || {
        let learned = agent.train(online.take().expect("put back below"), &memory, &mut optimizer, &config);
        online = Some(learned);
    })
}

fn decisions(size: usize) -> f64 {
    let count = (200_000 / size).clamp(3, 20_000);
    let network = Net::<Training>::new().valid();
    if size == 1 {
        let agent = DQN::<Chance, Deciding, _>::new(network);
        let seen = Chance.state();
        return median(count, || _ = std::hint::black_box(agent.react(&seen)));
    }
    let seen = Tensor::<Deciding, 2>::random([size, 4], Distribution::Uniform(-1.0, 1.0), &Default::default());
    let batches = median(count, || _ = std::hint::black_box(network.infer(seen.clone()).argmax(1).into_data()));
    batches * size as f64
}

/// Executions of `work` per CPU second; the first round warms caches.
fn median(count: usize, mut work: impl FnMut()) -> f64 {
    let mut round = || {
        let begin = cpu_seconds();
        (0..count).for_each(|_| work());
        count as f64 / (cpu_seconds() - begin)
    };
    round();
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// CPU time of this process with all its threads.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the clock of the process's CPU time is always available");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
