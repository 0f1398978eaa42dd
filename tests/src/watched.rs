//! A system whose Outcomes are checked while it is disturbed.

use std::time::Duration;

use qscale_common::contract::{Effect, EventType, GuardRule, Outcome, State, subject};
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::bus::Subscription;
use qscale_common::runtime::clock;
use qscale_common::runtime::platform::PlatformClient;

use crate::{System, TIMEOUT, first, process, system};

/// Arguments of `qscale up`: one function under load with a tick of a second.
pub const LOAD: [&str; 6] = ["--load", "25", "--tick", "1s", "--agent", "threshold-both"];

/// The services of a system with real functions, by their programs.
pub const SERVICES: [&str; 5] = ["qscale-collector", "qscale-agent", "qscale-actuator", "qscale-platform", "nats-server"];

/// A system with a real function under load, whose Outcomes are checked.
#[derive(Debug)]
pub struct Watched {
    /// The system.
    pub system: System,
    states: Subscription<State>,
    outcomes: Subscription<Outcome>,
    /// The policy of its function at the start.
    pub policy: ScalingPolicy,
}

impl Watched {
    /// Starts a system.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn new() -> Self {
        Self::of(System::up(&LOAD)).await
    }

    /// Watches `system`.
    ///
    /// # Panics
    /// When the system cannot be read.
    pub async fn of(system: System) -> Self {
        let bus = system.bus().await;
        let outcomes = bus.subscribe(subject::all(EventType::Outcome), None).await.expect("operators may listen");
        let states = bus.subscribe(subject::all(EventType::State), None).await.expect("operators may listen");
        let policies = bus.jetstream().get_key_value(subject::POLICY_BUCKET).await.expect("the bucket");
        let value = policies.get("default.fibonacci").await.expect("readable").expect("written by qscale up");
        let policy = ScalingPolicy::from_json(&value).expect("valid");
        Self { system, states, outcomes, policy }
    }

    /// Stops the system.
    ///
    /// # Panics
    /// When it does not end as it should.
    pub fn stop(&mut self) {
        assert!(self.system.stop(), "{}", self.system.tail());
    }

    /// Waits for `count` Outcomes of decisions that the guard has checked.
    ///
    /// # Panics
    /// When they do not come, or one breaks the bounds.
    pub async fn loop_turns(&mut self, count: usize, after: &str) {
        let mut seen = 0;
        while seen < count {
            let next = tokio::time::timeout(TIMEOUT, self.outcomes.next()).await;
            let Ok(Some(received)) = next else { panic!("no Outcome after {after}:\n{}", self.system.tail()) };
            let outcome = received.message;
            if let Some(allowed) = outcome.allowed {
                assert!(self.policy.bounds.contain(allowed), "{allowed} is out of bounds after {after}");
            }
            let checked = matches!(outcome.effect, Effect::Applied | Effect::Changed | Effect::Unchanged | Effect::Held);
            seen += usize::from(checked);
        }
    }

    /// Waits for `count` States, during which no allocation is decreased.
    ///
    /// # Panics
    /// When they do not come, or one is decreased.
    pub async fn no_decrease_within(&mut self, count: usize, after: &str) {
        // Decisions already under way do not count.
        self.until_states(3, after).await;
        while self.outcomes.try_next().is_some() {}
        self.until_states(count, after).await;
        while let Some(received) = self.outcomes.try_next() {
            let outcome = received.message;
            let (Some(before), Some(allowed)) = (outcome.before, outcome.allowed) else { continue };
            let lower = allowed.is_lower_than(before);
            assert!(!lower || !matches!(outcome.effect, Effect::Applied | Effect::Changed), "{outcome:?} after {after}");
        }
    }

    /// Waits for `count` new States.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn until_states(&mut self, count: usize, after: &str) {
        while self.states.try_next().is_some() {}
        for _ in 0..count {
            let next = tokio::time::timeout(TIMEOUT, self.states.next()).await;
            assert!(matches!(next, Ok(Some(_))), "no State after {after}:\n{}", self.system.tail());
        }
    }

    /// Waits for an Outcome that a freeze held, or for one that none held.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn until_frozen(&mut self, frozen: bool) {
        let held = |outcome: &Outcome| outcome.guard.iter().any(|note| note.rule == GuardRule::Freeze);
        let found = first(&mut self.outcomes, |outcome| held(outcome) == frozen).await;
        assert!(found.is_some(), "no Outcome with freeze {frozen}:\n{}", self.system.tail());
    }

    /// Waits until the running replicas are those known to the platform.
    ///
    /// # Panics
    /// When others keep running.
    pub async fn no_orphans(&self, after: &str) {
        let address = self.system.addresses()["platform"].as_str().expect("an address").to_owned();
        let client = PlatformClient::new(&address).expect("an address");
        let began = clock::instant();
        loop {
            let known: Option<Vec<u32>> = client.list().await.ok().map(|functions| {
                functions.iter().flat_map(|function| function.actual.replicas.iter().filter_map(|replica| replica.pid)).collect()
            });
            let mut running: Vec<u32> = system::with_argument("qscale-function").into_iter().filter(|pid| self.is_ours(*pid)).collect();
            running.sort_unstable();
            if let Some(mut known) = known {
                known.sort_unstable();
                if known == running && !known.is_empty() {
                    return;
                }
            }
            assert!(clock::since(began) < TIMEOUT, "orphans after {after}: {running:?}\n{}", self.system.tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether a replica belongs to this system: the command line of its parent contains the state folder, or it is an orphan.
    fn is_ours(&self, pid: u32) -> bool {
        let state = self.system.state().display().to_string();
        let parent = process::parent(pid);
        // An orphan becomes a child of the first process; it counts, so that the check fails until it is gone.
        parent.is_some_and(|parent| parent == 1 || system::with_argument(&state).contains(&parent))
    }
}
