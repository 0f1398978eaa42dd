//! Every service is stopped and continued, for longer than ticks and leases last. Nothing is scaled down on stale measurements, and one actuator acts.

use std::time::Duration;

use qscale_common::contract::{Effect, EventType, Outcome, State, StateId, subject};
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::bus::Subscription;
use qscale_tests::watched::{SERVICES, Watched};
use qscale_tests::{Program, process};

use super::{only_acts, outcomes};

/// Longer than the lease (6 s), and than measurements are fresh enough to scale down (3 ticks of a second); shorter than the health check of the supervisor
/// takes to find a hanging service.
const PAUSE: Duration = Duration::from_secs(12);

/// States and Outcomes from the start of a test.
struct Decisions {
    states: Subscription<State>,
    outcomes: Subscription<Outcome>,
    seen: Vec<State>,
    results: Vec<Outcome>,
}

impl Decisions {
    async fn follow(watched: &Watched) -> Self {
        let bus = watched.system.bus().await;
        let states = bus.subscribe(subject::all(EventType::State), None).await.expect("operators may listen");
        Self { states, outcomes: outcomes(watched).await, seen: Vec::new(), results: Vec::new() }
    }

    /// Moves what arrived to the lists.
    fn drain(&mut self) {
        while let Some(received) = self.states.try_next() {
            self.seen.push(received.message);
        }
        while let Some(received) = self.outcomes.try_next() {
            self.results.push(received.message);
        }
    }

    /// Checks that no decrease was applied on measurements older than the policy allows.
    fn no_decrease_on_stale_data(&mut self, policy: &ScalingPolicy) -> usize {
        self.drain();
        let mut decreases = 0;
        for outcome in &self.results {
            let (Some(before), Some(after)) = (outcome.before, outcome.allowed) else { continue };
            let applied = matches!(outcome.effect, Effect::Applied | Effect::Changed);
            if !applied || !after.is_lower_than(before) {
                continue;
            }
            decreases += 1;
            let id = StateId { epoch: outcome.epoch, tick: outcome.tick };
            let state = self.seen.iter().find(|state| state.state_id() == id).unwrap_or_else(|| panic!("no State for {outcome:?}"));
            let age = outcome.decided_at_ms.since(state.observed_at_ms);
            assert!(age <= policy.max_age(), "{outcome:?} decreases on a State of {age:?} ago");
        }
        decreases
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loop_recovers_from_a_pause_of_any_service_and_decides_nothing_on_stale_states() {
    let mut watched = Watched::new().await;
    watched.loop_turns(3, "the start").await;
    let mut decisions = Decisions::follow(&watched).await;
    for service in SERVICES {
        let pid = watched.system.signal(service, libc::SIGSTOP);
        tokio::time::sleep(PAUSE).await;
        assert_eq!(watched.system.signal(service, libc::SIGCONT), pid, "{service} is the same process");
        watched.loop_turns(4, &format!("a pause of {service}")).await;
    }
    let decreases = decisions.no_decrease_on_stale_data(&watched.policy);
    assert!(decreases > 0, "the load allows decreases:\n{}", watched.system.tail());
    watched.stop();
}

/// Starts another actuator for the system.
fn standby(watched: &Watched) -> Program {
    let state = watched.system.state();
    let config = state.join("config/actuator.json").display().to_string();
    let arguments = ["--config", &config, "--set", "health=127.0.0.1:0", "--set", "instance=standby"];
    Program::start(&process::binary("qscale-actuator"), arguments, &state.join("logs/standby.log"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_actuators_acts_after_the_leader_was_paused() {
    let mut watched = Watched::new().await;
    watched.loop_turns(3, "the start").await;
    let mut standby = standby(&watched);
    let mut outcomes = outcomes(&watched).await;
    watched.system.signal("qscale-actuator", libc::SIGSTOP);
    only_acts(&mut outcomes, &watched, true, 3).await;
    watched.system.signal("qscale-actuator", libc::SIGCONT);
    only_acts(&mut outcomes, &watched, true, 6).await;
    standby.kill();
    only_acts(&mut outcomes, &watched, false, 3).await;
    watched.stop();
}
