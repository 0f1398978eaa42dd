//! Parts of a history that are simulated. Owns the chronological split, the choice of blocks within a budget, and the load of a block; simulates nothing.

use std::ops::Range;
use std::time::Duration;

use qscale_common::time::Span;
use qscale_common::workload::Rate;
use qscale_sim::SimulatedLoad;

use crate::history::{HistoryMetric, HistoryStep, WorkloadHistory};

/// Longest gap in the arrivals that is bridged by the rate before it, steps.
const MAX_GAP: usize = 5;
/// Lengths of a block, warm-up and measured part, from the most to the least desired. Twenty minutes are longer than the windows of most policies.
const LENGTHS: [(Duration, Duration); 3] = [(minutes(20), minutes(40)), (minutes(20), minutes(20)), (minutes(10), minutes(10))];
/// Blocks below which shorter ones are tried.
const ENOUGH: usize = 4;
/// Fewest measured steps of a part.
const MIN_STEPS: usize = 8;

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// Consecutive steps of a history: a warm-up and a measured part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryBlock {
    /// First step of the warm-up.
    pub begin: usize,
    /// Steps of the warm-up.
    pub warm_up: usize,
    /// Measured steps.
    pub measured: usize,
}

impl HistoryBlock {
    /// All its steps.
    #[must_use]
    pub fn steps(&self) -> Range<usize> {
        self.begin..self.begin + self.warm_up + self.measured
    }

    /// Its measured steps.
    #[must_use]
    pub fn measured_steps(&self) -> Range<usize> {
        self.begin + self.warm_up..self.begin + self.warm_up + self.measured
    }
}

/// Blocks of a part of a history, all of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPart {
    /// The simulated blocks in order.
    pub blocks: Vec<HistoryBlock>,
    /// Number of blocks of that length in the part.
    pub available: usize,
}

/// Limits of the simulated blocks of a part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockBudget {
    /// Most blocks.
    pub blocks: usize,
    /// Most requests in all blocks together.
    pub requests: f64,
}

/// A history in two parts, the earlier for calibration and tuning, the later to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitHistory {
    /// The earlier part.
    pub tuning: HistoryPart,
    /// The later part; its warm-ups may begin in the earlier one.
    pub judged: HistoryPart,
}

impl SplitHistory {
    /// Splits `history` in halves.
    ///
    /// # Errors
    /// Too few steps with arrivals in a half.
    pub fn new(history: &WorkloadHistory, tuning: BlockBudget, judged: BlockBudget) -> Result<Self, String> {
        let middle = history.steps.len() / 2;
        let runs = runs(history);
        let part = |range: Range<usize>, lead: bool, budget| {
            part(history, &runs, range, lead, budget).ok_or_else(|| {
                let step = Span(history.step);
                format!(
                    "{} of its {} steps of {step} have arrivals, too few in one half: each needs {} consecutive ones; give a longer period, or a shorter step",
                    history.values(HistoryMetric::ArrivalsRps).count(),
                    history.steps.len(),
                    MIN_STEPS * 3 / 2
                )
            })
        };
        Ok(Self { tuning: part(0..middle, false, tuning)?, judged: part(middle..history.steps.len(), true, judged)? })
    }
}

/// Runs of steps with known arrivals, short gaps bridged.
fn runs(history: &WorkloadHistory) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, step) in history.steps.iter().enumerate() {
        if step.get(HistoryMetric::ArrivalsRps).is_none() {
            continue;
        }
        match runs.last_mut() {
            Some(run) if number - run.end <= MAX_GAP => run.end = number + 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

/// The blocks of `range`; a warm-up may begin before it if `lead`. `None` if it has too few steps.
fn part(history: &WorkloadHistory, runs: &[Range<usize>], range: Range<usize>, lead: bool, budget: BlockBudget) -> Option<HistoryPart> {
    // Each run within the part, with its steps before the part.
    let within: Vec<(Range<usize>, usize)> = runs
        .iter()
        .map(|run| (run.start.max(range.start)..run.end.min(range.end), if lead { range.start.saturating_sub(run.start) } else { 0 }))
        .filter(|(run, _)| !run.is_empty())
        .collect();
    let (longest, its_lead) = within.iter().max_by_key(|(run, lead)| run.len() + (*lead).min(run.len()))?;
    let mut best: Option<HistoryPart> = None;
    for (warm_up, measured) in LENGTHS {
        let steps = |length: Duration| (length.as_nanos() / history.step.as_nanos().max(1)) as usize;
        let warm_up = steps(warm_up).min((*its_lead).max(longest.len() / 3));
        let measured = steps(measured).max(MIN_STEPS).min(longest.len() + its_lead - warm_up).min(longest.len());
        if measured < MIN_STEPS {
            continue;
        }
        let mut all = Vec::new();
        for (run, lead) in &within {
            let first = run.start - lead.min(&run.start);
            let mut end = run.end;
            while end >= run.start + measured && end >= first + measured + warm_up {
                all.push(HistoryBlock { begin: end - measured - warm_up, warm_up, measured });
                end -= measured;
            }
        }
        all.sort_by_key(|block| block.begin);
        let Some(each) = all.iter().map(|block| history.requests(block.steps())).reduce(f64::max) else { continue };
        let affordable = ((budget.requests / each.max(1.0)) as usize).clamp(1, budget.blocks.max(1));
        let found = HistoryPart { blocks: evenly(&all, affordable), available: all.len() };
        let enough = found.blocks.len() >= ENOUGH.min(found.available);
        if best.as_ref().is_none_or(|best| found.blocks.len() > best.blocks.len()) {
            best = Some(found);
        }
        if enough {
            break;
        }
    }
    best
}

/// `number` of `all`, at equal distances.
fn evenly(all: &[HistoryBlock], number: usize) -> Vec<HistoryBlock> {
    let number = number.min(all.len());
    (0..number).map(|place| all[(2 * place + 1) * all.len() / (2 * number)]).collect()
}

/// The arrivals of `block` as a load that begins with its warm-up, and the number of steps whose rate is taken from the step before. Each step has the
/// recorded number of requests: a Poisson process at the recorded rate would add the chance of the simulation to that of the recording.
#[must_use]
pub fn load(history: &WorkloadHistory, block: &HistoryBlock) -> (SimulatedLoad, usize) {
    let before = history.steps[..block.begin].iter().rev().find_map(|step| step.get(HistoryMetric::ArrivalsRps));
    let (mut last, mut bridged) = (before.unwrap_or(0.0), 0);
    let count = |step: &HistoryStep| {
        let known = step.get(HistoryMetric::ArrivalsRps);
        bridged += usize::from(known.is_none());
        last = known.unwrap_or(last).min(Rate::MAX);
        last * history.step.as_secs_f64()
    };
    let counts: Vec<f64> = history.steps[block.steps()].iter().map(count).collect();
    (SimulatedLoad::Counts { counts: counts.into(), interval: history.step }, bridged)
}

#[cfg(test)]
mod tests {
    use qscale_common::time::Timestamp;

    use super::*;

    const MANY: BlockBudget = BlockBudget { blocks: 100, requests: 1e12 };

    fn history(step: u64, rates: impl IntoIterator<Item = Option<f64>>) -> WorkloadHistory {
        let rates: Vec<_> = rates.into_iter().collect();
        let mut history = WorkloadHistory::empty("f".parse().expect("valid"), Timestamp(0), Duration::from_secs(step), rates.len());
        for (step, rate) in history.steps.iter_mut().zip(rates) {
            step.set(HistoryMetric::ArrivalsRps, rate.unwrap_or(f64::NAN));
        }
        history
    }

    #[test]
    fn a_long_history_has_blocks_of_an_hour_that_do_not_overlap() {
        let split = SplitHistory::new(&history(60, vec![Some(1.0); 24 * 60]), MANY, MANY).expect("long enough");
        for (part, range) in [(&split.tuning, 0..720), (&split.judged, 720..1440)] {
            assert!(part.blocks.iter().all(|block| (block.warm_up, block.measured) == (20, 40)), "{part:?}");
            assert!(part.blocks.windows(2).all(|pair| pair[0].measured_steps().end <= pair[1].measured_steps().start));
            assert!(
                part.blocks.iter().all(|block| range.contains(&block.measured_steps().start) && block.measured_steps().end <= range.end)
            );
        }
        // The first part has no steps before it for a warm-up.
        assert_eq!((split.tuning.blocks.len(), split.judged.blocks.len()), (17, 18));
        let few = BlockBudget { blocks: 3, requests: 1e12 };
        let split = SplitHistory::new(&history(60, vec![Some(1.0); 24 * 60]), few, few).expect("long enough");
        let begins: Vec<_> = split.judged.blocks.iter().map(|block| block.measured_steps().start).collect();
        assert_eq!((begins, split.judged.available), (vec![840, 1080, 1320], 18));
    }

    #[test]
    fn a_short_history_is_used_whole() {
        let split = SplitHistory::new(&history(15, vec![Some(5.0); 40]), MANY, MANY).expect("long enough");
        assert_eq!(split.tuning.blocks, [HistoryBlock { begin: 0, warm_up: 6, measured: 14 }]);
        assert_eq!(split.judged.blocks, [HistoryBlock { begin: 0, warm_up: 20, measured: 20 }]);
        let error = SplitHistory::new(&history(15, vec![Some(5.0); 20]), MANY, MANY).expect_err("too short");
        assert!(error.contains("20 of its 20 steps of 15s"), "{error}");
    }

    #[test]
    fn a_high_rate_gets_shorter_blocks() {
        let budget = BlockBudget { blocks: 8, requests: 5e6 };
        let split = SplitHistory::new(&history(60, vec![Some(1000.0); 24 * 60]), budget, budget).expect("long enough");
        assert_eq!(split.judged.blocks.len(), 4);
        assert!(split.judged.blocks.iter().all(|block| (block.warm_up, block.measured) == (10, 10)), "{split:?}");
    }

    #[test]
    fn blocks_do_not_span_gaps_and_short_gaps_are_bridged() {
        let mut rates = vec![Some(1.0); 400];
        rates[100..103].fill(None);
        rates[300..320].fill(None);
        let history = history(60, rates);
        let split = SplitHistory::new(&history, MANY, MANY).expect("long enough");
        assert!(split.judged.blocks.iter().all(|block| block.steps().end <= 300 || block.begin >= 320), "{split:?}");
        let over = split.tuning.blocks.iter().find(|block| block.steps().contains(&101)).expect("bridged");
        let (load, bridged) = load(&history, over);
        assert_eq!((bridged, load.rate_at(Duration::from_secs(41 * 60))), (3, Some(1.0)));
    }
}
