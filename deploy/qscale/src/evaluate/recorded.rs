//! `qscale evaluate --curves --recorded`: the cost-violation curves of a recorded function. Owns options and output; the simulation is that of `qscale_replay`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use qscale_common::name::FunctionId;
use qscale_common::runtime::cancellable::until_stopped;
use qscale_common::runtime::clock;
use qscale_common::time::Span;
use qscale_evaluate::evaluation::jobs::{EvaluationStage, StageProgress};
use qscale_experiments::evaluate::{CurveReport, SuiteRun, write_curves};
use qscale_replay::RecordedScenario;
use qscale_replay::compare::curve::CurveRuns;
use qscale_replay::policy::load_model;

use super::{Bar, EvaluateArgs, command, report};
use crate::compare::simulated_ticks;
use crate::output;
use crate::period::PeriodArgs;
use crate::system::Locate;

/// A recorded function.
#[derive(Debug, Args)]
pub struct RecordedArgs {
    /// With --curves: simulate the recorded arrivals of this function, instead of the cells of a suite, with the grids of the suite
    #[arg(id = "recorded", long = "recorded", value_name = "FUNCTION", requires = "curves")]
    #[arg(conflicts_with_all = ["path", "functions", "workloads", "perturbations", "quick", "resume", "bound_passes"])]
    pub function: Option<FunctionId>,
    /// Age of the beginning of the recording, such as 1h or 10m
    #[arg(long, value_name = "DURATION", default_value = "4h", requires = "recorded")]
    since: Span,
    /// Age of its end; by default now
    #[arg(long, value_name = "DURATION", requires = "recorded")]
    until: Option<Span>,
    /// Profile of the function, .toml or .json, as written by `qscale profile`; by default estimated from the recording
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, requires = "recorded")]
    profile: Option<PathBuf>,
}

impl RecordedArgs {
    /// Calls `add` with each option that affects the results.
    pub fn words(&self, add: &mut impl FnMut(&str, &str)) {
        let Some(function) = &self.function else { return };
        add("--recorded", &function.to_string());
        add("--since", &self.since.to_string());
        self.until.iter().for_each(|until| add("--until", &until.to_string()));
        self.profile.iter().for_each(|profile| add("--profile", &profile.display().to_string()));
    }
}

/// Simulates every setting of the grids of `suite` over the recorded arrivals of `function`, and prints the curves.
pub async fn run(locate: &Locate, arguments: &EvaluateArgs, function: &FunctionId, suite: &SuiteRun) -> anyhow::Result<ExitCode> {
    let RecordedArgs { since, until, profile, .. } = &arguments.recorded;
    let profile = profile.as_deref().map(crate::validate::read).transpose()?;
    let model = arguments.model.as_deref().map(load_model).transpose()?;
    let bus = locate.bus().await?;
    let period = PeriodArgs::new(*since, *until).resolve(clock::now())?;
    let scenario = RecordedScenario::of_function(&bus, locate.platform().ok().as_ref(), function, period, profile).await?;
    let (competitors, seeds, threads) = (suite.suite.competitors.clone(), u64::from(suite.suite.seeds), arguments.run.threads());
    let began = clock::instant();
    let simulated = until_stopped("simulation", move |stop| {
        let mut bar = Bar::new();
        let runs = CurveRuns { competitors: &competitors, model: model.as_ref(), seeds, threads, stop };
        let show = |done, all| bar.show(StageProgress { stage: EvaluationStage::Test, done, all, known: 0 });
        let curves = runs.curves(&scenario.simulation, show);
        bar.finish();
        Ok((curves?, scenario))
    });
    let (curves, scenario) = simulated.await?;
    let curves = curves.context("stopped; nothing was written")?;
    let simulation = &scenario.simulation;
    let out = arguments.run.out(|| locate.state_dir.join("evaluations").join(format!("recorded-{}-{}", function.namespace, function.name)));
    let currency = simulation.currency().to_owned();
    write_curves(&out, &format!("Violations against cost of every setting: {function} as recorded"), &curves, &currency)?;
    output::line(simulated_ticks(&scenario))?;
    let runs = curves.iter().map(|curve| curve.points.len()).sum::<usize>() * seeds as usize;
    let report = CurveReport { curves, currency, runs, took: clock::since(began) };
    report::print_curves(&out, &report, &command(arguments), &["curves.svg", "curves.csv"])?;
    let recorded = scenario.recorded();
    let percent = recorded.violated_share().map_or_else(|| "unknown".to_owned(), |share| format!("{:.2} %", share * 100.0));
    let cost = recorded.cost_per_hour().map_or_else(|| "unknown".to_owned(), |cost| format!("{:.1}", cost * 1000.0));
    output::line(format_args!("recorded: violated {percent} of the ticks, cost {cost} {}/1000 h", output::clean(&report.currency)))?;
    output::line("assumptions")?;
    scenario.assumptions.iter().try_for_each(|assumption| output::line(format_args!("  {assumption}")))?;
    Ok(ExitCode::SUCCESS)
}
