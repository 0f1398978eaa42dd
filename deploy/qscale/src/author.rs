//! `--by` and `--reason`: who makes a change and why. Owns these arguments; the record of changes belongs to `qscale_common::runtime::author`.

use clap::Args;
use qscale_common::runtime::author::{self, Author};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::nats_accounts::User;

use crate::output;

/// Who makes a change and why.
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
