use super::*;

const TRIAL: Trial = Trial { version: 4, base: Some(3) };
/// Noon of a day.
const NOON: Timestamp = Timestamp(20_000 * DAY_MS + DAY_MS / 2);

fn rules(budget: f64) -> Rules {
    Rules { budget_minutes: Some(budget), ..Rules::default() }
}

fn burn(violated_minutes: f64, judged_minutes: f64) -> Burn {
    Burn { violated_minutes, judged_minutes }
}

fn after(minutes: u64) -> Timestamp {
    NOON.plus(Duration::from_secs(minutes * 60))
}

/// A candidate that is in use since noon, where one minute in sixty was in violation before.
fn watched(budget: f64) -> Gates {
    let mut gates = Gates::default();
    gates.watch(TRIAL, burn(1.0, 60.0), "it passed", NOON, &rules(budget));
    gates
}

#[track_caller]
fn look(gates: &mut Gates, budget: f64, violated: f64, minutes: u64) -> Look {
    gates.look(Some(TRIAL.version), burn(violated, minutes as f64), after(minutes), &rules(budget))
}

#[test]
fn a_candidate_goes_through_the_gates_one_after_the_other() {
    let (mut gates, rules) = (Gates::default(), rules(10.0));
    assert_eq!(gates.due(NOON, &rules), Due::Round);
    gates.shadow(TRIAL, "it is cheaper", NOON, &rules);
    assert_eq!(gates.due(NOON, &rules), Due::Wait(after(30)));
    assert_eq!(gates.due(after(30), &rules), Due::JudgeShadow(TRIAL, NOON));
    assert_eq!(gates.may_use(after(30), &rules), Ok(()));
    gates.watch(TRIAL, burn(0.0, 60.0), "it is not astray", after(30), &rules);
    assert_eq!(gates.due(after(31), &rules), Due::Look(TRIAL, after(30)));
    assert_eq!(gates.look(Some(4), burn(0.0, 59.0), after(89), &rules), Look::GoOn);
    let Look::Keep(why) = gates.look(Some(4), burn(0.0, 60.0), after(90), &rules) else { panic!("it burned nothing") };
    gates.over(Outcome::Kept, Some(4), &why, after(90), &rules);
    assert_eq!(gates.due(after(91), &rules), Due::Wait(after(90 + 360)));
    assert_eq!(gates.due(after(90 + 360), &rules), Due::Round);
    let outcomes: Vec<Outcome> = gates.said.iter().map(|said| said.outcome).collect();
    assert_eq!(outcomes, [Outcome::Shadow, Outcome::Used, Outcome::Kept]);
}

#[test]
fn without_a_budget_nothing_is_put_in_use() {
    let gates = Gates::default();
    for budget in [None, Some(0.0)] {
        let error = gates.may_use(NOON, &Rules { budget_minutes: budget, ..Rules::default() }).expect_err("off");
        assert!(error.contains("--budget MINUTES"), "{error}");
    }
}

#[test]
fn an_objective_that_burns_faster_than_before_takes_the_candidate_back_until_the_next_day() {
    let mut gates = watched(100.0);
    // As fast as before, faster by less than the margin, and by less than a minute.
    assert_eq!(look(&mut gates, 100.0, 0.5, 30), Look::GoOn);
    assert_eq!(look(&mut gates, 100.0, 0.9, 45), Look::GoOn);
    assert_eq!(look(&mut gates, 100.0, 1.6, 46), Look::GoOn);
    let Look::RollBack(why) = look(&mut gates, 100.0, 2.0, 50) else { panic!("it burns more than twice as fast") };
    assert!(why.contains("burns faster than before: 2.0 of 50.0 minutes") && why.contains("before it 1.67 %"), "{why}");
    gates.over(Outcome::RolledBack, Some(4), &why, after(50), &rules(100.0));
    assert_eq!(gates.due(after(50), &rules(100.0)), Due::Wait(next_day(NOON)));
    gates.hurry(after(51));
    assert_eq!(gates.due(after(51), &rules(100.0)), Due::Wait(next_day(NOON)), "whoever hurries waits for the day as well");
    assert!(gates.may_use(after(51), &rules(100.0)).is_err());
    assert_eq!(gates.due(next_day(NOON), &rules(100.0)), Due::Round);
}

#[test]
fn a_function_that_burned_before_may_go_on_burning_within_the_margin() {
    let mut gates = Gates::default();
    gates.watch(TRIAL, burn(12.0, 60.0), "it passed", NOON, &rules(100.0));
    assert_eq!(look(&mut gates, 100.0, 14.9, 60), Look::Keep("14.9 of 60.0 minutes were in violation (24.83 %), before it 20.00 %".into()));
    assert!(matches!(look(&mut gates, 100.0, 15.1, 60), Look::RollBack(_)));
}

#[test]
fn a_budget_that_is_spent_takes_the_candidate_back() {
    let mut gates = Gates::default();
    gates.watch(TRIAL, burn(60.0, 60.0), "it passed", NOON, &rules(5.0));
    assert_eq!(look(&mut gates, 5.0, 4.5, 5), Look::GoOn, "it burns no faster");
    let Look::RollBack(why) = look(&mut gates, 5.0, 5.0, 6) else { panic!("spent") };
    assert!(why.contains("budget of 5 SLO-minutes is spent"), "{why}");
    assert_eq!(gates.ledger.spent_minutes, 5.0, "what was counted before is not counted again");
}

#[test]
fn a_day_pays_for_its_own_minutes_only() {
    let mut gates = Gates::default();
    let evening = Timestamp(next_day(NOON).0 - 60_000 * 30);
    let at = |minutes: u64| evening.plus(Duration::from_secs(minutes * 60));
    gates.watch(TRIAL, burn(60.0, 60.0), "it passed", evening, &rules(5.0));
    assert_eq!(gates.look(Some(4), burn(4.0, 29.0), at(29), &rules(5.0)), Look::GoOn);
    assert_eq!(gates.look(Some(4), burn(8.0, 40.0), at(40), &rules(5.0)), Look::GoOn);
    assert_eq!(gates.ledger, Ledger { day: day(at(40)), spent_minutes: 4.0, taken_back: false });
}

#[test]
fn what_was_written_down_goes_on_after_a_restart() {
    let mut gates = watched(100.0);
    assert_eq!(look(&mut gates, 100.0, 1.0, 30), Look::GoOn);
    let written = serde_json::to_string(&gates).expect("writes");
    let mut again: Gates = serde_json::from_str(&written).expect("reads");
    assert_eq!(again, gates);
    assert_eq!(again.due(after(31), &rules(100.0)), Due::Look(TRIAL, NOON));
    assert!(matches!(look(&mut again, 100.0, 3.0, 40), Look::RollBack(_)));
    assert_eq!(again.ledger.spent_minutes, 3.0);
}

#[test]
fn what_somebody_else_puts_in_use_is_theirs() {
    let mut gates = watched(100.0);
    let Look::Foreign(why) = gates.look(Some(7), burn(30.0, 30.0), after(30), &rules(100.0)) else { panic!("another version is in use") };
    assert!(why.contains("version 7 is in use") && why.contains("under watch is version 4"), "{why}");
    gates.lost(Some(7), &why, after(30), &rules(100.0));
    assert!(gates.trial().is_none() && !gates.ledger.taken_back);
    assert_eq!(gates.said.last().map(|said| said.outcome), Some(Outcome::Foreign));

    let mut gates = watched(100.0);
    gates.lost(Some(3), "it was taken back", after(30), &rules(100.0));
    assert!(gates.ledger.taken_back, "whoever took it back had a reason");

    let mut gates = Gates::default();
    gates.shadow(TRIAL, "it is cheaper", NOON, &rules(1.0));
    assert_eq!(gates.foreign(Some(3)), None);
    assert!(gates.foreign(None).expect("taken out of use").contains("no version is in use"));
}

#[test]
fn each_decision_is_told_once_however_many_are_remembered() {
    let (mut gates, rules) = (Gates::default(), rules(1.0));
    for number in 0..200u64 {
        gates.over(Outcome::RejectedOffline, None, &number.to_string(), after(number), &rules);
        let told: Vec<&str> = gates.said_since(number).iter().map(|said| said.why.as_str()).collect();
        assert_eq!(told, [number.to_string()]);
    }
    assert!(gates.said_since(200).is_empty() && gates.said.len() == REMEMBERED);
}

#[test]
fn nothing_measured_speaks_for_nothing() {
    let mut gates = watched(100.0);
    assert_eq!(look(&mut gates, 100.0, 0.0, 0), Look::GoOn);
    let looked = gates.look(Some(4), burn(0.0, 0.0), after(60), &rules(100.0));
    assert!(matches!(looked, Look::RollBack(why) if why.contains("nothing was measured")));
}

#[test]
fn minutes_are_those_that_were_judged() {
    let mut burn = Burn::default();
    [Some(true), None, Some(false), Some(false)].into_iter().for_each(|violated| burn.add(violated, 30_000));
    assert_eq!((burn.violated_minutes, burn.judged_minutes), (0.5, 1.5));
}
