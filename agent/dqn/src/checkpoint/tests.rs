use proptest::prelude::*;
use qscale_rl::Learner;
use qscale_rl::device::cpu;

use super::*;
use crate::Scope;

fn purpose() -> NetworkPurpose {
    NetworkPurpose {
        actions: Actions::new(ActionSet::Headroom, Scope::Joint),
        reward: Some(Default::default()),
        note: "from a test".into(),
    }
}

fn checkpoint() -> Checkpoint {
    let hyperparameters = Hyperparameters { hidden: vec![8], ..Hyperparameters::default() };
    let learner = Learner::new(hyperparameters, observation::COUNT, purpose().actions.count(), 9, &cpu()).expect("valid");
    let weights = learner.network().weights().expect("the CPU does not fail");
    let state = learner.state().expect("the CPU does not fail");
    Checkpoint::new(weights, Some(state), learner.parameters(), learner.seed(), &purpose())
}

#[test]
fn a_checkpoint_survives_a_round_trip_and_matches() {
    for checkpoint in [checkpoint(), Checkpoint { training: None, ..checkpoint() }] {
        let hyperparameters = checkpoint.header.hyperparameters.clone();
        let again = Checkpoint::new(checkpoint.weights.clone(), checkpoint.training.clone(), &hyperparameters, 9, &purpose());
        assert_eq!(Checkpoint::from_bytes(&again.to_bytes()), Ok(again.clone()));
        assert_eq!(again.check(), Ok(purpose().actions));
    }
}

#[test]
fn a_model_has_weights_of_16_bits_and_survives_a_round_trip() {
    let (general, specialist) = (checkpoint().model(None), checkpoint().model(None));
    let alone = general.to_bytes();
    let parameters = general.weights.values().len();
    assert!(alone.len() < Checkpoint { training: None, ..checkpoint() }.to_bytes().len() - 2 * parameters + 100, "{}", alone.len());
    let furthest = std::iter::zip(general.weights.values(), checkpoint().training.expect("in training").target.values())
        .map(|(rounded, exact)| (rounded - exact).abs())
        .fold(0.0, f32::max);
    assert!(furthest > 0.0 && furthest < 1e-3, "{furthest}");
    let joined = general.clone().join(&specialist).expect("alike");
    for model in [general, joined] {
        assert_eq!(Checkpoint::from_bytes(&model.to_bytes()), Ok(model.clone()));
        assert_eq!(model.clone().model(model.header.card.clone()), model, "rounded once");
    }
}

#[test]
fn weights_beyond_16_bits_are_clamped() {
    let mut large = checkpoint();
    large.training = None;
    large.weights.values_mut()[..2].copy_from_slice(&[1e9, -1e9]);
    let model = large.model(None);
    assert_eq!(model.weights.values()[..2], [65504.0, -65504.0]);
    assert_eq!(Checkpoint::from_bytes(&model.to_bytes()), Ok(model));
}

#[test]
fn a_mismatch_lists_all_differences() {
    let mut other = checkpoint();
    other.header.features[3] = "moon_phase".into();
    other.header.observation = 0;
    other.header.actions.pop();
    let CheckpointError::Mismatch(differences) = other.check().expect_err("it does not match") else { panic!("another error") };
    let [version, feature, actions] = &differences[..] else { panic!("{differences:?}") };
    assert!(version.contains("version 0") && feature.contains("`moon_phase`") && feature.contains("`next_over_rate`"), "{differences:?}");
    assert!(actions.contains("19 actions"), "{differences:?}");
    let mut other = checkpoint();
    other.header.action_set = ActionSet::Step;
    let error = other.check().expect_err("it does not match").to_string();
    assert!(["20", "step", "11"].iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn truncated_corrupted_and_oversized_bytes_are_rejected() {
    let bytes = checkpoint().to_bytes();
    let error = |bytes: &[u8]| Checkpoint::from_bytes(bytes).expect_err("must be rejected");
    assert!(matches!(error(b"PK\x03\x04"), CheckpointError::Form(_)));
    assert!(matches!(error(&bytes[..bytes.len() - 4]), CheckpointError::Numbers(_)));
    assert!(matches!(error(b"qscale-dqn 1\n99999999\n{}"), CheckpointError::Form(message) if message.contains("99999999")));
    let mut flipped = bytes.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    assert!(matches!(error(&flipped), CheckpointError::Numbers(message) if message.contains("checksum")));
    assert_eq!(error(&vec![0; MAX_BYTES + 1]), CheckpointError::Oversized(MAX_BYTES + 1));
}

#[test]
fn another_kind_of_file_is_named() {
    for (bytes, expected) in [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n" as &[u8], "a pointer of Git LFS"),
        (b"\x1f\x8b\x08\0\0\0", "compressed (gzip)"),
        (b"\xef\xbb\xbfqscale-dqn 1\n2\n{}", "a byte order mark"),
        (b"qscale-dqn 2\n2\n{}", "its version is `2`, this program reads version 1"),
        (b"qscale-dqn 1\r\n2\r\n{}", "line ends were converted"),
        (b"qscale-dqn 1", "does not start with the line"),
        (b"", "does not start with the line"),
    ] {
        let error = Checkpoint::from_bytes(bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "`{expected}` in {error}");
    }
}

#[test]
fn nan_is_rejected_although_the_checksum_is_right() {
    let good = checkpoint();
    let mut bytes = good.to_bytes();
    let numbers = good.sections().into_iter().map(|(values, _)| values.len()).sum::<usize>();
    let at = bytes.len() - numbers * 4;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let values: Vec<f32> = bytes[at..].chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four"))).collect();
    let said = format!("\"checksum\":{}", good.header.checksum);
    let text = String::from_utf8_lossy(&bytes[..at]).replace(&said, &format!("\"checksum\":{}", checksum(&values)));
    let json = text.split_once('{').map(|(_, rest)| format!("{{{rest}")).expect("a header");
    let forged = [format!("qscale-dqn 1\n{}\n{json}", json.len()).into_bytes(), bytes[at..].to_vec()].concat();
    let error = Checkpoint::from_bytes(&forged).expect_err("must be rejected");
    assert!(matches!(&error, CheckpointError::Numbers(message) if message.starts_with("weight ")), "{error}");
}

#[test]
fn a_header_beyond_the_limits_is_rejected() {
    let header = serde_json::to_value(&checkpoint().header).expect("it is written");
    for (pointer, value) in [
        ("/architecture/inputs", serde_json::json!(1_000_000_000_000_u64)),
        ("/architecture/hidden", serde_json::json!(vec![1024; 9])),
        ("/architecture/actions", serde_json::json!(0)),
        ("/hyperparameters/capacity", serde_json::json!(u64::MAX)),
        ("/hyperparameters/batch", serde_json::json!(-1)),
        ("/note", serde_json::json!("x".repeat(5000))),
    ] {
        let mut header = header.clone();
        *header.pointer_mut(pointer).expect("it is there") = value;
        let json = header.to_string();
        let error = Checkpoint::from_bytes(format!("qscale-dqn 1\n{}\n{json}", json.len()).as_bytes()).expect_err("must be refused");
        assert!(matches!(error, CheckpointError::Header(_)), "{pointer}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..300), known in any::<bool>()) {
        let bytes = if known { [MAGIC, &bytes].concat() } else { bytes };
        prop_assert!(Checkpoint::from_bytes(&bytes).is_err());
    }

    #[test]
    fn a_changed_byte_is_detected_or_harmless(at in any::<prop::sample::Index>(), by in 1..=255u8, model in any::<bool>()) {
        let checkpoint = if model { checkpoint().model(None) } else { checkpoint() };
        let mut bytes = checkpoint.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        // A change within a name or a hyperparameter may leave a valid checkpoint.
        if let Ok(read) = Checkpoint::from_bytes(&bytes) {
            prop_assert_eq!(&read.weights, &checkpoint.weights);
        }
    }
}
