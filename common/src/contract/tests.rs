use super::rounded::round;
use super::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_traceparent_is_written_as_it_is_read() {
    let trace: TraceParent = TRACE.parse().expect("the example of the recommendation");
    assert_eq!((trace.trace, trace.span), (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7));
    assert_eq!(trace.to_string(), TRACE);
}

#[test]
fn a_later_version_of_traceparent_is_read_by_its_first_four_fields() {
    let later = TRACE.replacen("00", "cc", 1) + "-what-the-future-brings";
    assert_eq!(later.parse::<TraceParent>(), TRACE.parse());
}

#[test]
fn a_malformed_traceparent_is_refused_with_its_text() {
    for bad in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-ä",
    ] {
        assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
    }
    let error = "x".repeat(10_000).parse::<TraceParent>().expect_err("no trace");
    assert!(error.len() < 200, "{}", error.len());
}

#[test]
fn a_child_keeps_the_trace_and_takes_a_step_of_its_own() {
    let mut rng = SmallRng::seed_from_u64(1);
    let parent = TraceParent::new(&mut rng);
    let child = parent.child(&mut rng);
    assert_eq!(child.trace, parent.trace);
    assert_ne!(child.span, parent.span);
    assert_eq!(child.to_string().parse(), Ok(child));
}

#[test]
fn four_digits_of_a_measurement_are_written() {
    for (value, written) in [
        (0.0, 0.0),
        (331.846_15, 331.8),
        (-1.250_04, -1.25),
        (123_456.0, 123_500.0),
        (0.000_012_345_6, 0.000_012_35),
        (9_999.6, 10_000.0),
        (0.1 + 0.2, 0.3),
        (f64::MAX, f64::MAX),
    ] {
        let rounded = round(value);
        assert!((rounded - written).abs() <= written.abs() * 1e-3 && rounded.is_finite(), "{value} became {rounded}");
    }
    assert_eq!(serde_json::to_string(&round(331.846_15)).expect("a number"), "331.8");
    assert_eq!(serde_json::to_string(&round(0.1 + 0.2)).expect("a number"), "0.3");
    assert!(round(f64::NAN).is_nan());
}

#[test]
fn a_version_is_two_numbers() {
    assert_eq!("1.12".parse(), Ok(Version { major: 1, minor: 12 }));
    for bad in ["", "1", "1.", ".1", "1.x", "1.0.0", "70000.0", "-1.0"] {
        assert!(bad.parse::<Version>().is_err(), "{bad}");
    }
    assert_eq!(Version::CURRENT.to_string().parse(), Ok(Version::CURRENT));
}

#[test]
fn a_subject_has_the_kind_of_its_message_and_no_other() {
    let function: FunctionId = "prod/fib".parse().expect("a function");
    for kind in EventType::ALL.iter().copied().filter(|kind| *kind != EventType::Action) {
        assert_eq!(subject::kind(&subject::of(kind, &function)), Some(kind));
        assert_eq!(subject::kind(&subject::all(kind)), Some(kind));
    }
    let agent = Name::new("mine").expect("a name");
    assert_eq!(subject::action(&agent, &function), "qscale.v1.action.mine.prod.fib");
    assert_eq!(subject::kind(&subject::action(&agent, &function)), Some(EventType::Action));
    assert_eq!(subject::all_of_agent(&agent), "qscale.v1.action.mine.>");
    assert_eq!(subject::agent_of(&subject::all_of_agent(&agent)), Some(agent.clone()));
    assert_eq!(subject::agent_of(&subject::all(EventType::Action)), None);
    assert_eq!(subject::agent_of("qscale.v1.state.mine.f"), None);
    assert_eq!(subject::agent_of_stream(&subject::action_stream(&agent)), Some(agent.clone()));
    assert_eq!(subject::agent_of_stream(subject::RECORD_STREAM), None);
    for other in
        ["", "qscale", "qscale.v1", "qscale.v1.", "qscale.v1.states.a.b", "qscale.v2.state.a.b", "qscale.v1state.a.b", "$JS.API.INFO"]
    {
        assert_eq!(subject::kind(other), None, "{other}");
    }
}

#[test]
fn the_attributes_of_an_event_name_its_message() {
    let load = Load {
        version: Version::CURRENT,
        namespace: Name::new("prod").expect("a name"),
        function: Name::new("fib").expect("a name"),
        run: "r1".into(),
        at_ms: crate::time::Timestamp(1000),
        interval_ms: 1000,
        offered_rps: 1.0,
        achieved_rps: 1.0,
        in_flight: 0,
        failures: Failures::default(),
        latency: Vec::new(),
        send_lag_p99_us: None,
    };
    let event = Event::of(&load, "/qscale/loadgen/0", crate::time::Timestamp(1000), TRACE.parse().expect("a trace"));
    let headers: std::collections::BTreeMap<_, _> = event.headers().into();
    let expected = [
        ("Nats-Msg-Id", "load.prod.fib.r1.1000"),
        ("ce-id", "load.prod.fib.r1.1000"),
        ("ce-source", "/qscale/loadgen/0"),
        ("ce-specversion", "1.0"),
        ("ce-subject", "prod/fib"),
        ("ce-time", "1970-01-01T00:00:01.000Z"),
        ("ce-type", "qscale.v1.load"),
        ("content-type", "application/json"),
        ("traceparent", TRACE),
    ];
    assert_eq!(headers.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>(), expected);
}

#[test]
fn every_kind_of_decode_error_is_counted_under_a_word_of_its_own() {
    let errors = [
        DecodeError::Oversized { bytes: 1 },
        DecodeError::NotUtf8 { at: 0 },
        DecodeError::Version { found: "2.0".into() },
        DecodeError::Malformed { field: ".".into(), reason: "x".into() },
        DecodeError::Invalid { reason: "x".into() },
        DecodeError::Subject { subject: "a".into(), expected: "b".into() },
    ];
    assert_eq!(errors.each_ref().map(DecodeError::kind).as_slice(), DecodeError::KINDS);
}
