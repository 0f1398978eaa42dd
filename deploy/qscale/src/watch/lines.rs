//! A message as one line for people. Owns the fields shown per kind and their alignment; does no I/O.

use std::collections::BTreeMap;

use qscale_common::contract::{Action, Ages, DecisionSource, Effect, Load, Message as _, Outcome, Reward, State, Term, Window, subject};
use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;

use super::{AnyMessage, Unreadable};
use crate::output::{self, Tone};

/// Widest column of function names; longer names are not aligned.
const MAX_WIDTH: usize = 32;
/// Share of throttled periods from which it is shown.
const MIN_THROTTLED: f64 = 0.01;
/// Age from which a measurement is shown as stale, ticks.
const STALE_TICKS: u64 = 2;
/// Maximum number of functions whose current allocation is kept.
const MAX_FUNCTIONS: usize = 100_000;

/// Formats messages; keeps current allocations to show the change that an Action requests.
#[derive(Debug)]
pub(super) struct Lines {
    width: usize,
    current: BTreeMap<FunctionId, Allocation>,
    day: Option<String>,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { width: 12, current: BTreeMap::new(), day: None }
    }

    /// The line of a message, preceded by a line with the date when the day changes; `at` is its arrival, used if it is unreadable.
    pub(super) fn line(&mut self, at: Timestamp, subject: &str, message: &Result<AnyMessage, Unreadable>) -> String {
        let (at, kind, function, text) = match message {
            Ok(AnyMessage::State(state)) => (state.observed_at_ms, "state", state.function(), self.state(state)),
            Ok(AnyMessage::Reward(reward)) => (reward.measured_at_ms, "reward", reward.function(), self.reward(reward)),
            Ok(AnyMessage::Action(action)) => (action.decided_at_ms, "action", action.function(), self.action(action)),
            Ok(AnyMessage::Outcome(outcome)) => (outcome.decided_at_ms, "outcome", outcome.function(), self.outcome(outcome)),
            Ok(AnyMessage::Load(load)) => (load.at_ms, "load", load.function(), self.load(load)),
            Err(error) => return self.dated(at, &self.unreadable(at, subject, error)),
        };
        let function = function.to_string();
        self.width = self.width.max(function.len().min(MAX_WIDTH));
        let line = format!(
            "{} {} {}  {text}",
            Tone::Dim.paint(output::clock(at)),
            tone_of(kind).paint(format_args!("{kind:<7}")),
            Tone::Strong.paint(format_args!("{function:<width$}", width = self.width)),
        );
        self.dated(at, line.trim_end())
    }

    fn unreadable(&self, at: Timestamp, subject: &str, error: &Unreadable) -> String {
        let kind = subject::kind(subject).map_or("?", |kind| kind.word());
        let text = Tone::Bad.paint(format_args!("unreadable: {}", output::clean(&error.to_string())));
        format!("{} {kind:<7} {}  {text}", Tone::Dim.paint(output::clock(at)), output::clean(subject))
    }

    fn dated(&mut self, at: Timestamp, line: &str) -> String {
        let day = output::day(at);
        if self.day.as_ref() == Some(&day) {
            return line.to_owned();
        }
        let heading = Tone::Dim.paint(format_args!("── {day} UTC"));
        self.day = Some(day);
        format!("{heading}\n{line}")
    }

    fn state(&mut self, state: &State) -> String {
        if let Some(allocation) = state.allocation {
            self.set_current(state.function(), allocation);
        }
        let window = &state.windows.tick;
        let mut parts = vec![format!("{:>8}", window.rate_rps.map_or("-/s".into(), output::rate)), self.latency(state, window)];
        parts.push(format!(
            "{:<18}",
            usage("cpu", window.cpu_millicores.map(|used| used.mean), state.allocation.map(|given| given.cpu_millicores.0), "m")
        ));
        parts.push(format!(
            "{:<16}",
            usage("mem", window.memory_mib.map(|used| used.mean), state.allocation.map(|given| given.memory_mib.0), "Mi")
        ));
        parts.push(match state.replicas {
            Some(counts) => {
                let tone = if counts.ready == counts.desired { Tone::Plain } else { Tone::Warn };
                tone.paint(format_args!("{:<11}", format!("ready {}/{}", counts.ready, counts.desired)))
            }
            None => Tone::Warn.paint(format_args!("{:<11}", "ready ?")),
        });
        parts.push(window.queued.map_or("queue ?".into(), |queued| format!("queue {}", output::number(queued))));
        parts.extend(self.problems(state, window));
        parts.join("  ")
    }

    fn latency(&self, state: &State, window: &Window) -> String {
        let percentile = output::number(state.objective.percentile);
        let bound = state.objective.latency_ms as f64;
        let (text, tone) = match window.latency.map(|latency| latency.objective_ms) {
            Some(measured) if measured <= bound => {
                (format!("p{percentile} {} ≤ {}", output::latency(measured), output::latency(bound)), Tone::Good)
            }
            Some(measured) => (format!("p{percentile} {} > {}", output::latency(measured), output::latency(bound)), Tone::Bad),
            None => (format!("p{percentile} -"), Tone::Dim),
        };
        tone.paint(format_args!("{text:<19}"))
    }

    /// Failures, throttling, restarts and stale measurements.
    fn problems(&self, state: &State, window: &Window) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(share) = window.failed_share.filter(|share| *share > 0.0) {
            problems.push((Tone::Bad, format!("failed {}%", output::number(share * 100.0))));
        }
        if let Some(share) = window.throttled_share.filter(|share| *share > MIN_THROTTLED) {
            problems.push((Tone::Warn, format!("throttled {}%", output::number(share * 100.0))));
        }
        for (count, what) in [(window.restarts, "restarts"), (window.oom_kills, "OOM kills")] {
            if count > 0 {
                problems.push((Tone::Bad, format!("{what} {count}")));
            }
        }
        if let Some(stale) = stale(&state.age, state.tick_length_ms) {
            problems.push((Tone::Warn, stale));
        }
        problems.into_iter().map(|(tone, text)| tone.paint(text)).collect()
    }

    fn action(&self, action: &Action) -> String {
        let before = self.current.get(&action.function());
        let request = match before.map(|before| output::difference(*before, action.allocation)) {
            None => format!("requests {}", action.allocation),
            Some(None) => format!("keeps {}", action.allocation),
            Some(Some(difference)) => format!("requests {} ({difference})", action.allocation),
        };
        let reason = if action.reason.is_empty() { String::new() } else { format!(": {}", output::clean(&action.reason)) };
        format!("{} {request}{reason}", Tone::Accent.paint(&action.agent))
    }

    fn outcome(&mut self, outcome: &Outcome) -> String {
        if let (Effect::Applied | Effect::Changed | Effect::Unchanged, Some(allowed)) = (outcome.effect, outcome.allowed) {
            self.set_current(outcome.function(), allowed);
        }
        let tone = match outcome.effect {
            Effect::Applied => Tone::Good,
            Effect::Unchanged | Effect::Recorded | Effect::Other => Tone::Dim,
            Effect::Changed | Effect::Held | Effect::Refused => Tone::Warn,
            Effect::Failed => Tone::Bad,
        };
        let source = match outcome.source {
            DecisionSource::Agent => String::new(),
            other => format!(" ({})", word(other)),
        };
        let before = outcome.before.map_or("?".into(), |before| before.to_string());
        let change = match outcome.allowed {
            Some(allowed) if outcome.before == Some(allowed) => allowed.to_string(),
            Some(allowed) => format!("{before} → {allowed}"),
            None => format!("{before}, requested {}", outcome.requested),
        };
        let mut text =
            format!("{} {}{source}  {change}", tone.paint(format_args!("{:<9}", word(outcome.effect))), Tone::Accent.paint(&outcome.agent));
        for note in &outcome.guard {
            let detail = if note.detail.is_empty() { String::new() } else { format!(" {}", output::clean(&note.detail)) };
            text.push_str(&format!("  {}{detail}", Tone::Warn.paint(format_args!("[{}]", word(note.rule)))));
        }
        if !outcome.reason.is_empty() {
            text.push_str(&format!("  {}", output::clean(&outcome.reason)));
        }
        if outcome.attempts > 1 {
            text.push_str(&format!("  attempt {}", outcome.attempts));
        }
        text
    }

    fn reward(&self, reward: &Reward) -> String {
        let value = match reward.value {
            Some(value) => {
                let tone = if value < -0.5 { Tone::Bad } else { Tone::Plain };
                tone.paint(format_args!("{value:>7.3}"))
            }
            None => Tone::Warn.paint(format_args!("{:>7}", "?")),
        };
        let shown: Vec<String> = reward.terms.all().iter().filter_map(|(name, term)| term_text(name, term)).collect();
        let decider = reward.decided_by.as_ref().map(|decider| match decider.source {
            DecisionSource::Agent => decider.agent.to_string(),
            other => format!("{} ({})", decider.agent, word(other)),
        });
        let mut parts = vec![value, if shown.is_empty() { "no penalty".into() } else { shown.join(", ") }];
        parts.extend(reward.allocation.map(|allocation| format!("with {allocation}")));
        parts.extend(decider.map(|decider| format!("by {}", Tone::Accent.paint(decider))));
        parts.join("  ")
    }

    fn load(&self, load: &Load) -> String {
        let failures = load.failures;
        let kinds = [
            ("timeout", failures.timeout),
            ("connection", failures.connection),
            ("status", failures.status),
            ("invalid", failures.invalid),
            ("not sent", failures.not_sent),
        ];
        let failed: Vec<String> = kinds.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{kind} {count}")).collect();
        let mut parts = vec![format!("offered {:<8} achieved {:<8}", output::rate(load.offered_rps), output::rate(load.achieved_rps))];
        parts.push(percentile(load, 0.95).map_or("p95 -".into(), |us| format!("p95 {}", output::latency(us as f64 / 1000.0))));
        parts.push(match failed.is_empty() {
            true => "failed 0".into(),
            false => Tone::Bad.paint(format_args!("failed: {}", failed.join(", "))),
        });
        parts.push(format!("in flight {}", load.in_flight));
        parts
            .extend(load.send_lag_p99_us.map(|lag| Tone::Dim.paint(format_args!("send lag p99 {}", output::latency(lag as f64 / 1000.0)))));
        parts.join("  ")
    }

    fn set_current(&mut self, function: FunctionId, allocation: Allocation) {
        if self.current.len() < MAX_FUNCTIONS || self.current.contains_key(&function) {
            self.current.insert(function, allocation);
        }
    }
}

fn tone_of(kind: &str) -> Tone {
    match kind {
        "action" | "outcome" => Tone::Accent,
        _ => Tone::Plain,
    }
}

fn usage(what: &str, used: Option<f64>, limit: Option<u32>, unit: &str) -> String {
    let used = used.map_or("?".into(), |used| format!("{used:.0}"));
    let limit = limit.map_or("?".into(), |limit| limit.to_string());
    format!("{what} {used}/{limit}{unit}")
}

/// Measurements that are old or missing.
fn stale(age: &Ages, tick_length_ms: u64) -> Option<String> {
    let kinds = [("requests", age.requests_ms), ("cpu", age.cpu_ms), ("memory", age.memory_ms), ("replicas", age.replicas_ms)];
    let old = kinds.into_iter().filter_map(|(kind, age)| match age {
        None => Some(format!("{kind} never")),
        Some(age) if age > tick_length_ms.saturating_mul(STALE_TICKS) => {
            Some(format!("{kind} {}", output::age(std::time::Duration::from_millis(age))))
        }
        Some(_) => None,
    });
    let old: Vec<String> = old.collect();
    (!old.is_empty()).then(|| format!("stale: {}", old.join(", ")))
}

/// A term of the reward if it is not zero, with its weight if that is not one.
fn term_text(name: &str, term: &Term) -> Option<String> {
    match term.value {
        None => Some(format!("{name} ?")),
        Some(0.0) => None,
        Some(value) if term.weight == 1.0 => Some(format!("{name} {}", output::number(value))),
        Some(value) => Some(format!("{name} {} x {}", output::number(value), output::number(term.weight))),
    }
}

/// Upper bound of the bucket with the `share` quantile, microseconds; `None` if it has no requests.
fn percentile(load: &Load, share: f64) -> Option<u64> {
    let total: f64 = load.latency.iter().map(|bucket| bucket.count as f64).sum();
    let mut below = 0.0;
    let holds = |bucket: &&qscale_common::contract::LatencyBucket| {
        below += bucket.count as f64;
        below >= total * share
    };
    load.latency.iter().filter(|bucket| bucket.count > 0).find(holds).map(|bucket| bucket.le_us)
}

/// Name of a variant on the wire.
fn word(variant: impl Into<&'static str>) -> &'static str {
    variant.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::read;
    use serde_json::{Value, json};

    const AT: Timestamp = Timestamp(1_763_880_784_123);

    #[track_caller]
    fn shown(lines: &mut Lines, subject: &str, message: &Value) -> String {
        let payload = message.to_string();
        let message = read(subject, payload.as_bytes());
        if let Err(error) = &message {
            assert!(subject.contains("broken"), "{error}");
        }
        output::plain(&lines.line(AT, subject, &message))
    }

    fn lines() -> Lines {
        let mut lines = Lines::new();
        lines.day = Some(output::day(AT));
        lines
    }

    fn state() -> Value {
        let policy = qscale_common::policy::ScalingPolicy::new("f".parse().expect("valid"));
        json!({
            "version": "1.0", "namespace": "default", "function": "f", "epoch": 1, "tick": 2, "tick_length_ms": 5000, "observed_at_ms": AT.0,
            "agent": "threshold", "allocation": { "replicas": 2, "cpu_millicores": 500, "memory_mib": 128 },
            "replicas": { "desired": 2, "ready": 1, "pending": 1, "reporting": 1 },
            "age": { "requests_ms": 100, "cpu_ms": 30_000, "replicas_ms": 5 },
            "windows": {
                "tick": {
                    "covered_ms": 5000, "rate_rps": 12.34, "queued": 3.0, "cpu_millicores": { "mean": 180.2, "max": 200.0 },
                    "latency": { "p50_ms": 20.0, "p95_ms": 85.0, "p99_ms": 99.0, "objective_ms": 85.0 }, "oom_kills": 1
                },
                "short": { "covered_ms": 0 }, "long": { "covered_ms": 0 }
            },
            "changes": {}, "objective": { "percentile": 95.0, "latency_ms": 200, "failure_share": 0.01 },
            "bounds": policy.bounds, "prices": policy.prices
        })
    }

    fn action(replicas: u32) -> Value {
        json!({
            "version": "1.0", "agent": "threshold", "namespace": "default", "function": "f", "epoch": 1, "tick": 2, "decided_at_ms": AT.0,
            "expires_at_ms": AT.0 + 5000, "allocation": { "replicas": replicas, "cpu_millicores": 500, "memory_mib": 128 }, "reason": "cpu above 250m\u{7}"
        })
    }

    #[test]
    fn state_shows_load_usage_and_stale_measurements() {
        let line = shown(&mut lines(), "qscale.v1.state.default.f", &state());
        assert!(line.starts_with("06:53:04.123 state   default/f "), "{line}");
        for part in [
            "12.3/s",
            "p95 85ms ≤ 200ms",
            "cpu 180/500m",
            "mem ?/128Mi",
            "ready 1/2",
            "queue 3",
            "OOM kills 1",
            "stale: cpu 30s, memory never",
        ] {
            assert!(line.contains(part), "`{part}` in {line}");
        }
    }

    #[test]
    fn action_shows_the_requested_change() {
        let mut lines = lines();
        let subject = "qscale.v1.action.threshold.default.f";
        assert!(shown(&mut lines, subject, &action(3)).ends_with("threshold requests 3 x 500m 128Mi: cpu above 250m\\u{7}"));
        shown(&mut lines, "qscale.v1.state.default.f", &state());
        assert!(shown(&mut lines, subject, &action(3)).contains("requests 3 x 500m 128Mi (2 → 3 replicas)"));
        assert!(shown(&mut lines, subject, &action(2)).contains("keeps 2 x 500m 128Mi"));
    }

    #[test]
    fn outcome_shows_effect_change_and_rules() {
        let outcome = json!({
            "version": "1.0", "namespace": "default", "function": "f", "epoch": 1, "tick": 2, "source": "fallback", "agent": "threshold",
            "effect": "changed", "requested": { "replicas": 9, "cpu_millicores": 500, "memory_mib": 128 },
            "before": { "replicas": 1, "cpu_millicores": 500, "memory_mib": 128 }, "allowed": { "replicas": 4, "cpu_millicores": 500, "memory_mib": 128 },
            "guard": [{ "rule": "step_limit", "detail": "at most 3 more" }], "decided_at_ms": AT.0
        });
        let line = shown(&mut lines(), "qscale.v1.outcome.default.f", &outcome);
        assert!(line.contains("changed   threshold (fallback)  1 x 500m 128Mi → 4 x 500m 128Mi  [step_limit] at most 3 more"), "{line}");
    }

    #[test]
    fn reward_shows_nonzero_terms() {
        let none = json!({ "value": 0.0, "weight": 1.0 });
        let reward = json!({
            "version": "1.0", "namespace": "default", "function": "f", "epoch": 1, "tick": 2, "measured_at_ms": AT.0, "value": -0.25,
            "terms": { "violation": { "value": 0.1, "weight": 1.0 }, "cost": { "value": 0.5, "weight": 0.3 }, "resize": none, "reversal": none, "kill": { "weight": 1.0 } }
        });
        let line = shown(&mut lines(), "qscale.v1.reward.default.f", &reward);
        assert!(line.ends_with("-0.250  violation 0.1, cost 0.5 x 0.3, kill ?"), "{line}");
    }

    #[test]
    fn load_shows_offered_rate_and_failures() {
        let load = json!({
            "version": "1.0", "namespace": "default", "function": "f", "run": "r", "at_ms": AT.0, "interval_ms": 1000, "offered_rps": 20.0, "achieved_rps": 19.5,
            "in_flight": 2, "failures": { "timeout": 1, "connection": 0, "status": 4_000_000, "invalid": 0, "not_sent": 0 },
            "latency": [{ "le_us": 1000, "count": 90 }, { "le_us": 90_000, "count": 10 }]
        });
        let line = shown(&mut lines(), "qscale.v1.load.default.f", &load);
        for part in ["offered 20/s", "achieved 19.5/s", "p95 90ms", "timeout 1, status 4000000", "in flight 2"] {
            assert!(line.contains(part), "`{part}` in {line}");
        }
    }

    #[test]
    fn unreadable_message_has_its_error_and_a_new_day_a_heading() {
        let mut lines = lines();
        assert!(shown(&mut lines, "qscale.v1.state.default.broken", &json!({})).contains("unreadable: field `"), "the field is named");
        let next_day = output::plain(&lines.line(Timestamp(AT.0 + 86_400_000), "qscale.v1.state.broken", &Err(Unreadable::UnknownKind)));
        assert!(next_day.starts_with("── 2025-11-24 UTC\n"), "{next_day}");
    }

    #[test]
    fn two_ticks_are_not_stale() {
        let age = Ages { requests_ms: Some(10_000), cpu_ms: Some(1), memory_ms: Some(1), replicas_ms: Some(0) };
        assert_eq!(stale(&age, 5000), None);
    }
}
