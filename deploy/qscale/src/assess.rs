//! `qscale assess`: what other autoscalers would have cost and violated. Owns arguments and output; histories, calibration and estimates are those of `qscale_assess`.

mod page;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use qscale_assess::acting::{ActingPolicies, ActingPolicy, CommonLimits, RECORDED};
use qscale_assess::history::table;
use qscale_assess::html;
use qscale_assess::prometheus::{CollectedHistories, HistoryGrid, PrometheusServer, missing};
use qscale_assess::queries::{PRESETS, QueryParameters, QuerySet};
use qscale_assess::{AssessOptions, AssessStep, WorkloadHistory, assess, recorded, report};
use qscale_common::document::Format;
use qscale_common::name::FunctionId;
use qscale_common::policy::text::format_of_text;
use qscale_common::policy::{Guardrails, LatencyBound, Objective, Percentile};
use qscale_common::runtime::cancellable::until_stopped;
use qscale_common::runtime::clock;
use qscale_common::runtime::files::{self, MAX_DOCUMENT, MAX_STATE};
use qscale_common::time::{Span, TickLength, Timestamp, millis};
use qscale_replay::policy::load_model;
use qscale_replay::{Period, ReplayPolicy};
use serde_json::json;

use crate::output;
use crate::system::Locate;

/// Environment variable with a bearer token for the Prometheus server.
const TOKEN: &str = "QSCALE_PROMETHEUS_TOKEN";

/// Source of the history, acting autoscalers and output.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale assess --prometheus http://127.0.0.1:9090 --since 7d --namespace shop
  kubectl get hpa -A -o json > hpa.json; qscale assess --prometheus http://127.0.0.1:9090 --since 7d --manifest hpa.json
  qscale assess --prometheus http://127.0.0.1:9090 --since 2h --step 15s --acting hpa:cpu_utilization=60 --objective p95=200ms
  qscale assess --prometheus http://127.0.0.1:9090 --since 7d --write-history week.csv    a history to assess again, or to send
  qscale assess --csv week.csv --out week-assessed.csv --html week.html
  qscale assess --recorded fibonacci --since 1h --acting dqn      the stream of a running system
  qscale assess --print-queries istio > queries.toml              queries to adapt; pass them with --queries

The first half of the history calibrates the simulator and tunes the rules. The second half judges: the simulator is checked against what was measured there, and every
policy is simulated with its requests. The error of the check widens every interval. Where the simulator does not reproduce the measurements, no result is conclusive.

`kubectl port-forward -n monitoring svc/prometheus 9090` makes the server of a cluster reachable. Metrics that are missing are named with their query and the
consequence. Formulas of the intervals and columns of the CSV: agent/assess/README.md.")]
pub struct AssessArgs {
    /// Prometheus server with the history; a token in QSCALE_PROMETHEUS_TOKEN is sent with each query
    #[arg(long, value_name = "URL", group = "source")]
    prometheus: Option<String>,
    /// History as CSV, as --write-history writes it; - for standard input
    #[arg(long, value_name = "FILE", group = "source", value_hint = clap::ValueHint::FilePath)]
    csv: Option<PathBuf>,
    /// Function whose recorded stream is the history; repeatable
    #[arg(long, value_name = "FUNCTION", group = "source")]
    recorded: Vec<FunctionId>,
    /// Age of the begin of the history, if it is read from a server or the stream
    #[arg(long, value_name = "DURATION", default_value = "7d")]
    since: Span,
    /// Age of its end; by default now
    #[arg(long, value_name = "DURATION")]
    until: Option<Span>,
    /// Length of a step, at least two scrape intervals [default: 15s up to 12 hours, else 60s]
    #[arg(long, value_name = "DURATION")]
    step: Option<Span>,
    /// Queries: qscale, istio, linkerd, knative, nginx [default: the first that has arrivals]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// File with queries in place of those of the preset, .toml, .yaml or .json
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    queries: Option<PathBuf>,
    /// Print the queries of a preset, without assessing anything
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(PRESETS.map(|preset| preset.name)))]
    print_queries: Option<String>,
    /// Only namespaces that match this regular expression
    #[arg(long, value_name = "REGEX")]
    namespace: Option<String>,
    /// Only this workload; repeatable
    #[arg(long = "workload", value_name = "NAMESPACE/NAME")]
    workloads: Vec<FunctionId>,
    /// File with the acting autoscalers: HorizontalPodAutoscalers, VerticalPodAutoscalers, ScaledObjects or ScalingPolicies; - for standard input; repeatable
    #[arg(long = "manifest", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    manifests: Vec<PathBuf>,
    /// Acting autoscaler of workloads without a manifest [default: their recorded replicas]
    #[arg(long, value_name = "NAME[:KEY=VALUE,...]")]
    acting: Option<String>,
    /// Objective of workloads without a ScalingPolicy
    #[arg(long, value_name = "pPERCENTILE=DURATION", default_value = "p95=500ms")]
    objective: LatencyObjective,
    /// Control interval of Qscale [default: 5s]
    #[arg(long, value_name = "DURATION")]
    tick: Option<TickLength>,
    /// Policies may change only the number of replicas, not their CPU and memory
    #[arg(long)]
    keep_size: bool,
    /// Only this policy; repeatable
    #[arg(long = "policy", value_name = "NAME")]
    policies: Vec<String>,
    /// Model of the policy dqn [default: the bundled model]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    model: Option<PathBuf>,
    /// Threads; by default one per core. The results do not depend on it
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Rows of the table of a workload on the page; --out and --json have all policies
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    rows: usize,
    /// Also write the table of all workloads and policies, CSV
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Also write the page with a plot of each workload, HTML that needs no network
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Also write the history, CSV
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    write_history: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A bound on a percentile of latency.
#[derive(Debug, Clone, Copy)]
struct LatencyObjective(Objective);

impl FromStr for LatencyObjective {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix('p').and_then(|rest| rest.split_once('='));
        let (percentile, latency) = parts.ok_or_else(|| format!("`{text}`, must be a percentile and a duration, such as p95=200ms"))?;
        let percentile: f64 = percentile.parse().map_err(|_| format!("`{percentile}` is not a percentile such as 95"))?;
        let latency = LatencyBound::try_from(latency.parse::<Span>()?)?;
        Ok(Self(Objective { percentile: Percentile::try_from(percentile)?, latency, ..Objective::default() }))
    }
}

/// Assesses, and prints the results.
pub async fn run(locate: &Locate, arguments: AssessArgs) -> anyhow::Result<ExitCode> {
    if let Some(name) = &arguments.print_queries {
        let preset = PRESETS.iter().find(|preset| preset.name == name).context("not a preset")?;
        output::line(preset.text.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = options(&arguments)?;
    let mut collected = collect(locate, &arguments).await?;
    if !arguments.workloads.is_empty() {
        collected.histories.retain(|history| arguments.workloads.contains(&history.workload));
        let found = |workload: &&FunctionId| collected.histories.iter().any(|history| history.workload == **workload);
        if let Some(absent) = arguments.workloads.iter().find(|workload| !found(workload)) {
            bail!("there is no history of {absent}; leave out --workload to see which there are");
        }
    }
    for workload in options.acting.workloads().filter(|name| !collected.histories.iter().any(|history| history.workload == **name)) {
        output::warn(format_args!("there is no history of {workload}, which --manifest names"));
    }
    if let Some(path) = &arguments.write_history {
        std::fs::write(path, table::write(&collected.histories)).with_context(|| format!("failed to write {}", path.display()))?;
    }
    if !arguments.json {
        page::sources(&collected)?;
    }
    let CollectedHistories { histories, missing, remarks } = collected;
    let mut bar = page::Progress::new();
    let assessed =
        until_stopped("assessment", move |stop| assess(&histories, &options, stop, |step: AssessStep<'_>| bar.show(&step))).await?;
    let Some(assessment) = assessed else { return Ok(ExitCode::from(130)) };
    if let Some(path) = &arguments.out {
        std::fs::write(path, report::csv(&assessment)).with_context(|| format!("failed to write {}", path.display()))?;
    }
    let totals = report::totals(&assessment);
    if let Some(path) = &arguments.html {
        let text = html::html(&assessment, &totals, &missing, &remarks);
        std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    if arguments.json {
        let missing: Vec<_> = missing
            .iter()
            .map(|missing| {
                json!({ "metric": missing.metric.name(), "query": missing.query, "workloads": missing.workloads.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        "consequence": missing.metric.consequence() })
            })
            .collect();
        output::json(
            &json!({ "workloads": assessment.workloads, "skipped": assessment.skipped, "namespaces": totals, "missing": missing, "remarks": remarks }),
        )?;
    } else {
        page::assessment(&assessment, &totals, arguments.rows)?;
    }
    ensure!(!assessment.workloads.is_empty(), "no workload could be assessed");
    Ok(ExitCode::SUCCESS)
}

fn options(arguments: &AssessArgs) -> anyhow::Result<AssessOptions> {
    let mut acting = ActingPolicies::default();
    for path in &arguments.manifests {
        let (text, format) = read(path)?;
        acting.add(&text, format).with_context(|| format!("--manifest {}", path.display()))?;
    }
    let otherwise = match &arguments.acting {
        None => ActingPolicy { policy: RECORDED.to_owned(), params: json!({}), guard: Guardrails::permissive() },
        Some(text) => {
            let policy = ReplayPolicy::named(text, None).with_context(|| format!("--acting {text}"))?;
            // A rule of Qscale acts behind its guard; the autoscalers of Kubernetes have none.
            let guard = if policy.decider.name().starts_with("hpa") { Guardrails::permissive() } else { Guardrails::default() };
            ActingPolicy { policy: policy.decider.name().to_owned(), params: policy.params, guard }
        }
    };
    for name in &arguments.policies {
        ReplayPolicy::named(name, None).with_context(|| format!("--policy {name}"))?;
    }
    Ok(AssessOptions {
        acting,
        otherwise,
        limits: CommonLimits { objective: arguments.objective.0, tick: arguments.tick.unwrap_or_default(), keep_size: arguments.keep_size },
        policies: arguments.policies.clone(),
        model: arguments.model.as_deref().map(load_model).transpose()?,
        threads: arguments.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
    })
}

fn read(path: &Path) -> anyhow::Result<(String, Format)> {
    if path == Path::new("-") {
        let text = files::read_standard_input(MAX_STATE)?;
        let format = format_of_text(&text);
        return Ok((text, format));
    }
    Ok((files::read_text(path, MAX_STATE)?, Format::of(path)?))
}

async fn collect(locate: &Locate, arguments: &AssessArgs) -> anyhow::Result<CollectedHistories> {
    let until = arguments.until.unwrap_or_default();
    ensure!(until < arguments.since, "--until ({until} ago) must be more recent than --since ({} ago)", arguments.since);
    if let Some(url) = &arguments.prometheus {
        return from_server(url, arguments, until).await;
    }
    for (option, given) in [
        ("step", arguments.step.is_some()),
        ("preset", arguments.preset.is_some()),
        ("queries", arguments.queries.is_some()),
        ("namespace", arguments.namespace.is_some()),
    ] {
        ensure!(!given, "--{option} is for a Prometheus server; add --prometheus URL");
    }
    let histories = match &arguments.csv {
        Some(path) if path == Path::new("-") => table::read(&files::read_standard_input(MAX_STATE)?).context("--csv -")?,
        Some(path) => table::read(&files::read_text(path, MAX_STATE)?).with_context(|| format!("--csv {}", path.display()))?,
        None if arguments.recorded.is_empty() => bail!("there is no history: pass --prometheus URL, --csv FILE or --recorded FUNCTION"),
        None => from_stream(locate, arguments, until).await?,
    };
    let missing = missing(&histories, &Default::default());
    Ok(CollectedHistories { histories, missing, remarks: Vec::new() })
}

async fn from_stream(locate: &Locate, arguments: &AssessArgs, until: Span) -> anyhow::Result<Vec<WorkloadHistory>> {
    let bus = locate.bus().await?;
    let now = clock::now();
    let period = Period { since: now.minus(arguments.since.0), until: now.minus(until.0) };
    let mut histories = Vec::new();
    for function in &arguments.recorded {
        let history = recorded::history(&bus, function, period).await?;
        histories.push(
            history
                .with_context(|| format!("no State of {function} is retained in that period; `qscale policy list` lists the functions"))?,
        );
    }
    Ok(histories)
}

async fn from_server(url: &str, arguments: &AssessArgs, until: Span) -> anyhow::Result<CollectedHistories> {
    let server = PrometheusServer::new(url, std::env::var(TOKEN).ok()).context("--prometheus")?;
    let grid = grid(arguments, until)?;
    let parameters = QueryParameters {
        window: Span(grid.step),
        percentile: arguments.objective.0.percentile.get() / 100.0,
        namespaces: arguments.namespace.as_deref().unwrap_or(".*"),
    };
    let given = arguments.queries.as_deref().map(|path| {
        let text = files::read_text(path, MAX_DOCUMENT)?;
        QuerySet::parse(&text, Format::of(path)?).with_context(|| format!("--queries {}", path.display()))
    });
    let given = given.transpose()?;
    let preset = match (&arguments.preset, &given) {
        (Some(name), _) => Some(name.as_str()),
        (None, Some(_)) => None,
        (None, None) => {
            let found = server.find_preset(&parameters, &grid).await.with_context(|| format!("failed to query {server}"))?;
            Some(found.with_context(|| {
                format!(
                    "{server} has arrivals of none of the presets {} in this period; pass queries of your own with --queries, from --print-queries on",
                    PRESETS.map(|preset| preset.name).join(", ")
                )
            })?)
        }
    };
    let queries = match (preset, given) {
        (Some(name), Some(given)) => QuerySet::preset(name)?.replaced_by(given),
        (Some(name), None) => QuerySet::preset(name)?,
        (None, Some(given)) => given,
        (None, None) => bail!("there are no queries"),
    };
    output::note(format_args!("reading {server}: {}", queries.description));
    server.histories(&queries, &parameters, &grid, |_| ()).await
}

/// Steps whose ends are multiples of their length, as dashboards have them.
fn grid(arguments: &AssessArgs, until: Span) -> anyhow::Result<HistoryGrid> {
    let length = arguments.since.0 - until.0;
    let default = if length <= Duration::from_secs(12 * 3600) { Span::seconds(15) } else { Span::seconds(60) };
    let step = arguments.step.unwrap_or(default);
    let whole = step.0.subsec_nanos() == 0 && (1..=3600).contains(&step.0.as_secs());
    ensure!(whole, "--step {step}, must be whole seconds, from 1s to 1h");
    let each = millis(step.0);
    let end = clock::now().minus(until.0).0 / each * each;
    let steps = millis(length) / each;
    ensure!(
        steps <= WorkloadHistory::MAX_STEPS as u64,
        "--since {} has {steps} steps of {step}, at most {} are read; pass a longer --step",
        arguments.since,
        WorkloadHistory::MAX_STEPS
    );
    Ok(HistoryGrid { begin: Timestamp(end.saturating_sub(steps * each)), step: step.0, steps: steps as usize })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_is_a_percentile_and_a_bound() {
        let objective = "p99.5=1s 200ms".parse::<LatencyObjective>().expect("valid").0;
        assert_eq!((objective.percentile.get(), objective.latency.get()), (99.5, Duration::from_millis(1200)));
        for wrong in ["95=200ms", "p95", "p95=fast", "p0.95=1s", "p=1s", "p95=0s"] {
            assert!(wrong.parse::<LatencyObjective>().is_err(), "{wrong}");
        }
    }
}
