//! The election with two candidates and a bucket held in a variable.

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(6);

/// The entry of the bucket, with the compare-and-set of NATS.
#[derive(Default)]
struct Cell {
    entry: Option<LeaseEntry>,
    last: u64,
}

impl Cell {
    fn execute(&mut self, step: &ElectionStep) -> Reply {
        match step {
            ElectionStep::Read => Reply::Found(self.entry.clone()),
            ElectionStep::Write { expected, .. } if *expected != self.entry.as_ref().map_or(0, |entry| entry.revision) => Reply::Conflict,
            ElectionStep::Write { lease, .. } => {
                self.last += 1;
                self.entry = Some(LeaseEntry { lease: lease.clone(), revision: self.last });
                Reply::Written(self.last)
            }
        }
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[track_caller]
fn run_step(election: &mut Election, cell: &mut Cell, now: Duration) {
    let step = election.next_step(now, Timestamp(1_000));
    let reply = cell.execute(&step);
    election.on_reply(&step, reply, now, now);
}

fn lose_reply(election: &mut Election, now: Duration) {
    let step = election.next_step(now, Timestamp(1_000));
    election.on_reply(&step, Reply::Unreachable, now, now);
}

fn token(status: LeaderStatus) -> Option<u64> {
    match status {
        LeaderStatus::Leading { token, .. } => Some(token),
        LeaderStatus::Following | LeaderStatus::Disconnected { .. } => None,
    }
}

fn elected(cell: &mut Cell) -> Election {
    let mut first = Election::new("a".into(), TTL);
    run_step(&mut first, cell, seconds(0));
    run_step(&mut first, cell, seconds(0));
    assert!(token(first.status(seconds(0))).is_some());
    first
}

#[test]
fn the_second_follows_while_the_first_renews() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    let mut second = Election::new("b".into(), TTL);
    for now in 1..60 {
        run_step(&mut first, &mut cell, seconds(now));
        run_step(&mut second, &mut cell, seconds(now));
        assert!(token(first.status(seconds(now))).is_some());
        assert_eq!(second.status(seconds(now)), LeaderStatus::Following);
    }
}

#[test]
fn a_paused_leader_does_not_overwrite_the_lease_in_a_bucket_that_was_created_again() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    // The bucket is lost, and another candidate leads with the same revision.
    cell = Cell::default();
    let mut second = Election::new("b".into(), TTL);
    run_step(&mut second, &mut cell, seconds(0));
    run_step(&mut second, &mut cell, seconds(0));
    let before = cell.entry.clone();
    run_step(&mut first, &mut cell, seconds(7));
    assert_eq!((first.status(seconds(7)), &cell.entry), (LeaderStatus::Following, &before));
    run_step(&mut second, &mut cell, seconds(7));
    run_step(&mut second, &mut cell, seconds(7));
    assert!(token(second.status(seconds(7))).is_some());
}

#[test]
fn a_paused_follower_does_not_overwrite_the_lease_in_a_bucket_that_was_created_again() {
    let mut cell = Cell::default();
    let _first = elected(&mut cell);
    let mut second = Election::new("b".into(), TTL);
    run_step(&mut second, &mut cell, seconds(1));
    cell = Cell::default();
    let mut third = Election::new("c".into(), TTL);
    run_step(&mut third, &mut cell, seconds(8));
    run_step(&mut third, &mut cell, seconds(8));
    let before = cell.entry.clone();
    run_step(&mut second, &mut cell, seconds(9));
    assert_eq!((second.status(seconds(9)), &cell.entry), (LeaderStatus::Following, &before));
}

#[test]
fn a_paused_leader_leads_again_if_none_took_over() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    run_step(&mut first, &mut cell, seconds(60));
    assert_eq!(first.status(seconds(60)), LeaderStatus::Following);
    assert_eq!(first.delay(), TTL / 12);
    run_step(&mut first, &mut cell, seconds(61));
    assert!(token(first.status(seconds(61))).is_some());
}

#[test]
fn the_second_takes_over_with_a_higher_token_when_the_first_dies() {
    let mut cell = Cell::default();
    let first = elected(&mut cell);
    let mut second = Election::new("b".into(), TTL);
    for now in 1..=8 {
        run_step(&mut second, &mut cell, seconds(now));
    }
    assert!(token(second.status(seconds(8))) > token(first.status(seconds(0))));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let mut cell = Cell::default();
    let first = elected(&mut cell);
    cell.execute(&first.release().expect("it is held"));
    let mut second = Election::new("b".into(), TTL);
    run_step(&mut second, &mut cell, seconds(1));
    run_step(&mut second, &mut cell, seconds(1));
    assert!(token(second.status(seconds(1))) > token(first.status(seconds(0))));
}

#[test]
fn a_leader_that_cannot_renew_stops_before_another_may_take_over() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    lose_reply(&mut first, seconds(2));
    assert!(token(first.status(seconds(4))).is_some());
    assert_eq!(token(first.status(seconds(5))), None);
    assert!(matches!(first.status(seconds(5)), LeaderStatus::Disconnected { .. }));
}

#[test]
fn a_disconnected_leader_that_was_replaced_follows() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    let mut second = Election::new("b".into(), TTL);
    for now in 1..=8 {
        lose_reply(&mut first, seconds(now));
        run_step(&mut second, &mut cell, seconds(now));
    }
    run_step(&mut first, &mut cell, seconds(9));
    assert_eq!(first.status(seconds(9)), LeaderStatus::Following);
    run_step(&mut first, &mut cell, seconds(9));
    assert_eq!(first.status(seconds(9)), LeaderStatus::Following);
}

#[test]
fn a_leader_that_was_suspended_does_not_lead() {
    let mut cell = Cell::default();
    let first = elected(&mut cell);
    assert_eq!(first.status(seconds(100)), LeaderStatus::Following, "the bus was never unreachable");
}

#[test]
fn a_renewal_whose_reply_was_lost_keeps_the_lead() {
    let mut cell = Cell::default();
    let mut first = elected(&mut cell);
    let before = token(first.status(seconds(0)));
    let renewal = first.next_step(seconds(2), Timestamp(1_000));
    cell.execute(&renewal);
    first.on_reply(&renewal, Reply::Unreachable, seconds(2), seconds(3));
    for _ in 0..3 {
        run_step(&mut first, &mut cell, seconds(3));
    }
    assert_eq!(token(first.status(seconds(7))), before);
}

#[test]
fn tokens_grow_even_if_the_bucket_was_lost() {
    let mut first = Election::new("a".into(), TTL);
    let step = |election: &mut Election, wall: u64| {
        election.step_down(0);
        election.on_reply(&ElectionStep::Read, Reply::Found(None), seconds(0), seconds(0));
        match election.next_step(seconds(0), Timestamp(wall)) {
            ElectionStep::Write { lease, .. } => lease.token,
            ElectionStep::Read => panic!("it is free"),
        }
    };
    assert!(step(&mut first, 2_000) > step(&mut first, 1_000));
}

#[test]
fn the_next_token_is_higher_than_the_one_that_was_seen_elsewhere() {
    let mut election = Election::new("a".into(), TTL);
    election.step_down(9_000);
    election.step_down(0);
    election.on_reply(&ElectionStep::Read, Reply::Found(None), seconds(0), seconds(0));
    let ElectionStep::Write { lease, .. } = election.next_step(seconds(0), Timestamp(1_000)) else { panic!("it is free") };
    assert_eq!(lease.token, 9_001);
}

proptest! {
    #[test]
    fn at_most_one_leads(events in prop::collection::vec((0usize..3, 0u8..4, 0u64..3_000), 1..400)) {
        let mut cell = Cell::default();
        let mut all: Vec<Election> = ["a", "b", "c"].map(|name| Election::new(name.into(), TTL)).into();
        let mut now = Duration::ZERO;
        let mut highest = 0;
        for (who, what, pause) in events {
            now += Duration::from_millis(pause);
            let election = &mut all[who];
            let step = election.next_step(now, Timestamp(1_000));
            let reply = match what {
                0 => Reply::Unreachable,
                1 => { cell.execute(&step); Reply::Unreachable }
                _ => cell.execute(&step),
            };
            election.on_reply(&step, reply, now, now);
            let leading: Vec<u64> = all.iter().filter_map(|election| token(election.status(now))).collect();
            prop_assert!(leading.len() <= 1, "{:?}", leading);
            if let Some(token) = leading.first() {
                prop_assert!(*token >= highest, "{} after {}", token, highest);
                highest = *token;
            }
        }
    }
}
