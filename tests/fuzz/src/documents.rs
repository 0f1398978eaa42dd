//! Documents that people write, in JSON, TOML or YAML.

use qscale_common::contract::{Message as _, State};
use qscale_common::document::Format;
use qscale_common::platform::FunctionSpec;
use qscale_common::policy::ScalingPolicy;
use qscale_common::policy::text::{changed, differences, format_of_text, yaml};
use qscale_evaluate::Suite;
use qscale_sim::FunctionProfile;

/// ScalingPolicies: one that is accepted reads back from every form in which it is written, and gives a valid State.
pub fn policies(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let written = ScalingPolicy::from_documents(text, format_of_text(text)).unwrap_or_default();
    for policy in written.into_iter().chain(ScalingPolicy::from_json(data)) {
        assert_eq!(State::unmeasured(&policy).check(), Ok(()));
        assert_eq!(ScalingPolicy::from_json(&policy.to_json()).expect("written as JSON"), policy);
        let text = yaml(&serde_json::to_value(&policy).expect("JSON"));
        assert_eq!(ScalingPolicy::from_document(&text, Format::Yaml).expect("written as YAML"), policy);
        let same = changed(&policy, &[]).expect("it is valid");
        assert!(differences(&policy, &same).is_empty());
        assert!(policy.max_age() >= std::time::Duration::ZERO && policy.warnings().iter().all(|warning| !warning.is_empty()));
    }
}

/// Function files: one that is accepted reads back as JSON.
pub fn functions(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(spec) = FunctionSpec::parse(text, format_of_text(text)) {
        let written = serde_json::to_string(&spec).expect("JSON");
        assert_eq!(FunctionSpec::parse(&written, Format::Json).expect("written as JSON"), spec);
        assert!(spec.simulated.is_some() || !spec.command.is_empty());
        drop((spec.id().to_string(), spec.program()));
    }
}

/// Profiles of functions: one that is accepted reads back from both forms in which it is written, unless its name has more brackets than TOML may nest.
pub fn profiles(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(profile) = FunctionProfile::read(text, format_of_text(text)) {
        if [&profile.name, &profile.source].iter().map(|text| text.matches(['[', '{']).count()).sum::<usize>() < 64 {
            assert_eq!(FunctionProfile::read(&profile.to_toml(), Format::Toml).expect("written as TOML"), profile);
        }
        assert_eq!(FunctionProfile::read(&profile.to_json(), Format::Json).expect("written as JSON"), profile);
    }
}

/// Suites of the evaluator.
pub fn suites(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = Suite::parse(text, format_of_text(text)) {
        assert!(!error.to_string().is_empty());
    }
}
