//! What a simulated function runs: the `command` of its file, read as that of a program `simulated`. Owns its options, and finding the profile and
//! the load that they name.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use qscale_common::document::Format;
use qscale_common::platform::{FunctionSpec, OutOfRange};
use qscale_common::runtime::traces;
use qscale_common::workload::trace::{Keep, MinuteTrace};
use qscale_common::workload::{Gaps, Iat, Pattern, Scale};
use qscale_sim::{FunctionProfile, Load, ProfileScale, profiles};

/// The program that a function file of this platform names.
pub const PROGRAM: &str = "simulated";
/// Largest profile that is read, bytes.
const PROFILE_BYTES: u64 = 1 << 20;

/// A simulated function: what its requests ask for, and how many come.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = PROGRAM, disable_help_flag = true, disable_version_flag = true)]
struct Command {
    /// What requests and starts ask for: a profile by name, or a file (.toml, .yaml, .json)
    #[arg(long, value_name = "NAME|FILE", default_value = "fibonacci-python")]
    profile: String,
    /// Requests a second over time, as the load generator's --rate; none for no load
    #[arg(long, value_name = "PATTERN", default_value = "none", conflicts_with = "trace")]
    load: String,
    /// Gaps between the requests of a pattern: poisson, constant or uniform
    #[arg(long, value_name = "KIND", default_value_t)]
    gaps: Gaps,
    /// A trace, as a folder (InVitro, Azure 2019), instead of a pattern
    #[arg(long, value_name = "FOLDER")]
    trace: Option<PathBuf>,
    /// Which function of the trace, counted from 0
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    trace_function: usize,
    /// Where in its minute an invocation of the trace falls
    #[arg(long, value_name = "RULE", default_value_t)]
    iat: Iat,
    /// Seconds of the trace to play in one second
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    time_scale: f64,
    /// Requests for each invocation of the trace
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    rate_scale: f64,
    /// Share of a duration of the trace that is computed, 0 to 1; the rest is waited for others
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    cpu_share: f64,
    /// How many times as long as in the profile starts take
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    slower_starts: f64,
    /// How many times as long as in the profile requests compute
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    payload: f64,
    /// Times an hour that a running replica crashes
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    crashes_per_hour: f64,
    /// Seed of everything that is drawn; by default the function's name says it
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

/// What a function file asks for, found and checked.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What requests and starts ask for.
    pub profile: Arc<FunctionProfile>,
    /// What differs from the profile.
    pub scale: ProfileScale,
    /// Times an hour that a running replica crashes.
    pub crashes_per_hour: f64,
    /// The load; `None` for none.
    pub load: Option<Load>,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

impl Wanted {
    /// What `spec` asks for. Opens the files that it names; a trace that was opened last is used again.
    ///
    /// # Errors
    /// Names the option, its value and what it may be, as something wrong with `command`.
    pub fn new(spec: &FunctionSpec, last_trace: &mut Option<(PathBuf, Arc<MinuteTrace>)>) -> Result<Self, OutOfRange> {
        let wrong = |why: String| OutOfRange::new("command", format_args!("`{}`", spec.command.join(" ")), why);
        if spec.command.first().map(String::as_str) != Some(PROGRAM) {
            let form = format!("`{PROGRAM} --profile NAME --load PATTERN`: functions are simulated here, not run");
            return Err(wrong(form));
        }
        let command = Command::try_parse_from(&spec.command).map_err(|error| wrong(explained(&error)))?;
        for (option, factor) in [("payload", command.payload), ("slower-starts", command.slower_starts)] {
            if !(0.001..=1_000.0).contains(&factor) {
                return Err(wrong(format!("a command with --{option} from 0.001 to 1000, not {factor}")));
            }
        }
        if !(0.0..=3_600.0).contains(&command.crashes_per_hour) {
            return Err(wrong(format!("a command with --crashes-per-hour from 0 to 3600, not {}", command.crashes_per_hour)));
        }
        let profile = profile(&command.profile).map_err(&wrong)?;
        let load = command.load(last_trace).map_err(&wrong)?;
        Ok(Self {
            profile: Arc::new(profile),
            scale: ProfileScale { cpu: command.payload, startup: command.slower_starts },
            crashes_per_hour: command.crashes_per_hour,
            load,
            seed: command.seed.unwrap_or_else(|| fingerprint(spec.id().to_string().as_bytes())),
        })
    }
}

impl Command {
    fn load(&self, last_trace: &mut Option<(PathBuf, Arc<MinuteTrace>)>) -> Result<Option<Load>, String> {
        let Some(folder) = &self.trace else {
            if self.load == "none" {
                return Ok(None);
            }
            let pattern: Pattern = self.load.parse().map_err(|error: String| format!("a command whose --load can be read ({error})"))?;
            return Ok(Some(Load::Pattern { pattern, gaps: self.gaps }));
        };
        let scale =
            Scale::new(self.time_scale, self.rate_scale).map_err(|error| format!("a command whose scales are in range ({error})"))?;
        let trace = match last_trace {
            Some((path, trace)) if path == folder => Arc::clone(trace),
            _ => {
                let opened = traces::open_azure2019(folder, Keep::default(), 0);
                let trace = Arc::new(opened.map_err(|error| format!("a command whose --trace can be read ({error:#})"))?);
                *last_trace = Some((folder.clone(), Arc::clone(&trace)));
                trace
            }
        };
        let count = trace.functions.len();
        let function = trace.functions.get(self.trace_function).cloned().ok_or_else(|| {
            format!("a command whose --trace-function, {}, is below {count}, the number of functions in the trace", self.trace_function)
        })?;
        let trace = Arc::new(MinuteTrace { functions: vec![function], minutes: trace.minutes });
        Ok(Some(Load::Trace { trace, iat: self.iat, scale, cpu_share: self.cpu_share }))
    }
}

/// The profile of this name, or in this file.
fn profile(named: &str) -> Result<FunctionProfile, String> {
    let unknown = match profiles::by_name(named) {
        Ok(profile) => return Ok(profile),
        Err(unknown) => unknown,
    };
    let path = std::path::Path::new(named);
    let size = path.metadata().map(|file| file.len());
    match size {
        Err(_) => return Err(format!("a command whose --profile is known, or a file ({unknown})")),
        Ok(bytes) if bytes > PROFILE_BYTES => {
            return Err(format!("a command whose --profile has at most {PROFILE_BYTES} bytes, not {bytes}"));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("a command whose --profile can be read ({error})"))?;
    let read = Format::of(path).and_then(|format| FunctionProfile::read(&text, format));
    read.map_err(|error| format!("a command whose --profile can be read ({error})"))
}

/// The first line of what clap says, which names the option and its value.
fn explained(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    format!("one that can be read ({})", first.trim_start_matches("error: "))
}

/// A number that a name stands for (FNV-1a).
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(command: &str) -> Result<Wanted, String> {
        let words: Vec<String> = command.split(' ').map(|word| format!("{word:?}")).collect();
        let text = format!("name = \"f\"\ncommand = [{}]", words.join(", "));
        let spec = FunctionSpec::parse(&text, Format::Toml).expect("a function file");
        Wanted::new(&spec, &mut None).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refused(command: &str, reasons: &[&str]) {
        let error = wanted(command).expect_err(command);
        assert!(error.starts_with("command = ") && reasons.iter().all(|reason| error.contains(reason)), "{error}");
    }

    #[test]
    fn profile_and_load_are_found_by_name() {
        let found = wanted("simulated --profile fibonacci-python --load step:1@0s,9@5s --seed 7").expect("valid");
        assert_eq!((found.profile.name.as_str(), found.seed), ("fibonacci-python", 7));
        assert!(matches!(found.load, Some(Load::Pattern { pattern, .. }) if pattern.to_string() == "step:1@0s,9@5s"));
        assert!(wanted("simulated").expect("everything has a default").load.is_none());
    }

    #[test]
    fn what_cannot_be_simulated_is_refused_with_its_reason() {
        refused("python3 server.py", &["python3 server.py", "simulated --profile"]);
        refused("simulated --profile fibonaci-python", &["fibonaci-python", "fibonacci-python"]);
        refused("simulated --load step:x", &["step:x"]);
        refused("simulated --nosuch 1", &["--nosuch"]);
        refused("simulated --payload 0", &["--payload", "0.001 to 1000"]);
        refused("simulated --trace nosuch/folder", &["nosuch/folder"]);
    }

    #[test]
    fn functions_draw_differently_unless_told() {
        let seed = |name: &str| fingerprint(name.as_bytes());
        assert_ne!(seed("default/f-1"), seed("default/f-2"));
    }
}
