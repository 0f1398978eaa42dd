use super::*;
use crate::document::{DocumentError, Format};
use crate::time::Span;
use crate::units::{Allocation, Mebibytes, Replicas};

#[track_caller]
fn refusal(text: &str, format: Format) -> ScalingPolicyError {
    ScalingPolicy::from_document(text, format).expect_err("must be refused")
}

/// Checks that a YAML ScalingPolicy for `fib` with `fields` is refused because of `field`.
#[track_caller]
fn refused_field(fields: &str, field: &str) {
    let error = refusal(&format!("name: fib\n{fields}\n"), Format::Yaml);
    assert!(matches!(&error, ScalingPolicyError::Document(DocumentError::Field { field: found, .. }) if found == field), "{error:?}");
}

#[track_caller]
fn refused_keys(text: &str, format: Format, keys: &[&str]) {
    let error = refusal(text, format);
    assert!(matches!(&error, ScalingPolicyError::Document(DocumentError::UnknownKeys(found)) if found == keys), "{error:?}");
}

#[test]
fn a_value_outside_its_range_is_refused_with_its_field() {
    refused_field("objective: {percentile: 100}", "objective.percentile");
    refused_field("objective: {percentile: -1.5}", "objective.percentile");
    refused_field("objective: {latency: 2h}", "objective.latency");
    refused_field("objective: {failure_share: 5}", "objective.failure_share");
    refused_field("objective: {point: {}}", "objective.point");
    refused_field("objective: {point: {violation_cost: 20, violated_share: 0.01}}", "objective.point");
    refused_field("objective: {point: {violation_cost: 9}}", "objective.point.violation_cost");
    refused_field("objective: {point: {violated_share: 0}}", "objective.point.violated_share");
    refused_field("objective: {point: {budget_per_month: -5}}", "objective.point.budget_per_month");
    refused_field("bounds: {replicas: {min: 5, max: 2}}", "bounds.replicas");
    refused_field("prices: {cpu_core_hour: -1}", "prices.cpu_core_hour");
    refused_field("guard: {resize_factor: 0.5}", "guard.resize_factor");
    refused_field("guard: {replicas_up: 0}", "guard.replicas_up");
    refused_field("tick: 1ms", "tick");
    refused_field("agent: Mine", "agent");
    for (bounds, expected) in [
        ("replicas: {min: 0, max: 0}", "bounds.replicas.max = 0"),
        ("cpu_millicores: {min: 0, max: 9}", "bounds.cpu_millicores.min = 0m"),
        ("memory_mib: {min: 0, max: 9}", "bounds.memory_mib.min = 0Mi"),
    ] {
        let error = refusal(&format!("name: fib\nbounds: {{{bounds}}}\n"), Format::Yaml);
        assert!(matches!(&error, ScalingPolicyError::Contradiction(reason) if reason.starts_with(expected)), "{error:?}");
    }
}

#[test]
fn a_misspelt_word_is_refused_with_its_field() {
    refused_field("mode: activ", "mode");
    refused_field("mode: Active", "mode");
    refused_field("fallback: {rule: treshold}", "fallback.rule");
}

#[test]
fn an_unknown_key_is_refused_with_its_path() {
    refused_keys("name: fib\ncolour: red\nguard: {spend: 1}", Format::Yaml, &["colour", "guard.spend"]);
    refused_keys("name: fib\nbounds: {replicas: {min: 1, max: 2, most: 3}}", Format::Yaml, &["bounds.replicas.most"]);
    refused_keys("name = \"fib\"\n[objectives]\npercentile = 99", Format::Toml, &["objectives"]);
    refused_keys(r#"{"name": "fib", "guard": {"spend": 1}}"#, Format::Json, &["guard.spend"]);
    let missing = refusal("nam: fib", Format::Yaml);
    let expected =
        |error: &DocumentError| matches!(error, DocumentError::Field { field, reason } if field == "." && reason.contains("`nam`"));
    assert!(matches!(&missing, ScalingPolicyError::Document(error) if expected(error)), "{missing:?}");
}

#[test]
fn a_value_of_another_type_is_refused_rather_than_converted() {
    refused_field("objective: {percentile: \"99\"}", "objective.percentile");
    refused_field("paused: \"true\"", "paused");
    refused_field("paused: 1", "paused");
    refused_field("bounds: {replicas: {min: 1.5, max: 2}}", "bounds.replicas.min");
    refused_field("bounds: {replicas: {min: -1, max: 2}}", "bounds.replicas.min");
    refused_field("bounds: {replicas: {min: 1}}", "bounds.replicas");
    refused_field("version: 1.0", "version");
    refused_field("version: \"2.0\"", "version");
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    for duplicate in [r#"{"name": "fib", "name": "aes"}"#, r#"{"objective": null, "name": "fib", "name": "aes"}"#] {
        assert!(refusal(duplicate, Format::Json).to_string().contains("duplicate field `name`"), "{duplicate}");
    }
    assert!(refusal("name: fib\nname: aes", Format::Yaml).to_string().contains("duplicated key"));
    assert!(refusal("name = \"fib\"\nname = \"aes\"", Format::Toml).to_string().contains("duplicate key"));
}

#[test]
fn a_document_without_keys_is_refused() {
    assert_eq!(refusal("[\"1.0\", \"default\", \"fib\"]", Format::Json).to_string(), "field `.`: must be keys with values");
    assert_eq!(refusal("- fib", Format::Yaml).to_string(), "field `.`: must be keys with values");
    assert_eq!(refusal("", Format::Yaml).to_string(), "field `.`: missing field `name`");
    let several = "2 YAML documents, expected 1; write each into a file of its own";
    assert_eq!(refusal("name: fib\n---\nname: aes", Format::Yaml).to_string(), several);
    assert!(refusal(&"x".repeat(70_000), Format::Yaml).to_string().contains("70000 bytes"));
}

#[track_caller]
fn check_documents(text: &str, expected: Result<&[&str], &str>) {
    for text in [text.to_owned(), text.replace('\n', "\r\n")] {
        match (ScalingPolicy::from_documents(&text, Format::Yaml), expected) {
            (Ok(policies), Ok(names)) => {
                assert_eq!(policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(), names, "{text}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{part}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
}

#[test]
fn several_documents_are_read_in_order() {
    check_documents("name: b\n---\nname: a\n", Ok(&["b", "a"]));
    check_documents("---\n# nothing\n---\nname: b\n--- # the next\n\n---\n--- {name: a}\n...\n---\n", Ok(&["b", "a"]));
    check_documents("%YAML 1.2\n---\nname: a", Ok(&["a"]));
    check_documents("name: a\nguard:\n  max_age: 1m ---\n", Err("max_age"));
    check_documents("name: b\n---\n\nname: a\ncolour: red\n", Err("document 2, which begins in line 2: unknown key `colour`"));
    check_documents("---\n---\n", Err("missing field `name`"));
    check_documents("\u{feff}name: b\n---\n\u{feff}name: a\n\u{feff}---\n\u{feff}# the last\nname: c\n", Ok(&["b", "a", "c"]));
    let json = ScalingPolicy::from_documents("{\"name\": \"a\"}", Format::Json).expect("valid");
    assert_eq!(json.len(), 1);
}

#[test]
fn a_number_that_is_not_finite_is_refused_with_its_field() {
    for (text, format, expected) in [
        ("name: fib\nobjective: {percentile: .nan}", Format::Yaml, "field `objective.percentile`: .nan, must be a finite number"),
        ("name: fib\nguard: {max_age: -.inf}", Format::Yaml, "field `guard.max_age`: -.inf, must be a finite number"),
        ("name: fib\nguard: {max_age: [1, 1e999]}", Format::Yaml, "field `guard.max_age[1]`: 1e999, must be a finite number"),
        ("name = \"fib\"\n[objective]\npercentile = nan", Format::Toml, "field `objective.percentile`: NaN, must be a finite number"),
        ("name = \"fib\"\n[guard]\nmax_age = nan", Format::Toml, "field `guard.max_age`: NaN, must be a finite number"),
    ] {
        assert_eq!(refusal(text, format).to_string(), expected);
    }
}

#[test]
fn a_section_without_a_value_has_its_defaults() {
    let read = |text, format| ScalingPolicy::from_document(text, format).expect("valid");
    let default = read("name: fib", Format::Yaml);
    assert_eq!(read("name: fib\nobjective:\n  # percentile: 95\nguard: ~\n", Format::Yaml), default);
    assert_eq!(read(r#"{"name": "fib", "objective": null}"#, Format::Json), default);
    refused_field("objective: {percentile: }", "objective.percentile");
    let unknown = refusal("name: fib\nobjective:\ncolour: red", Format::Yaml).to_string();
    assert_eq!(unknown, "unknown key `colour`");
}

#[test]
fn a_key_is_not_a_path() {
    for key in ["objective.percentile", "x[0]", "x[200000000]", "x[-9223372036854775808]"] {
        let expected = format!("unknown key `{key}`");
        assert_eq!(refusal(&format!("name: fib\n\"{key}\": 1"), Format::Yaml).to_string(), expected);
        assert_eq!(refusal(&format!("name = \"fib\"\n\"{key}\" = 1"), Format::Toml).to_string(), expected);
    }
}

#[test]
fn a_fraction_for_a_percentile_is_refused_with_the_percentile() {
    for (fraction, meant) in [("0.95", "95"), ("0.999", "99.9"), ("0.5", "50")] {
        let error = refusal(&format!("name: fib\nobjective: {{percentile: {fraction}}}\n"), Format::Yaml).to_string();
        assert!(error.contains("objective.percentile") && error.contains(&format!("such as {meant},")), "{error}");
    }
}

#[test]
fn a_currency_without_a_code_is_refused() {
    for currency in ["US Dollars", "usd", "", "$", "EURO"] {
        let error = refusal(&format!("name: fib\nprices: {{currency: \"{currency}\"}}\n"), Format::Yaml).to_string();
        assert!(error.contains("prices.currency") && error.contains("ISO 4217"), "{error}");
    }
    assert!(ScalingPolicy::from_document("name: fib\nprices: {currency: CHF}", Format::Yaml).is_ok());
}

#[test]
fn values_that_are_unlikely_to_be_intended_are_named() {
    let warnings = |fields: &str| ScalingPolicy::from_document(&format!("name: fib\n{fields}\n"), Format::Yaml).expect("valid").warnings();
    assert_eq!(warnings("tick: 5s"), Vec::<String>::new());
    for (fields, part) in [
        ("objective: {failure_share: 1}", "failure_share = 1 "),
        ("objective: {percentile: 5}", "percentile = 5 "),
        ("tick: 10s\nguard: {max_age: 5s}", "max_age = 5s"),
        ("prices: {cpu_core_hour: 0, memory_gib_hour: 0}", "prices are 0"),
    ] {
        let found = warnings(fields);
        assert!(found.len() == 1 && found[0].contains(part), "{found:?}");
    }
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
        assert!(!refusal(&text, format).to_string().is_empty());
    }
}

#[test]
fn aliases_that_multiply_are_refused() {
    let levels = ('a'..='i').zip('b'..='j').map(|(one, next)| format!("{next}: &{next} [{}]\n", vec![format!("*{one}"); 9].join(", ")));
    let text = format!("a: &a [x]\n{}name: *j\n", levels.collect::<String>());
    assert!(refusal(&text, Format::Yaml).to_string().contains("more than 8 aliases"));
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
fn a_value_of_the_bucket_must_be_valid_too() {
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

#[test]
fn the_direction_of_a_change_is_the_direction_of_its_cost() {
    let prices = Prices::default();
    let from = Allocation::new(4, 500, 256);
    assert_eq!(prices.direction(from, Allocation::new(3, 600, 256)), Some(Direction::Down));
    assert_eq!(prices.direction(from, Allocation::new(3, 800, 256)), Some(Direction::Up));
    assert_eq!(prices.direction(from, from), None);
    let asleep = Allocation::new(0, 500, 256);
    assert_eq!(prices.direction(asleep, Allocation::new(0, 400, 256)), Some(Direction::Down));
    let free =
        Prices { cpu_core_hour: Weight::try_from(0.0).expect("valid"), memory_gib_hour: Weight::try_from(0.0).expect("valid"), ..prices };
    assert_eq!(free.direction(from, Allocation::new(2, 900, 256)), Some(Direction::Up), "at equal cost a part that grows");
}

#[test]
fn a_number_of_sixteen_digits_is_read_back_exactly() {
    let written = ScalingPolicy::from_document("name: f\nprices: {memory_gib_hour: 0.9007199254740993}\n", Format::Yaml).expect("valid");
    assert_eq!(ScalingPolicy::from_json(&written.to_json()).expect("valid"), written);
}
