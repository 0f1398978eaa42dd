//! A decision in words. Pure: owns what is told of it and what is called a guess; reads nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use qscale_common::contract::{Action, Choice, Effect, Message as _, Outcome, Reward, State};
use qscale_common::time::{Span, Tick, Timestamp, millis};
use qscale_common::units::Allocation;
use qscale_policies::{Decision, History};
use serde::Serialize;

use super::Judged;
use super::sight::Hindsight;
use crate::recorded::Decider;
use crate::show;

/// Choices that are shown, the best first.
const BEST: usize = 5;
/// Masked choices that are named for each reason.
const NAMED: usize = 6;
/// A sample older than so many ticks is called old.
const OLD_TICKS: u64 = 2;

/// A decision with all that is recorded of it.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// What was seen.
    pub state: State,
    /// What was decided.
    pub action: Action,
    /// What the learned policy made of what it saw.
    pub hindsight: Option<Hindsight>,
    /// What the guard said.
    pub outcome: Option<Outcome>,
    /// What the tick was worth.
    pub reward: Option<Reward>,
    /// What others would have done.
    pub others: Vec<Other>,
    /// Since when the fallback rule decides.
    pub fallback_since: Option<Tick>,
}

/// What a rule that did not decide would have done, when it last judged what it saw: one with ticks of its own keeps to that between them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Other {
    policy: &'static str,
    model: String,
    /// Absent where it would have kept what was in force.
    wants: Option<Allocation>,
    /// What was in force when it judged.
    in_force: Option<Allocation>,
    reason: String,
    /// How long before the decision it judged, milliseconds.
    before_ms: u64,
    /// How far back it remembers, and how much of that was still kept, seconds.
    remembers_s: u64,
    shown_s: u64,
}

impl Other {
    /// What `decider` would have done on `state`, as it last `judged`; the first State that it was shown is of `first`.
    pub fn new(decider: &Decider, state: &State, judged: Judged, first: Timestamp) -> Self {
        let wants = judged.decision.wanted();
        let (Decision::Want { reason, .. } | Decision::Hold { reason, .. }) = judged.decision;
        let policy = &decider.decides;
        Self {
            policy: policy.name(),
            model: policy.model(),
            wants,
            in_force: judged.in_force,
            reason,
            before_ms: millis(state.observed_at_ms.since(judged.at)),
            remembers_s: policy.remembers().unwrap_or_default().as_secs(),
            shown_s: state.observed_at_ms.since(first).as_secs(),
        }
    }

    fn text(&self) -> String {
        let does = match (self.wants, self.in_force) {
            (Some(wanted), Some(in_force)) => {
                format!("would ask for {}", show::difference(in_force, wanted).unwrap_or_else(|| wanted.to_string()))
            }
            (Some(wanted), None) => format!("would ask for {wanted}"),
            (None, Some(in_force)) => format!("would keep {in_force}"),
            (None, None) => "would do nothing".to_owned(),
        };
        let when = match self.before_ms {
            0 => String::new(),
            before => format!(", {} before, when it last decided", show::age(Duration::from_millis(before))),
        };
        format!("{:<4} {does}{when}: {}", self.policy, show::clean(&self.reason))
    }
}

impl Serialize for Explanation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            function: String,
            agent: &'a str,
            obeyed: bool,
            tick: Tick,
            state: &'a State,
            history: &'a Option<Hindsight>,
            action: &'a Action,
            outcome: &'a Option<Outcome>,
            reward: &'a Option<Reward>,
            others: &'a [Other],
            unknown: Vec<String>,
        }
        let written = Written {
            function: self.state.function().to_string(),
            agent: self.action.agent.as_str(),
            obeyed: self.is_obeyed(),
            tick: self.state.tick,
            state: &self.state,
            history: &self.hindsight,
            action: &self.action,
            outcome: &self.outcome,
            reward: &self.reward,
            others: &self.others,
            unknown: self.unknown(),
        };
        written.serialize(serializer)
    }
}

impl Explanation {
    fn is_obeyed(&self) -> bool {
        self.state.agent == self.action.agent
    }

    /// All of it, as it is shown at `now`.
    pub fn text(&self, now: Timestamp) -> String {
        let parts = [
            ("", vec![self.headline(now)]),
            ("It saw", self.seen()),
            ("Of the hours before", self.hindsight.as_ref().map_or_else(Vec::new, before)),
            ("It valued", self.valued()),
            ("The guard", self.guarded()),
            ("With the same States", self.others.iter().map(Other::text).collect()),
            ("Not known, or a guess", self.unknown()),
        ];
        let parts = parts.into_iter().filter(|(_, lines)| !lines.is_empty()).map(|(heading, lines)| match heading {
            "" => lines.join("\n"),
            heading => format!("{heading}\n  {}", lines.join("\n  ")),
        });
        parts.collect::<Vec<_>>().join("\n\n")
    }

    fn headline(&self, now: Timestamp) -> String {
        let Self { state, action, .. } = self;
        let does = match state.allocation {
            None => format!("asked for {}", action.allocation),
            Some(in_force) => match show::difference(in_force, action.allocation) {
                None => format!("kept {in_force}"),
                Some(difference) => format!("asked for {difference}"),
            },
        };
        let role = if self.is_obeyed() { "obeyed".to_owned() } else { format!("a shadow; {} is obeyed", state.agent) };
        let why = if action.reason.is_empty() { String::new() } else { format!("\nbecause {}", show::clean(&action.reason)) };
        format!(
            "{}, tick {}, {} {} UTC, {} ago\nagent {} ({role}; instance {}, model `{}`) {does}{why}",
            state.function(),
            state.tick,
            show::day(action.decided_at_ms),
            show::clock(action.decided_at_ms),
            show::age(now.since(action.decided_at_ms)),
            action.agent,
            or(&show::clean(&action.instance), "unnamed"),
            or(&show::clean(&action.model), "unnamed"),
        )
    }

    fn seen(&self) -> Vec<String> {
        let state = &self.state;
        let [tick, short, long] = [&state.windows.tick, &state.windows.short, &state.windows.long];
        let spans = [1, 12, 60].map(|ticks| Span::millis(state.tick_length_ms.saturating_mul(ticks)).to_string());
        let known = |value: Option<f64>, shown: fn(f64) -> String| value.map_or_else(|| "not known".to_owned(), shown);
        let rates = [tick, short, long].map(|window| known(window.rate_rps, show::rate));
        let trend = short.rate_slope_rps.map_or_else(String::new, |slope| format!("; changing by {}/s a tick", signed(slope)));
        let latency = |window: &qscale_common::contract::Window| known(window.latency.map(|latency| latency.objective_ms), show::latency);
        let failed =
            tick.failed_share.filter(|share| *share > 0.0).map_or_else(String::new, |share| format!("; {} failed", percent(share)));
        let bound = state.objective.latency_ms as f64;
        let judged = match tick.latency.map(|latency| latency.objective_ms > bound) {
            None => "",
            Some(false) => ", which holds",
            Some(true) => ", which is violated",
        };
        let cpu = tick.cpu_millicores.map(|usage| usage.mean);
        let memory = tick.memory_mib.map(|usage| usage.max);
        let given = state.allocation;
        let throttled = tick
            .throttled_share
            .filter(|share| *share > 0.0)
            .map_or_else(String::new, |share| format!("; throttled in {} of the periods", percent(share)));
        let waiting = known(tick.queued, |queued| format!("{} waiting", show::number(queued)));
        let counts = state.replicas.map_or_else(
            || "how many are ready is not known".to_owned(),
            |counts| format!("{} of {} ready, {} starting", counts.ready, counts.desired, counts.pending),
        );
        let start = state.startup_ms.map_or_else(String::new, |ms| format!("; a start takes {}", show::latency(ms as f64)));
        let age = |age: Option<u64>| age.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", show::age(Duration::from_millis(ms))));
        vec![
            format!("load       {} over {}, {} over {}, {} over {}{trend}", rates[0], spans[0], rates[1], spans[1], rates[2], spans[2]),
            format!(
                "latency    p{} {} against {}{judged}; {} over {}{failed}",
                show::number(state.objective.percentile),
                latency(tick),
                show::latency(bound),
                latency(short),
                spans[1]
            ),
            format!("CPU        {}{throttled}", used(cpu, given.map(|given| f64::from(given.cpu_millicores.0)), "m", "a replica")),
            format!("memory     {}", used(memory, given.map(|given| f64::from(given.memory_mib.0)), "Mi", "the fullest replica")),
            format!("in force   {}; {counts}; {waiting}{start}", given.map_or_else(|| "not known".to_owned(), |given| given.to_string())),
            format!(
                "measured   requests {}, CPU {}, memory {}, replicas {}",
                age(state.age.requests_ms),
                age(state.age.cpu_ms),
                age(state.age.memory_ms),
                age(state.age.replicas_ms)
            ),
        ]
    }

    fn valued(&self) -> Vec<String> {
        let choices = &self.action.choices;
        let mut open: Vec<&Choice> = choices.iter().filter(|choice| choice.masked.is_none()).collect();
        if choices.iter().all(|choice| choice.value.is_none()) {
            let names: Vec<String> = open.iter().map(|choice| show::clean(&choice.action)).collect();
            let open = if names.is_empty() { String::new() } else { format!("; open to it was {}", names.join(", ")) };
            return std::iter::once(format!("nothing: a rule gives its choices no value{open}")).chain(masked(choices)).collect();
        }
        open.sort_by(|one, other| other.value.unwrap_or(f64::MIN).total_cmp(&one.value.unwrap_or(f64::MIN)));
        let width = open.iter().take(BEST).map(|choice| choice.action.chars().count()).max().unwrap_or(0);
        let value = |choice: &Choice| choice.value.map_or_else(|| "no value".to_owned(), |value| format!("{value:.3}"));
        let mut lines: Vec<String> =
            open.iter().take(BEST).map(|choice| format!("{:<width$}  {}", show::clean(&choice.action), value(choice))).collect();
        if open.len() > BEST {
            lines.push(format!("and {} more that are worth less", open.len() - BEST));
        }
        lines.extend(masked(choices));
        lines
    }

    fn guarded(&self) -> Vec<String> {
        let Some(outcome) = &self.outcome else { return Vec::new() };
        let to = outcome.allowed.map_or_else(String::new, |allowed| format!(" {allowed}"));
        let did = match outcome.effect {
            Effect::Applied => format!("let it through, and{to} was applied"),
            Effect::Changed => format!("changed it, and{to} was applied"),
            Effect::Unchanged => "found it in force already".to_owned(),
            Effect::Held => "kept what was in force".to_owned(),
            Effect::Recorded if outcome.allowed.is_some() => format!("would have allowed{to}; it was recorded, not applied"),
            Effect::Recorded => "recorded it, and nothing was applied".to_owned(),
            Effect::Refused => "refused it".to_owned(),
            Effect::Failed => format!("allowed{to}, and the platform did not take it"),
        };
        let mut lines = vec![did];
        lines.extend(outcome.guard.iter().map(|note| {
            let rule = serde_json::to_value(note.rule).ok().and_then(|rule| rule.as_str().map(str::to_owned)).unwrap_or_default();
            format!("{rule}: {}", or(&show::clean(&note.detail), "no more is said"))
        }));
        if !outcome.reason.is_empty() && outcome.reason != self.action.reason {
            lines.push(show::clean(&outcome.reason));
        }
        if let Some(reward) = &self.reward {
            let terms = [("violation", reward.terms.violation), ("cost", reward.terms.cost), ("reversal", reward.terms.reversal)];
            let terms = terms.iter().filter_map(|(name, term)| Some(format!("{name} {}", show::number(term.value?))));
            let value = reward.value.map_or_else(|| "not known".to_owned(), |value| format!("{value:.3}"));
            lines.push(format!("the tick that followed was worth {value} ({})", terms.collect::<Vec<_>>().join(", ")));
        }
        lines
    }

    /// What is not known, and what is a guess.
    fn unknown(&self) -> Vec<String> {
        let Self { state, action, .. } = self;
        let window = &state.windows.tick;
        let mut lines = Vec::new();
        let missing = [
            ("what is in force", state.allocation.is_none()),
            ("how many replicas are ready", state.replicas.is_none()),
            ("the rate of arrivals", window.rate_rps.is_none()),
            ("latency, as nothing was answered well", window.latency.is_none()),
            ("CPU in use", window.cpu_millicores.is_none()),
            ("memory in use", window.memory_mib.is_none()),
            ("how long a start takes, as none was seen", state.startup_ms.is_none()),
        ];
        let missing: Vec<&str> = missing.into_iter().filter(|(_, missing)| *missing).map(|(what, _)| what).collect();
        if !missing.is_empty() {
            lines.push(format!("not measured in this tick: {}", missing.join("; ")));
        }
        let age = &state.age;
        let ages = [("requests", age.requests_ms), ("CPU", age.cpu_ms), ("memory", age.memory_ms), ("replicas", age.replicas_ms)];
        let old = |age: &Option<u64>| age.is_some_and(|age| age > state.tick_length_ms.saturating_mul(OLD_TICKS));
        let old: Vec<&str> = ages.iter().filter(|(_, age)| old(age)).map(|(kind, _)| *kind).collect();
        if !old.is_empty() {
            lines.push(format!("older than {OLD_TICKS} ticks, so that it may have changed since: {}", old.join(", ")));
        }
        if action.choices.iter().any(|choice| choice.value.is_some()) {
            lines.push(
                "the values are what the network expects of each choice, learned in simulation; none of them was measured".to_owned(),
            );
        }
        lines.extend(self.hindsight.as_ref().and_then(doubts));
        match &self.outcome {
            None => lines.push("no Outcome of this decision is kept: what the guard made of it is not known".to_owned()),
            Some(_) if self.reward.is_none() => {
                lines.push("no Reward of this tick is kept, or not yet: what came of it is not known".to_owned())
            }
            Some(_) if !self.is_obeyed() => lines.push(format!("what came of it was decided by {}, not by {}", state.agent, action.agent)),
            Some(_) => {}
        }
        if let Some(tick) = self.fallback_since {
            lines.push(format!("since tick {tick} the fallback rule has decided at times, as the agent was silent"));
        }
        if !self.others.is_empty() {
            lines.push("what others would do is decided with their defaults, and on what happened under this agent: under them other States would have followed".to_owned());
        }
        lines.extend(self.others.iter().filter(|other| other.shown_s < other.remembers_s).map(|other| {
            let span = |seconds: u64| show::age(Duration::from_secs(seconds.max(1)));
            format!("{} remembers {}, of which {} are kept", other.policy, span(other.remembers_s), span(other.shown_s))
        }));
        lines
    }
}

/// What the history told.
fn before(hindsight: &Hindsight) -> Vec<String> {
    let Hindsight { level_rps, slope_rps_a_second, slope_significance, peaks_rps, wake_chances, .. } = hindsight;
    let [minutes, quarter, hour, hours] = peaks_rps.map(show::rate);
    let next = match (hindsight.next_rps, hindsight.next_cores) {
        (Some(rate), Some(cores)) => format!("{}, which keep {} cores busy", show::rate(rate), show::number(cores)),
        (Some(rate), None) => format!("{}; what they compute is not known", show::rate(rate)),
        (None, _) => "not known".to_owned(),
    };
    let request = hindsight.request_seconds.map_or_else(
        || "what a request computes was not seen".to_owned(),
        |seconds| format!("a request computes {}", show::latency(seconds * 1000.0)),
    );
    let takes = hindsight
        .replica_takes
        .map_or_else(|| "no replica was seen to be full".to_owned(), |takes| format!("a replica takes {} at once", show::number(takes)));
    let idle =
        if hindsight.idle_s == 0 { String::new() } else { format!("idle for {}; ", show::age(Duration::from_secs(hindsight.idle_s))) };
    let season = match hindsight.foretold_rps {
        Some(rate) => format!("foretells a peak of {}, and explains {} of the course", show::rate(rate), percent(hindsight.season_trust)),
        None => format!("none; the likeliest explains {} of the course", percent(hindsight.season_trust)),
    };
    vec![
        format!(
            "level      {}, changing by {}/s a second, {} times its error",
            show::rate(*level_rps),
            signed(*slope_rps_a_second),
            show::number(slope_significance.abs())
        ),
        format!("expected   {next}, until a change would take effect"),
        format!("peaks      {minutes} of 5 minutes, {quarter} of 15, {hour} of an hour, {hours} of four"),
        format!("requests   {request}; {takes}"),
        format!(
            "waking     {idle}a request within this minute {}, within the next {}; a warm replica is worth {} times its cost at a caution of {}",
            percent(wake_chances[0]),
            percent(wake_chances[1]),
            show::number(hindsight.warm_worth),
            hindsight.caution
        ),
        format!("season     {season}"),
    ]
}

fn doubts(hindsight: &Hindsight) -> Option<String> {
    let seen = Duration::from_secs(hindsight.seen_s);
    // The slot that is open is not counted.
    let whole = History::REACH - Duration::from_secs(120);
    let span = if seen.is_zero() { "less than a minute".to_owned() } else { show::age(seen) };
    (seen < whole).then(|| format!("of the four hours that it looks back over it saw {span}; peaks, season and waking rest on that"))
}

/// Masked choices by the reason; those that only repeat another are counted.
fn masked(choices: &[Choice]) -> Vec<String> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut repeated = 0;
    for choice in choices {
        match choice.masked.as_deref() {
            None => {}
            Some(reason) if reason.starts_with("the same as") => repeated += 1,
            Some(reason) => reasons.entry(reason).or_default().push(&choice.action),
        }
    }
    let mut lines: Vec<String> = reasons
        .into_iter()
        .map(|(reason, names)| {
            let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
            let named: Vec<String> = names.iter().take(NAMED).map(|name| show::clean(name)).collect();
            format!("not allowed, {}: {}{more}", show::clean(reason), named.join(", "))
        })
        .collect();
    if repeated > 0 {
        lines.push(format!("{repeated} more name an allocation that another choice names"));
    }
    lines
}

fn used(used: Option<f64>, given: Option<f64>, unit: &str, whose: &str) -> String {
    match (used, given) {
        (None, _) => "not known".to_owned(),
        (Some(used), Some(given)) if given > 0.0 => format!("{used:.0}{unit} of {given:.0}{unit} in {whose}, {}", percent(used / given)),
        (Some(used), _) => format!("{used:.0}{unit} in {whose}"),
    }
}

fn percent(share: f64) -> String {
    format!("{}%", show::number(share * 100.0))
}

fn signed(value: f64) -> String {
    let sign = if value < 0.0 { "-" } else { "+" };
    format!("{sign}{}", show::number(value.abs()))
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

#[cfg(test)]
mod tests;
