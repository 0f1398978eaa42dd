//! Runs a list of invocations through DSLab-FaaS: `comparison-dslab INVOCATIONS KEEP_ALIVE_S STARTUP_S`. Prints one line of JSON.
//!
//! One host without limits, one invocation a container, CPU contention ignored (DSLab's default and its fastest), its
//! own fixed keep-alive, restarted after every invocation. Reading the list is not timed; passing it to the simulation
//! is, because the simulation stores it.

use std::time::Duration;

use dslab_faas::coldstart::FixedTimeColdStartPolicy;
use dslab_faas::config::Config;
use dslab_faas::cpu::IgnoredCpuPolicy;
use dslab_faas::resource::ResourceProvider;
use dslab_faas::simulation::ServerlessSimulation;
use dslab_faas::trace::{ApplicationData, RequestData, Trace};
use simcore::simulation::Simulation;

struct Invocations {
    functions: usize,
    startup: f64,
    requests: Vec<RequestData>,
}

impl Trace for Invocations {
    fn app_iter(&self) -> Box<dyn Iterator<Item = ApplicationData> + '_> {
        let app = ApplicationData::new(1, self.startup, 1.0, vec![("mem".to_string(), 1)]);
        Box::new(std::iter::repeat(app).take(self.functions))
    }

    fn request_iter(&self) -> Box<dyn Iterator<Item = RequestData> + '_> {
        Box::new(self.requests.iter().copied())
    }

    fn function_iter(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        Box::new(0..self.functions)
    }

    fn is_ordered_by_time(&self) -> bool {
        true
    }

    fn simulation_end(&self) -> Option<f64> {
        None
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, list, keep_alive, startup] = &arguments[..] else { panic!("usage: comparison-dslab INVOCATIONS KEEP_ALIVE_S STARTUP_S") };
    let text = std::fs::read_to_string(list).expect("the list of invocations");
    let requests: Vec<RequestData> = text.lines().map(request).collect();
    drop(text);
    let functions = requests.iter().map(|request| request.id + 1).max().unwrap_or(0);
    let trace = Invocations { functions, startup: startup.parse().expect("seconds"), requests };
    let before = memory_kib("VmRSS:");

    let begin = cpu_time();
    let config = Config {
        cpu_policy: Box::<IgnoredCpuPolicy>::default(),
        coldstart_policy: Box::new(FixedTimeColdStartPolicy::new(keep_alive.parse().expect("seconds"), 0.0, true)),
        ..Default::default()
    };
    let mut simulation = ServerlessSimulation::new(Simulation::new(1), config);
    let memory = simulation.create_resource("mem", u64::MAX / 2);
    simulation.add_host(None, ResourceProvider::new(vec![memory]), 4);
    simulation.load_trace(&trace);
    simulation.step_until_no_events();
    let spent = (cpu_time() - begin).as_secs_f64();

    let held = memory_kib("VmHWM:") - before;
    let stats = simulation.invocation_stats();
    // What an invocation takes beyond its duration, and the durations: together the latency.
    let durations: f64 = trace.requests.iter().map(|request| request.duration).sum();
    let latency = (stats.abs_total_slowdown.sum() + durations) / stats.invocations as f64;
    println!(
        r#"{{"invocations": {}, "cpu_s": {spent}, "held_bytes": {}, "cold_starts": {}, "mean_latency_ms": {}}}"#,
        stats.invocations,
        held * 1024,
        stats.cold_starts,
        latency * 1e3,
    );
}

/// `function,nanoseconds,nanoseconds`: which, when, and for how long.
fn request(line: &str) -> RequestData {
    let mut fields = line.split(',');
    let mut next = || fields.next().expect("three fields").parse::<u64>().expect("a number");
    let (id, time, duration) = (next() as usize, next(), next());
    RequestData { id, time: time as f64 / 1e9, duration: duration as f64 / 1e9 }
}

/// CPU time of this process, from Linux' scheduler: its first figure is nanoseconds on a CPU.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    Duration::from_nanos(text.split_whitespace().next().and_then(|figure| figure.parse().ok()).expect("a number"))
}

fn memory_kib(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a number")
}
