use std::path::Path;

use qscale_common::document::Format;

use super::*;
use crate::Nanos;

#[track_caller]
fn check(name: &str, cpu_ms: f64, waiting_ms: f64, workers: u32, memory_mib: u32) {
    let profile = by_name(name).expect("known");
    let near = |found: Nanos, expected_ms: f64| (found.seconds() * 1000.0 - expected_ms).abs() <= 0.02 * expected_ms.max(1.0);
    let (cpu, waiting) = (profile.cpu.mean(), profile.waiting.mean());
    assert!(near(cpu, cpu_ms) && near(waiting, waiting_ms), "{name}: CPU {cpu:?}, waiting {waiting:?}");
    assert_eq!((profile.workers, profile.memory.base_mib.0), (workers, memory_mib), "{name}");
}

#[test]
fn a_request_computes_what_the_pod_used_above_an_idle_one() {
    check("fibonacci-python-100000-101000", 180.6, 5.7, 1, 50);
    check("fibonacci-python-100000", 180.6, 5.7, 1, 50);
    // Lasts 15.5 s, so that one came every 20 s.
    check("fibonacci-python-1000000-1010000", 14_893.0, 595.0, 1, 51);
    // More than one core at once: all of its CPU time, and no waiting.
    check("video-processing-python-100", 3453.4, 0.0, 1, 154);
    // Too short for a significant CPU time.
    check("aes-go-10-10", 0.73, 0.0, 0, 24);
    check("sleeping", 0.72, 50.0, 0, 24);
}

#[test]
fn every_name_has_a_profile_that_is_read_as_it_is_written() {
    let all: Vec<&str> = names().collect();
    assert_eq!(all.len(), 193);
    for name in all {
        let profile = by_name(name).expect("named");
        assert_eq!(profile.name, name);
        assert!(profile.cpu.mean() > Nanos::ZERO && profile.startup.cpu.mean() > Nanos::ZERO && profile.memory.base_mib.0 > 0, "{name}");
        assert_eq!(FunctionProfile::read(&profile.to_toml(), Format::Toml).as_ref(), Ok(&profile));
        assert_eq!(FunctionProfile::read(&profile.to_json(), Format::Json).as_ref(), Ok(&profile));
    }
}

#[test]
fn an_unknown_name_is_refused_with_similar_names() {
    let error = by_name("fibonaci-python-10000").expect_err("misspelt").to_string();
    assert!(error.contains("`fibonaci-python-10000`") && error.contains("fibonacci-python-10000-10100"), "{error}");
    // The beginning of a name is no name.
    assert!(by_name("fibonacci-go").is_err() && by_name("").is_err());
}

#[test]
fn an_invalid_file_is_refused_with_field_and_value() {
    let written = by_name("sleeping").expect("known").to_toml();
    let error = |from: &str, to: &str| {
        let text = written.replace(from, to);
        assert_ne!(text, written, "{from} is not in {written}");
        FunctionProfile::read(&text, Format::Toml).expect_err("wrong").to_string()
    };
    assert!(error("parallelism = 16", "parallelism = 0").contains("`parallelism`: 0"));
    assert!(error("parallelism = 16", "paralelism = 16").contains("paralelism"));
    assert!(error("workers = 0", "workers = -1").contains("`workers`"));
    assert!(error("sigma = 0.02", "sigma = 7.0").contains("sigma = 7, must be from 0 to 5"));
    assert!(error("name = \"sleeping\"", "name = \" \"").contains("`name`"));
}

#[test]
fn the_table_matches_the_published_figures() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/profiles/vswarm_profile.json");
    let Ok(json) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: the published figures are not at {}", path.display());
        return;
    };
    let table = published::table(&json).expect("as the profiler writes it");
    assert_eq!(table, include_str!("../../profiles/vswarm.csv"), "run the example vswarm_table");
}

#[test]
fn an_invalid_profile_is_refused_with_its_name() {
    let error = published::table(r#"{"f-python-1": {"duration": {}, "memory": {}, "cpu": {}}}"#).expect_err("empty");
    assert!(error.contains("f-python-1: no percentile"), "{error}");
    let error = published::table(r#"{"f-cobol-1": {"duration": {}, "memory": {}, "cpu": {}}}"#).expect_err("unknown");
    assert!(error.contains("f-cobol-1"), "{error}");
}
