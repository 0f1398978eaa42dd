use super::*;
use crate::document::Format;
use crate::time::Span;
use crate::units::{Allocation, Mebibytes, Replicas};

#[track_caller]
fn refusal(text: &str, format: Format) -> String {
    ScalingPolicy::from_document(text, format).expect_err("must be refused").to_string()
}

/// Error of a YAML ScalingPolicy for `fib` with `fields`.
#[track_caller]
fn check(fields: &str, said: &str) {
    assert_eq!(refusal(&format!("name: fib\n{fields}\n"), Format::Yaml), said);
}

#[test]
fn an_error_names_field_value_and_range() {
    check("objective: {percentile: 100}", "field `objective.percentile`: 100, must be above 0 and below 100");
    check("objective: {percentile: -1.5}", "field `objective.percentile`: -1.5, must be above 0 and below 100");
    check("objective: {latency: 2h}", "field `objective.latency`: 2h, must be 1ms to 1h");
    check("objective: {failure_share: 5}", "field `objective.failure_share`: 5, must be from 0 to 1");
    check("bounds: {replicas: {min: 5, max: 2}}", "field `bounds.replicas`: min = 5, must be at most max = 2");
    check("bounds: {replicas: {min: 0, max: 0}}", "bounds.replicas.max = 0, must be at least 1");
    check("bounds: {cpu_millicores: {min: 0, max: 9}}", "bounds.cpu_millicores.min = 0m, must be at least 1m");
    check("bounds: {memory_mib: {min: 0, max: 9}}", "bounds.memory_mib.min = 0Mi, must be at least 1Mi");
    check("prices: {cpu_core_hour: -1}", "field `prices.cpu_core_hour`: -1, must be a finite number of at least 0");
    check("guard: {resize_factor: 0.5}", "field `guard.resize_factor`: 0.5, must be a finite number of at least 1");
    check("guard: {replicas_up: 0}", "field `guard.replicas_up`: invalid value: integer `0`, expected a nonzero u32");
    check("tick: 1ms", "field `tick`: tick length = 1ms, must be 100ms to 1h");
    check("agent: Mine", &format!("field `agent`: {}", Name::new("Mine").expect_err("capital")));
}

#[test]
fn a_misspelt_word_is_refused_with_the_known_ones() {
    check("mode: activ", "field `mode`: unknown variant `activ`, expected one of `observe`, `recommend`, `active`");
    check("mode: Active", "field `mode`: unknown variant `Active`, expected one of `observe`, `recommend`, `active`");
    check("fallback: {rule: treshold}", "field `fallback.rule`: unknown variant `treshold`, expected `threshold` or `hold`");
}

#[test]
fn an_unknown_key_is_refused_with_its_path() {
    check("colour: red\nguard: {spend: 1}", "unknown keys `colour`, `guard.spend`");
    check("bounds: {replicas: {min: 1, max: 2, most: 3}}", "unknown key `bounds.replicas.most`");
    assert_eq!(refusal("nam: fib", Format::Yaml), "field `.`: missing field `name`; unknown key `nam`");
    assert_eq!(refusal("name = \"fib\"\n[objectives]\npercentile = 99", Format::Toml), "unknown key `objectives`");
    assert_eq!(refusal(r#"{"name": "fib", "guard": {"spend": 1}}"#, Format::Json), "unknown key `guard.spend`");
}

#[test]
fn a_value_of_another_type_is_refused_rather_than_bent() {
    check("objective: {percentile: \"99\"}", "field `objective.percentile`: invalid type: string \"99\", expected f64");
    check("paused: \"true\"", "field `paused`: invalid type: string \"true\", expected a boolean");
    check("paused: 1", "field `paused`: invalid type: integer `1`, expected a boolean");
    check("bounds: {replicas: {min: 1.5, max: 2}}", "field `bounds.replicas.min`: invalid type: floating point `1.5`, expected u32");
    check("bounds: {replicas: {min: -1, max: 2}}", "field `bounds.replicas.min`: invalid value: integer `-1`, expected u32");
    check("bounds: {replicas: {min: 1}}", "field `bounds.replicas`: missing field `max`");
    check("version: 1.0", "field `version`: invalid type: floating point `1.0`, expected a version in quotes such as \"1.0\"");
    check("version: \"2.0\"", "field `version`: message has version 2.0, this reader knows version 1.x");
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    assert!(refusal(r#"{"name": "fib", "name": "aes"}"#, Format::Json).contains("duplicate field `name`"));
    assert!(refusal("name: fib\nname: aes", Format::Yaml).contains("duplicated key"));
    assert!(refusal("name = \"fib\"\nname = \"aes\"", Format::Toml).contains("duplicate key"));
}

#[test]
fn what_is_no_set_of_keys_is_refused() {
    assert_eq!(refusal("[\"1.0\", \"default\", \"fib\"]", Format::Json), "field `.`: must be keys with values");
    assert!(refusal("- fib", Format::Yaml).contains("expected a map"));
    assert_eq!(refusal("", Format::Yaml), "field `.`: missing field `name`");
    assert!(refusal("name: fib\n---\nname: aes", Format::Yaml).contains("2 YAML documents"));
    assert!(refusal(&"x".repeat(70_000), Format::Yaml).contains("70000 bytes"));
}

#[test]
fn nesting_without_end_is_refused() {
    let deep = 30_000;
    for (text, format) in [
        (format!("{}{}", "[".repeat(deep), "]".repeat(deep)), Format::Json),
        (format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)), Format::Toml),
        (format!("{}a = 1", "a.".repeat(deep)), Format::Toml),
        (format!("a: {}{}", "[".repeat(deep), "]".repeat(deep)), Format::Yaml),
        (format!("\"{}a\": 1", "a.".repeat(deep)), Format::Yaml),
        ("- ".repeat(deep), Format::Yaml),
        ("? ".repeat(deep), Format::Yaml),
        ((0..350).map(|level| format!("{}a:\n", " ".repeat(level))).collect(), Format::Yaml),
    ] {
        assert!(!refusal(&text, format).is_empty());
    }
}

#[test]
fn aliases_that_multiply_are_refused() {
    let levels = ('a'..='i').zip('b'..='j').map(|(one, next)| format!("{next}: &{next} [{}]\n", vec![format!("*{one}"); 9].join(", ")));
    let text = format!("a: &a [x]\n{}name: *j\n", levels.collect::<String>());
    assert!(refusal(&text, Format::Yaml).contains("more than 8 aliases"));
    let shared = "name: fib\nbounds:\n  cpu_millicores: &range {min: 100, max: 200}\n  memory_mib: *range\n";
    let policy = ScalingPolicy::from_document(shared, Format::Yaml).expect("a few are fine");
    assert_eq!(policy.bounds.memory_mib.max(), Mebibytes(200));
}

#[test]
fn the_same_policy_reads_the_same_in_every_format() {
    let json = r#"{"name": "fib", "objective": {"percentile": 99, "latency": "250ms", "failure_share": 0}, "bounds": {"replicas": {"min": 0, "max": 5}}}"#;
    let toml = "name = \"fib\"\n[objective]\npercentile = 99\nlatency = \"250ms\"\nfailure_share = 0\n[bounds.replicas]\nmin = 0\nmax = 5";
    let yaml = "name: fib\nobjective:\n  percentile: 99\n  latency: 250ms\n  failure_share: 0\nbounds:\n  replicas: {min: 0, max: 5}";
    let read = |text, format| ScalingPolicy::from_document(text, format).expect("valid");
    let policy = read(json, Format::Json);
    assert_eq!(policy, read(toml, Format::Toml));
    assert_eq!(policy, read(yaml, Format::Yaml));
    assert_eq!((policy.objective.percentile.get(), policy.bounds.replicas.min()), (99.0, Replicas(0)));
    assert_eq!(policy.bounds.cpu_millicores, Bounds::default().cpu_millicores);
}

#[test]
fn a_written_policy_is_read_back_and_its_own_document_is_valid() {
    let policy = ScalingPolicy::new("prod/fib".parse().expect("a function"));
    assert_eq!(ScalingPolicy::from_json(&policy.to_json()).expect("valid"), policy);
    let text = String::from_utf8(policy.to_json()).expect("JSON is text");
    assert_eq!(ScalingPolicy::from_document(&text, Format::Json).expect("valid"), policy);
    assert_eq!(ScalingPolicy::from_document(&text, Format::Yaml).expect("JSON is YAML"), policy);
}

#[test]
fn what_lies_in_the_bucket_must_be_valid_too() {
    for (bytes, said) in [
        (&b"{\"name\": \"fib\", \"bounds\": {\"replicas\": {\"min\": 3, \"max\": 1}}}"[..], "bounds.replicas"),
        (b"{\"name\": \"fib\", \"bounds\": {\"cpu_millicores\": {\"min\": 0, \"max\": 1}}}", "bounds.cpu_millicores.min = 0m"),
        (b"", "EOF"),
        (b"\xff", "expected value"),
        (b"[\"1.0\", \"default\", \"fib\"]", "must be keys with values"),
        (b"{\"name\": \"fib\"} x", "trailing characters"),
    ] {
        let error = ScalingPolicy::from_json(bytes).expect_err("must be refused").to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn bounds_keep_every_allocation_within() {
    let bounds = Bounds::default();
    assert_eq!(bounds.clamp(Allocation::new(0, 1, 1)), Allocation::new(1, 100, 64));
    assert_eq!(bounds.clamp(Allocation::new(u32::MAX, u32::MAX, u32::MAX)), bounds.largest());
    assert!(bounds.contain(bounds.largest()) && !bounds.contain(Allocation::new(11, 100, 64)));
}

#[test]
fn max_age_is_three_ticks_unless_it_is_said() {
    let mut policy = ScalingPolicy::new("fib".parse().expect("a function"));
    assert_eq!(policy.max_age(), std::time::Duration::from_secs(15));
    policy.guard.max_age = Some(Span::seconds(7));
    assert_eq!(policy.max_age(), std::time::Duration::from_secs(7));
}
