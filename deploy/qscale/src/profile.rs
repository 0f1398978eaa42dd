//! `qscale profile`. Owns options and the written profile; measuring belongs to `qscale_experiments`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qscale_common::document::Format;
use qscale_common::runtime::shutdown;
use qscale_experiments::profile::measure::{ProfileBudget, STEPS};
use qscale_experiments::profile::{FunctionUnderTest, describe, profile};

use crate::output;
use crate::system::Locate;

/// Measure a function on the local platform, and write its profile for the simulator.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale profile fibonacci --input name=30000 --out fibonacci.toml
  qscale profile my-function.toml --protocol http
  qscale profile --protocol http --command python3 server.py --port={port}

Starts a platform (or uses that of --platform), gives the function one replica and generous limits, and takes at most two minutes. The machine should be idle.
Properties that cannot be measured here are reported, not guessed.")]
pub struct ProfileArgs {
    #[command(flatten)]
    pub subject: FunctionArgs,
    /// File for the profile, .toml or .json [default: standard output]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Fewer starts and requests: about ten seconds
    #[arg(long)]
    pub quick: bool,
}

/// A function and the form of its requests.
#[derive(Debug, Args)]
pub struct FunctionArgs {
    /// Function: fibonacci, aes, faas, or a function file
    #[arg(value_name = "FUNCTION|FILE", default_value = "fibonacci", value_hint = clap::ValueHint::FilePath)]
    pub function: String,
    /// Program and arguments of a function without a file; {port} is replaced by its port. Must be the last option
    #[arg(long, value_name = "WORD", num_args = 1.., allow_hyphen_values = true, conflicts_with = "function")]
    pub command: Option<Vec<String>>,
    /// Protocol of the requests: relay, direct:SERVICE, faas, http; the default depends on the function
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// Field of each request, such as name=30000 for fibonacci; repeatable
    #[arg(long = "input", value_name = "FIELD=VALUE")]
    pub inputs: Vec<String>,
}

impl From<FunctionArgs> for FunctionUnderTest {
    fn from(arguments: FunctionArgs) -> Self {
        let FunctionArgs { function, command, protocol, inputs } = arguments;
        Self { function, command, protocol, inputs }
    }
}

/// Measures and writes.
pub async fn run(locate: &Locate, arguments: ProfileArgs) -> anyhow::Result<()> {
    let format = arguments.out.as_deref().map(Format::of).transpose().context("--out")?;
    anyhow::ensure!(format != Some(Format::Yaml), "--out: the file must end in .toml or .json");
    let budget = if arguments.quick { ProfileBudget::QUICK } else { ProfileBudget::FULL };
    let bar = steps();
    let begin = |step| show_step(&bar, step);
    let measured = profile(locate.given_platform()?, &arguments.subject.into(), budget, &begin, &shutdown::token()).await;
    bar.finish_and_clear();
    let measured = measured?;
    let (profile, remarks) = measured.context("stopped; no profile was written")?;
    remarks.iter().for_each(output::warn);
    let text = if format == Some(Format::Json) { profile.to_json() + "\n" } else { profile.to_toml() };
    match &arguments.out {
        Some(path) => std::fs::write(path, text).with_context(|| path.display().to_string())?,
        None => output::line(text.trim_end())?,
    }
    output::note(describe(&profile));
    Ok(())
}

/// A bar for the steps of a measurement.
pub fn steps() -> ProgressBar {
    let bar = ProgressBar::new(STEPS.len() as u64);
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} ({elapsed})");
    bar.set_style(style.expect("the template is valid"));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// Shows that one of [`STEPS`] begins.
pub fn show_step(bar: &ProgressBar, step: usize) {
    bar.set_position(step as u64);
    bar.set_message(STEPS[step]);
}
