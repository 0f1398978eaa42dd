//! The plan of a run: the network and the faults. Owns how a seed becomes a plan; a plan alone decides a run.

use rand::rngs::SmallRng;
use rand::{Rng, RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::protocol::{Millis, ProcessId};

/// The collector.
pub const COLLECTOR: ProcessId = 0;
/// Two instances of one agent, and an agent whose policy has memory.
pub const AGENTS: [(ProcessId, &str); 3] = [(1, "threshold-both"), (2, "threshold-both"), (3, "hpa")];
/// Two actuators.
pub const ACTUATORS: [ProcessId; 2] = [4, 5];
/// The platform.
pub const PLATFORM: ProcessId = 6;
/// Number of processes.
pub const PROCESSES: usize = 7;
/// Number of functions.
pub const FUNCTIONS: usize = 3;

/// Time before the first fault, milliseconds.
const WARM_UP: Millis = 25_000;
/// Time in which faults begin and end, milliseconds.
const FAULTS: Millis = 120_000;

/// Everything that a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Seed of delays and choices.
    pub seed: u64,
    /// Longest delay of a message, milliseconds.
    pub delay_ms: Millis,
    /// Probability that a message is delivered twice.
    pub duplicate: f64,
    /// Probability that a message may overtake others.
    pub reorder: f64,
    /// Faults and changes by operators.
    pub faults: Vec<Fault>,
}

/// A fault or a change by an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Beginning, milliseconds after the start.
    pub at: Millis,
    /// Time until it ends, milliseconds.
    pub lasts: Millis,
    /// The event.
    pub kind: FaultKind,
}

/// An event of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A process is killed, and started again at the end.
    Crash(ProcessId),
    /// A process does not run.
    Pause(ProcessId),
    /// Nothing passes between a process and the nats-server.
    Partition(ProcessId),
    /// Nothing passes between a process and the platform.
    PlatformPartition(ProcessId),
    /// The clock of a process is wrong by this many milliseconds.
    Clock(ProcessId, i64),
    /// All clocks are wrong.
    Clocks(i64),
    /// The nats-server is killed, and started again at the end.
    Server,
    /// The nats-server is killed and loses its disk.
    ServerDisk,
    /// The nats-server does not run.
    PauseServer,
    /// The platform is killed and loses its disk.
    PlatformDisk,
    /// An operator freezes one function, or all.
    Freeze(Option<usize>),
    /// An operator restores one function, or all.
    Restore(Option<usize>),
    /// An operator pauses a policy.
    PausePolicy(usize),
    /// An operator sets the mode of a policy to recommend.
    Recommend(usize),
    /// An operator bounds the replicas of a function.
    Bounds(usize, u32, u32),
    /// An operator names another agent.
    OtherAgent(usize),
    /// A person sets the replicas at the platform.
    ByHand(usize, u32),
    /// The load becomes this many requests per second.
    Load(usize, u32),
}

impl Plan {
    /// The plan of `seed`.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
        let mut faults: Vec<Fault> = (0..rng.random_range(0..9)).map(|_| fault(&mut rng)).collect();
        let changes = (0..rng.random_range(1..8)).map(|_| change(&mut rng));
        faults.extend(changes);
        faults.sort_by_key(|fault| fault.at);
        let delay_ms = [2, 20, 20, 150][rng.random_range(0..4)];
        let [duplicate, reorder] = [0.05, 0.02].map(|share| if rng.random_bool(0.2) { share } else { 0.0 });
        Self { seed, delay_ms, duplicate, reorder, faults }
    }

    /// Time after which nothing is wrong any more, milliseconds.
    #[must_use]
    pub fn quiet_from(&self) -> Millis {
        self.faults.iter().map(|fault| fault.at + fault.lasts).max().unwrap_or(0).max(WARM_UP)
    }

    /// Whether a clock is wrong at any time.
    #[must_use]
    pub fn steps_clocks(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault.kind, FaultKind::Clock(..) | FaultKind::Clocks(_)))
    }
}

fn span(rng: &mut impl Rng) -> (Millis, Millis) {
    let at = rng.random_range(WARM_UP..WARM_UP + FAULTS);
    let longest = [1_500, 8_000, 30_000][rng.random_range(0..3)];
    (at, rng.random_range(50..longest).min(WARM_UP + FAULTS - at))
}

fn process(rng: &mut impl Rng) -> ProcessId {
    // Most of the time an actuator: most of what can go wrong goes wrong there.
    if rng.random_bool(0.5) { ACTUATORS[rng.random_range(0..2)] } else { rng.random_range(0..PROCESSES) }
}

fn step_ms(rng: &mut impl Rng) -> i64 {
    let size = [1_000, 20_000, 3_600_000][rng.random_range(0..3)];
    rng.random_range(-size..=size)
}

fn fault(rng: &mut impl Rng) -> Fault {
    let (at, lasts) = span(rng);
    let kind = match rng.random_range(0..100) {
        0..18 => FaultKind::Crash(process(rng)),
        18..36 => FaultKind::Pause(process(rng)),
        36..54 => FaultKind::Partition(process(rng)),
        54..66 => FaultKind::PlatformPartition(process(rng)),
        66..72 => FaultKind::Clock(process(rng), step_ms(rng)),
        72..75 => FaultKind::Clocks(step_ms(rng)),
        75..87 => FaultKind::Server,
        87..90 => FaultKind::ServerDisk,
        90..96 => FaultKind::PauseServer,
        _ => FaultKind::PlatformDisk,
    };
    Fault { at, lasts, kind }
}

fn change(rng: &mut impl Rng) -> Fault {
    let (at, lasts) = span(rng);
    let function = rng.random_range(0..FUNCTIONS);
    let some = rng.random_bool(0.6).then_some(function);
    let kind = match rng.random_range(0..100) {
        0..15 => FaultKind::Freeze(some),
        15..30 => FaultKind::Restore(some),
        30..36 => FaultKind::PausePolicy(function),
        36..42 => FaultKind::Recommend(function),
        42..54 => {
            let least = rng.random_range(0..5);
            FaultKind::Bounds(function, least, least + rng.random_range(1..6))
        }
        54..60 => FaultKind::OtherAgent(function),
        60..68 => FaultKind::ByHand(function, rng.random_range(0..12)),
        _ => FaultKind::Load(function, rng.random_range(0..200)),
    };
    Fault { at, lasts, kind }
}
