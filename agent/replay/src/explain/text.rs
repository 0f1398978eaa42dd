//! An explanation as text for people. Owns the wording and the list of limitations; pure.

use std::collections::BTreeMap;
use std::time::Duration;

use qscale_common::contract::{Choice, Effect, HeldPoint, Message as _, State, Window};
use qscale_common::policy::OperatingPoint;
use qscale_common::text::{age, clean, clock, day, difference, latency, number, rate};
use qscale_common::time::{Span, Timestamp};
use qscale_policies::History;

use super::{Alternative, Explanation, FeatureSnapshot};

/// Candidate actions that are shown, highest Q-value first.
const SHOWN_CHOICES: usize = 5;
/// Masked actions that are named per reason.
const NAMED_MASKED: usize = 6;
/// Age of a measurement that is reported as old, ticks.
const OLD_TICKS: u64 = 2;
/// Part of the lookback whose absence is not reported: the open slot of the history, and a margin.
const UNREPORTED_GAP: Duration = Duration::from_secs(120);

impl Explanation {
    /// The explanation in sections, as of `now`.
    #[must_use]
    pub fn text(&self, now: Timestamp) -> String {
        let sections = [
            ("", vec![self.headline(now)]),
            ("Observed", self.observed()),
            ("Learned features", self.features.as_ref().map_or_else(Vec::new, features)),
            ("Operating point", self.action.point.iter().map(operating_point).collect()),
            ("Q-values", self.values()),
            ("Guard", self.guard()),
            ("Other policies on the same States", self.alternatives.iter().map(Alternative::text).collect()),
            ("Limitations", self.limitations()),
        ];
        let sections = sections.into_iter().filter(|(_, lines)| !lines.is_empty()).map(|(heading, lines)| match heading {
            "" => lines.join("\n"),
            heading => format!("{heading}\n  {}", lines.join("\n  ")),
        });
        sections.collect::<Vec<_>>().join("\n\n")
    }

    fn headline(&self, now: Timestamp) -> String {
        let Self { state, action, .. } = self;
        let decision = match state.allocation {
            None => format!("requested {}", action.allocation),
            Some(current) => match difference(current, action.allocation) {
                None => format!("kept {current}"),
                Some(difference) => format!("requested {difference}"),
            },
        };
        let provenance = &action.provenance;
        let policy = if provenance.configuration.is_empty() { &provenance.policy } else { &provenance.configuration };
        let role = if self.is_acting() { "acting".to_owned() } else { format!("shadow of {}", state.agent) };
        let reason = if action.reason.is_empty() { String::new() } else { format!("\nreason: {}", clean(&action.reason)) };
        format!(
            "{}, tick {}, {} {} UTC, {} ago\nagent {} ({role}; instance {}, policy `{}`) {decision}{reason}",
            state.function(),
            state.tick,
            day(action.decided_at_ms),
            clock(action.decided_at_ms),
            age(now.since(action.decided_at_ms)),
            action.agent,
            or(&clean(&action.instance), "unnamed"),
            or(&clean(policy), "unnamed"),
        )
    }

    fn observed(&self) -> Vec<String> {
        let state = &self.state;
        let measured =
            |age: Option<u64>| age.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", self::age(Duration::from_millis(ms))));
        vec![
            load(state),
            objective(state),
            cpu(state),
            memory(state),
            replicas(state),
            format!(
                "measured   requests {}, CPU {}, memory {}, replicas {}",
                measured(state.age.requests_ms),
                measured(state.age.cpu_ms),
                measured(state.age.memory_ms),
                measured(state.age.replicas_ms)
            ),
        ]
    }

    fn values(&self) -> Vec<String> {
        let choices = &self.action.choices;
        let mut allowed: Vec<&Choice> = choices.iter().filter(|choice| choice.masked.is_none()).collect();
        if choices.iter().all(|choice| choice.value.is_none()) {
            let names: Vec<String> = allowed.iter().map(|choice| clean(&choice.action)).collect();
            let allowed = if names.is_empty() { String::new() } else { format!("; allowed actions: {}", names.join(", ")) };
            return std::iter::once(format!("none: a rule does not rate its actions{allowed}")).chain(masked(choices)).collect();
        }
        allowed.sort_by(|one, other| other.value.unwrap_or(f64::MIN).total_cmp(&one.value.unwrap_or(f64::MIN)));
        let width = allowed.iter().take(SHOWN_CHOICES).map(|choice| choice.action.chars().count()).max().unwrap_or(0);
        let value = |choice: &Choice| choice.value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3}"));
        let mut lines: Vec<String> =
            allowed.iter().take(SHOWN_CHOICES).map(|choice| format!("{:<width$}  {}", clean(&choice.action), value(choice))).collect();
        if allowed.len() > SHOWN_CHOICES {
            lines.push(format!("and {} actions with lower values", allowed.len() - SHOWN_CHOICES));
        }
        lines.extend(masked(choices));
        lines
    }

    fn guard(&self) -> Vec<String> {
        let Some(outcome) = &self.outcome else { return Vec::new() };
        let allowed = outcome.allowed.map_or_else(String::new, |allowed| format!(" {allowed}"));
        let result = match outcome.effect {
            Effect::Applied => format!("allowed the request; applied{allowed}"),
            Effect::Changed => format!("changed the request; applied{allowed}"),
            Effect::Unchanged => "the requested allocation was already applied".to_owned(),
            Effect::Held => "kept the current allocation".to_owned(),
            Effect::Recorded if outcome.allowed.is_some() => format!("would have allowed{allowed}; recorded, not applied"),
            Effect::Recorded => "recorded, not applied".to_owned(),
            Effect::Refused => "refused the request".to_owned(),
            Effect::Other => "had an effect that this version does not know".to_owned(),
            Effect::Failed => format!("allowed{allowed}; the platform did not apply it"),
        };
        let mut lines = vec![result];
        lines.extend(outcome.guard.iter().map(|note| {
            let rule: &'static str = note.rule.into();
            format!("{rule}: {}", or(&clean(&note.detail), "no detail"))
        }));
        if !outcome.reason.is_empty() && outcome.reason != self.action.reason {
            lines.push(clean(&outcome.reason));
        }
        if let Some(reward) = &self.reward {
            // A violation or cost of 0 says something; the other terms are mostly 0.
            let terms = reward.terms.all().into_iter().filter_map(|(name, term)| {
                let value = term.value.filter(|value| *value != 0.0 || matches!(name, "violation" | "cost"))?;
                Some(format!("{name} {}", number(value)))
            });
            let value = reward.value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.3}"));
            lines.push(format!("reward of the next tick: {value} ({})", terms.collect::<Vec<_>>().join(", ")));
        }
        lines
    }

    /// Unknown figures, estimates and assumptions, in sentences.
    #[must_use]
    pub fn limitations(&self) -> Vec<String> {
        let Self { state, action, .. } = self;
        let mut lines: Vec<String> = [unmeasured(state), old(state)].into_iter().flatten().collect();
        if action.choices.iter().any(|choice| choice.value.is_some()) {
            lines.push("Q-values are estimates of the network, learned in simulation, not measurements".to_owned());
        }
        lines.extend(self.features.as_ref().and_then(short_history));
        match &self.outcome {
            None => lines.push("no Outcome of this decision is retained: the result of the guard is unknown".to_owned()),
            Some(_) if self.reward.is_none() => {
                lines.push("no Reward of this tick is retained, or not yet: its effect is unknown".to_owned())
            }
            Some(_) if !self.is_acting() => {
                lines.push(format!("the Reward is that of the acting agent {}, not of {}", state.agent, action.agent))
            }
            Some(_) => {}
        }
        if let Some(tick) = self.fallback_since {
            lines.push(format!("since tick {tick} the fallback rule has decided at times because the agent was silent"));
        }
        if !self.alternatives.is_empty() {
            lines.push(
                "other policies have their default parameters and decide on States that resulted from this agent's decisions; their own decisions would have led to others"
                    .to_owned(),
            );
        }
        lines.extend(self.alternatives.iter().filter(|other| other.retained_s < other.lookback_s).map(|other| {
            let span = |seconds: u64| age(Duration::from_secs(seconds.max(1)));
            format!("{} looks back {}, of which {} are retained", other.policy, span(other.lookback_s), span(other.retained_s))
        }));
        lines
    }
}

impl Alternative {
    fn text(&self) -> String {
        let decision = match (self.requested, self.current) {
            (Some(requested), Some(current)) => {
                format!("would request {}", difference(current, requested).unwrap_or_else(|| requested.to_string()))
            }
            (Some(requested), None) => format!("would request {requested}"),
            (None, Some(current)) => format!("would keep {current}"),
            (None, None) => "would do nothing".to_owned(),
        };
        let when = match self.before_ms {
            0 => String::new(),
            before => format!(" (its last decision, {} earlier)", age(Duration::from_millis(before))),
        };
        format!("{:<4} {decision}{when}: {}", self.policy, clean(&self.reason))
    }
}

fn load(state: &State) -> String {
    let windows = [(&state.windows.tick, 1), (&state.windows.short, 12), (&state.windows.long, 60)];
    let rates = windows.map(|(window, ticks)| format!("{} over {}", known(window.rate_rps, rate), span(state, ticks)));
    let slope = state.windows.short.rate_slope_rps;
    let trend = slope.map_or_else(String::new, |slope| format!("; trend {}/s per tick", signed(slope)));
    format!("load       {}{trend}", rates.join(", "))
}

fn objective(state: &State) -> String {
    let (tick, bound) = (&state.windows.tick, state.objective.latency_ms as f64);
    let of = |window: &Window| known(window.latency.map(|latency| latency.objective_ms), latency);
    let failed = tick.failed_share.filter(|share| *share > 0.0).map_or_else(String::new, |share| format!("; {} failed", percent(share)));
    let verdict = match tick.latency.map(|latency| latency.objective_ms > bound) {
        None => "",
        Some(false) => " (met)",
        Some(true) => " (violated)",
    };
    format!(
        "latency    p{} {}, objective {}{verdict}; {} over {}{failed}",
        number(state.objective.percentile),
        of(tick),
        latency(bound),
        of(&state.windows.short),
        span(state, 12)
    )
}

fn cpu(state: &State) -> String {
    let tick = &state.windows.tick;
    let throttled = tick.throttled_share.filter(|share| *share > 0.0);
    let throttled = throttled.map_or_else(String::new, |share| format!("; throttled in {} of periods", percent(share)));
    let limit = state.allocation.map(|current| f64::from(current.cpu_millicores.0));
    format!("CPU        {}{throttled}", used(tick.cpu_millicores.map(|usage| usage.mean), limit, "m", "per replica"))
}

fn memory(state: &State) -> String {
    let limit = state.allocation.map(|current| f64::from(current.memory_mib.0));
    format!("memory     {}", used(state.windows.tick.memory_mib.map(|usage| usage.max), limit, "Mi", "in the fullest replica"))
}

fn replicas(state: &State) -> String {
    let queued = known(state.windows.tick.queued, |queued| format!("{} queued", number(queued)));
    let counts = state.replicas.map_or_else(
        || "replica readiness unknown".to_owned(),
        |counts| format!("{} of {} ready, {} starting", counts.ready, counts.desired, counts.pending),
    );
    let startup = state.startup_ms.map_or_else(String::new, |ms| format!("; startup takes {}", latency(ms as f64)));
    format!(
        "current    {}; {counts}; {queued}{startup}",
        state.allocation.map_or_else(|| "unknown".to_owned(), |current| current.to_string())
    )
}

/// Figures that were not measured, in a sentence.
fn unmeasured(state: &State) -> Option<String> {
    let window = &state.windows.tick;
    let figures = [
        ("current allocation", state.allocation.is_none()),
        ("ready replicas", state.replicas.is_none()),
        ("arrival rate", window.rate_rps.is_none()),
        ("latency (no request succeeded)", window.latency.is_none()),
        ("CPU use", window.cpu_millicores.is_none()),
        ("memory use", window.memory_mib.is_none()),
        ("startup time (no start observed)", state.startup_ms.is_none()),
    ];
    let missing: Vec<&str> = figures.into_iter().filter(|(_, missing)| *missing).map(|(figure, _)| figure).collect();
    (!missing.is_empty()).then(|| format!("not measured in this tick: {}", missing.join(", ")))
}

/// Figures that are older than [`OLD_TICKS`], in a sentence.
fn old(state: &State) -> Option<String> {
    let age = &state.age;
    let ages = [("requests", age.requests_ms), ("CPU", age.cpu_ms), ("memory", age.memory_ms), ("replicas", age.replicas_ms)];
    let is_old = |age: &Option<u64>| age.is_some_and(|age| age > state.tick_length_ms.saturating_mul(OLD_TICKS));
    let old: Vec<&str> = ages.iter().filter(|(_, age)| is_old(age)).map(|(kind, _)| *kind).collect();
    (!old.is_empty()).then(|| format!("measured more than {OLD_TICKS} ticks ago: {}", old.join(", ")))
}

fn features(features: &FeatureSnapshot) -> Vec<String> {
    let [five, quarter, hour, hours] = features.peaks_rps.map(rate);
    let next = match (features.next_rps, features.next_cores) {
        (Some(arrivals), Some(cores)) => format!("{}, {} busy cores", rate(arrivals), number(cores)),
        (Some(arrivals), None) => format!("{}; CPU time per request unknown", rate(arrivals)),
        (None, _) => "unknown".to_owned(),
    };
    let request = known(features.request_seconds, |seconds| latency(seconds * 1000.0));
    let concurrency = known(features.replica_concurrency, number);
    let idle = if features.idle_s == 0 { String::new() } else { format!("idle for {}; ", age(Duration::from_secs(features.idle_s))) };
    let explained = percent(features.season_explained);
    let season = match features.seasonal_peak_rps {
        Some(peak) => format!("predicted peak {}; explains {explained} of the variation", rate(peak)),
        None => format!("none; the best candidate explains {explained} of the variation"),
    };
    vec![
        format!(
            "rate       {}, trend {}/s per second ({} standard errors)",
            rate(features.level_rps),
            signed(features.slope_rps_per_s),
            number(features.slope_significance.abs())
        ),
        format!("forecast   {next} until a change takes effect"),
        format!("peaks      {five} over 5m, {quarter} over 15m, {hour} over 1h, {hours} over 4h"),
        format!("requests   CPU time {request}; largest concurrency of a replica {concurrency}"),
        format!(
            "idle       {idle}P(request) {} this minute, {} the next; keep-warm benefit/cost {} at violation cost {}",
            percent(features.wake_probabilities[0]),
            percent(features.wake_probabilities[1]),
            number(features.keep_warm_ratio),
            features.violation_cost
        ),
        format!("season     {season}"),
    ]
}

fn short_history(features: &FeatureSnapshot) -> Option<String> {
    let observed = Duration::from_secs(features.observed_s);
    let span = if observed.is_zero() { "less than a minute".to_owned() } else { age(observed) };
    (observed < History::REACH - UNREPORTED_GAP)
        .then(|| format!("of the 4h lookback only {span} were observed; peaks, season and idle features are based on that"))
}

/// The operating point that the agent holds.
fn operating_point(point: &HeldPoint) -> String {
    let cost = number(point.violation_cost.round());
    let measured = match (point.target, point.measured) {
        (OperatingPoint::ViolationCost(_), _) => return format!("violation cost {cost}, as the ScalingPolicy states"),
        (_, None) => "not measured yet".to_owned(),
        (OperatingPoint::ViolatedShare(_), Some(share)) => format!("{:.2} % of the ticks were violated", share * 100.0),
        (OperatingPoint::BudgetPerMonth(_), Some(cost)) => format!("the cost was {cost:.2} a month"),
    };
    let over = if point.measured.is_some() { format!(" over the last {:.1} h", point.measured_hours) } else { String::new() };
    let reach = if point.out_of_reach { "; the target is out of reach, as the violation cost is at the end of its range" } else { "" };
    format!("target {}: violation cost {cost}; {measured}{over}{reach}", point.target)
}

/// Masked actions by reason.
fn masked(choices: &[Choice]) -> Vec<String> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for choice in choices {
        if let Some(reason) = choice.masked.as_deref() {
            reasons.entry(reason).or_default().push(&choice.action);
        }
    }
    let line = |(reason, names): (&str, Vec<&str>)| {
        let more = if names.len() > NAMED_MASKED { format!(" and {} more", names.len() - NAMED_MASKED) } else { String::new() };
        let named: Vec<String> = names.iter().take(NAMED_MASKED).map(|name| clean(name)).collect();
        format!("masked ({}): {}{more}", clean(reason), named.join(", "))
    };
    reasons.into_iter().map(line).collect()
}

fn known(value: Option<f64>, shown: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "unknown".to_owned(), shown)
}

fn span(state: &State, ticks: u64) -> Span {
    Span::millis(state.tick_length_ms.saturating_mul(ticks))
}

fn used(used: Option<f64>, limit: Option<f64>, unit: &str, per: &str) -> String {
    match (used, limit) {
        (None, _) => "unknown".to_owned(),
        (Some(used), Some(limit)) if limit > 0.0 => format!("{used:.0}{unit} of {limit:.0}{unit} {per} ({})", percent(used / limit)),
        (Some(used), _) => format!("{used:.0}{unit} {per}"),
    }
}

fn percent(share: f64) -> String {
    format!("{}%", number(share * 100.0))
}

fn signed(value: f64) -> String {
    let sign = if value < 0.0 { "-" } else { "+" };
    format!("{sign}{}", number(value.abs()))
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

#[cfg(test)]
mod tests;
