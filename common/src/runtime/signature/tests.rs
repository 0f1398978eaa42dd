use super::*;

const NOW: Timestamp = Timestamp(1_763_880_784_123);
const KEY: &str = "default.fib";

fn key() -> SigningKey {
    SigningKey(KeyPair::new_user())
}

fn policy() -> ScalingPolicy {
    ScalingPolicy::new("fib".parse().expect("a name"))
}

fn reader(key: &SigningKey) -> PolicyReader {
    PolicyReader::new(&TrustConfig::of([key.public_key()]))
}

#[track_caller]
fn refused(reader: &mut PolicyReader, key: &str, stored: &[u8], part: &str) {
    let error = reader.read(key, stored).expect_err("refused");
    assert!(error.contains(part), "`{part}` in {error}");
}

#[test]
fn a_signed_policy_is_read_also_where_signatures_are_unknown() {
    let key = key();
    let stored = key.sign_policy(KEY, &policy(), None, NOW);
    assert_eq!(reader(&key).read(KEY, &stored), Ok(policy()));
    assert_eq!(PolicyReader::default().read(KEY, &stored), Ok(policy()));
    assert_eq!(ScalingPolicy::from_json(&stored).expect("unknown fields are ignored"), policy());
    assert!(key.has_signed(KEY, &stored) && is_signed(&stored) && !is_signed(&policy().to_json()));
}

#[test]
fn an_unsigned_moved_or_foreign_policy_is_refused() {
    let (key, foreign) = (key(), key());
    let mut reader = reader(&key);
    refused(&mut reader, KEY, &policy().to_json(), "not signed");
    refused(&mut reader, KEY, &foreign.sign_policy(KEY, &policy(), None, NOW), "not trusted");
    let stored = key.sign_policy(KEY, &policy(), None, NOW);
    refused(&mut reader, "default.other", &stored, "does not match");
    assert!(!foreign.has_signed(KEY, &stored));
    // The key of the bucket is that of another function than the signed one.
    let other = key.sign_policy("default.other", &policy(), None, NOW);
    refused(&mut reader, "default.other", &other, "its key is default.other");
    let text = String::from_utf8(stored).expect("text");
    let relabelled = text.replace(&key.public_key().to_string(), &foreign.public_key().to_string());
    refused(&mut reader, KEY, relabelled.as_bytes(), "not trusted");
    refused(&mut PolicyReader::new(&TrustConfig::of([foreign.public_key()])), KEY, relabelled.as_bytes(), "does not match");
}

#[test]
fn a_policy_with_any_changed_missing_or_additional_byte_is_refused() {
    let key = key();
    let stored = key.sign_policy(KEY, &policy(), None, NOW);
    for at in 0..stored.len() {
        // One change of each kind at each place: a signature takes long to check without optimisation.
        let mut changed = stored.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(reader(&key).read(KEY, &changed).is_err(), "byte {at}, bit {}", at % 8);
        assert!(reader(&key).read(KEY, &stored[..at]).is_err(), "the first {at} bytes");
        assert!(reader(&key).read(KEY, &stored[at + 1..]).is_err(), "without the first {} bytes", at + 1);
        let more = [" ", "1", "\"", "}"][at % 4];
        let changed = [&stored[..at], more.as_bytes(), &stored[at..]].concat();
        assert!(reader(&key).read(KEY, &changed).is_err(), "`{more}` at {at}");
    }
    let twice = [&stored[..stored.len() - 1], b",\"signature\":\"1.U.x\"}"].concat();
    assert!(reader(&key).read(KEY, &twice).is_err());
}

#[test]
fn an_older_signed_policy_does_not_replace_a_newer_one() {
    let key = key();
    let mut reader = reader(&key);
    let first = key.sign_policy(KEY, &policy(), None, NOW);
    // A clock that was set back does not make the policy older.
    let second = key.sign_policy(KEY, &policy(), Some(&first), Timestamp(NOW.0 - 3_600_000));
    assert!(reader.read(KEY, &first).is_ok() && reader.read(KEY, &second).is_ok() && reader.read(KEY, &second).is_ok());
    refused(&mut reader, KEY, &first, "older");
    // A number that no clock can have had does not end the sequence.
    let far = [&policy().to_json()[..policy().to_json().len() - 1], format!("{FIELD}{}.U.x{END}", u64::MAX).as_bytes()].concat();
    let third = key.sign_policy(KEY, &policy(), Some(&far), Timestamp(NOW.0 + 10));
    assert!(reader.read(KEY, &third).is_ok());
}

#[test]
fn a_model_is_accepted_under_its_name_and_version_only() {
    let (key, foreign) = (key(), key());
    let trust = TrustConfig::of([key.public_key()]);
    let (mine, other) = (Name::new("mine").expect("valid"), Name::new("other").expect("valid"));
    let bytes = b"weights";
    let signature = key.sign_model(&mine, 3, bytes);
    assert_eq!(trust.check_model(&mine, 3, bytes, Some(&signature)), Ok(()));
    assert_eq!(TrustConfig::default().check_model(&mine, 3, bytes, None), Ok(()));
    assert_eq!(trust.check_model(&mine, 3, bytes, None), Err(SignatureError::Missing));
    for (name, version, bytes) in [(&other, 3, &bytes[..]), (&mine, 4, bytes), (&mine, 3, b"weight"), (&mine, 3, b"Weights")] {
        assert_eq!(trust.check_model(name, version, bytes, Some(&signature)), Err(SignatureError::Invalid));
    }
    for broken in ["", ".", "x", "x.y", &signature[1..], &signature[..signature.len() - 1], &format!("{signature}A")] {
        assert_eq!(trust.check_model(&mine, 3, bytes, Some(broken)), Err(SignatureError::Invalid), "{broken}");
    }
    let by_other = foreign.sign_model(&mine, 3, bytes);
    assert_eq!(trust.check_model(&mine, 3, bytes, Some(&by_other)), Err(SignatureError::Untrusted(foreign.public_key())));
}

#[test]
fn a_seed_or_another_text_is_not_a_public_key_and_is_not_repeated() {
    let (key, account) = (key(), KeyPair::new_account());
    let seed = key.0.seed().expect("a seed");
    let public = key.public_key().to_string();
    for text in [seed.as_str(), "", "U", "Ü", &public[1..], &account.public_key(), &public.replace('U', "V"), &public.to_lowercase()] {
        let error = text.parse::<PublicKey>().expect_err(text);
        assert!(text.len() < 2 || !error.contains(text), "{error}");
    }
    assert_eq!(public.parse(), Ok(key.public_key()));
    assert!(
        serde_json::from_str::<TrustConfig>(&format!("{{\"keys\": [\"{seed}\"]}}")).is_err_and(|error| !error.to_string().contains(&seed))
    );
    assert!(!format!("{key:?}").contains(&seed));
    assert!(TrustConfig::of([]).check().is_err() && TrustConfig::default().check().is_ok());
}

#[test]
fn a_created_key_is_private_and_read_again() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let created = SigningKey::create(&path).expect("created");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(SigningKey::read(&path).expect("readable").public_key(), created.public_key());
    assert!(SigningKey::create(&path).is_err(), "an existing key is not replaced");
    let others = [KeyPair::new_account().seed().expect("a seed"), created.public_key().to_string(), "S".to_owned(), "SUÄ".repeat(20)];
    for text in others {
        std::fs::write(&path, &text).expect("written");
        let error = format!("{:#}", SigningKey::read(&path).expect_err("refused"));
        assert!(error.contains("SU...") && (text.len() < 2 || !error.contains(&text)), "{error}");
    }
}
