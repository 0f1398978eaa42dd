//! The AES function: counter mode from counter zero, so that equal texts give equal replies. A workload, not a way to keep a secret.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use aes::cipher::{KeyIvInit, StreamCipher};
use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use clap::Args;

use crate::generator::{GeneratorArgs, InputOrder, NumberGenerator};
use crate::request_error::RequestError;
use crate::{grpc, workers::Workers};
use qscale_messages::{self as messages, HelloReply, HelloRequest, PlainTextMessage, ReturnEncryptionInfo};

/// Longest text, bytes: the reply contains it three times and stays below 4 MiB, the default limit of gRPC clients.
pub const MAX_PLAINTEXT: usize = 1 << 20;

/// Initial counter block.
const COUNTER: [u8; 16] = [0; 16];

/// Options of the AES function.
#[derive(Debug, Clone, Args)]
pub struct AesArgs {
    /// Key: 32, 48 or 64 hexadecimal digits, for AES-128, AES-192 or AES-256.
    #[arg(long, default_value = "6368616e676520746869732070617373")]
    pub key: AesKey,
    /// Text that is encrypted for an empty message and for `world`.
    #[arg(long = "default_plaintext", alias = "default-plaintext", default_value = "defaultplaintext")]
    pub default_plaintext: String,
    /// Input of `helloworld.Greeter`; the bounds are for the length of a random text.
    #[command(flatten)]
    pub generator: GeneratorArgs,
}

/// Routes of the function.
///
/// # Errors
/// When the generator's bounds or a text given as option exceed [`MAX_PLAINTEXT`].
pub fn routes(args: &AesArgs, workers: &Workers) -> anyhow::Result<Router> {
    let function = Arc::new(AesFunction::new(args, workers)?);
    let (direct, relayed, page) = (Arc::clone(&function), Arc::clone(&function), function);
    Ok(Router::new()
        .route(
            messages::AES_SHOW_ENCRYPTION,
            grpc::unary(move |request: PlainTextMessage| {
                let function = Arc::clone(&direct);
                async move { Ok(ReturnEncryptionInfo { encryption_info: function.encrypt(request.plaintext_message).await? }) }
            }),
        )
        .route(
            messages::HELLOWORLD_SAY_HELLO,
            grpc::unary(move |_: HelloRequest| {
                let function = Arc::clone(&relayed);
                async move { Ok(HelloReply { message: function.encrypt(function.chosen()).await? }) }
            }),
        )
        .route(
            "/",
            get(move |Query(mut query): Query<BTreeMap<String, String>>| async move {
                let text = query.remove("plaintext").unwrap_or_else(|| page.chosen());
                page.encrypt(text).await.map(|reply| reply + "\n")
            }),
        ))
}

/// The configured function.
struct AesFunction {
    key: AesKey,
    default_plaintext: String,
    order: InputOrder,
    value: Option<String>,
    lengths: NumberGenerator,
    workers: Workers,
}

impl AesFunction {
    fn new(args: &AesArgs, workers: &Workers) -> anyhow::Result<Self> {
        for (option, text) in [("--default_plaintext", Some(&args.default_plaintext)), ("--value", args.generator.value.as_ref())] {
            let length = text.map_or(0, String::len);
            anyhow::ensure!(length <= MAX_PLAINTEXT, "{option} has {length} bytes, must have at most {MAX_PLAINTEXT}");
        }
        Ok(Self {
            key: args.key.clone(),
            default_plaintext: args.default_plaintext.clone(),
            order: args.generator.generator,
            value: args.generator.value.clone(),
            lengths: NumberGenerator::new(&args.generator, MAX_PLAINTEXT as u32)?,
            workers: workers.clone(),
        })
    }

    /// Text chosen by the generator; without one, a text that names the generator, like in vSwarm's relay.
    fn chosen(&self) -> String {
        match (self.order, self.lengths.next()) {
            (InputOrder::Random, Some(length)) => self.lengths.letters(length),
            (InputOrder::Linear, _) => "A linear message".to_owned(),
            _ => self.value.clone().unwrap_or_else(|| "A unique message".to_owned()),
        }
    }

    async fn encrypt(&self, text: String) -> Result<String, RequestError> {
        let text = if text.is_empty() || text == "world" { self.default_plaintext.clone() } else { text };
        if text.len() > MAX_PLAINTEXT {
            return Err(RequestError::Invalid(format!("plaintext_message has {} bytes, must have at most {MAX_PLAINTEXT}", text.len())));
        }
        let key = self.key.clone();
        self.workers.run(move || Ok(reply(&key, &text))).await
    }
}

/// Reply for `text` in vSwarm's format, with the encryption in hexadecimal digits.
#[must_use]
pub fn reply(key: &AesKey, text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    key.apply(&COUNTER, &mut bytes);
    let mut reply = String::with_capacity(3 * text.len() + 64);
    reply.push_str("fn: AES | plaintext: ");
    reply.push_str(text);
    reply.push_str(" | ciphertext: ");
    for byte in bytes {
        write!(reply, "{byte:02x}").expect("writing to a string cannot fail");
    }
    reply.push_str(" | runtime: rust");
    reply
}

/// An AES key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AesKey {
    /// AES-128.
    Short([u8; 16]),
    /// AES-192.
    Middle([u8; 24]),
    /// AES-256.
    Long([u8; 32]),
}

impl AesKey {
    /// Encrypts `bytes` in place, or decrypts them: counter mode is its own inverse. The counter is big-endian over the whole block.
    pub fn apply(&self, counter: &[u8; 16], bytes: &mut [u8]) {
        match self {
            Self::Short(key) => ctr::Ctr128BE::<aes::Aes128>::new(key.into(), counter.into()).apply_keystream(bytes),
            Self::Middle(key) => ctr::Ctr128BE::<aes::Aes192>::new(key.into(), counter.into()).apply_keystream(bytes),
            Self::Long(key) => ctr::Ctr128BE::<aes::Aes256>::new(key.into(), counter.into()).apply_keystream(bytes),
        }
    }
}

impl std::str::FromStr for AesKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        let digits = digits.ok_or("the key must consist of hexadecimal digits")?;
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
        match digits.len() {
            32 => bytes.try_into().map(Self::Short),
            48 => bytes.try_into().map(Self::Middle),
            64 => bytes.try_into().map(Self::Long),
            _ => Err(bytes),
        }
        .map_err(|_| format!("the key has {} hexadecimal digits, must have 32, 48 or 64", digits.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
    }

    /// NIST SP 800-38A, appendix F.5: the same counter and text for all key lengths.
    #[track_caller]
    fn check(key: &str, expected: &str) {
        let counter = bytes("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().expect("one block");
        let mut text = bytes("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        key.parse::<AesKey>().expect("a key").apply(&counter, &mut text);
        assert_eq!(text, bytes(expected));
    }

    #[test]
    fn encryption_matches_the_nist_vectors() {
        check("2b7e151628aed2a6abf7158809cf4f3c", "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff");
        check("8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b", "1abc932417521ca24f2b0459fe7e6e0b090339ec0aa6faefd5ccc2c6f4ce8e94");
        check(
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
        );
    }

    #[test]
    fn the_reply_has_vswarms_format_and_decrypts_to_the_text() {
        let key: AesKey = "6368616e676520746869732070617373".parse().expect("vSwarm's key");
        let reply = reply(&key, "hello");
        let hex = reply
            .strip_prefix("fn: AES | plaintext: hello | ciphertext: ")
            .and_then(|rest| rest.strip_suffix(" | runtime: rust"))
            .expect("vSwarm's words");
        let mut text = bytes(hex);
        key.apply(&COUNTER, &mut text);
        assert_eq!(text, b"hello");
    }

    #[test]
    fn a_key_of_another_length_is_refused_with_its_length() {
        assert!("6368".parse::<AesKey>().expect_err("too short").contains("has 4"));
        assert!("ä".repeat(16).parse::<AesKey>().is_err());
        assert!("".parse::<AesKey>().is_err());
    }
}
