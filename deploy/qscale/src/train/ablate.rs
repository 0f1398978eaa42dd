//! `qscale ablate`. Owns options and the printed table.

use std::process::ExitCode;

use clap::Args;
use qscale_common::runtime::cancellable::until_stopped;
use qscale_experiments::train::ablate::{self, AblateOptions, VARIANTS};

use super::{count, progress};
use crate::output::{self, Table, TableCell, Tone};
use crate::run_options::RunOptions;
use crate::system::Locate;

/// Measure the effect of each part of training: the default training configuration, and variants that change one part.
///
/// All variants are trained with the same seeds and number of ticks, and evaluated in the same worlds. The folder of
/// --out contains a training for each variant and seed, and the table as ablations.json and ablations.csv. After
/// Ctrl-C, run the same command to resume.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale ablate                              all variants
  qscale ablate --only dueling --only rollouts --ticks 5M --seeds 5")]
pub struct AblateArgs {
    /// Only this variant; repeatable
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(VARIANTS.map(|(name, ..)| name)))]
    only: Vec<String>,
    /// Ticks of simulated functions for each model
    #[arg(long, value_name = "NUMBER", value_parser = count, default_value = "2M")]
    ticks: u64,
    /// Number of models per variant
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    seeds: u32,
    #[command(flatten)]
    run: RunOptions,
}

/// Trains every variant, and prints the results.
pub async fn run(locate: &Locate, arguments: AblateArgs) -> anyhow::Result<ExitCode> {
    let options = AblateOptions {
        out: arguments.run.out(|| locate.state_dir.join("ablations")),
        only: arguments.only,
        ticks: arguments.ticks,
        seeds: arguments.seeds,
        threads: arguments.run.threads(),
        resume: arguments.run.resume,
        overwrite: arguments.run.overwrite,
    };
    let work = options.clone();
    let Some(lines) = until_stopped("ablation", move |stop| ablate::ablate(&work, &progress::show(), stop)).await? else {
        output::note(format_args!("stopped; run the same command to resume from {}", options.out.display()));
        return Ok(ExitCode::from(130));
    };
    if arguments.run.json {
        return output::json(&ablate::to_json(&options, &lines)).map(|()| ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["VARIANT", "", "REWARD", "WORST", "VIOLATED", "COST", "SECONDS"]);
    for line in &lines {
        let cell = |text: String| TableCell::new(text, Tone::Plain);
        table.row([
            cell(line.name.clone()),
            cell(line.what.clone()),
            cell(format!("{:.4}", line.test.mean.reward)),
            cell(format!("{:.4}", line.rewards.iter().copied().fold(f64::INFINITY, f64::min))),
            cell(format!("{:.2} %", line.test.mean.violation * 100.0)),
            cell(format!("{:.3}", line.test.mean.cost)),
            cell(format!("{:.0}", line.seconds)),
        ]);
    }
    output::line(table.render().trim_end())?;
    output::line(format!(
        "means over {} seeds in the same test worlds, {} ticks each; see {}",
        options.seeds,
        options.ticks,
        options.out.join("ablations.csv").display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
