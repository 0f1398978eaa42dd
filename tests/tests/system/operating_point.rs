//! The learned agent holds an operating point in the user's terms, and continues with it after a crash.

use qscale_common::contract::{Action, EventType, HeldPoint, StateId, subject};
use qscale_common::name::FunctionId;
use qscale_common::policy::{OperatingPoint, ViolationCost};
use qscale_common::runtime::bus::Subscription;
use qscale_tests::{System, eventually, first};

/// Largest change of the logarithm of the violation cost in one tick, for a share of violated ticks.
const LARGEST_STEP: f64 = 0.1;

/// The next point that the agent held for `function`, and the State for which it decided.
async fn held(
    actions: &mut Subscription<Action>,
    function: &FunctionId,
    accept: impl Fn(&HeldPoint) -> bool,
) -> Option<(StateId, HeldPoint)> {
    let is_held = |action: &Action| action.function == function.name && action.point.as_ref().is_some_and(&accept);
    let action = first(actions, is_held).await?;
    Some((action.state_id(), action.point?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operating_point_is_held_through_a_crash_of_the_agent() {
    let mut system =
        System::up(&["--backend", "sim", "--speed", "10", "--functions", "2", "--load", "2", "--tick", "1s", "--agent", "dqn"]);
    let bus = system.bus().await;
    let mut actions = bus.subscribe::<Action>(subject::all(EventType::Action), None).await.expect("operators may listen");
    let action = first(&mut actions, |_| true).await.unwrap_or_else(|| panic!("no Action:\n{}", system.tail()));
    assert_eq!(action.point, None, "the policy states no point");
    let function = FunctionId::new(action.namespace, action.function);

    let set = system.qscale(&["policy", "set", function.name.as_str(), "objective.point.violated_share=0.5"]);
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let begun = held(&mut actions, &function, |_| true).await;
    let (_, begun) = begun.unwrap_or_else(|| panic!("no point is held:\n{}", system.tail()));
    assert!(begun.violation_cost > 1.5 * ViolationCost::LEAST, "{begun:?}: a start from the default differs from a continuation");
    assert!(matches!(begun.target, OperatingPoint::ViolatedShare(share) if share.get() == 0.5), "{begun:?}");
    // Fewer ticks are violated, so that the violation cost falls to the least one.
    let moved = held(&mut actions, &function, |point| point.violation_cost < 1.1 * ViolationCost::LEAST).await;
    assert!(moved.is_some(), "the violation cost does not move:\n{}", system.tail());

    let killed = system.signal("qscale-agent", libc::SIGKILL);
    eventually("a new agent", || system.pid_of("qscale-agent").filter(|pid| *pid != killed));
    let (mut last, mut point) = moved.expect("checked");
    let mut after_gap = 0;
    while after_gap < 3 {
        let next = held(&mut actions, &function, |_| true).await;
        let (id, next) = next.unwrap_or_else(|| panic!("the new agent holds no point:\n{}", system.tail()));
        let ticks = id.tick.0.saturating_sub(last.tick.0);
        // Nothing moves it while the agent does not run, but the last Action before the crash may not have been published.
        let change = (next.violation_cost / point.violation_cost).ln().abs();
        assert!(change <= 2.0 * LARGEST_STEP, "{point:?}, {ticks} ticks later {next:?}:\n{}", system.tail());
        after_gap += usize::from(ticks > 1 || after_gap > 0);
        (last, point) = (id, next);
    }
    assert!(point.measured_hours > 0.0, "{point:?}");
    drop(actions);
    assert!(system.stop(), "{}", system.tail());
}
