//! The gates that a candidate passes one after the other: shadow, use under watch, kept or taken back. Owns which comes next and what the day may still cost; acts on
//! nothing: whoever carries it out says what was seen, and when.
//!
//! A candidate reaches the shadow once the offline gate let it pass. Without a budget it never gets further than a recommendation. A budget is told in SLO-minutes a
//! day: all minutes in which the objective of a function was violated while a candidate was in use under watch count against it, whatever violated them.

use std::time::Duration;

use qscale_common::time::Timestamp;
use serde::{Deserialize, Serialize};

const DAY_MS: u64 = 86_400_000;
const MINUTE_MS: f64 = 60_000.0;
/// Decisions that are remembered.
const REMEMBERED: usize = 50;

/// What the gates go by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Pause between two rounds.
    pub every: Duration,
    /// How long a candidate decides beside the model in use.
    pub shadow_for: Duration,
    /// How long it is watched once it is in use.
    pub watch_for: Duration,
    /// SLO-minutes that candidates under watch may burn in a day (UTC); `None` or none puts nothing in use.
    pub budget_minutes: Option<f64>,
    /// How many times as fast as before the objective may burn, less one; 0.25 lets it burn a quarter faster.
    pub margin: f64,
    /// Minutes beyond those of the time before without which nothing is taken back: less is chance.
    pub least_minutes: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(6 * 3600),
            shadow_for: Duration::from_secs(30 * 60),
            watch_for: Duration::from_secs(3600),
            budget_minutes: None,
            margin: 0.25,
            least_minutes: 1.0,
        }
    }
}

/// How long objectives were violated, and how long that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Burn {
    /// Minutes in violation, those of all functions together.
    pub violated_minutes: f64,
    /// Minutes that were judged at all.
    pub judged_minutes: f64,
}

impl Burn {
    /// Takes in a tick of `tick_ms` milliseconds; one that was not judged says nothing.
    pub fn add(&mut self, violated: Option<bool>, tick_ms: u64) {
        let Some(violated) = violated else { return };
        let minutes = tick_ms as f64 / MINUTE_MS;
        self.judged_minutes += minutes;
        self.violated_minutes += if violated { minutes } else { 0.0 };
    }

    /// Share of the time in violation; nothing where nothing was judged.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.judged_minutes > 0.0 { self.violated_minutes / self.judged_minutes } else { 0.0 }
    }

    /// What the same time would have burned at the rate of `before`.
    fn expected(&self, before: &Self) -> f64 {
        before.rate() * self.judged_minutes
    }
}

/// A candidate, and what is in use without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Version of the candidate.
    pub version: u64,
    /// Version that it is to replace; absent where none was in use, and the model that comes along decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
}

/// Where a candidate is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum Stage {
    /// There is none; the next is learned from then on.
    Rest {
        /// When.
        until: Timestamp,
    },
    /// It decides beside the model in use.
    Shadow {
        /// It.
        trial: Trial,
        /// When that began.
        since: Timestamp,
        /// When it is judged.
        until: Timestamp,
    },
    /// It is in use and watched.
    Watch {
        /// It.
        trial: Trial,
        /// When that began.
        since: Timestamp,
        /// When it is over.
        until: Timestamp,
        /// What the same time before it burned.
        before: Burn,
        /// Minutes in violation that were counted against the budget so far.
        counted_minutes: f64,
    },
}

/// What a day cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// The day, counted from 1970 in UTC.
    pub day: u64,
    /// Minutes in violation of candidates under watch.
    pub spent_minutes: f64,
    /// Whether one was taken back: then no other is tried that day.
    pub taken_back: bool,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There was none: too little was recorded.
    TooLittle,
    /// The offline gate held it back.
    RejectedOffline,
    /// It passed the offline gate, and is in the shadow.
    Shadow,
    /// The shadow gate held it back.
    RejectedInShadow,
    /// It passed the shadow gate, and there is no budget to use it.
    Recommended,
    /// It was put in use and is watched.
    Used,
    /// It stays in use.
    Kept,
    /// The version before is in use again.
    RolledBack,
    /// Somebody else put another version in use meanwhile: it is theirs to watch.
    Foreign,
}

/// A decision, in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// When.
    pub at: Timestamp,
    /// What it was.
    pub outcome: Outcome,
    /// Version of the candidate; absent where it was not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why.
    pub why: String,
}

/// Where fine-tuning stands. Written down after every decision, so that whoever comes after a restart goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// Where the candidate is.
    pub stage: Stage,
    /// What today cost.
    pub ledger: Ledger,
    /// What was decided lately, the newest last.
    pub said: Vec<Said>,
    /// How much was decided since it began.
    #[serde(default)]
    pub decisions: u64,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Due {
    /// Nothing until then.
    Wait(Timestamp),
    /// Learn a candidate.
    Round,
    /// Judge the candidate in the shadow.
    JudgeShadow(Trial, Timestamp),
    /// Look at what the candidate in use burns.
    Look(Trial, Timestamp),
}

/// What is to be done about a candidate that is watched.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// Nothing yet.
    GoOn,
    /// It stays, for that reason.
    Keep(String),
    /// The version before is to be put in use again, for that reason.
    RollBack(String),
    /// Another version is in use: it is not ours any more.
    Foreign(String),
}

impl Default for Gates {
    fn default() -> Self {
        Self { stage: Stage::Rest { until: Timestamp(0) }, ledger: Ledger::default(), said: Vec::new(), decisions: 0 }
    }
}

fn day(at: Timestamp) -> u64 {
    at.0 / DAY_MS
}

/// When the day after that of `at` begins.
#[must_use]
pub fn next_day(at: Timestamp) -> Timestamp {
    Timestamp((day(at) + 1).saturating_mul(DAY_MS))
}

impl Gates {
    /// Begins a new page where a new day began.
    fn turn_page(&mut self, now: Timestamp) {
        if self.ledger.day != day(now) {
            self.ledger = Ledger { day: day(now), ..Ledger::default() };
        }
    }

    /// When another candidate may be tried; at once where nothing forbids it.
    #[must_use]
    pub fn not_before(&self, now: Timestamp, rules: &Rules) -> Timestamp {
        let today = self.ledger.day == day(now);
        let spent = rules.budget_minutes.is_some_and(|budget| budget > 0.0 && self.ledger.spent_minutes >= budget);
        if today && (self.ledger.taken_back || spent) { next_day(now) } else { now }
    }

    /// What is to be done at `now`.
    #[must_use]
    pub fn due(&self, now: Timestamp, rules: &Rules) -> Due {
        match self.stage {
            Stage::Rest { until } => {
                let from = until.max(self.not_before(now, rules));
                if from > now { Due::Wait(from) } else { Due::Round }
            }
            Stage::Shadow { until, .. } if until > now => Due::Wait(until),
            Stage::Shadow { trial, since, .. } => Due::JudgeShadow(trial, since),
            Stage::Watch { trial, since, .. } => Due::Look(trial, since),
        }
    }

    /// What was decided after the first `told` decisions, as far as it is remembered.
    #[must_use]
    pub fn said_since(&self, told: u64) -> &[Said] {
        let new = usize::try_from(self.decisions.saturating_sub(told)).unwrap_or(usize::MAX);
        &self.said[self.said.len().saturating_sub(new)..]
    }

    /// Lets the next round begin now, whatever pause is left.
    pub fn hurry(&mut self, now: Timestamp) {
        if let Stage::Rest { until } = &mut self.stage {
            *until = (*until).min(now);
        }
    }

    /// The candidate that is in the shadow or in use.
    #[must_use]
    pub fn trial(&self) -> Option<Trial> {
        match self.stage {
            Stage::Rest { .. } => None,
            Stage::Shadow { trial, .. } | Stage::Watch { trial, .. } => Some(trial),
        }
    }

    /// Says that the candidate is no more: `outcome`, for the reason `why`. The next is learned after the pause.
    pub fn over(&mut self, outcome: Outcome, version: Option<u64>, why: &str, now: Timestamp, rules: &Rules) {
        self.turn_page(now);
        self.ledger.taken_back |= outcome == Outcome::RolledBack;
        self.stage = Stage::Rest { until: now.plus(rules.every) };
        self.say(outcome, version, why, now);
    }

    /// Takes a candidate into the shadow that passed the offline gate for the reason `why`.
    pub fn shadow(&mut self, trial: Trial, why: &str, now: Timestamp, rules: &Rules) {
        self.stage = Stage::Shadow { trial, since: now, until: now.plus(rules.shadow_for) };
        self.say(Outcome::Shadow, Some(trial.version), why, now);
    }

    /// Whether a candidate that passed the shadow gate may be put in use.
    ///
    /// # Errors
    /// Why not.
    pub fn may_use(&self, now: Timestamp, rules: &Rules) -> Result<(), String> {
        match rules.budget_minutes {
            Some(budget) if budget > 0.0 && self.not_before(now, rules) <= now => Ok(()),
            Some(budget) if budget > 0.0 => {
                Err(format!("today's budget of {budget} SLO-minutes is spent, or a candidate was taken back today"))
            }
            _ => Err("without --budget MINUTES nothing is put in use".to_owned()),
        }
    }

    /// Watches a candidate that is put in use now, for the reason `why`, where the same time before it burned `before`.
    pub fn watch(&mut self, trial: Trial, before: Burn, why: &str, now: Timestamp, rules: &Rules) {
        self.turn_page(now);
        self.stage = Stage::Watch { trial, since: now, until: now.plus(rules.watch_for), before, counted_minutes: 0.0 };
        self.say(Outcome::Used, Some(trial.version), why, now);
    }

    /// Why a candidate is no longer ours: another version than it expects is in use.
    #[must_use]
    pub fn foreign(&self, in_use: Option<u64>) -> Option<String> {
        let called = |version: Option<u64>| version.map_or_else(|| "no version".to_owned(), |version| format!("version {version}"));
        let (expected, what) = match self.stage {
            Stage::Rest { .. } => return None,
            Stage::Shadow { trial, .. } => (trial.base, "the candidate was learned beside"),
            Stage::Watch { trial, .. } => (Some(trial.version), "the candidate under watch is"),
        };
        (in_use != expected).then(|| format!("{} is in use by somebody else's choice; {what} {}", called(in_use), called(expected)))
    }

    /// What is to be done about the candidate under watch, which `in_use` should be and under which objectives burned `burn` since it is in use. Counts against
    /// the day's budget what burned since the last look.
    pub fn look(&mut self, in_use: Option<u64>, burn: Burn, now: Timestamp, rules: &Rules) -> Look {
        self.turn_page(now);
        if let Some(why) = self.foreign(in_use) {
            return Look::Foreign(why);
        }
        let Stage::Watch { until, before, counted_minutes, .. } = &mut self.stage else { return Look::GoOn };
        self.ledger.spent_minutes += (burn.violated_minutes - *counted_minutes).max(0.0);
        *counted_minutes = counted_minutes.max(burn.violated_minutes);
        let (until, expected) = (*until, burn.expected(before));
        let told = format!(
            "{:.1} of {:.1} minutes were in violation ({:.2} %), before it {:.2} %",
            burn.violated_minutes,
            burn.judged_minutes,
            burn.rate() * 100.0,
            before.rate() * 100.0
        );
        if burn.violated_minutes > expected * (1.0 + rules.margin) && burn.violated_minutes - expected >= rules.least_minutes {
            return Look::RollBack(format!("the objective burns faster than before: {told}"));
        }
        let budget = rules.budget_minutes.unwrap_or(0.0);
        if self.ledger.spent_minutes >= budget {
            return Look::RollBack(format!("today's budget of {budget} SLO-minutes is spent ({:.1}): {told}", self.ledger.spent_minutes));
        }
        if now < until {
            return Look::GoOn;
        }
        if burn.judged_minutes > 0.0 {
            Look::Keep(told)
        } else {
            Look::RollBack("nothing was measured of it, so that nothing speaks for it".to_owned())
        }
    }

    /// Says that the candidate under watch is not ours any more. Where it was taken back, nothing else is tried that day.
    pub fn lost(&mut self, in_use: Option<u64>, why: &str, now: Timestamp, rules: &Rules) {
        let trial = self.trial();
        let watched = matches!(self.stage, Stage::Watch { .. });
        self.over(Outcome::Foreign, trial.map(|trial| trial.version), why, now, rules);
        self.ledger.taken_back |= watched && trial.is_some_and(|trial| trial.base == in_use);
    }

    fn say(&mut self, outcome: Outcome, version: Option<u64>, why: &str, at: Timestamp) {
        self.decisions += 1;
        self.said.push(Said { at, outcome, version, why: why.to_owned() });
        let most = self.said.len().saturating_sub(REMEMBERED);
        self.said.drain(..most);
    }
}

#[cfg(test)]
mod tests;
