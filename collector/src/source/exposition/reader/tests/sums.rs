//! Sums over several series, and lines that name several.

use super::*;

#[test]
fn a_part_that_is_much_older_than_another_one_does_not_count() {
    let taken = |seconds_ago: u64| AT.0 - seconds_ago * 1000;
    // Bytes of two containers with their ages in seconds, the bytes of the pod and their age.
    for (ages, expected, age) in [([12, 0], 150, 0), ([600, 0], 100, 0), ([0, 600], 50, 0), ([600, 600], 150, 600)] {
        let rows = container(MEMORY, "container=\"u\"", &format!("50 {}", taken(ages[0])))
            + &container(MEMORY, "container=\"v\"", &format!("100 {}", taken(ages[1])));
        let reading = read(&rows);
        let scrape = &reading.unowned[0].1;
        assert_eq!((scrape.working_set_bytes, scrape.at.0), (Some(expected), taken(age)), "{ages:?}");
    }
    let of = |metric: &str, part: &str, value: &str| {
        format!("{metric}{{namespace=\"default\",function=\"fib\",pod=\"a\",part=\"{part}\"}} {value}\n")
    };
    let rows = |metric: &str| {
        let old = format!("5 {}", taken(600));
        [of(metric, "one", "2"), of(metric, "two", &old), of(metric, "three", "1")].concat()
    };
    let reading = read(&rows("kn_revision_request_concurrency"));
    assert_eq!(function(&reading).replicas[0].in_flight, Some(3.0));
    let queue = rows("kn_serving_queue_depth");
    let queued = |more: &str| {
        let reading = read(&(queue.clone() + "qscale_gateway_requests_total{namespace=\"default\",function=\"fib\"} 8\n" + more));
        function(&reading).ingress.as_ref().expect("arrivals were read").queued
    };
    assert_eq!(queued(""), 3.0);
    assert!(queued(&of("kn_serving_queue_depth", "four", "-1")).is_nan());
}

#[test]
fn headroom_is_unknown_while_the_size_of_a_function_with_replicas_is() {
    let headroom = |other: &str| read(&(PLATFORM.to_owned() + other)).headroom.map(|headroom| headroom.cpu_millicores.0);
    let of = |metric: &str, value: &str| format!("{metric}{{namespace=\"default\",function=\"other\"}} {value}\n");
    let memory = of("qscale_desired_memory_bytes", "1048576");
    let desired = |replicas: &str| of("kn_revision_pods_desired", replicas) + &memory;
    assert_eq!(headroom(""), Some(2500));
    assert_eq!(headroom(&desired("2")), None);
    assert_eq!(headroom(&desired("0")), Some(2500));
    assert_eq!(headroom(&memory), Some(2500));
    assert_eq!(headroom(&(desired("2") + &of("qscale_desired_cpu_millicores", "100"))), Some(2300));
}

#[test]
fn a_line_with_a_repeated_label_is_missing_in_all_that_it_may_show() {
    let of = |labels: &str| format!("{CPU}{{namespace=\"default\",container=\"u\",{labels}}} 5\n");
    let all = of("pod=\"a\"") + &of("pod=\"b\"") + &of("pod=\"c\",x=\"1\"");
    let with_cpu = |line: &str| {
        let reading = read(&(all.clone() + line));
        (reading.malformed, reading.unowned.iter().filter(|(_, scrape)| scrape.cpu.is_some()).count())
    };
    assert_eq!(with_cpu(""), (0, 3));
    assert_eq!(with_cpu(&of("pod=\"a\",pod=\"b\"")), (1, 0));
    assert_eq!(with_cpu(&of("pod=\"c\",x=\"1\",x=\"2\"")), (1, 2));
}
