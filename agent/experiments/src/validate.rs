//! Validation of the simulator: the same function under the same load, simulated and on the local platform. Owns the
//! order of the runs; must not print results.

pub mod compare;
pub mod machine;
mod real;
pub mod scenario;
mod simulated;

use std::time::Duration;

use anyhow::{Context, ensure};
use qscale_common::name::FunctionId;
use qscale_common::runtime::platform::PlatformClient;
use qscale_sim::FunctionProfile;
use tokio_util::sync::CancellationToken;

use self::compare::ScenarioComparison;
use self::scenario::Scenario;
use crate::profile::measure::ProfileBudget;
use crate::profile::testbed::Testbed;
use crate::profile::{self, FunctionUnderTest, measure};

/// Attempts at a scenario whose load the generator could not send on schedule.
pub const TRIES: u32 = 3;

/// Options of a validation.
#[derive(Debug, Clone)]
pub struct ValidateOptions {
    /// The function.
    pub subject: FunctionUnderTest,
    /// Its profile; measured first if it is `None`.
    pub profile: Option<FunctionProfile>,
    /// Amount of measuring for a profile.
    pub budget: ProfileBudget,
    /// Length of each scenario, at least a second.
    pub length: Duration,
    /// Names of scenarios; empty for all.
    pub scenarios: Vec<String>,
    /// Seed of the arrivals.
    pub seed: u64,
}

/// A step of a validation, for a caller that shows progress.
#[derive(Debug, Clone, Copy)]
pub enum ValidationStep {
    /// One of [`measure::STEPS`] begins.
    Measuring(usize),
    /// A scenario begins.
    Scenario {
        /// Its name.
        name: &'static str,
        /// Its index.
        index: usize,
        /// Number of scenarios.
        all: usize,
    },
}

/// The result of a validation.
#[derive(Debug)]
pub struct Validation {
    /// The function.
    pub function: FunctionId,
    /// Its profile.
    pub profile: FunctionProfile,
    /// Remarks on the measured profile.
    pub remarks: Vec<String>,
    /// One comparison a scenario.
    pub comparisons: Vec<ScenarioComparison>,
}

/// Runs every scenario; `None` once `token` is cancelled. Uses `platform`, or starts one.
///
/// # Errors
/// When CPU cannot be limited here, or the function, the platform or the load generator fails.
pub async fn validate(
    platform: Option<PlatformClient>,
    options: &ValidateOptions,
    progress: &dyn Fn(ValidationStep),
    token: &CancellationToken,
) -> anyhow::Result<Option<Validation>> {
    let (spec, form) = options.subject.resolve()?;
    let mut testbed = Testbed::start(platform, &spec, form.clone()).await?;
    let work = async {
        let (profile, remarks) = match &options.profile {
            Some(profile) => (profile.clone(), Vec::new()),
            None => {
                let begin = |step| progress(ValidationStep::Measuring(step));
                profile::profile_of(spec.name.as_str(), &measure::measure(&mut testbed, options.budget, &begin).await?)
            }
        };
        ensure!(testbed.vertical, "cgroups are not writable, so CPU limits cannot be compared with the simulator's; see `qscale doctor`");
        testbed.replace(&spec, form, scenario::RESTING).await?;
        let comparisons = compare_all(&mut testbed, options, &profile, progress).await?;
        Ok(Validation { function: spec.id(), profile, remarks, comparisons })
    };
    let done = tokio::select! {
        done = work => done.map(Some),
        () = token.cancelled() => Ok(None),
    };
    testbed.stop().await;
    done
}

async fn compare_all(
    testbed: &mut Testbed,
    options: &ValidateOptions,
    profile: &FunctionProfile,
    progress: &dyn Fn(ValidationStep),
) -> anyhow::Result<Vec<ScenarioComparison>> {
    let all = scenario::all(profile, options.length);
    let wanted = |scenario: &Scenario| options.scenarios.is_empty() || options.scenarios.iter().any(|name| name == scenario.name);
    let chosen: Vec<Scenario> = all.into_iter().filter(wanted).collect();
    let mut comparisons = Vec::new();
    let all = chosen.len();
    for (index, scenario) in chosen.into_iter().enumerate() {
        progress(ValidationStep::Scenario { name: scenario.name, index, all });
        let mut attempt = 1;
        let real = loop {
            let real =
                real::run(testbed, &scenario, options.length, options.seed).await.with_context(|| format!("scenario {}", scenario.name))?;
            if real.void.is_none() || attempt == TRIES {
                break real;
            }
            attempt += 1;
        };
        let simulated = simulated::run(profile, testbed.spec(), &scenario, &real);
        comparisons.push(ScenarioComparison { scenario, real, simulated });
    }
    Ok(comparisons)
}
