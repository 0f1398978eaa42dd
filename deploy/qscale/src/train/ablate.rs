//! `qscale ablate`. Owns options and the printed table.

use std::process::ExitCode;

use clap::Args;
use qscale_common::runtime::cancellable::until_stopped;
use qscale_experiments::train::ablate::{self, AblateOptions, VARIANTS};

use super::{count, progress};
use crate::run_options::RunOptions;
use crate::show::{self, Cell, Paint, Table, Tone};
use crate::system::Locate;

/// Say what each part of training is worth: the recipe as it is, and with one part left out or changed at a time.
///
/// Every variant is trained with the same seeds for as many ticks, and judged in the same worlds. The folder of --out holds a training for each variant and seed,
/// and the table as ablations.json and ablations.csv. Ctrl-C keeps what is done; the same command goes on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale ablate                              every variant
  qscale ablate --only dueling --only rollouts --ticks 5M --seeds 5")]
pub struct AblateArgs {
    /// Only this variant; may be repeated
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(VARIANTS.map(|(name, ..)| name)))]
    only: Vec<String>,
    /// Ticks of simulated functions that each model lives through
    #[arg(long, value_name = "NUMBER", value_parser = count, default_value = "2M")]
    ticks: u64,
    /// Models of each variant
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
        eprintln!("stopped; {} keeps what was learned, and the same command goes on from there", options.out.display());
        return Ok(ExitCode::from(130));
    };
    if arguments.run.json {
        return show::json(&ablate::to_json(&options, &lines)).map(|()| ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["VARIANT", "", "REWARD", "WORST", "VIOLATED", "COST", "SECONDS"]);
    for line in &lines {
        let cell = |text: String| Cell::new(text, Tone::Plain);
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
    show::line(table.render(Paint::of_terminal()).trim_end())?;
    show::line(format!(
        "means over {} seeds in the same test worlds, {} ticks each; {}",
        options.seeds,
        options.ticks,
        options.out.join("ablations.csv").display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
