//! Inputs of a simulation. Owns opening the profile and the trace named in a function file; [`SimulatedFunction`] declares the fields.

use std::path::PathBuf;
use std::sync::Arc;

use qscale_common::hash::fnv1a;
use qscale_common::platform::{FunctionSpec, SimulatedFunction, SimulatedTrace};
use qscale_common::range::OutOfRange;
use qscale_common::runtime::files::read_document;
use qscale_common::runtime::traces::{OpenedTrace, open_trace};
use qscale_common::workload::Scale;
use qscale_common::workload::trace::{Keep, Trace};
use qscale_sim::{FunctionProfile, ProfileScale, SimulatedLoad, profiles};

/// The trace that was opened last, with its folder: functions of one trace share it.
pub type LastTrace = Option<(PathBuf, Arc<Trace>)>;

/// A simulated function, its profile and load found and checked.
#[derive(Debug, Clone)]
pub struct SimulationInputs {
    /// Demands of requests and starts.
    pub profile: Arc<FunctionProfile>,
    /// Factors on the profile.
    pub scale: ProfileScale,
    /// Crashes of a running replica per hour.
    pub crashes_per_hour: f64,
    /// The load; `None` for none.
    pub load: Option<SimulatedLoad>,
    /// Seed of arrivals, demands and starts.
    pub seed: u64,
}

impl SimulationInputs {
    /// Opens the files that `spec` names; a trace that was opened last is used again.
    ///
    /// # Errors
    /// Names the field of `spec`, its value and what it may be.
    pub fn new(spec: &FunctionSpec, last_trace: &mut LastTrace) -> Result<Self, OutOfRange> {
        let Some(SimulatedFunction { profile, load, gaps, trace, slower_starts, payload, crashes_per_hour, seed }) = &spec.simulated else {
            return Err(OutOfRange::new("simulated", "absent", "given: functions are simulated here, not run"));
        };
        let found = self::profile(profile).map_err(|why| OutOfRange::new("simulated.profile", profile, why))?;
        let load = match (trace, load) {
            (Some(trace), _) => Some(load_of(trace, last_trace)?),
            (None, Some(pattern)) => Some(SimulatedLoad::Pattern { pattern: pattern.clone(), gaps: *gaps }),
            (None, None) => None,
        };
        Ok(Self {
            profile: Arc::new(found),
            scale: ProfileScale { cpu: *payload, startup: *slower_starts },
            crashes_per_hour: *crashes_per_hour,
            load,
            seed: seed.unwrap_or_else(|| fnv1a(spec.id().to_string().bytes())),
        })
    }
}

fn load_of(trace: &SimulatedTrace, last_trace: &mut LastTrace) -> Result<SimulatedLoad, OutOfRange> {
    let SimulatedTrace { folder, function, iat, time_scale, rate_scale, cpu_share } = trace;
    let scale = Scale::new(*time_scale, *rate_scale).map_err(|error| {
        OutOfRange::new("simulated.trace", format_args!("{time_scale}, {rate_scale}"), format_args!("in range ({error})"))
    })?;
    let trace = match last_trace {
        Some((path, trace)) if path == folder => Arc::clone(trace),
        _ => {
            let opened = open_trace(folder, Keep::default(), 0);
            let unreadable =
                |error| OutOfRange::new("simulated.trace.folder", folder.display(), format_args!("a trace that can be read ({error:#})"));
            let OpenedTrace { trace, description } = opened.map_err(unreadable)?;
            tracing::info!("{description}");
            let trace = Arc::new(trace);
            *last_trace = Some((folder.clone(), Arc::clone(&trace)));
            trace
        }
    };
    let one = trace.of_function(*function).ok_or_else(|| {
        let count = trace.functions();
        OutOfRange::new("simulated.trace.function", function, format_args!("below {count}, the number of functions in the trace"))
    })?;
    one.check_rate(*rate_scale)
        .map_err(|error| OutOfRange::new("simulated.trace.rate_scale", rate_scale, format_args!("smaller ({error})")))?;
    Ok(match one {
        Trace::Minutes(trace) => SimulatedLoad::Trace { trace: Arc::new(trace), iat: *iat, scale, cpu_share: *cpu_share },
        Trace::Rows(trace) => SimulatedLoad::Rows { trace: Arc::new(trace), scale, cpu_share: *cpu_share },
    })
}

/// The profile of this name, or in this file.
fn profile(named: &str) -> Result<FunctionProfile, String> {
    let unknown = match profiles::by_name(named) {
        Ok(profile) => return Ok(profile),
        Err(unknown) => unknown,
    };
    let path = std::path::Path::new(named);
    if !path.exists() {
        return Err(format!("a known profile, or a file ({unknown})"));
    }
    let (text, format) = read_document(path).map_err(|error| format!("a file that can be read ({error:#})"))?;
    FunctionProfile::read(&text, format).map_err(|error| format!("a file that can be read ({error})"))
}

#[cfg(test)]
mod tests {
    use qscale_common::document::Format;
    use qscale_common::name::Name;

    use super::*;

    fn inputs(simulated: SimulatedFunction) -> Result<SimulationInputs, OutOfRange> {
        SimulationInputs::new(&FunctionSpec::of_simulated(Name::new("f").expect("valid"), simulated), &mut None)
    }

    #[test]
    fn profile_and_load_are_found_by_name() {
        let load = Some("step:1@0s,9@5s".parse().expect("a pattern"));
        let found = inputs(SimulatedFunction { load, seed: Some(7), ..SimulatedFunction::default() }).expect("valid");
        assert_eq!((found.profile.name.as_str(), found.seed), ("fibonacci-python", 7));
        assert!(matches!(found.load, Some(SimulatedLoad::Pattern { pattern, .. }) if pattern.to_string() == "step:1@0s,9@5s"));
        assert!(inputs(SimulatedFunction::default()).expect("everything has a default").load.is_none());
    }

    #[test]
    fn a_function_that_cannot_be_simulated_is_refused_naming_the_field() {
        let spec = FunctionSpec::parse("name = \"f\"\ncommand = [\"python3\"]", Format::Toml).expect("a function file");
        assert_eq!(SimulationInputs::new(&spec, &mut None).expect_err("not simulated").field, "simulated");
        let error = inputs(SimulatedFunction { profile: "fibonaci-python".into(), ..SimulatedFunction::default() }).expect_err("unknown");
        assert_eq!((error.field.as_str(), error.value.as_str()), ("simulated.profile", "fibonaci-python"));
        assert!(error.range.contains("fibonacci-python"), "{error}");
        let trace = Some(SimulatedTrace::new("nosuch/folder".into(), 0));
        let error = inputs(SimulatedFunction { trace, ..SimulatedFunction::default() }).expect_err("no such folder");
        assert_eq!((error.field.as_str(), error.value.as_str()), ("simulated.trace.folder", "nosuch/folder"));
    }

    #[test]
    fn a_trace_of_either_kind_is_the_load() {
        let folder = qscale_tests::Folder::new("traces");
        let path = folder.path().join("AzureFunctionsInvocationTraceForTwoWeeksJan2021.txt");
        std::fs::write(&path, "app,func,end_timestamp,duration\na,f,10,1\na,g,20,2\na,g,30,2\n").expect("written");
        let load = |function: usize| {
            let trace = Some(SimulatedTrace::new(path.clone(), function));
            inputs(SimulatedFunction { trace, ..SimulatedFunction::default() }).map(|found| found.load)
        };
        let Ok(Some(SimulatedLoad::Rows { trace, .. })) = load(1) else { panic!("another load") };
        assert_eq!((trace.functions.as_slice(), trace.rows.len()), (["g".to_owned()].as_slice(), 2));
        let error = load(2).expect_err("two functions");
        assert_eq!(
            (error.field.as_str(), error.range.as_str()),
            ("simulated.trace.function", "below 2, the number of functions in the trace")
        );
    }

    #[test]
    fn functions_without_a_seed_draw_differently() {
        let seed = |name: &str| {
            let spec = FunctionSpec::of_simulated(Name::new(name).expect("valid"), SimulatedFunction::default());
            SimulationInputs::new(&spec, &mut None).expect("valid").seed
        };
        assert_ne!(seed("f-1"), seed("f-2"));
    }
}
