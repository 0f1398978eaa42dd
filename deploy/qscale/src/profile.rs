//! `qscale profile`: measures a function on the local platform and writes what the simulator needs of it. Owns the arguments and what is told; what is
//! measured belongs to [`measure`], what is made of it to [`fit`].

mod counters;
mod fit;
pub(crate) mod measure;
pub(crate) mod rig;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use qscale_common::document::Format;
use qscale_common::platform::FunctionSpec;
use qscale_common::runtime::{clock, shutdown};
use qscale_sim::FunctionProfile;
use serde_json::json;

use self::measure::{Effort, Measured, Steps};
use self::rig::{RequestForm, Rig};
use crate::show;
use crate::system::Locate;
use crate::up::plan::{function_spec, request_form};

/// What to measure.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale profile fibonacci --input name=30000 --out fibonacci.toml
  qscale profile my-function.toml --protocol http
  qscale profile --protocol http --command python3 server.py --port={port}

It starts a platform of its own (or uses the one that --platform names), gives the function one replica and generous limits, and takes at most two
minutes. The machine should have nothing else to do. What cannot be measured here is told, not guessed.")]
pub struct ProfileArgs {
    #[command(flatten)]
    pub subject: Subject,
    /// Write the profile to this file, .toml or .json; to standard output where it is not named
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Fewer starts and requests: some ten seconds
    #[arg(long)]
    pub quick: bool,
}

/// A function and how it is called.
#[derive(Debug, Args)]
pub struct Subject {
    /// Function: fibonacci, aes, faas, or a function file
    #[arg(value_name = "FUNCTION|FILE", default_value = "fibonacci", value_hint = clap::ValueHint::FilePath)]
    pub function: String,
    /// Program and arguments of a function without a file; {port} becomes its port. Must come last
    #[arg(long, value_name = "WORD", num_args = 1.., allow_hyphen_values = true, conflicts_with = "function")]
    pub command: Option<Vec<String>>,
    /// How requests are sent: relay, direct:SERVICE, faas, http; by default what suits the function
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// What each request asks for, such as name=30000 of fibonacci; may be repeated
    #[arg(long = "input", value_name = "FIELD=VALUE")]
    pub inputs: Vec<String>,
}

/// What a request to fibonacci asks for where nobody says: some milliseconds of CPU, so that a run of seconds holds many requests.
const FIBONACCI: &str = "name=25000";

impl Subject {
    /// The function's file and the form of its requests.
    pub fn resolve(&self) -> anyhow::Result<(FunctionSpec, RequestForm)> {
        let spec = match &self.command {
            Some(command) => self.of_command(command)?,
            None => function_spec(&self.function)?,
        };
        let (protocol, mut inputs) = request_form(&spec, self.protocol.as_deref(), &self.inputs);
        if self.inputs.is_empty() && protocol == "direct:fibonacci" {
            inputs = vec![FIBONACCI.to_owned()];
        }
        Ok((spec, RequestForm { protocol, inputs }))
    }

    fn of_command(&self, command: &[String]) -> anyhow::Result<FunctionSpec> {
        let protocol = if self.protocol.as_deref() == Some("http") { "http" } else { "grpc" };
        let program = command.first().and_then(|program| program.rsplit('/').next()).unwrap_or_default().to_lowercase();
        let label: String = program.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
        let name = label.trim_matches('-');
        let text = json!({ "name": if name.is_empty() { "function" } else { name }, "command": command, "protocol": protocol });
        FunctionSpec::parse(&text.to_string(), Format::Json).context("--command")
    }
}

/// Measures and writes.
pub async fn run(locate: &Locate, arguments: ProfileArgs) -> anyhow::Result<()> {
    let format = arguments.out.as_deref().map(Format::of).transpose().context("--out")?;
    anyhow::ensure!(format != Some(Format::Yaml), "--out: a profile is written as .toml or .json");
    let (spec, form) = arguments.subject.resolve()?;
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let token = shutdown::token();
    let mut rig = Rig::start(locate, &spec, form).await?;
    let steps = Steps::new();
    let measured = tokio::select! {
        measured = measure::measure(&mut rig, effort, &steps) => measured,
        () = token.cancelled() => Err(anyhow::anyhow!("stopped; nothing is written")),
    };
    steps.end();
    rig.stop().await;
    let (profile, remarks) = made(spec.name.as_str(), &measured?);
    remarks.iter().for_each(show::warn);
    let text = if format == Some(Format::Json) { profile.to_json() + "\n" } else { profile.to_toml() };
    match &arguments.out {
        Some(path) => std::fs::write(path, text).with_context(|| path.display().to_string())?,
        None => show::line(text.trim_end())?,
    }
    eprintln!("{}", described(&profile));
    Ok(())
}

/// The profile of what was measured, and what must be said of it.
pub fn made(name: &str, measured: &Measured) -> (FunctionProfile, Vec<String>) {
    fit::profile(name, &show::day(clock::wall()), measured)
}

/// A profile in a line.
pub fn described(profile: &FunctionProfile) -> String {
    let ms = |distribution: &qscale_sim::Distribution| show::latency(distribution.mean().seconds() * 1000.0);
    let workers = match profile.workers {
        0 => "any number of requests".to_owned(),
        1 => "one request".to_owned(),
        workers => format!("{workers} requests"),
    };
    format!(
        "{}: a request computes {} and waits {}; a start computes {} and waits {}; {workers} at once on {} core{}; {} MiB",
        profile.name,
        ms(&profile.cpu),
        ms(&profile.waiting),
        ms(&profile.startup.cpu),
        ms(&profile.startup.waiting),
        profile.parallelism,
        if profile.parallelism == 1 { "" } else { "s" },
        profile.memory.base_mib.0
    )
}
