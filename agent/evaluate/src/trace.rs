//! Cells from traces: every function of a trace with its own demand, measured together. Owns the chronological split; must not open files.

mod activity;
mod attainable;

use std::sync::Arc;
use std::time::Duration;

use qscale_common::name::Name;
use qscale_common::policy::{Bounds, LatencyBound, Objective, Range, ScalingPolicy, Share};
use qscale_common::time::Span;
use qscale_common::units::{Allocation, Mebibytes, Replicas};
use qscale_common::workload::trace::{MinuteTrace, RowTrace, Trace, TraceFunction, TracedInvocation};
use qscale_common::workload::{Demand, DurationQuantiles, MinuteCount};
use qscale_sim::profile::MemoryProfile;
use qscale_sim::{Distribution, FunctionProfile, Perturbation, Setup, SimulatedLoad};
use strum::VariantArray;

use crate::cell::{CellFunction, EvaluationCell, MeasurementSpan};
use crate::results::{Cell, TracePart};
use crate::suite::{PerturbationEntry, Suite, TraceEntry};

pub use activity::ActivityClass;

use activity::FunctionActivity;

/// Hash of the content of a trace, hexadecimal: FNV-1a.
fn digest(trace: &Trace) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |number: u64| {
        for byte in number.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match trace {
        Trace::Minutes(trace) => {
            add(u64::from(trace.minutes));
            for function in &trace.functions {
                function.hash.bytes().for_each(|byte| add(u64::from(byte)));
                function.counts.iter().for_each(|count| add(u64::from(count.bin) << 32 | u64::from(count.count)));
                usual(&function.demand).into_iter().for_each(|number| add(u64::from(number)));
            }
        }
        Trace::Rows(trace) => trace.rows.iter().for_each(|row| {
            add(row.start_us);
            add(u64::from(row.function) << 32 | u64::from(row.duration_ms));
        }),
    }
    format!("{hash:016x}")
}

/// Load of function `number` from minute `from` to before minute `to`, with its 99th percentile of duration, and its
/// usual and greatest memory.
fn of_function(trace: &Trace, number: usize, from: u32, to: u32, entry: &TraceEntry, cpu_share: Share) -> TracedFunction {
    let cpu_share = cpu_share.get();
    match trace {
        Trace::Minutes(trace) => {
            let function = &trace.functions[number];
            let kept = function.counts.iter().filter(|count| (from..to).contains(&count.bin));
            let counts: Vec<MinuteCount> = kept.map(|count| MinuteCount { bin: count.bin - from, ..*count }).collect();
            let [_, longest_ms, usual_mib, most_mib] = usual(&function.demand);
            let function = TraceFunction { counts: counts.into(), ..function.clone() };
            let trace = Arc::new(MinuteTrace { functions: vec![function], minutes: to - from });
            let load = SimulatedLoad::Trace { trace, iat: entry.iat, scale: entry.scale, cpu_share };
            TracedFunction { load, longest_ms, usual_mib, most_mib }
        }
        Trace::Rows(trace) => {
            let all = trace.rows.iter().filter(|row| row.function as usize == number);
            let mut durations: Vec<u32> = all.clone().map(|row| row.duration_ms).collect();
            durations.sort_unstable();
            let longest_ms = durations.get((durations.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
            let shift = u64::from(from) * MINUTE_US;
            let rows = all.filter(|row| (from..to).contains(&row.minute()));
            let rows: Vec<TracedInvocation> =
                rows.map(|row| TracedInvocation { start_us: row.start_us - shift, function: 0, ..*row }).collect();
            let trace = Arc::new(RowTrace { functions: vec![trace.functions[number].clone()], rows: rows.into() });
            let load = SimulatedLoad::Rows { trace, scale: entry.scale, cpu_share };
            TracedFunction { load, longest_ms, usual_mib: entry.memory_mib, most_mib: entry.memory_mib }
        }
    }
}

struct TracedFunction {
    load: SimulatedLoad,
    longest_ms: u32,
    usual_mib: u32,
    most_mib: u32,
}

const MINUTE_US: u64 = 60_000_000;

/// Median and 99th percentile of the duration, milliseconds; median and greatest memory, MiB.
fn usual(demand: &Demand) -> [u32; 4] {
    let durations = |quantiles: &DurationQuantiles| {
        let within = |ms: u32| ms.clamp(DurationQuantiles::SHORTEST_MS, DurationQuantiles::LONGEST_MS);
        [within(quantiles.values()[3]), within(quantiles.values()[5])]
    };
    match demand {
        Demand::Fixed { duration_ms, memory_mib } => [*duration_ms, *duration_ms, *memory_mib, *memory_mib],
        Demand::Quantiles { duration, memory } => {
            let ([median, longest], memory) = (durations(duration), memory.values());
            [median, longest, memory[3], memory[7]]
        }
        Demand::QuantilesOfDuration { duration, memory_mib } => {
            let [median, longest] = durations(duration);
            [median, longest, *memory_mib, *memory_mib]
        }
    }
}

/// A part of a trace: the measured minutes and the warm-up before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TraceSpan {
    begin: u32,
    measured: u32,
    end: u32,
}

/// Cells of the test part and of the validation part of the trace `name`: one for each perturbation, or one for each class of functions and perturbation.
///
/// # Errors
/// A suite without a description of traces, and a trace whose test part has no minutes or no invocations.
pub fn cells(suite: &Suite, trace: &Trace, name: &str) -> Result<([Vec<EvaluationCell>; 2], TracePart), String> {
    let Some(entry) = &suite.trace else {
        return Err(format!("suite `{}` is for patterns; use one with a section [trace], such as `trace`", suite.name));
    };
    let minutes = trace.minutes();
    let share = |percent: u32| (u64::from(minutes) * u64::from(percent) / 100) as u32;
    let [training, validation, _] = entry.split;
    let (from, test_from) = (share(training), share(training + validation));
    let warm_up = (suite.warm_up.0.as_secs_f64() * entry.scale.time / 60.0).ceil() as u32;
    let part = |from: u32, to: u32| TraceSpan { begin: from.saturating_sub(warm_up), measured: from, end: to };
    let (test, validation) = (part(test_from, minutes), part(from, test_from));
    if measurement(suite, entry, test).measured == 0 {
        let [a, b, c] = entry.split;
        return Err(format!("{minutes} minutes split {a}/{b}/{c} leave an empty test part; give another --split or a longer trace"));
    }
    let invocations = trace.invocations(test_from, minutes);
    if invocations == 0 || entry.scale.rate == 0.0 {
        return Err(nothing_to_judge(trace, entry, test_from, minutes));
    }
    let activities: Vec<FunctionActivity> = (0..trace.functions()).map(|number| FunctionActivity::of(trace, number, from)).collect();
    let source = TraceSource { suite, entry, trace, name, activities: &activities };
    let (kept, left_out) = source.attainable(test);
    if kept.is_empty() {
        return Err(format!(
            "every function of the trace violates its objective in more than {} of the intervals with its largest allocation; give the suite a greater \
             `trace.slack`, `trace.bounds` or `trace.most_violated`",
            entry.most_violated.get()
        ));
    }
    let of_part = |part: TraceSpan| source.cells(part, &kept);
    let played = TracePart {
        name: name.to_owned(),
        functions: trace.functions(),
        minutes,
        split: entry.split,
        test_from_minute: test_from,
        invocations,
        digest: digest(trace),
        left_out: left_out.into_iter().map(|number| format!("f{number}")).collect(),
    };
    Ok(([of_part(test), of_part(validation)], played))
}

/// Why no policy can be judged: no invocation in the test part, which begins at minute `from` of `minutes`. Minutes are
/// shown from 1, as traces name them.
fn nothing_to_judge(trace: &Trace, entry: &TraceEntry, from: u32, minutes: u32) -> String {
    let [a, b, c] = entry.split;
    match trace.active_minutes() {
        None => "the trace has no invocations; give another one".to_owned(),
        Some(_) if entry.scale.rate == 0.0 => "rate scale = 0: no invocation is played; give a greater --scale".to_owned(),
        Some((first, last)) => format!(
            "no invocation in the test part, minutes {} to {minutes} of {minutes} by the split {a}/{b}/{c}: the trace has its invocations in minutes {} to {}; \
             give a --split whose last share begins before minute {}, or another trace",
            from + 1,
            first + 1,
            last + 1,
            last + 1
        ),
    }
}

fn measurement(suite: &Suite, entry: &TraceEntry, part: TraceSpan) -> MeasurementSpan {
    let interval = suite.interval.0;
    let intervals = |minutes: u32| (f64::from(minutes) * 60.0 / entry.scale.time / interval.as_secs_f64()) as u32;
    MeasurementSpan { interval, warm_up: intervals(part.measured - part.begin), measured: intervals(part.end - part.measured) }
}

/// A trace with the activity of its functions in the training part.
struct TraceSource<'a> {
    suite: &'a Suite,
    entry: &'a TraceEntry,
    trace: &'a Trace,
    name: &'a str,
    activities: &'a [FunctionActivity],
}

impl TraceSource<'_> {
    /// Numbers of the functions that can meet their objective in `part`, and of the others. A function without load can.
    fn attainable(&self, part: TraceSpan) -> (Vec<usize>, Vec<usize>) {
        let numbers = 0..self.trace.functions();
        let most = self.entry.most_violated.get();
        if most >= 1.0 {
            return (numbers.collect(), Vec::new());
        }
        let calm =
            PerturbationEntry { name: self.suite.name.clone(), perturbation: Perturbation::default(), cpu_share: None, vertical: None };
        let span = measurement(self.suite, self.entry, part);
        numbers.partition(|number| attainable::least_violated(&self.function(*number, part, &calm), span).is_none_or(|share| share <= most))
    }

    fn cells(&self, part: TraceSpan, kept: &[usize]) -> Vec<EvaluationCell> {
        let class = |number: &usize| self.activities[*number].class();
        let groups: Vec<(&'static str, Vec<usize>)> = if self.entry.by_class {
            let of = |one: &ActivityClass| (one.into(), kept.iter().copied().filter(|number| class(number) == *one).collect());
            ActivityClass::VARIANTS.iter().map(of).filter(|(_, numbers): &(_, Vec<usize>)| !numbers.is_empty()).collect()
        } else {
            vec![("trace", kept.to_vec())]
        };
        let cells = groups.iter().flat_map(|(name, numbers)| self.suite.perturbations.iter().map(move |entry| (*name, numbers, entry)));
        cells.map(|(name, numbers, entry)| self.cell(part, name, numbers, entry)).collect()
    }

    fn cell(&self, part: TraceSpan, workload: &str, numbers: &[usize], perturbation: &PerturbationEntry) -> EvaluationCell {
        let functions = numbers.iter().map(|number| self.function(*number, part, perturbation)).collect();
        let report = Cell {
            name: format!("{}/{workload}/{}", self.name, perturbation.name),
            function: self.name.to_owned(),
            workload: workload.to_owned(),
            perturbation: perturbation.name.to_string(),
            functions: numbers.len(),
            latency_ms: None,
            percentile: self.entry.percentile.get(),
        };
        EvaluationCell { report, functions, measurement: measurement(self.suite, self.entry, part) }
    }

    fn function(&self, number: usize, part: TraceSpan, perturbation: &PerturbationEntry) -> CellFunction {
        let (suite, entry) = (self.suite, self.entry);
        let cpu_share = perturbation.cpu_share.unwrap_or(entry.cpu_share);
        let function = of_function(self.trace, number, part.begin, part.end, entry, cpu_share);
        let name = Name::new(format!("f{number}")).expect("a letter and digits make a DNS label");
        let longest = Duration::from_millis(u64::from(function.longest_ms));
        let latency = Span(longest + entry.slack.0.max(longest.mul_f64(entry.slack_share)));
        let latency = LatencyBound::try_from(latency.clamp(Span::millis(1), Span::seconds(3600))).expect("within its range");
        let objective = Objective { percentile: entry.percentile, latency, failure_share: entry.failure_share, point: None };
        // Each function starts with room for its greatest usage.
        let margin = suite.guard.working_set_margin.get() * ROOM;
        let room = Mebibytes((f64::from(function.most_mib) * margin).ceil() as u32).max(entry.start.memory_mib);
        let start = entry.bounds.clamp(Allocation { memory_mib: room, ..entry.start });
        let least_mib = perturbation.vertical.map_or(start.memory_mib, |vertical| vertical.least_memory_mib.min(start.memory_mib));
        let memory_mib = Range::new(least_mib, start.memory_mib).unwrap_or(entry.bounds.memory_mib);
        let cpu_millicores = perturbation.vertical.map_or(entry.bounds.cpu_millicores, |vertical| vertical.cpu_millicores);
        let start = Allocation { cpu_millicores: cpu_millicores.clamp(start.cpu_millicores), ..start };
        let busy = self.activities[number].peak_concurrency() * entry.scale.rate * entry.scale.time;
        let needed = (busy * entry.peak_factor / f64::from(entry.workers.max(1))).ceil();
        let most = Replicas((needed as u32).clamp(entry.bounds.replicas.max().0, Replicas::MAX.0));
        let replicas = Range::new(entry.bounds.replicas.min(), most).unwrap_or(entry.bounds.replicas);
        let base_mib = Mebibytes(function.usual_mib.min((f64::from(start.memory_mib.0) / margin) as u32));
        let profile = FunctionProfile {
            workers: entry.workers,
            startup: entry.startup.clone(),
            memory: MemoryProfile { base_mib, request_kib: 0 },
            ..FunctionProfile::simple(name.as_str(), Distribution::ZERO)
        };
        let setup = Setup {
            profile: Arc::new(profile),
            gateway: entry.gateway,
            policy: ScalingPolicy { objective, bounds: Bounds { memory_mib, replicas, cpu_millicores }, ..suite.policy(name) },
            allocation: start,
            load: function.load,
            perturbation: perturbation.perturbation,
            nodes: None,
        };
        CellFunction { setup, index: number as u64, noise: None, disturbed: perturbation.perturbation.onsets().map(|at| at.0).collect() }
    }
}

/// Slightly more than the guard's margin, to allow for rounding.
const ROOM: f64 = 1.05;

#[cfg(test)]
mod tests {
    use qscale_common::document::Format;
    use qscale_common::units::Millicores;

    use super::*;
    use crate::suite::VerticalScaling;

    const SUITE: &str = r#"
name = "traces"
warm_up = "2m"
[trace]
cpu_share = 0.5
startup = { cpu = { constant = "500ms" } }
gateway = { concurrency = 1, queue = 100, timeout = "5m" }
percentile = 99
slack = "1s"
failure_share = 0.01
bounds = { replicas = { min = 0, max = 10 }, cpu_millicores = { min = 100, max = 1000 }, memory_mib = { min = 64, max = 4096 } }
start = { replicas = 0, cpu_millicores = 1000, memory_mib = 64 }
[[competitors]]
policy = "static"
"#;

    fn suite() -> Suite {
        Suite::parse(SUITE, Format::Toml).expect("a suite")
    }

    fn trace() -> Trace {
        let duration = DurationQuantiles::new([1, 2, 3, 40, 50, 60, 70]).expect("rising");
        let function = |bins: &[u32]| TraceFunction {
            hash: "f".into(),
            counts: bins.iter().map(|bin| MinuteCount { bin: *bin, count: bin + 1 }).collect(),
            demand: Demand::QuantilesOfDuration { duration, memory_mib: 200 },
        };
        Trace::Minutes(MinuteTrace { functions: vec![function(&[0, 7, 8, 9]), function(&[])], minutes: 10 })
    }

    #[test]
    fn the_test_part_is_last_after_its_warm_up() {
        let ([test, validation], played) = cells(&suite(), &trace(), "t").expect("cells");
        assert_eq!((played.test_from_minute, played.invocations, played.functions), (8, 19, 2));
        let measurements = [&test, &validation].map(|cells| (cells[0].measurement.warm_up, cells[0].measurement.measured));
        assert_eq!(measurements, [(8, 8), (8, 8)], "two minutes each, in intervals of 15 s");
        let SimulatedLoad::Trace { trace, .. } = &test[0].functions[0].setup.load else { panic!("another load") };
        let counts: Vec<_> = trace.functions[0].counts.iter().map(|count| (count.bin, count.count)).collect();
        assert_eq!(counts, [(1, 8), (2, 9), (3, 10)], "minute 6 is the first simulated one");
        let policy = &test[0].functions[0].setup.policy;
        assert_eq!(policy.objective.latency.get(), Duration::from_millis(1060));
        assert!(test[0].functions[0].setup.allocation.memory_mib > Mebibytes(220));
    }

    #[test]
    fn single_invocations_are_cut_as_counts_are() {
        let rows: Vec<TracedInvocation> = (0..10)
            .map(|minute| TracedInvocation { start_us: minute * MINUTE_US + 7, function: (minute % 2) as u32, duration_ms: 5 })
            .collect();
        let trace = Trace::Rows(RowTrace { functions: vec!["a".into(), "b".into()], rows: rows.into() });
        let ([test, _], played) = cells(&suite(), &trace, "t").expect("cells");
        assert_eq!((played.minutes, played.invocations), (10, 2));
        let SimulatedLoad::Rows { trace, .. } = &test[0].functions[1].setup.load else { panic!("another load") };
        let starts: Vec<_> = trace.rows.iter().map(|row| (row.start_us, row.function)).collect();
        assert_eq!(starts, [(MINUTE_US + 7, 0), (3 * MINUTE_US + 7, 0)]);
    }

    /// Rows of functions of a minute each, in ten minutes: one is never invoked, the other has `at_once` invocations at once, every minute, for 30 s each.
    fn with_busy_function(at_once: u64) -> Trace {
        let row = |minute: u64, at: u64| TracedInvocation { start_us: minute * MINUTE_US + at, function: 1, duration_ms: 30_000 };
        let rows = (0..10).flat_map(|minute| (0..at_once).map(move |at| row(minute, at)));
        Trace::Rows(RowTrace { functions: vec!["idle".into(), "busy".into()], rows: rows.collect() })
    }

    fn entry(suite: &mut Suite) -> &mut TraceEntry {
        suite.trace.as_mut().expect("a trace")
    }

    #[test]
    fn the_training_part_raises_the_largest_number_of_replicas() {
        let mut suite = suite();
        let most = |suite: &Suite| {
            let ([test, _], _) = cells(suite, &with_busy_function(40), "t").expect("cells");
            [0, 1].map(|function| test[0].functions[function].setup.policy.bounds.replicas.max().0)
        };
        assert_eq!(most(&suite), [10, 10]);
        // 20 are busy in the mean over a minute.
        entry(&mut suite).peak_factor = 3.0;
        assert_eq!(most(&suite), [10, 60]);
        entry(&mut suite).scale.rate = 2.0;
        assert_eq!(most(&suite), [10, 120], "twice as many invocations");
    }

    #[test]
    fn a_function_that_cannot_meet_its_objective_is_left_out_and_named() {
        let mut suite = suite();
        entry(&mut suite).most_violated = Share::try_from(0.05).expect("a share");
        // 40 at once on ten replicas take four times as long as the objective allows.
        let ([test, validation], played) = cells(&suite, &with_busy_function(40), "t").expect("cells");
        assert_eq!(played.left_out, ["f1"]);
        assert_eq!([&test, &validation].map(|cells| cells[0].functions.len()), [1, 1]);
        let (_, played) = cells(&suite, &with_busy_function(10), "t").expect("cells");
        assert!(played.left_out.is_empty());
        entry(&mut suite).peak_factor = 3.0;
        let (_, played) = cells(&suite, &with_busy_function(40), "t").expect("cells");
        assert!(played.left_out.is_empty(), "60 replicas are enough");
        entry(&mut suite).peak_factor = 0.0;
        let Trace::Rows(both) = with_busy_function(40) else { panic!("single invocations") };
        let rows = both.rows.iter().map(|row| TracedInvocation { function: 0, ..*row }).collect();
        let alone = Trace::Rows(RowTrace { functions: vec!["busy".into()], rows });
        assert!(cells(&suite, &alone, "t").expect_err("refused").contains("more than 0.05 of the intervals"));
    }

    #[test]
    fn each_class_is_a_cell_in_each_perturbation_with_its_share_of_cpu_time() {
        let mut suite = suite();
        entry(&mut suite).by_class = true;
        let of_cpu = PerturbationEntry {
            name: "cpu-80".parse().expect("a name"),
            cpu_share: Share::try_from(0.8).ok(),
            vertical: None,
            ..suite.perturbations[0].clone()
        };
        suite.perturbations.push(of_cpu);
        let ([test, validation], _) = cells(&suite, &with_busy_function(40), "t").expect("cells");
        let names = |cells: &[EvaluationCell]| cells.iter().map(|cell| cell.report.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&test), ["t/busy/none", "t/busy/cpu-80", "t/rare/none", "t/rare/cpu-80"]);
        assert_eq!(names(&test), names(&validation));
        let shares = [0, 1].map(|cell: usize| match test[cell].functions[0].setup.load {
            SimulatedLoad::Rows { cpu_share, .. } => cpu_share,
            _ => panic!("another load"),
        });
        assert_eq!(shares, [0.5, 0.8]);
    }

    #[test]
    fn cpu_and_memory_are_scaled_where_a_perturbation_says_so() {
        let mut suite = suite();
        let cpu_millicores = Range::new(Millicores(100), Millicores(2000)).expect("ordered");
        let vertical = Some(VerticalScaling { cpu_millicores, least_memory_mib: Mebibytes(32) });
        suite.perturbations.push(PerturbationEntry {
            name: "vertical".parse().expect("a name"),
            vertical,
            ..suite.perturbations[0].clone()
        });
        let ([test, _], _) = cells(&suite, &trace(), "t").expect("cells");
        let [kept, scaled] = [0, 1].map(|cell: usize| &test[cell].functions[0].setup);
        assert_eq!(kept.policy.bounds.memory_mib.min(), kept.policy.bounds.memory_mib.max());
        assert_eq!(scaled.policy.bounds.memory_mib.min(), Mebibytes(32));
        assert_eq!(scaled.policy.bounds.memory_mib.max(), kept.allocation.memory_mib);
        assert_eq!((scaled.policy.bounds.cpu_millicores, scaled.allocation), (cpu_millicores, kept.allocation));
    }

    #[test]
    fn the_objective_is_relative_where_the_function_is_slow() {
        let mut suite = suite();
        entry(&mut suite).slack_share = 0.5;
        let ([test, _], _) = cells(&suite, &with_busy_function(1), "t").expect("cells");
        assert_eq!(test[0].functions[1].setup.policy.objective.latency.get(), Duration::from_secs(45));
        assert_eq!(test[0].functions[0].setup.policy.objective.latency.get(), Duration::from_secs(1));
    }

    #[test]
    fn a_test_part_without_invocations_is_refused_with_the_minutes_that_have_some() {
        let trace = |bins: &[u32]| {
            let Trace::Minutes(MinuteTrace { functions, .. }) = trace() else { panic!("counts by minute") };
            let counts = bins.iter().map(|bin| MinuteCount { bin: *bin, count: 1 }).collect();
            Trace::Minutes(MinuteTrace { functions: vec![TraceFunction { counts, ..functions[0].clone() }], minutes: 10 })
        };
        let error = cells(&suite(), &trace(&[1, 4, 7]), "t").expect_err("refused");
        assert!(["minutes 9 to 10", "60/20/20", "minutes 2 to 8", "--split"].iter().all(|part| error.contains(part)), "{error}");
        assert!(cells(&suite(), &trace(&[1, 8]), "t").is_ok());
        assert!(cells(&suite(), &trace(&[]), "t").expect_err("refused").contains("no invocations"));
        let mut silent = suite();
        silent.trace.as_mut().expect("a trace").scale.rate = 0.0;
        assert!(cells(&silent, &trace(&[8]), "t").expect_err("refused").contains("--scale"));
    }

    #[test]
    fn a_trace_without_a_test_part_is_refused() {
        let mut suite = suite();
        if let Some(entry) = &mut suite.trace {
            entry.scale.time = 1000.0;
        }
        let error = cells(&suite, &trace(), "t").expect_err("refused");
        assert!(error.contains("10 minutes split 60/20/20"), "{error}");
        suite.trace = None;
        assert!(cells(&suite, &trace(), "t").expect_err("refused").contains("[trace]"));
    }
}
