use proptest::prelude::*;

use super::*;

type Read = (String, Vec<(String, String)>, f64, Option<i64>);

fn read(body: &[u8]) -> Vec<Result<Read, Malformed>> {
    read_text(ExpositionText::new(body))
}

fn read_text(text: ExpositionText<'_>) -> Vec<Result<Read, Malformed>> {
    let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Samples::new(text)
        .map(|sample| {
            let sample = sample?;
            let mut labels = Labels::default();
            let value = sample.read(&mut labels)?;
            let labels = labels.iter().map(|(name, value)| (string(name), string(value))).collect();
            Ok((string(sample.name), labels, value.number, value.at_ms))
        })
        .collect()
}

#[track_caller]
fn check(line: &str, labels: &[(&str, &str)], number: f64, at_ms: Option<i64>) {
    let found = read(format!("{line}\n").as_bytes());
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let (found, expected) = (format!("{found:?}"), format!("{:?}", [Ok::<Read, Malformed>(("m".into(), labels, number, at_ms))]));
    assert_eq!(found, expected, "{line}");
}

#[track_caller]
fn refused(line: &str) {
    assert_eq!(read(format!("{line}\nok 1\n").as_bytes()), [Err(Malformed), Ok(("ok".into(), vec![], 1.0, None))], "{line}");
}

#[test]
fn every_form_of_a_sample_is_read() {
    check("m 1", &[], 1.0, None);
    check("m{} 1", &[], 1.0, None);
    check(" \t m \t{ a = \"b\" , } \t 1.5e3 \t -7 ", &[("a", "b")], 1500.0, Some(-7));
    check("m{a=\"b\",c=\"d\"}3 1700000000000\r", &[("a", "b"), ("c", "d")], 3.0, Some(1_700_000_000_000));
    check("m{a=\"\"} 123456789012345678", &[("a", "")], 123_456_789_012_345_680.0, None);
    check("m +Inf", &[], f64::INFINITY, None);
    check("m -Inf", &[], f64::NEG_INFINITY, None);
    check("m NaN", &[], f64::NAN, None);
    check("m{a=\"b\"} 17 # {trace_id=\"x\"} 0.2 1.5", &[("a", "b")], 17.0, None);
}

#[test]
fn a_line_with_a_repeated_label_is_malformed() {
    for line in ["m{a=\"b\",a=\"c\"} 1", "m{a=\"b\",c=\"d\",\"a\"=\"b\"} 1", "{\"m\",a=\"\",a=\"\"} 1"] {
        refused(line);
    }
    let many: Vec<String> = (0..100).map(|number| format!("l{number}=\"v\"")).collect();
    assert!(read(format!("m{{{}}} 1\n", many.join(",")).as_bytes())[0].is_ok());
    refused(&format!("m{{{},l7=\"v\"}} 1", many.join(",")));
    let sample = Samples::new(ExpositionText::new(b"m{a=\"b\",c=\"d\",a=\"e\"} 1\n")).next().and_then(Result::ok).expect("a sample");
    let mut labels = Labels::default();
    assert_eq!(sample.read(&mut labels), Err(Malformed));
    assert_eq!((labels.get("a"), labels.get("c"), labels.are_complete()), (None, Some(&b"d"[..]), false));
}

#[test]
fn names_in_quotes_stand_among_the_labels() {
    check("{\"m\"} 1", &[], 1.0, None);
    check("{\"m\",a=\"b\"} 1 7", &[("a", "b")], 1.0, Some(7));
    check("{ \"m\" , a = \"b\" , \"k8s.node\" = \"n\" , } 1", &[("a", "b"), ("k8s.node", "n")], 1.0, None);
    check("m{\"k8s.node\"=\"n\",\"b}\"=\"c\"} 1", &[("k8s.node", "n"), ("b}", "c")], 1.0, None);
    for line in ["{\"m\"", "{\"m\",", "{\"m\" 1", "{\"m\"=\"a\"} 1", "{\"m} 1", "{} 1", "m{\"\"=\"a\"} 1", "m{\"a\"} 1"] {
        refused(line);
    }
}

#[test]
fn a_text_without_its_end_is_truncated() {
    let truncated = |format, complete, body: &str| ExpositionText { body: body.as_bytes(), format, complete }.is_truncated();
    for (body, expected) in
        [("m 1\n# EOF\n", false), ("m 1\n# EOF", false), ("# EOF\r\n", false), ("m 1\n", true), ("m 1\n# EO", true), ("", true)]
    {
        assert_eq!(truncated(ExpositionFormat::OpenMetrics, true, body), expected, "{body:?}");
    }
    for (body, expected) in [("m 1\n", false), ("m 1", true), ("", false)] {
        assert_eq!(
            (truncated(ExpositionFormat::Prometheus, false, body), truncated(ExpositionFormat::Prometheus, true, body)),
            (expected, false),
            "{body:?}"
        );
    }
}

#[test]
fn escapes_and_braces_within_a_value_do_not_end_it() {
    check(r#"m{a="x\"} 5,\\",b="y\\\"z"} 1"#, &[("a", r#"x\"} 5,\\"#), ("b", r#"y\\\"z"#)], 1.0, None);
    check("m{a=\"\u{e4}\u{1f980}\"} 1", &[("a", "\u{e4}\u{1f980}")], 1.0, None);
}

#[test]
fn comments_and_empty_lines_are_skipped() {
    assert_eq!(read(b"# HELP m x\n\n \t\n\r\n# TYPE m counter\n  # EOF\n"), []);
    assert_eq!(read(b"# EOF"), []);
    assert_eq!(read("\u{feff}m 1\n".as_bytes()), read(b"m 1\n"));
}

#[test]
fn a_malformed_line_affects_only_itself() {
    for line in [
        "m",
        "m ",
        "m{",
        "m{a",
        "m{a=",
        "m{a=\"",
        "m{a=\"b",
        "m{a=\"b\\\"} 1",
        "m{a=\"b\"",
        "m{a=\"b\"}",
        "m{a=\"b\"} x",
        "m{a=b} 1",
        "m{a=\"b\" c=\"d\"} 1",
        "m{=\"b\"} 1",
        "m{,} 1",
        "m 1 2 3",
        "m 1 1.5",
        "m 1 x",
        "9m 1",
        "{a=\"b\"} 1",
        "\u{e4} 1",
        "m 0x10",
        "m 1_000",
        "m -",
    ] {
        refused(line);
    }
}

#[test]
fn a_body_that_may_be_truncated_loses_its_last_line() {
    let body = b"m 1\nm{a=\"b\"} 123456\n";
    for end in 0..body.len() {
        let found = read_text(ExpositionText { complete: false, ..ExpositionText::new(&body[..end]) });
        let whole = found.iter().filter(|line| line.is_ok()).count();
        assert_eq!(whole, usize::from(end >= 4), "{end}");
        assert!(found.iter().flatten().all(|(_, _, number, _)| *number == 1.0));
    }
}

#[test]
fn the_last_line_of_a_complete_body_counts() {
    assert_eq!(read(b"m 1\nm 25"), [Ok(("m".into(), vec![], 1.0, None)), Ok(("m".into(), vec![], 25.0, None))]);
    assert_eq!(read(b"m 1\r"), [Ok(("m".into(), vec![], 1.0, None))]);
    assert_eq!(read(b"m 1\n# HELP m x"), [Ok(("m".into(), vec![], 1.0, None))]);
    assert_eq!(read(b"m"), [Err(Malformed)]);
}

#[test]
fn the_content_type_decides_the_format() {
    for openmetrics in
        ["application/openmetrics-text", "Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", " application/openmetrics-text;v=1"]
    {
        assert_eq!(ExpositionFormat::of(openmetrics.as_bytes()), ExpositionFormat::OpenMetrics, "{openmetrics}");
    }
    for other in ["", "text/plain", "text/plain; version=0.0.4", "application/json", "application/openmetrics"] {
        assert_eq!(ExpositionFormat::of(other.as_bytes()), ExpositionFormat::Prometheus, "{other}");
    }
}

#[test]
fn times_of_openmetrics_are_seconds_with_fractions() {
    let at = |time: &str| {
        let body = format!("m 1 {time}\n# EOF\n");
        let found = read_text(ExpositionText { format: ExpositionFormat::OpenMetrics, ..ExpositionText::new(body.as_bytes()) });
        found[0].as_ref().map(|(.., at_ms)| at_ms.expect("a time")).map_err(|malformed| *malformed)
    };
    for (time, ms) in [
        ("1700000000", 1_700_000_000_000),
        ("1700000000.25", 1_700_000_000_250),
        ("1.7e9", 1_700_000_000_000),
        ("-1.5", -1500),
        ("1e300", i64::MAX),
        ("17.0 # {trace_id=\"x\"} 0.2 16.5", 17_000),
    ] {
        assert_eq!(at(time), Ok(ms), "{time}");
    }
    for time in ["NaN", "+Inf", "x", "1 2"] {
        assert_eq!(at(time), Err(Malformed), "{time}");
    }
}

#[test]
fn the_mark_of_the_end_is_a_comment_in_one_format_and_the_end_in_the_other() {
    let body = b"m 1\n# EOF\nm 2\nm 3";
    let in_format = |format| read_text(ExpositionText { format, ..ExpositionText::new(body) }).len();
    assert_eq!((in_format(ExpositionFormat::Prometheus), in_format(ExpositionFormat::OpenMetrics)), (3, 1));
    // Without the mark the end may be missing, even if all bytes that were announced arrived.
    let open = |body: &'static [u8]| read_text(ExpositionText { format: ExpositionFormat::OpenMetrics, ..ExpositionText::new(body) });
    assert_eq!(open(b"m 1\nm 2"), [Ok(("m".into(), vec![], 1.0, None)), Err(Malformed)]);
    assert_eq!(open(b"m 1\n# EOF\r").len(), 1);
}

#[test]
fn bytes_that_are_not_text_are_accepted_as_labels() {
    assert_eq!(read(b"m{a=\"\xff\xfe\"} 1\n").len(), 1);
    assert_eq!(read(b"m \xff\n"), [Err(Malformed)]);
    assert_eq!(read(b"m\0 1\n"), [Err(Malformed)]);
}

#[test]
fn a_line_that_differs_only_in_its_last_label_is_read_from_there() {
    fn sample(line: &str) -> ExpositionSample<'_> {
        Samples::new(ExpositionText::new(line.as_bytes())).next().expect("one line").expect("a sample")
    }
    let mut labels = Labels::default();
    let first = sample("m{a=\"1\",le=\"0.1\"} 3\n");
    first.read(&mut labels).expect("well formed");
    let before = first.before_last("le", &labels).expect("it is the last");
    let read = |line: &'static str| {
        sample(line).read_last(before).map(|(label, value)| (String::from_utf8_lossy(label).into_owned(), value.number, value.at_ms))
    };
    assert_eq!(read("m{a=\"1\",le=\"0.25\"} 4 77\n"), Some(("0.25".into(), 4.0, Some(77))));
    for other in [
        "m{a=\"2\",le=\"0.25\"} 4\n",
        "m{a=\"1\",le=\"0.25\",b=\"2\"} 4\n",
        "m{a=\"1\",le=\"x\\\"\"} 4\n",
        "m{a=\"1\",le=\"1\"} x\n",
        "m{a=\"1\",le=\"1\n",
        "{\"m\",{a=\"1\",le=\"0.25\"} 4\n",
        "{\"m\",a=\"1\",le=\"0.25\"} 4\n",
    ] {
        assert_eq!(read(other), None, "{other}");
    }
    for other in ["m{le=\"0.1\",a=\"1\"} 3\n", "m{a=\"1\"} 3\n", "m 3\n", "m{le=\"0.1\",} 3\n"] {
        let other = sample(other);
        other.read(&mut labels).expect("well formed");
        assert_eq!(other.before_last("le", &labels), None);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_accepted(body in prop::collection::vec(any::<u8>(), 0..300)) {
        for format in [ExpositionFormat::Prometheus, ExpositionFormat::OpenMetrics] {
            read_text(ExpositionText { format, ..ExpositionText::new(&body) });
        }
    }

    #[test]
    fn any_arrangement_of_the_formats_characters_is_accepted(body in "[m{}=\",\\\\ \t\n#0-9eE+.InfaN-]{0,200}") {
        read(body.as_bytes());
    }

    #[test]
    fn samples_round_trip(name in "[a-z_:][a-z0-9_:]{0,20}", values in prop::collection::vec("[^\"\\\\\n]{0,20}", 0..5), number: f64, at in prop::option::of(any::<i64>())) {
        let labels: Vec<_> = values.iter().enumerate().map(|(index, value)| (format!("l{index}"), value.clone())).collect();
        let inner: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let line = format!("{name}{{{}}} {number}{}\n", inner.join(","), at.map(|at| format!(" {at}")).unwrap_or_default());
        prop_assert_eq!(read(line.as_bytes()), [Ok((name, labels, number, at))]);
    }
}
