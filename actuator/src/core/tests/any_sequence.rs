//! What holds whatever happens, in whatever order.

use proptest::prelude::*;
use qscale_common::policy::Range;
use qscale_common::units::Replicas;

use super::*;

#[derive(Debug, Clone)]
enum Happens {
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

fn happens() -> impl Strategy<Value = Happens> {
    let mode = prop_oneof![Just(Mode::Observe), Just(Mode::Recommend), Just(Mode::Active), Just(Mode::Active), Just(Mode::Active)];
    prop_oneof![
        6 => (0.0f64..500.0).prop_map(|cpu| Happens::State { cpu }),
        8 => (prop_oneof![3 => Just("agent"), 1 => Just("other")], 0u64..4, 0u32..40)
            .prop_map(|(agent, back, replicas)| Happens::Action { agent, back, replicas }),
        3 => (0u64..20_000).prop_map(|ms| Happens::Time { ms }),
        2 => any::<bool>().prop_map(|reachable| Happens::Platform { reachable }),
        1 => (0u32..40).prop_map(|replicas| Happens::Loses { replicas }),
        2 => Just(Happens::List),
        1 => any::<bool>().prop_map(|frozen| Happens::Freeze { frozen }),
        1 => Just(Happens::Restore),
        1 => (0u32..10, 0u32..10).prop_map(|(a, b)| Happens::Bounds { least: a.min(b), most: a.max(b).max(1) }),
        1 => mode.prop_map(|mode| Happens::Mode { mode }),
    ]
}

impl Rig {
    fn happen(&mut self, what: Happens) {
        match what {
            Happens::State { cpu } => drop(self.state_using(cpu)),
            Happens::Action { agent, back, replicas } => {
                let state_id = StateId { epoch: Epoch(1), tick: Tick((self.tick + 1).saturating_sub(back)) };
                self.action(agent, state_id, replicas);
            }
            Happens::Time { ms } => self.pass(Duration::from_millis(ms)),
            Happens::Platform { reachable } => self.platform.reachable = reachable,
            Happens::Loses { replicas } => drop(self.platform.workloads.insert(id(), Allocation::new(replicas, 500, 256))),
            Happens::List => self.list(),
            Happens::Freeze { frozen } => self.control(control::ALL, frozen, None),
            Happens::Restore => self.control(&Control::key(&id()), false, Some(self.now)),
            Happens::Bounds { least, most } => {
                self.policy.bounds.replicas = Range::new(Replicas(least), Replicas(most)).expect("ordered");
                self.apply_policy();
            }
            Happens::Mode { mode } => {
                self.policy.mode = mode;
                self.apply_policy();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn orders_keep_to_bounds_freeze_and_mode(events in prop::collection::vec(happens(), 1..120)) {
        let mut rig = Rig::new();
        // A restore is the way back from whatever was configured, so it alone keeps to none of them.
        for event in events.into_iter().filter(|event| !matches!(event, Happens::Restore)) {
            let before = rig.orders.len();
            rig.happen(event.clone());
            let frozen = rig.controls.get(control::ALL).is_some_and(|control| control.frozen);
            for order in &rig.orders[before..] {
                prop_assert!(rig.policy.bounds.replicas.contains(order.allocation.replicas), "{:?} after {:?}", order, event);
                prop_assert!(!frozen && rig.policy.mode == Mode::Active, "{:?} after {:?}", order, event);
            }
        }
    }

    #[test]
    fn every_action_has_an_outcome(events in prop::collection::vec(happens(), 1..120)) {
        let mut rig = Rig::new();
        let mut sent = 0;
        for event in events {
            sent += usize::from(matches!(event, Happens::Action { .. }));
            rig.happen(event);
        }
        rig.platform.reachable = true;
        rig.pass(Duration::from_secs(30));
        let of_actions = rig.outcomes.iter().filter(|outcome| matches!(outcome.source, DecisionSource::Agent | DecisionSource::Shadow));
        // An attempt that failed and was made again is told of twice, and so is what was repaired.
        prop_assert!(of_actions.count() >= sent);
    }

    #[test]
    fn the_same_inputs_give_the_same_outputs(events in prop::collection::vec(happens(), 1..60)) {
        let run = || {
            let mut rig = Rig::new();
            events.iter().cloned().for_each(|event| rig.happen(event));
            (rig.orders, rig.outcomes)
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn in_the_end_the_platform_has_what_was_decided_last(events in prop::collection::vec(happens(), 1..80), replicas in 1u32..10) {
        let mut rig = Rig::new();
        events.into_iter().for_each(|event| rig.happen(event));
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
