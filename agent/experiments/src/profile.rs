//! Profiles: measures a function on the local platform to simulate it. Owns which function is measured and how it is
//! called; the measurements belong to [`measure`], the conclusions to [`fit`].

mod counters;
mod fit;
pub mod measure;
pub mod testbed;

use anyhow::Context;
use qscale_common::document::Format;
use qscale_common::platform::FunctionSpec;
use qscale_common::runtime::clock;
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::text;
use qscale_sim::FunctionProfile;
use qscale_up::RequestForm;
use qscale_up::plan::{function_spec, request_form};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::measure::{Measurements, ProfileBudget};
use self::testbed::Testbed;

/// A function and the form of its requests.
#[derive(Debug, Clone)]
pub struct FunctionUnderTest {
    /// A function by name or file: see [`function_spec`].
    pub function: String,
    /// Program and arguments of a function without a file.
    pub command: Option<Vec<String>>,
    /// Protocol of the requests; `None` for the function's default.
    pub protocol: Option<String>,
    /// Fields of each request.
    pub inputs: Vec<String>,
}

/// Default input of fibonacci: a few milliseconds of CPU, so that a run of seconds has many requests.
const FIBONACCI: &str = "name=25000";

impl FunctionUnderTest {
    /// The function file and the form of the requests.
    ///
    /// # Errors
    /// When the function is unknown or its file is invalid.
    pub fn resolve(&self) -> anyhow::Result<(FunctionSpec, RequestForm)> {
        let spec = match &self.command {
            Some(command) => self.of_command(command)?,
            None => function_spec(&self.function)?,
        };
        let mut form = request_form(&spec, self.protocol.as_deref(), &self.inputs);
        if self.inputs.is_empty() && form.protocol == "direct:fibonacci" {
            form.inputs = vec![FIBONACCI.to_owned()];
        }
        Ok((spec, form))
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

/// Measures the function and returns its profile with remarks on it; `None` once `token` is cancelled.
/// `begin` is called with the index of each of [`measure::STEPS`]. Uses the platform at `platform`, or starts one.
///
/// # Errors
/// When the function, the platform or the load generator does not start, or no request is answered.
pub async fn profile(
    platform: Option<PlatformClient>,
    subject: &FunctionUnderTest,
    budget: ProfileBudget,
    begin: &dyn Fn(usize),
    token: &CancellationToken,
) -> anyhow::Result<Option<(FunctionProfile, Vec<String>)>> {
    let (spec, form) = subject.resolve()?;
    let mut testbed = Testbed::start(platform, &spec, form).await?;
    let measured = tokio::select! {
        measured = measure::measure(&mut testbed, budget, begin) => Some(measured),
        () = token.cancelled() => None,
    };
    testbed.stop().await;
    measured.map(|measured| Ok(profile_of(spec.name.as_str(), &measured?))).transpose()
}

/// The profile of these measurements, with remarks on their limits.
pub fn profile_of(name: &str, measured: &Measurements) -> (FunctionProfile, Vec<String>) {
    fit::profile(name, &text::day(clock::wall()), measured)
}

/// A profile in one line.
pub fn describe(profile: &FunctionProfile) -> String {
    let ms = |distribution: &qscale_sim::Distribution| text::latency(distribution.mean().seconds() * 1000.0);
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
