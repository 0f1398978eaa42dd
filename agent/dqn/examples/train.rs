//! Trains a policy from nothing and judges it beside the rules with their default parameters, on worlds that it never saw.
//! `RAYON_NUM_THREADS=1 cargo run --release -p qscale-dqn --example train -- [cpu seconds] [seed] [key=value ...]`; keys are those of `Settings`.

mod support;

use qscale_common::contract::State;
use qscale_common::units::Allocation;
use qscale_dqn::actions::{ActionSet, Actions, Masked, Menu, Scope};
use qscale_dqn::agent::DqnAgent;
use qscale_dqn::device;
use qscale_dqn::explore::Schedule;
use qscale_dqn::learner::Hyperparameters;
use qscale_dqn::network::DeviceFailed;
use qscale_dqn::train::domain::Part;
use qscale_dqn::train::{Decides, Plan, Score, Trainer, WithMemory, judge};
use qscale_dqn::{Checkpoint, Dqn};
use support::cpu_seconds;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALIDATION: std::ops::Range<u64> = 0..24;
const TEST: std::ops::Range<u64> = 0..60;
const SKIP: u32 = 20;

/// What can be said on the command line.
struct Settings {
    plan: Plan,
    hyperparameters: Hyperparameters,
    actions: Actions,
    replay_ratio: f64,
    /// Choices over which exploration falls.
    exploring: f64,
}

impl Settings {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut settings = Self {
            plan: Plan::default(),
            hyperparameters: Hyperparameters::default(),
            actions: Actions::new(ActionSet::Headroom, Scope::Joint),
            replay_ratio: 0.1,
            exploring: 100_000.0,
        };
        for argument in arguments {
            let (key, value) = argument.split_once('=').ok_or_else(|| format!("{argument}, must be key=value"))?;
            let number = || value.parse::<f64>().map_err(|error| format!("{argument}: {error}"));
            let hyperparameters = &mut settings.hyperparameters;
            match key {
                "lanes" => settings.plan.lanes = number()? as usize,
                "ticks" => settings.plan.ticks = number()? as u32,
                "rps" => settings.plan.domain.most_rps = number()?,
                "ratio" => settings.replay_ratio = number()?,
                "exploring" => settings.exploring = number()?,
                "epsilon" => hyperparameters.exploration.to = number()? as f32,
                "batch" => hyperparameters.batch = number()? as usize,
                "rate" => hyperparameters.learning_rate = number()? as f32,
                "discount" => hyperparameters.discount = number()? as f32,
                "steps" => hyperparameters.steps = number()? as usize,
                "target" => hyperparameters.target_rate = number()? as f32,
                "norm" => hyperparameters.layer_norm = number()? > 0.0,
                "width" => hyperparameters.hidden = vec![number()? as usize; 2],
                "uniform" => hyperparameters.sampling = qscale_dqn::replay::Sampling::Uniform,
                "set" => settings.actions = Actions::new(value.parse()?, settings.actions.scope()),
                "scope" => settings.actions = Actions::new(settings.actions.set(), value.parse()?),
                _ => return Err(format!("unknown key {key}")),
            }
        }
        let Schedule { to, .. } = settings.hyperparameters.exploration;
        settings.hyperparameters.exploration = Schedule { from: 1.0, to, over: settings.exploring as u64 };
        Ok(settings)
    }
}

fn show(name: &str, score: &Score) {
    println!(
        "{name:20} {:8.4} {:9.4} {:8.4} {:7.4} {:7.4} {:8.4} {:7.4}",
        score.reward, score.violation, score.violated, score.cost, score.resize, score.reversal, score.kill
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut number = |default: f64| match arguments.peek().and_then(|text| text.parse().ok()) {
        Some(number) => {
            arguments.next();
            number
        }
        None => default,
    };
    let (budget, seed) = (number(300.0), number(1.0) as u64);
    let settings = match Settings::read(arguments) {
        Ok(settings) => settings,
        Err(error) => return println!("{error}"),
    };
    println!("                       reward violation violated    cost  resize reversal    kill");
    let plan = Plan { seed, ..settings.plan };
    let best = train(budget, seed, &plan, settings.hyperparameters, settings.actions, settings.replay_ratio);
    println!("test worlds {TEST:?}, {} ticks each, the first {SKIP} not judged", plan.ticks);
    let score = |decides: &mut dyn Decides| judge(decides, &plan, Part::Test, TEST, SKIP).expect("the CPU does not fail");
    if let Some(best) = best {
        let dqn = Dqn::new(&best, &device::cpu()).expect("this program wrote it");
        show("dqn", &score(&mut &dqn));
    }
    let always = best_of_always(&plan);
    show(&format!("always {}", always.0), &score(&mut Always::new(always.1)));
    for name in qscale_policies::NAMES {
        let policy = qscale_policies::by_name(name, &serde_json::Value::Null).expect("a name of the list");
        show(name, &score(&mut WithMemory::new(&*policy)));
    }
}

/// One choice for ever: what the choices are worth without any learning. It keeps what it has where the choice cannot be made.
struct Always {
    actions: Actions,
    menu: Menu,
    choice: usize,
}

impl Always {
    fn new(choice: usize) -> Self {
        Self { actions: Actions::new(ActionSet::Headroom, Scope::Joint), menu: Menu::default(), choice }
    }
}

impl Decides for Always {
    fn decide(&mut self, states: &[&State]) -> Result<Vec<Option<Allocation>>, DeviceFailed> {
        let decide = |state: &&State| {
            self.actions.decode(state, &mut self.menu);
            let named = match self.menu.entry(self.choice) {
                Err(Masked::Same(other)) => self.menu.entry(other),
                named => named,
            };
            named.or(self.menu.entry(0)).ok()
        };
        Ok(states.iter().map(decide).collect())
    }
}

/// The choice that is best on the validation worlds when it is always made: its name and its number.
fn best_of_always(plan: &Plan) -> (String, usize) {
    let actions = Actions::new(ActionSet::Headroom, Scope::Joint);
    let reward = |choice| judge(&mut Always::new(choice), plan, Part::Validation, VALIDATION, SKIP).map_or(f64::MIN, |score| score.reward);
    let best = (0..actions.count()).map(|choice| (reward(choice), choice)).max_by(|one, other| one.0.total_cmp(&other.0));
    let choice = best.map_or(0, |(_, choice)| choice);
    (actions.name(choice), choice)
}

/// The checkpoint that was best on the validation worlds.
fn train(budget: f64, seed: u64, plan: &Plan, hyperparameters: Hyperparameters, actions: Actions, replay_ratio: f64) -> Option<Checkpoint> {
    let agent = DqnAgent::new(hyperparameters, actions, replay_ratio, seed, &device::cpu()).expect("hyperparameters within their ranges");
    let mut trainer = Trainer::new(plan.clone(), agent);
    let (begin, mut judging, mut best) = (cpu_seconds(), 0.0, None::<(f64, Checkpoint)>);
    let mut next = budget / 10.0;
    while cpu_seconds() - begin - judging < budget {
        trainer.tick().expect("the CPU does not fail");
        let spent = cpu_seconds() - begin - judging;
        if spent < next {
            continue;
        }
        next += budget / 10.0;
        let (explored, loss) = trainer.take();
        let checkpoint = trainer.agent().checkpoint(Some(plan.domain.policy.reward), "an example").expect("the CPU does not fail");
        let dqn = Dqn::new(&checkpoint, &device::cpu()).expect("this program wrote it");
        let score = judge(&mut &dqn, plan, Part::Validation, VALIDATION, SKIP).expect("the CPU does not fail");
        let learner = trainer.agent().learner();
        println!(
            "{spent:5.0} s {:8} ticks {:7} updates, epsilon {:.2}, loss {:.4}, value {:.2}, exploring {:.3}",
            trainer.steps(),
            learner.updates(),
            learner.parameters().exploration.epsilon(learner.choices()),
            loss.loss,
            loss.value,
            explored.reward
        );
        show("  validation", &score);
        if best.as_ref().is_none_or(|(reward, _)| score.reward > *reward) {
            best = Some((score.reward, checkpoint));
        }
        judging = cpu_seconds() - begin - spent;
    }
    best.map(|(_, checkpoint)| checkpoint)
}
