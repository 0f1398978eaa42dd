//! Evaluation of policies: a suite from a file or by name, its runs with a journal, and the result files.
//!
//! Owns the folder of an evaluation; the comparison itself belongs to `qscale_evaluate`.

mod external;
mod policies;
mod trace;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use qscale_common::document::Format;
use qscale_common::runtime::clock;
use qscale_common::runtime::files::read_document;
use qscale_dqn::Checkpoint;
use qscale_dqn::registry::DQN;
use qscale_dqn::tree::policy::TREE;
use qscale_evaluate::curve::{CURVE_SEEDS, CostCurve, cost_curves};
use qscale_evaluate::decision_latency::DecisionLatency;
use qscale_evaluate::evaluation::jobs::{JobOutcome, Ledger, StageProgress};
use qscale_evaluate::report::{csv_runs, csv_summary, curve_csv, curve_svg, front_svg, html};
use qscale_evaluate::suite::{BUNDLED, CompetitorEntry, SuiteFilter};
use qscale_evaluate::{EvaluateError, EvaluationRequest, Options, Results, Suite, SuiteEvaluation, Summary, SummaryOptions, summarise};
use serde_json::json;

use self::external::ExternalPolicies;
use self::policies::AllPolicies;
pub use self::trace::TraceSelection;
use crate::journal::Journal;

/// Choice of a suite, of a part of it and of the policies.
#[derive(Debug, Default)]
pub struct SuiteOptions {
    /// Name of a bundled suite, or a file; `None` for `synthetic`, or `trace` if there is a trace.
    pub suite: Option<String>,
    /// The trace that a suite with a section `[trace]` replays.
    pub trace: Option<TraceSelection>,
    /// Part of the suite.
    pub filter: SuiteFilter,
    /// Model of the learned policy; `None` for the bundled one.
    pub model: Option<Checkpoint>,
}

/// Options of a run.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// Whether rules are tuned, too.
    pub tune: bool,
    /// Command that repeats the results, for the report.
    pub command: String,
    /// Threads that simulate; they do not change the results.
    pub threads: NonZeroUsize,
    /// Folder for results.
    pub out: PathBuf,
    /// Whether the folder must hold an evaluation to resume.
    pub resume: bool,
    /// Whether to discard what the folder holds.
    pub overwrite: bool,
}

/// A loaded suite with its policies.
pub struct SuiteRun {
    /// The requested part of the suite.
    pub suite: Suite,
    /// Default name of the folder of results.
    pub folder_name: String,
    trace: Option<TraceSelection>,
    quick: bool,
    policies: AllPolicies,
}

/// End of an evaluation that gives a `Report`.
pub enum EvaluateOutcome<Report> {
    /// All runs are finished and all files are written.
    Done(Box<Report>),
    /// Stopped before; the journal holds the finished runs.
    Stopped,
}

/// Results of an evaluation.
pub struct EvaluationReport {
    /// All runs.
    pub results: Results,
    /// Their summary.
    pub summary: Summary,
    /// Latency of decisions by policy. It depends on the machine, so it is in no file.
    pub latencies: BTreeMap<String, DecisionLatency>,
    /// Duration of the evaluation.
    pub took: Duration,
}

/// Cost-violation curves of the policies.
pub struct CurveReport {
    /// The curves, in the order of the suite.
    pub curves: Vec<CostCurve>,
    /// Currency of the costs.
    pub currency: String,
    /// Number of runs.
    pub runs: usize,
    /// Duration of the runs.
    pub took: Duration,
}

impl SuiteRun {
    /// Reads the suite of `options` and restricts it to the requested part. A suite of a trace may lack its trace if it is only `listed`.
    ///
    /// # Errors
    /// When the suite is unknown, cannot be read or is invalid, or does not fit to the trace.
    pub fn load(options: SuiteOptions, listed: bool) -> anyhow::Result<Self> {
        let SuiteOptions { suite, trace, filter, model } = options;
        let name = suite.unwrap_or_else(|| if trace.is_some() { "trace" } else { "synthetic" }.to_owned());
        let mut suite = match BUNDLED.iter().find(|suite| suite.name == name) {
            Some(shipped) => Suite::parse(shipped.text, Format::Toml)?,
            None => read(Path::new(&name))?,
        };
        match (&mut suite.trace, &trace) {
            (None, Some(_)) => anyhow::bail!(
                "--trace is not valid with suite {name}, which has load patterns; use --suite trace, or a suite with a [trace] section"
            ),
            (Some(_), None) if !listed => anyhow::bail!("suite {name} replays a trace; add --trace DIR"),
            (Some(entry), Some(trace)) => trace.apply(entry)?,
            (_, None) => {}
        }
        let policies = AllPolicies { model, external: ExternalPolicies::default() };
        let suite = suite.narrowed(&filter).with_context(|| format!("suite {name}"))?.with_natural_ticks(&policies);
        let mut folder_name = suite.name.to_string();
        if let Some(trace) = &trace {
            folder_name = format!("{folder_name}-{}", trace.name());
        }
        if filter.quick {
            folder_name += "-quick";
        }
        Ok(Self { suite, folder_name, trace, quick: filter.quick, policies })
    }

    /// This run with the decision tree in the file `tree` as a further competitor, and the learned policy at this `violation_cost`.
    #[must_use]
    pub fn with_tree(mut self, tree: &Path, violation_cost: Option<f64>) -> Self {
        let competitors = &mut self.suite.competitors;
        if !competitors.iter().any(|entry| entry.policy == DQN) {
            competitors.push(CompetitorEntry::plain(DQN));
        }
        if let Some(cost) = violation_cost {
            competitors.iter_mut().filter(|entry| entry.policy == DQN).for_each(|entry| entry.params = json!({ "violation_cost": cost }));
        }
        competitors.push(CompetitorEntry { params: json!({ "file": tree }), ..CompetitorEntry::plain(TREE) });
        self.suite = self.suite.with_natural_ticks(&self.policies);
        self.folder_name += "-tree";
        self
    }

    /// This run with a competitor for each setting of each grid, and [`CURVE_SEEDS`] runs in each cell unless `seeds` are given.
    ///
    /// # Errors
    /// A grid that is not valid.
    pub fn with_each_setting(mut self, seeds: Option<u32>) -> anyhow::Result<Self> {
        self.suite = self.suite.with_each_setting(&self.policies).map_err(anyhow::Error::msg)?;
        self.suite.seeds = seeds.unwrap_or(CURVE_SEEDS);
        self.folder_name += "-curves";
        Ok(self)
    }

    /// Reads the trace, if the suite has one, and plans all runs. `note` is called with a description of the trace.
    ///
    /// # Errors
    /// When the trace cannot be read, or no cell is left.
    pub fn prepare(self, options: EvaluateOptions, note: impl FnOnce(&str)) -> anyhow::Result<PreparedEvaluation> {
        let Self { suite, trace, quick, policies, .. } = self;
        let request = EvaluationRequest { command: options.command.clone(), tune: options.tune, quick, ..EvaluationRequest::default() };
        let evaluation = match trace {
            Some(selection) if suite.trace.is_some() => {
                let trace = selection.read(&suite, note)?;
                let (cells, part) = qscale_evaluate::trace::cells(&suite, &trace, &selection.name()).map_err(anyhow::Error::msg)?;
                SuiteEvaluation::of_trace(suite, cells, request, part)?
            }
            _ => SuiteEvaluation::of_patterns(suite, request)?,
        };
        Ok(PreparedEvaluation { evaluation, policies, options })
    }
}

/// Results of an evaluation, the latency of decisions by policy, and its duration.
type Executed = (Results, BTreeMap<String, DecisionLatency>, Duration);

/// An evaluation whose runs are planned.
pub struct PreparedEvaluation {
    evaluation: SuiteEvaluation,
    policies: AllPolicies,
    options: EvaluateOptions,
}

impl PreparedEvaluation {
    /// Executes the runs that the journal does not hold, and writes the files. `progress` is called after each job.
    ///
    /// # Errors
    /// When a policy refuses its parameters, or the folder cannot be used or holds another evaluation.
    pub fn run(&self, progress: impl FnMut(StageProgress), stop: &AtomicBool) -> anyhow::Result<EvaluateOutcome<EvaluationReport>> {
        let Some((results, latencies, took)) = self.execute(progress, stop)? else { return Ok(EvaluateOutcome::Stopped) };
        let summary = summarise(&results, &SummaryOptions::default())?;
        self.write(&[
            ("suite.json", serde_json::to_string_pretty(&results.suite.document)?),
            ("results.json", serde_json::to_string(&results)?),
            ("results.csv", csv_runs(&results)),
            ("summary.json", serde_json::to_string_pretty(&summary)?),
            ("summary.csv", csv_summary(&results, &summary)),
            ("report.html", html(&results, &summary)),
            ("front.svg", front_svg(&results, &summary)),
        ])?;
        Ok(EvaluateOutcome::Done(Box::new(EvaluationReport { results, summary, latencies, took })))
    }

    /// As [`Self::run`], for the curves of a suite with a competitor for each setting.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn curves(&self, progress: impl FnMut(StageProgress), stop: &AtomicBool) -> anyhow::Result<EvaluateOutcome<CurveReport>> {
        let Some((results, _, took)) = self.execute(progress, stop)? else { return Ok(EvaluateOutcome::Stopped) };
        let (curves, currency) = (cost_curves(&results), results.settings.currency.clone());
        let title = format!("Violations against cost of every setting: {}", results.suite.name);
        self.write(&[("suite.json", serde_json::to_string_pretty(&results.suite.document)?), ("results.csv", csv_runs(&results))])?;
        write_curves(&self.options.out, &title, &curves, &currency)?;
        let runs = results.groups.len() * results.settings.seeds.len();
        Ok(EvaluateOutcome::Done(Box::new(CurveReport { curves, currency, runs, took })))
    }

    /// Executes the runs that the journal does not hold; `None` if stopped.
    fn execute(&self, progress: impl FnMut(StageProgress), stop: &AtomicBool) -> anyhow::Result<Option<Executed>> {
        let Self { evaluation, policies, options } = self;
        // A suite that cannot be run must not leave a journal.
        evaluation.check(policies)?;
        let journal = Journal::open(&options.out, "evaluation", &evaluation.identity(policies), options.resume, options.overwrite)?;
        let mut ledger = JobStore { journal, progress, external: policies.external.clone() };
        let began = clock::instant();
        let time = || clock::since(began);
        let options = Options { threads: options.threads, stop, clock: Some(&time) };
        let (results, latencies) = match evaluation.run(policies, &options, &mut ledger) {
            Ok(found) => found,
            Err(EvaluateError::Stopped) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some((results, latencies, clock::since(began))))
    }

    fn write(&self, files: &[(&str, String)]) -> anyhow::Result<()> {
        files.iter().try_for_each(|(name, text)| crate::files::replace(&self.options.out.join(name), text.as_bytes()))
    }
}

/// Writes `curves` to the folder `out`, as curves.csv and curves.svg.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn write_curves(out: &Path, title: &str, curves: &[CostCurve], currency: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("failed to create the folder {}; use another one with --out", out.display()))?;
    crate::files::replace(&out.join("curves.csv"), curve_csv(curves, currency).as_bytes())?;
    crate::files::replace(&out.join("curves.svg"), curve_svg(title, curves, currency).as_bytes())
}

fn read(path: &Path) -> anyhow::Result<Suite> {
    let names = BUNDLED.map(|suite| suite.name).join(", ");
    let read = read_document(path);
    let (text, format) =
        read.with_context(|| format!("suite {}: not a bundled suite ({names}), and not a readable file", path.display()))?;
    Suite::parse(&text, format).with_context(|| format!("suite {}", path.display()))
}

/// Stores finished runs in the journal, and reports progress.
struct JobStore<P> {
    journal: Journal<JobOutcome>,
    progress: P,
    external: ExternalPolicies,
}

impl<P: FnMut(StageProgress)> Ledger for JobStore<P> {
    fn stored(&mut self, key: &str) -> Option<JobOutcome> {
        self.journal.stored(key)
    }

    fn record(&mut self, key: &str, outcome: &JobOutcome) -> Result<(), String> {
        if let Some(failure) = self.external.failure() {
            return Err(failure);
        }
        self.journal.record(key, outcome).map_err(|error| format!("{error:#}"))
    }

    fn progress(&mut self, progress: StageProgress) {
        (self.progress)(progress);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    fn load(suite: &str, filter: SuiteFilter) -> anyhow::Result<SuiteRun> {
        SuiteRun::load(SuiteOptions { suite: Some(suite.to_owned()), filter, ..SuiteOptions::default() }, false)
    }

    fn quick() -> SuiteRun {
        let filter = SuiteFilter { quick: true, seeds: Some(1), policies: vec!["static".into(), "hpa".into()], ..SuiteFilter::default() };
        load("synthetic", filter).expect("bundled")
    }

    fn options(out: &Path) -> EvaluateOptions {
        let threads = NonZeroUsize::MIN;
        EvaluateOptions { tune: false, command: "command".into(), threads, out: out.to_owned(), resume: false, overwrite: false }
    }

    #[test]
    fn suite_of_a_trace_needs_a_trace_unless_it_is_listed() {
        assert!(load("trace", SuiteFilter::default()).is_err());
        let listed = SuiteOptions { suite: Some("trace".into()), ..SuiteOptions::default() };
        assert!(SuiteRun::load(listed, true).expect("bundled").suite.trace.is_some());
        assert!(load("no-such-suite", SuiteFilter::default()).is_err());
    }

    #[test]
    fn curves_have_every_setting_and_their_files() {
        let folder = qscale_tests::Folder::new("evaluate-curves");
        let filter = SuiteFilter { quick: true, policies: vec!["static".into(), "dqn".into()], ..SuiteFilter::default() };
        let run = load("synthetic", filter).expect("bundled").with_each_setting(Some(1)).expect("valid grids");
        assert_eq!((run.folder_name.as_str(), run.suite.competitors.len()), ("synthetic-quick-curves", 13 + 17));
        let prepared = run.prepare(options(folder.path()), |_| panic!("there is no trace")).expect("valid");
        let done = prepared.curves(|_| {}, &AtomicBool::new(false)).expect("the folder is usable");
        let EvaluateOutcome::Done(report) = done else { panic!("not stopped") };
        assert_eq!((report.curves.len(), report.curves[1].points.len()), (2, 17));
        for name in ["suite.json", "results.csv", "curves.csv", "curves.svg"] {
            assert!(folder.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_stopped_evaluation_is_resumed_and_writes_every_file() {
        let folder = qscale_tests::Folder::new("evaluate-library");
        let run = quick();
        assert_eq!(run.folder_name, "synthetic-quick");
        let prepared = run.prepare(options(folder.path()), |_| panic!("there is no trace")).expect("valid");
        let stop = AtomicBool::new(false);
        let stopped = prepared.run(|_| stop.store(true, Ordering::Relaxed), &stop).expect("the folder is usable");
        assert!(matches!(stopped, EvaluateOutcome::Stopped));
        assert!(!folder.path().join("results.json").exists());
        stop.store(false, Ordering::Relaxed);
        let done = prepared.run(|_| {}, &stop).expect("the folder is usable");
        let EvaluateOutcome::Done(report) = done else { panic!("not stopped") };
        assert_eq!(report.results.competitors.len(), 2);
        for name in ["suite.json", "results.json", "results.csv", "summary.json", "summary.csv", "report.html", "front.svg"] {
            assert!(folder.path().join(name).exists(), "{name}");
        }
    }
}
