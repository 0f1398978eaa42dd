//! Signatures of ScalingPolicies and models by ed25519 nkeys. Owns which bytes are signed, the form of a signature, and
//! which keys are trusted; must not read or write buckets.
//!
//! A signed policy is its JSON with `signature` as the last field, `,"signature":"NUMBER.KEY.SIGNATURE"}`. The signed
//! bytes are the JSON without that field, the key of the bucket and the number; they are also the bytes that are
//! parsed. The number grows with every change of the policy, so that an older signed policy cannot replace a newer one.
//! Of a model its name, version and SHA-256 digest are signed; `KEY.SIGNATURE` is metadata of the stored version.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::files::{MAX_DOCUMENT, read_text};
use crate::name::Name;
use crate::policy::ScalingPolicy;
use crate::time::Timestamp;

/// Start of the last field of a signed policy.
const FIELD: &str = ",\"signature\":\"";
/// End of a signed policy.
const END: &str = "\"}";
/// Longest signature of a policy: a number of 20 digits, a key of 56 letters, and 64 bytes in base64.
const MAX_SIGNATURE: usize = 20 + 1 + 56 + 1 + 86;
/// A number in a stored policy that is later than this after the time of signing, milliseconds, is ignored: no clock is
/// a day ahead.
const MAX_AHEAD: u64 = 24 * 3600 * 1000;
/// First letters of the public key and of the seed of a user.
const PUBLIC_PREFIX: char = 'U';
const SEED_PREFIX: &str = "SU";

/// Public half of a key that signs: an nkey of a user, `U...`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(String);

impl FromStr for PublicKey {
    type Err = String;

    /// A text that is not a public key is not repeated: it may be a seed.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('S') {
            return Err("this is the seed of a key, which is secret; `qscale key show FILE` prints its public key, U...".to_owned());
        }
        if !text.starts_with(PUBLIC_PREFIX) || KeyPair::from_public_key(text).is_err() {
            return Err("not the public key of a user, U... with 56 letters; `qscale key show FILE` prints it".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that signs: an nkey of a user with its seed, `SU...`.
#[derive(Clone)]
pub struct SigningKey(KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public_key())
    }
}

impl SigningKey {
    /// Reads the seed in the file `path`.
    ///
    /// # Errors
    /// If the file cannot be read or does not hold the seed of a user. The content is not repeated.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = read_text(path, MAX_DOCUMENT)?;
        let seed = text.trim();
        let pair = seed.starts_with(SEED_PREFIX).then(|| KeyPair::from_seed(seed).ok()).flatten();
        let pair = pair.filter(|pair| matches!(pair.key_pair_type(), KeyPairType::User));
        pair.map(Self).with_context(|| format!("{}: not the seed of a key, SU...; `qscale key create FILE` makes one", path.display()))
    }

    /// Makes a key and writes its seed to the new file `path`, readable by this user only.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let key = Self(KeyPair::new_user());
        let seed = key.0.seed().context("a new key has a seed")?;
        let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let written = opened.and_then(|mut file| writeln!(file, "{seed}").and_then(|()| file.sync_all()));
        written.with_context(|| format!("failed to write {}", path.display()))?;
        Ok(key)
    }

    /// Its public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.public_key())
    }

    /// The stored form of `policy` for the key `key` of the bucket, signed. `stored` is the value that it replaces, if
    /// any.
    ///
    /// # Panics
    /// Never: the key has a seed.
    #[must_use]
    pub fn sign_policy(&self, key: &str, policy: &ScalingPolicy, stored: Option<&[u8]>, now: Timestamp) -> Vec<u8> {
        let known = stored.and_then(|stored| StoredPolicy::new(stored).signature).map_or(0, |signature| signature.number);
        let known = if known <= now.0.saturating_add(MAX_AHEAD) { known } else { 0 };
        let number = now.0.max(known.saturating_add(1));
        let mut value = policy.to_json();
        let signature = self.sign(&policy_message(key, number, &value));
        value.pop();
        value.extend_from_slice(format!("{FIELD}{number}.{}.{signature}{END}", self.public_key()).as_bytes());
        value
    }

    /// Whether `stored`, the value of the key `key` of the bucket, is signed with this key.
    #[must_use]
    pub fn has_signed(&self, key: &str, stored: &[u8]) -> bool {
        TrustConfig::of([self.public_key()]).check_policy(key, stored).is_ok()
    }

    /// Signature of `bytes` as `version` of the model `name`.
    #[must_use]
    pub fn sign_model(&self, name: &Name, version: u64, bytes: &[u8]) -> String {
        format!("{}.{}", self.public_key(), self.sign(&model_message(name, version, bytes)))
    }

    fn sign(&self, message: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.0.sign(message).expect("the key has a seed"))
    }
}

fn policy_message(key: &str, number: u64, json: &[u8]) -> Vec<u8> {
    let mut message = format!("qscale policy\0{key}\0{number}\0").into_bytes();
    message.extend_from_slice(json);
    message
}

fn model_message(name: &Name, version: u64, bytes: &[u8]) -> Vec<u8> {
    let mut message = format!("qscale model\0{name}\0{version}\0").into_bytes();
    message.extend_from_slice(&Sha256::digest(bytes));
    message
}

/// Keys of which one must have signed what a service reads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TrustConfig {
    /// Public keys; absent: signatures are not required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<PublicKey>>,
}

/// Why a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("not signed, but signatures are required; sign it with --sign-with FILE")]
    Missing,
    /// The signature is made with another key.
    #[error("signed with the key {0}, which is not trusted (trust.keys)")]
    Untrusted(PublicKey),
    /// The signature is malformed, or was not made for this content, name and version.
    #[error("the signature does not match: the content was changed, or signed for another function, model or version")]
    Invalid,
    /// A newer policy was read before.
    #[error("an older signed policy (number {found}) in place of a newer one (number {known}); apply it again to sign it")]
    Older {
        /// Its number.
        found: u64,
        /// Number of the newest that was read.
        known: u64,
    },
}

impl TrustConfig {
    /// Trust in `keys` alone.
    #[must_use]
    pub fn of(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self { keys: Some(keys.into_iter().collect()) }
    }

    /// Checks that there is a key if signatures are required.
    ///
    /// # Errors
    /// Names the key of the configuration.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.keys.as_ref().is_none_or(|keys| !keys.is_empty()), "trust.keys = [], must list a public key, or be absent");
        Ok(())
    }

    /// Whether signatures are required.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.keys.is_some()
    }

    /// Whether signatures of `key` are accepted, because it is listed or none are required.
    #[must_use]
    pub fn accepts(&self, key: &PublicKey) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(key))
    }

    /// Checks the signature of `bytes` as `version` of the model `name`.
    ///
    /// # Errors
    /// If signatures are required and this one is missing, wrong or not trusted.
    pub fn check_model(&self, name: &Name, version: u64, bytes: &[u8], signature: Option<&str>) -> Result<(), SignatureError> {
        if !self.is_required() {
            return Ok(());
        }
        let (key, signature) = signature.ok_or(SignatureError::Missing)?.split_once('.').ok_or(SignatureError::Invalid)?;
        self.verify(key, signature, || model_message(name, version, bytes))
    }

    /// Checks the signature of the value `stored` of the key `key` of the bucket; returns the bytes of the policy and
    /// its number, 0 if no signature is required.
    fn check_policy(&self, key: &str, stored: &[u8]) -> Result<(Vec<u8>, u64), SignatureError> {
        if !self.is_required() {
            return Ok((stored.to_vec(), 0));
        }
        let StoredPolicy { json, signature } = StoredPolicy::new(stored);
        let PolicySignature { number, key: signer, signature } = signature.ok_or(SignatureError::Missing)?;
        self.verify(signer, signature, || policy_message(key, number, &json))?;
        Ok((json, number))
    }

    fn verify(&self, key: &str, signature: &str, message: impl FnOnce() -> Vec<u8>) -> Result<(), SignatureError> {
        let key: PublicKey = key.parse().map_err(|_| SignatureError::Invalid)?;
        if !self.accepts(&key) {
            return Err(SignatureError::Untrusted(key));
        }
        let pair = KeyPair::from_public_key(&key.0).map_err(|_| SignatureError::Invalid)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| SignatureError::Invalid)?;
        pair.verify(&message(), &signature).map_err(|_| SignatureError::Invalid)
    }
}

/// A stored policy in its parts.
struct StoredPolicy<'a> {
    /// The policy without its signature.
    json: Vec<u8>,
    signature: Option<PolicySignature<'a>>,
}

struct PolicySignature<'a> {
    number: u64,
    key: &'a str,
    signature: &'a str,
}

impl<'a> StoredPolicy<'a> {
    /// A value without a signature in the form of this version is one without a signature.
    fn new(stored: &'a [u8]) -> Self {
        Self::split(stored).unwrap_or_else(|| Self { json: stored.to_vec(), signature: None })
    }

    fn split(stored: &'a [u8]) -> Option<Self> {
        let rest = stored.strip_suffix(END.as_bytes())?;
        let earliest = rest.len().saturating_sub(MAX_SIGNATURE + FIELD.len());
        let found = rest[earliest..].windows(FIELD.len()).rposition(|window| window == FIELD.as_bytes())?;
        let (policy, signature) = rest.split_at(earliest + found);
        let mut parts = std::str::from_utf8(&signature[FIELD.len()..]).ok()?.split('.');
        let (text, key, signature) = (parts.next()?, parts.next()?, parts.next()?);
        // One text for each number.
        let number = text.parse().ok().filter(|number: &u64| number.to_string() == text)?;
        let json = [policy, b"}"].concat();
        parts.next().is_none().then_some(Self { json, signature: Some(PolicySignature { number, key, signature }) })
    }
}

/// Whether a stored policy is signed, by any key.
#[must_use]
pub fn is_signed(stored: &[u8]) -> bool {
    StoredPolicy::new(stored).signature.is_some()
}

/// Reads ScalingPolicies, and refuses those that are not signed as required, or older than one that it read before.
#[derive(Debug, Clone, Default)]
pub struct PolicyReader {
    trust: TrustConfig,
    /// Number of the newest policy by key, also of deleted ones.
    numbers: BTreeMap<String, u64>,
}

impl PolicyReader {
    /// A reader with the keys of `trust`.
    #[must_use]
    pub fn new(trust: &TrustConfig) -> Self {
        Self { trust: trust.clone(), numbers: BTreeMap::new() }
    }

    /// The policy that is `stored` under the key `key` of the bucket.
    ///
    /// # Errors
    /// If it is invalid, belongs to another key, or is not signed as required.
    pub fn read(&mut self, key: &str, stored: &[u8]) -> Result<ScalingPolicy, String> {
        let (json, number) = self.trust.check_policy(key, stored).map_err(|error| error.to_string())?;
        let policy = ScalingPolicy::from_json(&json).map_err(|error| error.to_string())?;
        let expected = policy.function().tokens();
        if key != expected {
            return Err(format!("the policy is for {expected}, its key is {key}"));
        }
        if self.trust.is_required() {
            let known = self.numbers.get(key).copied().unwrap_or(0);
            if number < known {
                return Err(SignatureError::Older { found: number, known }.to_string());
            }
            self.numbers.insert(key.to_owned(), number);
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests;
