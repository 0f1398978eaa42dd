//! The election, with two actuators and a bucket that is a variable.

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(6);

/// The entry of the bucket, with the compare-and-swap that NATS does.
#[derive(Default)]
struct Cell {
    entry: Option<Entry>,
    last: u64,
}

impl Cell {
    fn carry_out(&mut self, step: &Step) -> Answer {
        match step {
            Step::Look => Answer::Found(self.entry.clone()),
            Step::Write { over, .. } if *over != self.entry.as_ref().map_or(0, |entry| entry.revision) => Answer::Refused,
            Step::Write { lease, .. } => {
                self.last += 1;
                self.entry = Some(Entry { lease: lease.clone(), revision: self.last });
                Answer::Written(self.last)
            }
        }
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[track_caller]
fn turn(election: &mut Election, cell: &mut Cell, now: Duration) {
    let step = election.step(now, Timestamp(1_000));
    let answer = cell.carry_out(&step);
    election.answer(&step, answer, now, now);
}

fn lost(election: &mut Election, now: Duration) {
    let step = election.step(now, Timestamp(1_000));
    election.answer(&step, Answer::Unreachable, now, now);
}

fn token(standing: Standing) -> Option<u64> {
    match standing {
        Standing::Leading { token, .. } => Some(token),
        Standing::Following | Standing::Cut { .. } => None,
    }
}

fn elected(cell: &mut Cell) -> Election {
    let mut first = Election::new("a".into(), TTL);
    turn(&mut first, cell, seconds(0));
    turn(&mut first, cell, seconds(0));
    assert!(token(first.standing(seconds(0))).is_some());
    first
}

#[test]
fn the_second_follows_while_the_first_renews() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    let mut second = Election::new("b".into(), TTL);
    for now in 1..60 {
        turn(&mut first, &mut cell, seconds(now));
        turn(&mut second, &mut cell, seconds(now));
        assert!(token(first.standing(seconds(now))).is_some());
        assert_eq!(second.standing(seconds(now)), Standing::Following);
    }
}

#[test]
fn the_second_takes_over_with_a_higher_token_when_the_first_dies() {
    let mut cell = Cell::default();
    let first = elected(&mut cell);
    let mut second = Election::new("b".into(), TTL);
    for now in 1..=8 {
        turn(&mut second, &mut cell, seconds(now));
    }
    assert!(token(second.standing(seconds(8))) > token(first.standing(seconds(0))));
}

#[test]
fn a_lease_that_was_given_back_is_taken_at_once() {
    let mut cell = Cell::default();
    let first = elected(&mut cell);
    cell.carry_out(&first.release().expect("it is held"));
    let mut second = Election::new("b".into(), TTL);
    turn(&mut second, &mut cell, seconds(1));
    turn(&mut second, &mut cell, seconds(1));
    assert!(token(second.standing(seconds(1))) > token(first.standing(seconds(0))));
}

#[test]
fn who_cannot_renew_stops_before_another_may_take_over() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    lost(&mut first, seconds(2));
    assert!(token(first.standing(seconds(4))).is_some());
    assert_eq!(token(first.standing(seconds(5))), None);
    assert!(matches!(first.standing(seconds(5)), Standing::Cut { .. }));
}

#[test]
fn who_was_cut_off_and_replaced_follows() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    let mut second = Election::new("b".into(), TTL);
    for now in 1..=8 {
        lost(&mut first, seconds(now));
        turn(&mut second, &mut cell, seconds(now));
    }
    turn(&mut first, &mut cell, seconds(9));
    assert_eq!(first.standing(seconds(9)), Standing::Following);
    turn(&mut first, &mut cell, seconds(9));
    assert_eq!(first.standing(seconds(9)), Standing::Following);
}

#[test]
fn who_slept_does_not_believe_that_it_leads() {
    let mut cell = Cell::default();
    let first = elected(&mut cell);
    assert_eq!(first.standing(seconds(100)), Standing::Following, "the bus was never found unreachable");
}

#[test]
fn a_renewal_whose_answer_was_lost_keeps_the_lead() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    let before = token(first.standing(seconds(0)));
    let renewal = first.step(seconds(2), Timestamp(1_000));
    cell.carry_out(&renewal);
    first.answer(&renewal, Answer::Unreachable, seconds(2), seconds(3));
    for _ in 0..3 {
        turn(&mut first, &mut cell, seconds(3));
    }
    assert_eq!(token(first.standing(seconds(7))), before);
}

#[test]
fn tokens_grow_also_where_the_bucket_was_lost() {
    let mut first = Election::new("a".into(), TTL);
    let step = |election: &mut Election, wall: u64| {
        election.step_down();
        election.answer(&Step::Look, Answer::Found(None), seconds(0), seconds(0));
        match election.step(seconds(0), Timestamp(wall)) {
            Step::Write { lease, .. } => lease.token,
            Step::Look => panic!("it is free"),
        }
    };
    assert!(step(&mut first, 2_000) > step(&mut first, 1_000));
}

proptest! {
    #[test]
    fn two_never_lead_at_once(events in prop::collection::vec((0usize..3, 0u8..4, 0u64..3_000), 1..400)) {
        let mut cell = Cell::default();
        let mut all: Vec<Election> = ["a", "b", "c"].map(|name| Election::new(name.into(), TTL)).into();
        let mut now = Duration::ZERO;
        let mut highest = 0;
        for (who, what, pause) in events {
            now += Duration::from_millis(pause);
            let election = &mut all[who];
            let step = election.step(now, Timestamp(1_000));
            let answer = match what {
                0 => Answer::Unreachable,
                1 => { cell.carry_out(&step); Answer::Unreachable }
                _ => cell.carry_out(&step),
            };
            election.answer(&step, answer, now, now);
            let leading: Vec<u64> = all.iter().filter_map(|election| token(election.standing(now))).collect();
            prop_assert!(leading.len() <= 1, "{:?}", leading);
            if let Some(token) = leading.first() {
                prop_assert!(*token >= highest, "{} after {}", token, highest);
                highest = *token;
            }
        }
    }
}
