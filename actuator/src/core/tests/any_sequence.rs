//! Properties that hold for any sequence of events.

use proptest::prelude::*;
use qscale_common::policy::Range;
use qscale_common::units::Replicas;

use super::*;

#[derive(Debug, Clone)]
enum Event {
    State { cpu: f64 },
    Action { agent: &'static str, back: u64, replicas: u32 },
    Time { ms: u64 },
    Platform { reachable: bool },
    Loses { replicas: u32 },
    List,
    Freeze { frozen: bool },
    Restore,
    Bounds { least: u32, most: u32 },
    Mode { mode: Mode },
}

fn event() -> impl Strategy<Value = Event> {
    let mode = prop_oneof![Just(Mode::Observe), Just(Mode::Recommend), Just(Mode::Active), Just(Mode::Active), Just(Mode::Active)];
    prop_oneof![
        6 => (0.0f64..500.0).prop_map(|cpu| Event::State { cpu }),
        8 => (prop_oneof![3 => Just("agent"), 1 => Just("other")], 0u64..4, 0u32..40)
            .prop_map(|(agent, back, replicas)| Event::Action { agent, back, replicas }),
        3 => (0u64..20_000).prop_map(|ms| Event::Time { ms }),
        2 => any::<bool>().prop_map(|reachable| Event::Platform { reachable }),
        1 => (0u32..40).prop_map(|replicas| Event::Loses { replicas }),
        2 => Just(Event::List),
        1 => any::<bool>().prop_map(|frozen| Event::Freeze { frozen }),
        1 => Just(Event::Restore),
        1 => (0u32..10, 0u32..10).prop_map(|(a, b)| Event::Bounds { least: a.min(b), most: a.max(b).max(1) }),
        1 => mode.prop_map(|mode| Event::Mode { mode }),
    ]
}

impl Rig {
    fn apply_event(&mut self, what: Event) {
        match what {
            Event::State { cpu } => drop(self.state_using(cpu)),
            Event::Action { agent, back, replicas } => {
                let state_id = StateId { epoch: Epoch(1), tick: Tick((self.tick + 1).saturating_sub(back)) };
                self.action(agent, state_id, replicas);
            }
            Event::Time { ms } => self.pass(Duration::from_millis(ms)),
            Event::Platform { reachable } => self.platform.reachable = reachable,
            Event::Loses { replicas } => drop(self.platform.workloads.insert(id(), Allocation::new(replicas, 500, 256))),
            Event::List => self.list(),
            Event::Freeze { frozen } => self.control(control::ALL, frozen, None),
            Event::Restore => self.control(&Control::key(&id()), false, Some(self.now)),
            Event::Bounds { least, most } => {
                self.policy.bounds.replicas = Range::new(Replicas(least), Replicas(most)).expect("ordered");
                self.apply_policy();
            }
            Event::Mode { mode } => {
                self.policy.mode = mode;
                self.apply_policy();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn requests_respect_bounds_freeze_and_mode(events in prop::collection::vec(event(), 1..120)) {
        let mut rig = Rig::new();
        // A restore undoes any configuration, so it alone ignores all of them.
        for event in events.into_iter().filter(|event| !matches!(event, Event::Restore)) {
            let before = rig.orders.len();
            rig.apply_event(event.clone());
            let frozen = rig.controls.get(control::ALL).is_some_and(|control| control.frozen);
            for order in &rig.orders[before..] {
                prop_assert!(rig.policy.bounds.replicas.contains(order.allocation.replicas), "{:?} after {:?}", order, event);
                prop_assert!(!frozen && rig.policy.mode == Mode::Active, "{:?} after {:?}", order, event);
            }
        }
    }

    #[test]
    fn every_action_has_an_outcome_or_is_counted(events in prop::collection::vec(event(), 1..120)) {
        let mut rig = Rig::new();
        let mut sent = 0;
        for event in events {
            sent += usize::from(matches!(event, Event::Action { .. }));
            rig.apply_event(event);
        }
        rig.platform.reachable = true;
        rig.pass(Duration::from_secs(30));
        let of_actions = rig.outcomes.iter().filter(|outcome| matches!(outcome.source, DecisionSource::Agent | DecisionSource::Shadow));
        // A failed request that is retried is reported twice, and so is a repair.
        prop_assert!(of_actions.count() + rig.core.take_unreported() as usize >= sent);
    }

    #[test]
    fn the_same_inputs_give_the_same_outputs(events in prop::collection::vec(event(), 1..60)) {
        let run = || {
            let mut rig = Rig::new();
            events.iter().cloned().for_each(|event| rig.apply_event(event));
            (rig.orders, rig.outcomes)
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn the_platform_finally_has_the_last_decision(events in prop::collection::vec(event(), 1..80), replicas in 1u32..10) {
        let mut rig = Rig::new();
        events.into_iter().for_each(|event| rig.apply_event(event));
        rig.platform.reachable = true;
        rig.control(control::ALL, false, None);
        rig.control(&Control::key(&id()), false, None);
        rig.policy.mode = Mode::Active;
        rig.policy.bounds.replicas = Range::new(Replicas(0), Replicas(10)).expect("ordered");
        rig.apply_policy();
        rig.pass(Duration::from_secs(30));
        rig.list();
        for _ in 0..20 {
            rig.tick_wanting(replicas);
        }
        prop_assert_eq!(rig.has().replicas.0, replicas);
    }
}
