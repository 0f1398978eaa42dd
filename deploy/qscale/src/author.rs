//! `--by`, `--reason` and `--sign-with`: who makes a change, why, and with which key. Owns these arguments; the record
//! of changes belongs to `qscale_common::runtime::author`, signatures to `qscale_common::runtime::signature`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use qscale_common::runtime::author::{self, Author};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::nats_accounts::User;
use qscale_common::runtime::signature::{SigningKey, TrustConfig};

use crate::output;
use crate::system::Locate;

/// Author and reason of a change.
#[derive(Debug, Clone, Default, Args)]
pub struct AuthorArgs {
    /// Name in the record of changes; by default that of the user who runs the command
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Reason, shown to other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl AuthorArgs {
    /// The author of changes over `bus`. A change that cannot be recorded is a warning.
    pub fn author(self, bus: &Bus) -> Author {
        let by = self.by.unwrap_or_else(author::user_name);
        Author::new(bus, User::Operator, &by).because(self.reason).reporting(|error| output::warn(output::clean(error)))
    }
}

/// Author of a change that can be signed.
#[derive(Debug, Clone, Default, Args)]
pub struct SignerArgs {
    #[command(flatten)]
    author: AuthorArgs,
    /// File with the seed of the key that signs; by default the operator's key in the state folder, if there is one
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    sign_with: Option<PathBuf>,
}

impl SignerArgs {
    /// The author of changes over `bus`, with a key that `trust` accepts.
    pub fn author(self, locate: &Locate, bus: &Bus, trust: &TrustConfig) -> anyhow::Result<Author> {
        let key = match &self.sign_with {
            Some(path) => Some(SigningKey::read(path).context("--sign-with")?),
            None => locate.signing_key()?,
        };
        match key.as_ref().map(SigningKey::public_key) {
            Some(public) => anyhow::ensure!(trust.accepts(&public), "the system does not trust the key {public}; nothing was changed"),
            None => anyhow::ensure!(!trust.is_required(), "the system requires signatures: pass --sign-with FILE; nothing was changed"),
        }
        Ok(self.author.author(bus).signing(key))
    }
}
