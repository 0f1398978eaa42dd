use std::time::Duration;

use super::*;

const TRIAL: Trial = Trial { version: 4, base: Some(3) };
/// Noon of a day.
const NOON: Timestamp = Timestamp(20_000 * DAY_MS + DAY_MS / 2);
const EVERY: Span = Span::seconds(6 * 3600);

fn rules(budget: f64) -> PromotionRules {
    PromotionRules { budget_minutes: Some(budget), ..PromotionRules::default() }
}

fn settings(budget: f64) -> PromotionSettings {
    PromotionSettings { rules: rules(budget), ..PromotionSettings::default() }
}

fn round(id: u64) -> RoundRequest {
    RoundRequest { id, settings: settings(10.0), candidate: None }
}

fn burn(violated_minutes: f64, judged_minutes: f64) -> ViolationMinutes {
    ViolationMinutes { violated_minutes, judged_minutes }
}

fn after(minutes: u64) -> Timestamp {
    NOON.plus(Duration::from_secs(minutes * 60))
}

/// Puts the candidate in use at `now`.
fn put_in_use(promotion: &mut Promotion, before: ViolationMinutes, now: Timestamp, rules: &PromotionRules) {
    promotion.watch(TRIAL, 7, before, "passed", now, rules);
    promotion.started(now, rules);
}

/// A candidate in use since noon; before, one minute in sixty was in violation.
fn watched(budget: f64) -> Promotion {
    let mut promotion = Promotion::default();
    put_in_use(&mut promotion, burn(1.0, 60.0), NOON, &rules(budget));
    promotion
}

fn decisions(promotion: &Promotion) -> Vec<PromotionDecision> {
    promotion.log.iter().map(|entry| entry.decision).collect()
}

#[track_caller]
fn look(promotion: &mut Promotion, budget: f64, violated: f64, minutes: u64) -> CanaryVerdict {
    promotion.look(Some(TRIAL.version), burn(violated, minutes as f64), after(minutes), &rules(budget))
}

#[test]
fn a_candidate_passes_the_gates_one_after_the_other() {
    let (mut promotion, rules) = (Promotion::default(), rules(10.0));
    assert_eq!(promotion.due(NOON, &rules), Due::Round);
    promotion.shadow(TRIAL, settings(10.0), "cheaper", NOON);
    assert_eq!(promotion.due(NOON, &rules), Due::Wait(after(30)));
    assert_eq!(promotion.due(after(30), &rules), Due::EvaluateShadow(TRIAL, NOON));
    assert_eq!(promotion.may_use(after(30), &rules), Ok(()));
    promotion.watch(TRIAL, 7, burn(0.0, 60.0), "in distribution", after(30), &rules);
    assert_eq!(promotion.due(after(30), &rules), Due::PutInUse(TRIAL, 7));
    promotion.started(after(30), &rules);
    assert_eq!(promotion.due(after(31), &rules), Due::EvaluateTrial(TRIAL, after(30)));
    assert_eq!(promotion.look(Some(4), burn(0.0, 59.0), after(89), &rules), CanaryVerdict::Continue);
    let verdict = promotion.look(Some(4), burn(0.0, 60.0), after(90), &rules);
    assert!(matches!(verdict, CanaryVerdict::Promote(_)), "{verdict:?}");
    promotion.end(PromotionDecision::Kept, Some(4), "no violations", after(90), EVERY);
    assert_eq!(promotion.due(after(91), &rules), Due::Wait(after(90 + 360)));
    assert_eq!(promotion.due(after(90 + 360), &rules), Due::Round);
    assert_eq!(decisions(&promotion), [PromotionDecision::Shadow, PromotionDecision::Used, PromotionDecision::Kept]);
}

#[test]
fn without_a_budget_no_candidate_is_put_in_use() {
    let promotion = Promotion::default();
    for budget_minutes in [None, Some(0.0)] {
        let rules = PromotionRules { budget_minutes, ..PromotionRules::default() };
        assert_eq!(promotion.may_use(NOON, &rules), Err(NotAllowed::NoBudget));
    }
}

#[test]
fn more_violations_than_before_roll_the_candidate_back_until_the_next_day() {
    let mut promotion = watched(100.0);
    // As many as before; more, within the margin; more than the margin, by less than a minute.
    assert_eq!(look(&mut promotion, 100.0, 0.5, 30), CanaryVerdict::Continue);
    assert_eq!(look(&mut promotion, 100.0, 0.9, 45), CanaryVerdict::Continue);
    assert_eq!(look(&mut promotion, 100.0, 1.6, 46), CanaryVerdict::Continue);
    let verdict = look(&mut promotion, 100.0, 2.0, 50);
    let comparison = BurnComparison { burned: burn(2.0, 50.0), before: burn(1.0, 60.0) };
    assert_eq!(verdict, CanaryVerdict::RollBack(RollBackReason::BurnsFaster(comparison)));
    promotion.end(PromotionDecision::RolledBack, Some(4), "more violations", after(50), EVERY);
    assert_eq!(promotion.due(after(50), &rules(100.0)), Due::Wait(next_day(NOON)));
    assert_eq!(promotion.may_use(after(51), &rules(100.0)), Err(NotAllowed::Spent { budget_minutes: 100.0 }));
    promotion.accept(&round(1), after(51));
    let not_tried = RoundState::NotTried { until: next_day(NOON) };
    assert_eq!(promotion.round, Some(RoundStatus { id: 1, state: not_tried }));
    promotion.accept(&round(2), next_day(NOON));
    assert_eq!(promotion.round, Some(RoundStatus { id: 2, state: RoundState::Running }), "a request of the next day is accepted");
    assert_eq!(promotion.due(next_day(NOON), &rules(100.0)), Due::Round);
}

#[test]
fn a_function_in_violation_before_may_stay_so_within_the_margin() {
    let mut promotion = Promotion::default();
    put_in_use(&mut promotion, burn(12.0, 60.0), NOON, &rules(100.0));
    let comparison = BurnComparison { burned: burn(14.9, 60.0), before: burn(12.0, 60.0) };
    assert_eq!(look(&mut promotion, 100.0, 14.9, 60), CanaryVerdict::Promote(comparison));
    let verdict = look(&mut promotion, 100.0, 15.1, 60);
    assert!(matches!(verdict, CanaryVerdict::RollBack(RollBackReason::BurnsFaster(_))), "{verdict:?}");
}

#[test]
fn a_spent_budget_rolls_the_candidate_back() {
    let mut promotion = Promotion::default();
    put_in_use(&mut promotion, burn(60.0, 60.0), NOON, &rules(5.0));
    assert_eq!(look(&mut promotion, 5.0, 4.5, 5), CanaryVerdict::Continue, "no more violations than before");
    let verdict = look(&mut promotion, 5.0, 5.0, 6);
    let CanaryVerdict::RollBack(RollBackReason::BudgetSpent { budget_minutes, spent_minutes, .. }) = verdict else { panic!("{verdict:?}") };
    assert_eq!((budget_minutes, spent_minutes), (5.0, 5.0), "no minute is counted twice");
}

#[test]
fn a_day_pays_for_its_own_minutes_only() {
    let mut promotion = Promotion::default();
    let evening = Timestamp(next_day(NOON).0 - 60_000 * 30);
    let at = |minutes: u64| evening.plus(Duration::from_secs(minutes * 60));
    put_in_use(&mut promotion, burn(60.0, 60.0), evening, &rules(5.0));
    assert_eq!(promotion.look(Some(4), burn(4.0, 29.0), at(29), &rules(5.0)), CanaryVerdict::Continue);
    assert_eq!(promotion.look(Some(4), burn(8.0, 40.0), at(40), &rules(5.0)), CanaryVerdict::Continue);
    assert_eq!(promotion.budget, DailyBudget { day: day(at(40)), spent_minutes: 4.0, rolled_back: false });
}

#[test]
fn another_process_continues_from_the_record() {
    let mut promotion = watched(100.0);
    assert_eq!(look(&mut promotion, 100.0, 1.0, 30), CanaryVerdict::Continue);
    let written = serde_json::to_string(&promotion).expect("writes");
    let mut read: Promotion = serde_json::from_str(&written).expect("reads");
    assert_eq!(read, promotion);
    assert_eq!(read.due(after(31), &rules(100.0)), Due::EvaluateTrial(TRIAL, NOON));
    assert!(matches!(look(&mut read, 100.0, 3.0, 40), CanaryVerdict::RollBack(_)));
    assert_eq!(read.budget.spent_minutes, 3.0);
}

#[test]
fn the_watch_has_its_full_length_once_the_candidate_is_in_use() {
    let (mut promotion, rules) = (Promotion::default(), rules(10.0));
    promotion.watch(TRIAL, 7, ViolationMinutes::default(), "passed", NOON, &rules);
    assert_eq!(promotion.due(after(90), &rules), Due::PutInUse(TRIAL, 7), "recorded, and not carried out");
    promotion.started(after(90), &rules);
    assert_eq!(promotion.due(after(90), &rules), Due::EvaluateTrial(TRIAL, after(90)));
    assert_eq!(promotion.look(Some(4), burn(0.0, 59.0), after(149), &rules), CanaryVerdict::Continue);
}

#[test]
fn a_record_of_an_earlier_release_is_continued() {
    let text = r#"{
        "stage": {"at": "watch", "trial": {"version": 4, "base": 3}, "since": 1000, "until": 2000,
                  "before": {"violated_minutes": 1.0, "judged_minutes": 60.0}, "counted_minutes": 0.5},
        "ledger": {"day": 0, "spent_minutes": 0.5, "taken_back": true},
        "said": [{"at": 900, "outcome": "foreign", "version": 3, "why": "a reason"}, {"at": 1000, "outcome": "used", "version": 4, "why": "passed"}],
        "decisions": 2
    }"#;
    let mut promotion: Promotion = serde_json::from_str(text).expect("reads");
    assert_eq!(decisions(&promotion), [PromotionDecision::Superseded, PromotionDecision::Used]);
    assert_eq!(promotion.log[0].reason, "a reason");
    assert_eq!(promotion.budget, DailyBudget { day: 0, spent_minutes: 0.5, rolled_back: true });
    let (settings, candidate) = promotion.plan(&PromotionRequest::default()).expect("a trial is watched without any request");
    assert_eq!((promotion.due(Timestamp(1500), &settings.rules), candidate), (Due::EvaluateTrial(TRIAL, Timestamp(1000)), None));
    assert_eq!(promotion.look(Some(4), burn(0.5, 20.0), Timestamp(1500), &settings.rules), CanaryVerdict::Continue);
}

#[test]
fn a_version_that_an_operator_puts_in_use_ends_the_trial() {
    let mut promotion = watched(100.0);
    let superseded = Superseded { expected: Some(4), found: Some(7) };
    assert_eq!(promotion.look(Some(7), burn(30.0, 30.0), after(30), &rules(100.0)), CanaryVerdict::Superseded(superseded));
    promotion.supersede(superseded, after(30), EVERY);
    assert!(promotion.trial().is_none() && !promotion.budget.rolled_back);
    assert_eq!(promotion.log.last().map(|entry| entry.decision), Some(PromotionDecision::Superseded));

    let mut promotion = watched(100.0);
    promotion.supersede(Superseded { expected: Some(4), found: Some(3) }, after(30), EVERY);
    assert!(promotion.budget.rolled_back, "an operator rolled it back");

    let mut promotion = Promotion::default();
    promotion.shadow(TRIAL, settings(1.0), "cheaper", NOON);
    assert_eq!(promotion.superseded(Some(3)), None);
    assert_eq!(promotion.superseded(None), Some(Superseded { expected: Some(3), found: None }));
}

#[test]
fn the_log_returns_each_decision_once_and_is_bounded() {
    let mut promotion = Promotion::default();
    for number in 0..200u64 {
        promotion.end(PromotionDecision::RejectedOffline, None, &number.to_string(), after(number), EVERY);
        let reasons: Vec<&str> = promotion.log_since(number).iter().map(|entry| entry.reason.as_str()).collect();
        assert_eq!(reasons, [number.to_string()]);
    }
    assert!(promotion.log_since(200).is_empty() && promotion.log.len() == LOG_LENGTH);
}

#[test]
fn a_watch_without_measurements_ends_in_a_rollback() {
    let mut promotion = watched(100.0);
    assert_eq!(look(&mut promotion, 100.0, 0.0, 0), CanaryVerdict::Continue);
    let verdict = promotion.look(Some(4), burn(0.0, 0.0), after(60), &rules(100.0));
    assert_eq!(verdict, CanaryVerdict::RollBack(RollBackReason::NothingMeasured));
}

#[test]
fn only_measured_minutes_count() {
    let mut burn = ViolationMinutes::default();
    [Some(true), None, Some(false), Some(false)].into_iter().for_each(|violated| burn.add(violated, 30_000));
    assert_eq!((burn.violated_minutes, burn.judged_minutes), (0.5, 1.5));
}

#[test]
fn a_requested_round_runs_once_and_ends_with_its_decision() {
    let mut promotion = Promotion::default();
    let request = PromotionRequest { periodic: None, round: Some(RoundRequest { candidate: Some(9), ..round(1) }) };
    assert_eq!(promotion.plan(&request), None, "not accepted yet");
    assert!(promotion.accept(request.round.as_ref().expect("requested"), NOON));
    assert!(!promotion.accept(request.round.as_ref().expect("requested"), NOON), "accepted once");
    assert_eq!(promotion.plan(&request), Some((settings(10.0), Some(9))));
    promotion.end(PromotionDecision::RejectedOffline, Some(9), "worse", NOON, EVERY);
    assert_eq!(promotion.round, Some(RoundStatus { id: 1, state: RoundState::Done }));
    assert_eq!(promotion.plan(&request), None, "nothing is left to do");
}

#[test]
fn a_requested_round_follows_the_candidate_on_trial_by_its_own_settings() {
    let mut promotion = watched(100.0);
    assert!(promotion.accept(&round(1), after(1)));
    let request = PromotionRequest { periodic: Some(settings(3.0)), round: Some(round(1)) };
    assert_eq!(promotion.plan(&request).map(|(settings, _)| settings), Some(settings(10.0)));
    promotion.end(PromotionDecision::Kept, Some(4), "no violations", after(60), EVERY);
    assert_eq!(promotion.round, Some(RoundStatus { id: 1, state: RoundState::Done }));

    let mut promotion = watched(100.0);
    promotion.accept(&RoundRequest { candidate: Some(9), ..round(1) }, after(1));
    let state = promotion.round.expect("accepted").state;
    assert!(matches!(state, RoundState::Failed { .. }), "two candidates cannot be on trial: {state:?}");
}

#[test]
fn a_failed_round_reports_its_error_and_is_not_repeated_at_once() {
    let mut promotion = Promotion::default();
    promotion.accept(&round(1), NOON);
    promotion.fail_round("no function uses the agent", after(10));
    assert!(matches!(promotion.round.as_ref().map(|round| &round.state), Some(RoundState::Failed { .. })), "{promotion:?}");
    assert_eq!(promotion.due(after(9), &rules(10.0)), Due::Wait(after(10)));
    assert_eq!(promotion.due(after(10), &rules(10.0)), Due::Round);
}
