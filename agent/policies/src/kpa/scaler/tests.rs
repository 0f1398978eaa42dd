//! The conformance cases of the original's `scaler_test` and of the table of `computeActiveCondition`: a grace period
//! of 60 s, a stable window of 5 min, 45 s where the revision has its own.

use super::*;

const NOW: Timestamp = Timestamp(1_000_000_000);
const GRACE: Duration = Duration::from_secs(60);
const STABLE: Duration = Duration::from_secs(300);
const OWN: Duration = Duration::from_secs(45);
const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(150);

fn spec() -> ZeroSpec {
    ZeroSpec { enabled: true, stable_window: STABLE, grace: GRACE, retention: Duration::ZERO, activation_timeout: TIMEOUT, backed: true }
}

fn active(ago: Duration) -> Activity {
    Activity::since(RevisionCondition::Active, NOW.minus(ago), None)
}

fn inactive(ago: Duration, proxied: Option<Duration>) -> Activity {
    Activity::since(RevisionCondition::Inactive, NOW.minus(ago), proxied.map(|ago| NOW.minus(ago)))
}

fn activating(ago: Duration) -> Activity {
    Activity::since(RevisionCondition::Activating, NOW.minus(ago), None)
}

#[track_caller]
fn check(name: &str, spec: ZeroSpec, mut activity: Activity, desired: u32, expected: Applied) {
    let pods = PodCounts { ready: 1, needed: 1 };
    assert_eq!(activity.reconcile(&spec, Some(desired), pods, 0, NOW), expected, "{name}");
}

#[test]
fn waits_while_active() {
    let own = ZeroSpec { stable_window: OWN, ..spec() };
    check("just before idle period", spec(), active(STABLE - SECOND), 0, Applied::Scale(1));
    check("just before idle period, custom PA window", own, active(OWN - SECOND), 0, Applied::Scale(1));
    check("custom PA window, check for standard window, no probe", own, active(STABLE), 0, Applied::Keep);
    check("scale to 1 waiting for idle expires", spec(), active(STABLE - SECOND), 0, Applied::Scale(1));
    check("waits to scale to zero after idle period", spec(), active(STABLE), 0, Applied::Keep);
    check("waits to scale to zero after idle period (custom PA window)", own, active(OWN), 0, Applied::Keep);
    let proxied = Activity::since(RevisionCondition::Active, NOW.minus(STABLE), Some(NOW.minus(STABLE)));
    check("waits to scale to zero after idle period; sks in proxy mode", spec(), proxied, 0, Applied::Keep);
}

#[test]
fn goes_to_zero_from_inactive() {
    let kept = |periods: u32| ZeroSpec { retention: GRACE * periods, ..spec() };
    check("can scale to zero after grace period, but 0 PA retention", spec(), inactive(GRACE, None), 0, Applied::Scale(0));
    check("can't after grace period, but before last pod retention", kept(2), inactive(GRACE, None), 0, Applied::Keep);
    check("after grace period, and after last pod retention", kept(1), inactive(GRACE, None), 0, Applied::Scale(0));
    check("scale to zero after grace period", spec(), inactive(GRACE, None), 0, Applied::Scale(0));
    check("just before grace period", spec(), inactive(GRACE - SECOND, None), 0, Applied::Keep);
    check("just before grace period, sks short", spec(), inactive(GRACE - SECOND, Some(GRACE - SECOND)), 0, Applied::Keep);
    let positive = ZeroSpec { retention: 42 * SECOND, ..spec() };
    let long = inactive(GRACE - SECOND, Some(GRACE));
    check("just before grace period, sks in proxy long, last pod timeout positive", positive, long, 0, Applied::Scale(0));
    check("just before grace period, sks in proxy long", spec(), long, 0, Applied::Scale(0));
    check(
        "scale to zero after grace period, but fail prober",
        ZeroSpec { backed: false, ..spec() },
        inactive(GRACE, None),
        0,
        Applied::Keep,
    );
    // The last pod of an unreachable revision is not retained.
    check("can't scale to zero if unreachable, but before deadline", spec(), inactive(GRACE - SECOND, None), 0, Applied::Keep);
}

#[test]
fn gives_up_activating_after_its_deadline() {
    check("while activating until after deadline exceeded", spec(), activating(TIMEOUT / 2), 0, Applied::Keep);
    check("while activating at the deadline", spec(), activating(TIMEOUT), 0, Applied::Keep);
    check("while activating after deadline exceeded", spec(), activating(TIMEOUT + SECOND), 0, Applied::Scale(0));
    let own = ZeroSpec { activation_timeout: 35 * SECOND, ..spec() };
    check("while activating after revision deadline exceeded", own, activating(36 * SECOND), 0, Applied::Scale(0));
}

#[test]
fn scales_to_what_is_wanted() {
    // A least number is applied before, so what comes here is that.
    check("scale down to minScale before grace period", spec(), inactive(GRACE - SECOND, None), 2, Applied::Scale(2));
    check("scale down to minScale after grace period", spec(), inactive(GRACE, None), 2, Applied::Scale(2));
    check("scales up", spec(), active(SECOND), 10, Applied::Scale(10));
    check("scale up inactive revision", spec(), inactive(GRACE / 2, None), 10, Applied::Scale(10));
    check("scales up from zero to desired one", spec(), inactive(SECOND, None), 1, Applied::Scale(1));
    check("initial scale attained, but now time to scale down", spec(), active(120 * SECOND), 0, Applied::Scale(1));
    check("haven't scaled to initial scale", spec(), activating(Duration::ZERO), 2, Applied::Scale(2));
}

#[test]
fn does_nothing_without_metrics() {
    for (name, mut activity) in [
        ("does not scale up from zero with no metrics", inactive(Duration::ZERO, None)),
        ("negative scale does not scale", active(Duration::ZERO)),
    ] {
        let before = activity.condition();
        assert_eq!(activity.reconcile(&spec(), None, PodCounts { ready: 1, needed: 1 }, 0, NOW), Applied::Keep, "{name}");
        assert_eq!(activity.condition(), before, "{name}");
    }
}

#[test]
fn disable_scale_to_zero() {
    let disabled = ZeroSpec { enabled: false, ..spec() };
    check("EnableScaleToZero == false and minScale == 0", disabled, active(Duration::ZERO), 0, Applied::Scale(1));
    check("EnableScaleToZero == false and minScale == 2", disabled, active(Duration::ZERO), 2, Applied::Scale(2));
}

#[test]
fn compute_active_condition() {
    use RevisionCondition::{Activating, Active, Inactive};
    let cases = [
        (Some(0), 5, Active, Inactive),
        (Some(0), 0, Activating, Inactive),
        (Some(0), 0, Inactive, Inactive),
        (Some(3), 1, Inactive, Activating),
        (Some(3), 1, Active, Activating),
        (Some(3), 2, Inactive, Active),
        (Some(3), 2, Activating, Active),
        (None, 1, Inactive, Inactive),
        (None, 1, Activating, Activating),
        (None, 1, Active, Activating),
        (None, 2, Inactive, Inactive),
        (None, 2, Activating, Active),
        (None, 2, Active, Active),
    ];
    for (want, ready, from, expected) in cases {
        let mut activity = Activity::since(from, NOW.minus(GRACE), None);
        activity.settle(want, PodCounts { ready, needed: 2 }, NOW);
        assert_eq!(activity.condition(), expected, "{want:?} with {ready} of 2 from {from:?}");
    }
}
