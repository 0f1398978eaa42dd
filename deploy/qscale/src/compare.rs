//! `qscale compare`: simulates another policy and the acting one over recorded arrivals. Owns the arguments and the
//! output; the comparison is that of `qscale_replay`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::cancellable::until_stopped;
use qscale_common::runtime::clock;
use qscale_common::time::Span;
use qscale_experiments::profile::describe;
use qscale_replay::compare::{Challenger, Conclusion, MeanInterval, MetricComparison, ScenarioMetric};
use qscale_replay::policy::load_model;
use qscale_replay::{ComparisonSpec, MetricsComparison, RecordedScenario, ReplayPolicy};
use serde_json::{Value, json};

use crate::output::{self, Table, TableCell, Tone};
use crate::period::PeriodArgs;
use crate::system::Locate;

/// Policies and recording to compare.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale compare fibonacci                             with its shadow, if it has exactly one
  qscale compare fibonacci --policy hpa:cpu_utilization=50 --since 4h
  qscale compare fibonacci --shadow dqn --profile fibonacci-profile.toml --seeds 20 --json

Both policies are simulated over the recorded arrivals, under the same seeds and behind the function's guard. The acting policy is simulated too, to check the
simulation: the simulation error is its simulated figure minus the recorded one. If the error is at least as large as the difference between the policies, the result is
inconclusive. A profile measured by `qscale profile` is more accurate than one estimated from the recording.")]
pub struct CompareArgs {
    /// namespace/name, or name
    #[arg(value_name = "FUNCTION")]
    function: FunctionId,
    /// Compare with the policy of this shadow agent; by default the only recorded one
    #[arg(long, value_name = "AGENT", conflicts_with = "policy")]
    shadow: Option<Name>,
    /// Compare with this policy
    #[arg(long, value_name = "NAME[:KEY=VALUE,...]")]
    policy: Option<String>,
    /// Model of the other policy if it is dqn; by default the shadow's, or the bundled model
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    model: Option<PathBuf>,
    #[command(flatten)]
    period: PeriodArgs,
    /// Profile of the function, .toml or .json, as written by `qscale profile`; by default estimated from the recording
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    profile: Option<PathBuf>,
    /// Simulated runs per policy
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1000))]
    seeds: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Compares and prints the result.
pub async fn run(locate: &Locate, arguments: CompareArgs) -> anyhow::Result<ExitCode> {
    let profile = arguments.profile.as_deref().map(crate::validate::read).transpose()?;
    let bus = locate.bus().await?;
    let period = arguments.period.resolve(clock::now())?;
    let model = arguments.model.as_deref().map(load_model).transpose()?;
    let challenger = match &arguments.policy {
        Some(text) => Challenger::Policy(ReplayPolicy::named(text, model.as_ref()).with_context(|| format!("--policy {text}"))?),
        None => Challenger::Shadow { agent: arguments.shadow.as_ref(), model: model.as_ref() },
    };
    let platform = locate.platform().ok();
    let of = (&arguments.function, period);
    let spec = ComparisonSpec::read(&bus, platform.as_ref(), &locate.agent_settings(), of, challenger, profile).await?;
    let seeds = u64::from(arguments.seeds);
    let (spec, comparison) = until_stopped("simulation", move |stop| {
        let comparison = spec.run(seeds, stop)?;
        Ok((spec, comparison))
    })
    .await?;
    let Some(comparison) = comparison else { bail!("interrupted") };
    if arguments.json {
        output::json(&to_json(&spec, &comparison, arguments.seeds))?;
    } else {
        print(&spec, &comparison, arguments.seeds)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn to_json(spec: &ComparisonSpec, comparison: &MetricsComparison, seeds: u32) -> Value {
    let simulation = &spec.scenario.simulation;
    json!({
        "function": spec.scenario.function.to_string(),
        "since": simulation.since,
        "until": simulation.until,
        "ticks": simulation.ticks(),
        "warm_up_ticks": simulation.warm_up,
        "seeds": seeds,
        "acting": { "agent": spec.agent, "policy": spec.acting.title(), "configuration": spec.acting.decider.configuration() },
        "other": { "policy": spec.other.title(), "configuration": spec.other.decider.configuration() },
        "currency": simulation.currency(),
        "profile": *simulation.setup.profile,
        "metrics": comparison.metrics(),
        "assumptions": spec.assumptions,
    })
}

/// The function, period and number of ticks of `scenario`.
pub(crate) fn simulated_ticks(scenario: &RecordedScenario) -> String {
    let simulation = &scenario.simulation;
    format!(
        "{} from {} {} to {} UTC: {} ticks of {} after {} warm-up ticks",
        scenario.function,
        output::day(simulation.since),
        output::clock(simulation.since),
        output::clock(simulation.until),
        simulation.ticks(),
        Span::millis(simulation.tick_ms()),
        simulation.warm_up
    )
}

fn print(spec: &ComparisonSpec, comparison: &MetricsComparison, seeds: u32) -> anyhow::Result<()> {
    let simulation = &spec.scenario.simulation;
    output::line(format_args!("{}, simulated {seeds} times per policy", simulated_ticks(&spec.scenario)))?;
    output::line(describe(&simulation.setup.profile))?;
    let (acting, other) = (format!("{} (acting)", spec.acting.title()), spec.other.title());
    let mut table = Table::new(&["", "RECORDED", &acting, &other, "DIFFERENCE"]);
    for metric in comparison.metrics() {
        let tone = if metric.conclusion() == Conclusion::Significant { Tone::Strong } else { Tone::Dim };
        let of = metric.metric;
        table.row([
            heading(of, &output::clean(simulation.currency())).into(),
            metric.recorded.map_or_else(|| "unknown".to_owned(), |value| shown(of, value)).into(),
            range(of, &metric.acting, shown).into(),
            range(of, &metric.other, shown).into(),
            TableCell::new(range(of, &metric.difference, signed), tone),
        ]);
    }
    table.print()?;
    output::line("Means over seeds with 95 % intervals, which cover random variation but not errors of the profile.\n")?;
    for metric in comparison.metrics() {
        output::line(summary(metric, &other))?;
    }
    if !spec.assumptions.is_empty() {
        output::line("\nAssumptions")?;
    }
    spec.assumptions.iter().try_for_each(|assumption| output::line(format_args!("  {assumption}")))
}

fn heading(metric: ScenarioMetric, currency: &str) -> String {
    match metric {
        ScenarioMetric::ViolatedShare => "violated ticks, %".to_owned(),
        ScenarioMetric::CostPerHour => format!("cost, {currency}/h"),
    }
}

/// A value in the unit of the heading.
fn shown(metric: ScenarioMetric, value: f64) -> String {
    match metric {
        ScenarioMetric::ViolatedShare => format!("{:.1}", value * 100.0),
        ScenarioMetric::CostPerHour => format!("{value:.4}"),
    }
}

fn signed(metric: ScenarioMetric, value: f64) -> String {
    format!("{}{}", if value < 0.0 { "-" } else { "+" }, shown(metric, value.abs()))
}

fn range(metric: ScenarioMetric, mean: &MeanInterval, shown: fn(ScenarioMetric, f64) -> String) -> String {
    format!("{} ({} to {})", shown(metric, mean.mean), shown(metric, mean.low), shown(metric, mean.high))
}

/// The conclusion about `other`, the policy that does not act, in a sentence.
fn summary(compared: &MetricComparison, other: &str) -> String {
    let metric = compared.metric;
    let (what, more, less, unit) = match metric {
        ScenarioMetric::ViolatedShare => ("Violations", "more", "fewer", " percentage points"),
        ScenarioMetric::CostPerHour => ("Cost", "more", "less", ""),
    };
    let direction = if compared.difference.mean > 0.0 { more } else { less };
    let difference = format!("{}{unit} {direction}", shown(metric, compared.difference.mean.abs()));
    let error = compared.simulation_error().map_or_else(String::new, |error| format!("{}{unit}", signed(metric, error)));
    match compared.conclusion() {
        Conclusion::Significant => format!("{what}: {difference} with {other} (simulation error on the acting policy: {error})."),
        Conclusion::NotSignificant => format!("{what}: no significant difference."),
        Conclusion::Inconclusive => {
            format!("{what}: inconclusive. {difference} with {other}, but the simulation error on the acting policy is {error}.")
        }
        Conclusion::Unverified => {
            format!("{what}: {difference} with {other}, unverified: nothing was recorded to check the simulation against.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_has_difference_and_error_in_the_unit_of_the_metric() {
        let mean = |mean, low, high| MeanInterval { mean, low, high };
        let mut compared = MetricComparison {
            metric: ScenarioMetric::ViolatedShare,
            recorded: Some(0.10),
            acting: mean(0.11, 0.10, 0.12),
            other: mean(0.045, 0.04, 0.05),
            difference: mean(-0.065, -0.08, -0.05),
        };
        let text = summary(&compared, "hpa");
        assert!(text.contains("6.5 percentage points fewer") && text.contains("+1.0"), "{text}");
        compared.recorded = Some(0.25);
        let text = summary(&compared, "hpa");
        assert!(text.contains("inconclusive") && text.contains("-14.0"), "{text}");
        compared.metric = ScenarioMetric::CostPerHour;
        assert!(summary(&compared, "hpa").contains("0.0650 less"), "{}", summary(&compared, "hpa"));
    }
}
