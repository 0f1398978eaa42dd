//! Clocks that are set, and those of other services that differ.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

impl Rig {
    /// Sends the next State, of a collector whose clock is ahead by an hour; the replicas use little.
    fn state_from_the_future(&mut self) -> State {
        self.now = self.now.plus(Duration::from_millis(TICK_MS));
        self.tick += 1;
        let state = State { observed_at_ms: self.now.plus(HOUR), ..self.make_state(10.0) };
        self.core.on_state(state.clone(), None, self.now);
        self.settle();
        state
    }
}

#[test]
fn a_state_from_the_future_ages_from_its_arrival() {
    let mut rig = Rig::new();
    rig.state_from_the_future();
    rig.pass(Duration::from_secs(300));
    rig.expect(Effect::Held, DecisionSource::Fallback, &[GuardRule::StaleState]);
    assert_eq!(rig.has().replicas.0, 4);
}

#[test]
fn an_answer_to_a_state_from_the_future_expires_as_others() {
    let mut rig = Rig::new();
    for wait_ms in [0, 2 * TICK_MS] {
        let state = rig.state_from_the_future();
        let expires_at_ms = state.observed_at_ms.plus(Duration::from_millis(2 * TICK_MS));
        let action = Action { expires_at_ms, ..rig.make_action("agent", state.state_id(), 5) };
        rig.now = rig.now.plus(Duration::from_millis(wait_ms));
        rig.core.on_action(action, None, rig.now);
        rig.settle();
        match wait_ms {
            0 => rig.expect(Effect::Applied, DecisionSource::Agent, &[]),
            _ => assert_eq!(rig.last().effect, Effect::Refused, "{:?}", rig.last()),
        }
    }
}

#[test]
fn a_clock_that_is_set_back_puts_nothing_off() {
    let mut rig = Rig::new();
    rig.pass(Duration::from_secs(1));
    rig.platform.reachable = false;
    rig.tick_wanting(6);
    rig.expect(Effect::Failed, DecisionSource::Agent, &[]);
    rig.now = rig.now.minus(HOUR);
    rig.platform.reachable = true;
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.has().replicas.0, 6, "the change is retried");
}

#[test]
fn a_clock_that_is_set_back_makes_no_state_fresh() {
    let mut rig = Rig::new();
    rig.pass(Duration::from_secs(1));
    let answered = rig.state_using(10.0);
    rig.action("agent", answered, 4);
    rig.state_using(10.0);
    rig.now = rig.now.minus(HOUR);
    rig.pass(Duration::from_secs(300));
    rig.expect(Effect::Held, DecisionSource::Fallback, &[GuardRule::StaleState]);
}
