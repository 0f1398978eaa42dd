//! The simulator against queueing theory: each mean lies within the interval that the runs give, and the interval is narrow.
//! Formulas: Kleinrock, Queueing Systems, volumes 1 and 2.

use std::sync::Arc;

use qscale_common::time::Span;
use qscale_common::units::{Allocation, Mebibytes, Millicores};
use qscale_common::workload::WorkloadRng;
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::{Distribution, Function, FunctionProfile, Gateway, Nanos, Nodes};
use rand::RngExt;
use rand_distr::Exp1;

const RUNS: u64 = 12;
const REQUESTS: u32 = 150_000;
/// Student's t for 11 degrees of freedom, two-sided 99.9 %.
const T: f64 = 4.437;
/// Mean service time.
const SERVICE: Nanos = Nanos(10_000_000);

/// The log-normal distribution with this mean and standard deviation, seconds.
fn log_normal(mean: f64, deviation: f64) -> Distribution {
    let variance = (1.0 + (deviation / mean).powi(2)).ln();
    Distribution::log_normal(Nanos::from_seconds(mean / (variance / 2.0).exp()), variance.sqrt()).expect("valid")
}

/// A system of queueing theory: replicas, how each works, and how much is asked of it.
struct System {
    replicas: u32,
    /// 1 for one at a time, 0 for all at once.
    workers: u32,
    cores: u32,
    service: Distribution,
    /// Share of all cores that is asked for.
    load: f64,
    /// Cores of the node that all replicas share; `None` where each has its own.
    node: Option<u32>,
}

impl System {
    fn arrivals_a_second(&self) -> f64 {
        self.load * f64::from(self.node.unwrap_or(self.replicas * self.cores)) / SERVICE.seconds()
    }

    /// Mean time in the system of one run, seconds.
    fn run(&self, seed: u64) -> f64 {
        let profile =
            FunctionProfile { workers: self.workers, parallelism: self.cores, ..FunctionProfile::simple("f", self.service.clone()) };
        // One request a replica, so that those that wait share one queue; or all at once.
        let gateway = Gateway { concurrency: self.workers, queue: u32::MAX, timeout: Span::seconds(864_000) };
        let nodes = self.node.map(|cores| Nodes {
            count: 1,
            cpu_millicores: Millicores(1000 * cores),
            memory_mib: Mebibytes(1 << 20),
            cpu_overcommit: 100.0,
        });
        let mut function = Function::new(Arc::new(profile), gateway, seed, 0).on_nodes(nodes);
        function.warm(Allocation::new(self.replicas, 1000 * self.cores, 128), Nanos::ZERO);
        let mut rng: WorkloadRng = stream(seed, 0, Purpose::Arrivals);
        let mut at = 0.0;
        for _ in 0..REQUESTS {
            at += rng.sample::<f64, _>(Exp1) / self.arrivals_a_second();
            function.arrive(Nanos::from_seconds(at));
        }
        let totals = function.totals(Nanos::from_seconds(at + 3600.0));
        assert_eq!(totals.completed, u64::from(REQUESTS));
        totals.latency_sum.seconds() / f64::from(REQUESTS)
    }

    #[track_caller]
    fn check(&self, expected_services: f64) {
        let means: Vec<f64> = (0..RUNS).map(|seed| self.run(seed) / SERVICE.seconds()).collect();
        let mean = means.iter().sum::<f64>() / RUNS as f64;
        let variance = means.iter().map(|run| (run - mean).powi(2)).sum::<f64>() / (RUNS - 1) as f64;
        let half = T * (variance / RUNS as f64).sqrt();
        assert!((mean - expected_services).abs() <= half, "{mean} +- {half}, expected {expected_services}");
        assert!(half < 0.04 * expected_services, "the interval {mean} +- {half} says little");
    }
}

fn exponential() -> Distribution {
    Distribution::exponential(SERVICE)
}

/// Probability that an arrival waits where `load` shares of `servers` are busy (Erlang C).
fn erlang_c(servers: u32, load: f64) -> f64 {
    let offered = load * f64::from(servers);
    let blocking = (1..=servers).fold(1.0, |blocking, n| offered * blocking / (f64::from(n) + offered * blocking));
    blocking / (1.0 - load * (1.0 - blocking))
}

#[test]
fn one_server_with_memoryless_service() {
    System { replicas: 1, workers: 1, cores: 1, service: exponential(), load: 0.7, node: None }.check(1.0 / 0.3);
}

#[test]
fn eight_servers_with_memoryless_service() {
    let expected = 1.0 + erlang_c(8, 0.85) / (8.0 * 0.15);
    System { replicas: 8, workers: 1, cores: 1, service: exponential(), load: 0.85, node: None }.check(expected);
}

#[test]
fn sixty_four_servers_with_memoryless_service() {
    let expected = 1.0 + erlang_c(64, 0.95) / (64.0 * 0.05);
    System { replicas: 64, workers: 1, cores: 1, service: exponential(), load: 0.95, node: None }.check(expected);
}

#[test]
fn one_server_with_service_that_is_always_the_same() {
    System { replicas: 1, workers: 1, cores: 1, service: Distribution::constant(SERVICE), load: 0.8, node: None }
        .check(1.0 + 0.8 / (2.0 * 0.2));
}

/// Pollaczek and Khinchine: waiting grows with the variance of service.
#[test]
fn one_server_with_service_of_some_variance() {
    let service = log_normal(SERVICE.seconds(), SERVICE.seconds());
    System { replicas: 1, workers: 1, cores: 1, service, load: 0.6, node: None }.check(1.0 + 0.6 * (1.0 + 1.0) / (2.0 * 0.4));
}

/// Shared evenly, the mean does not depend on how service is distributed.
#[test]
fn processor_sharing_is_insensitive_to_the_distribution() {
    let heavy = log_normal(SERVICE.seconds(), 2.0 * SERVICE.seconds());
    for service in [exponential(), Distribution::constant(SERVICE), heavy] {
        System { replicas: 1, workers: 0, cores: 1, service, load: 0.6, node: None }.check(1.0 / 0.4);
    }
}

/// As many are in a system of two shared cores as in one of two servers, where service is memoryless.
#[test]
fn two_cores_that_are_shared() {
    let expected = 1.0 + erlang_c(2, 0.75) / (2.0 * 0.25);
    System { replicas: 1, workers: 0, cores: 2, service: exponential(), load: 0.75, node: None }.check(expected);
}

/// Replicas of one request each on the cores of one node are one queue that shares them, for any distribution: enough
/// replicas that an arrival always finds one idle.
#[test]
fn a_node_whose_replicas_share_its_core() {
    let heavy = log_normal(SERVICE.seconds(), 2.0 * SERVICE.seconds());
    System { replicas: 30, workers: 1, cores: 1, service: heavy, load: 0.6, node: Some(1) }.check(1.0 / 0.4);
}

#[test]
fn a_node_whose_replicas_share_its_two_cores() {
    let expected = 1.0 + erlang_c(2, 0.7) / (2.0 * 0.3);
    System { replicas: 40, workers: 1, cores: 1, service: exponential(), load: 0.7, node: Some(2) }.check(expected);
}
