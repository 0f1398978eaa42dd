//! The table of vSwarm's functions, and the profile of a row. Owns the assumptions about languages.

use qscale_common::units::Mebibytes;

use crate::distribution::Distribution;
use crate::nanos::Nanos;
use crate::profile::{FunctionProfile, MemoryProfile, Startup};

const TABLE: &str = include_str!("../../profiles/vswarm.csv");

/// Factor of the spread of single requests over the published spread.
///
/// The published percentiles are of running means, as 2.86, 2.97, 2.98, 2.99 converging to 3. Running means of about
/// 130 independent requests spread a fifth as wide as the requests; with drift alone they spread as wide. The data do
/// not show which, so the factor is the geometric middle of 1 and 5.
const WIDENED: f64 = 2.24;
/// Standard deviations between the 5th and the 95th percentile of a normal distribution.
const DEVIATIONS: f64 = 3.29;

/// Language of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// CPython behind a gRPC server with one worker, as in vSwarm.
    Python,
    /// Node: one thread, any number of requests.
    Node,
    /// Go: a goroutine a request.
    Go,
    /// The JVM.
    Java,
    /// .NET.
    CSharp,
}

impl Language {
    /// The language of a word in the table.
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "python" => Language::Python,
            "node" => Language::Node,
            "go" => Language::Go,
            "java" => Language::Java,
            "csharp" => Language::CSharp,
            _ => return None,
        })
    }

    /// Its word in the table.
    pub fn word(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::Node => "node",
            Language::Go => "go",
            Language::Java => "java",
            Language::CSharp => "csharp",
        }
    }

    /// CPU of a pod without requests, thousandths of a core; `None` if unknown. Python's servers poll, Go and Node sleep.
    pub fn idle_millicores(self) -> Option<f64> {
        match self {
            Language::Python => Some(48.4),
            Language::Node | Language::Go => Some(3.0),
            Language::Java | Language::CSharp => None,
        }
    }

    /// Requests and cores at once. Sixteen cores stand for all cores of a node.
    fn workers(self) -> (u32, u32) {
        match self {
            Language::Python => (1, 1),
            Language::Node => (0, 1),
            Language::Go | Language::Java | Language::CSharp => (0, 16),
        }
    }

    /// CPU time and waiting of a start: medians, milliseconds, and the sigma of both.
    ///
    /// Python and Node: measured with vSwarm's functions, 0.5 to 0.9 s and 0.5 to 1.1 s from process start to first
    /// reply on whole cores. The others are assumed.
    fn startup(self) -> (u64, u64, f64) {
        match self {
            Language::Python => (450, 250, 0.15),
            Language::Node => (500, 250, 0.2),
            Language::Go => (20, 30, 0.2),
            Language::Java => (1500, 500, 0.2),
            Language::CSharp => (500, 300, 0.2),
        }
    }

    fn startup_source(self) -> &'static str {
        match self {
            Language::Python | Language::Node => "its start as measured of vSwarm's functions of the language",
            Language::Go | Language::Java | Language::CSharp => "its start assumed",
        }
    }
}

/// One variant of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct VswarmVariant {
    /// `<function>-<lower>-<upper>`: the bounds of the relay's input.
    pub name: &'static str,
    language: Language,
    /// 5th, 50th and 95th percentile of the duration, milliseconds.
    duration_ms: [f64; 3],
    /// CPU time of a request, milliseconds; `None` if not significant.
    cpu_ms: Option<f64>,
    memory_mib: f64,
}

/// All rows.
pub fn rows() -> impl Iterator<Item = VswarmVariant> {
    TABLE.lines().skip(1).map(|line| VswarmVariant::parse(line).expect("a test reads every row of the table"))
}

impl VswarmVariant {
    fn parse(line: &'static str) -> Option<Self> {
        let cells: [&str; 10] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
        let [name, language, p5, _, p50, _, p95, _, cpu_ms, memory_mib] = cells;
        Some(Self {
            name,
            language: Language::of_word(language)?,
            duration_ms: [p5.parse().ok()?, p50.parse().ok()?, p95.parse().ok()?],
            cpu_ms: if cpu_ms.is_empty() { None } else { Some(cpu_ms.parse().ok()?) },
            memory_mib: memory_mib.parse().ok()?,
        })
    }

    /// The profile. The duration without CPU time is waiting; a request without a significant CPU time is assumed to
    /// compute throughout. A request that computes on several cores at once has all of its CPU time on one core, which
    /// gives the right duration for limits up to one core.
    pub fn profile(&self) -> FunctionProfile {
        let [p5, p50, p95] = self.duration_ms;
        // Three digits, the precision of the figures.
        let sigma = ((p95 / p5).ln() / DEVIATIONS * WIDENED * 1000.0).round().clamp(0.0, 5000.0) / 1000.0;
        let spread = |median_ms: f64| match median_ms {
            nothing if nothing <= 0.0 => Distribution::ZERO,
            median => log_normal(median, sigma),
        };
        let (cpu_ms, basis) = match self.cpu_ms {
            Some(cpu_ms) => (cpu_ms, "CPU time above that of an idle pod"),
            None => (p50, "too short to measure its CPU time, assumed to compute throughout"),
        };
        let source = format!("vSwarm's profiler (vhive-serverless/invitro): {basis}; {}", self.language.startup_source());
        profile(self.name, source, self.language, [spread(cpu_ms), spread(p50 - cpu_ms)], self.memory_mib)
    }
}

/// vSwarm's function that only waits, for calls of a store or another function. Round trip and memory are those of the
/// smallest Go function.
pub fn sleeping() -> FunctionProfile {
    const SLEEP_MS: f64 = 50.0;
    const ROUND_TRIP_MS: f64 = 0.71;
    const MEMORY_MIB: f64 = 23.6;
    let source =
        "vSwarm's sleeping, which waits 50 ms; round trip and memory of aes-go-10-10 in vSwarm's profiler; its start assumed".to_owned();
    profile("sleeping", source, Language::Go, [log_normal(ROUND_TRIP_MS, 0.2), log_normal(SLEEP_MS, 0.02)], MEMORY_MIB)
}

fn profile(name: &str, source: String, language: Language, [cpu, waiting]: [Distribution; 2], memory_mib: f64) -> FunctionProfile {
    let (workers, parallelism) = language.workers();
    let (start_cpu, start_waiting, sigma) = language.startup();
    FunctionProfile {
        cpu,
        waiting,
        startup: Startup { cpu: log_normal(start_cpu as f64, sigma), waiting: log_normal(start_waiting as f64, sigma) },
        workers,
        parallelism,
        memory: MemoryProfile { base_mib: Mebibytes(memory_mib.round() as u32), ..MemoryProfile::default() },
        ..FunctionProfile::simple(name, Distribution::ZERO).with_source(source)
    }
}

fn log_normal(median_ms: f64, sigma: f64) -> Distribution {
    Distribution::log_normal(Nanos::from_seconds(median_ms / 1000.0), sigma).expect("a sigma within its range")
}
