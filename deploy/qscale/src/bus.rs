//! `qscale bus`: the nats-server of an installation that `qscale up` does not start. Owns arguments and output; accounts and streams belong to libraries.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use qscale_common::runtime::{nats_accounts, private, shutdown};
use qscale_common::time::Span;
use qscale_up::bus::{self, Provisioning};
use qscale_up::say;

use crate::output;

/// Actions on the bus.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  qscale bus accounts --credentials DIR --output accounts.conf
  qscale bus provision --credentials DIR --server nats://127.0.0.1:4222
  qscale bus provision --credentials DIR --every 10s

DIR has a file for each user with its password, such as collector, operator and agent-dqn.")]
pub enum BusCommand {
    /// Print the accounts, users and permissions as configuration of a nats-server
    Accounts {
        #[command(flatten)]
        credentials: Credentials,
        /// Write to this file, with mode 600, instead of standard output
        #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
    /// Create the streams, buckets and the model store that are missing
    Provision {
        #[command(flatten)]
        credentials: Credentials,
        /// Address of the nats-server
        #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
        server: String,
        /// Check again at this interval until stopped; errors are reported and do not end the command
        #[arg(long, value_name = "DURATION")]
        every: Option<Span>,
    },
}

/// Passwords of the users.
#[derive(Debug, Args)]
pub struct Credentials {
    /// Folder with a file for each user that holds its password
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    credentials: PathBuf,
}

/// Runs the command.
pub async fn run(command: BusCommand) -> anyhow::Result<()> {
    match command {
        BusCommand::Accounts { credentials, output } => {
            let accounts = nats_accounts::accounts(&bus::passwords(&credentials.credentials)?)?;
            match output {
                Some(path) => private::write(&path, accounts.as_bytes()),
                None => output::line(accounts.trim_end()),
            }
        }
        BusCommand::Provision { credentials, server, every } => {
            let mut provisioning = Provisioning::new(&server, &bus::passwords(&credentials.credentials)?);
            let Some(interval) = every else {
                report(&provisioning.ensure().await?);
                return Ok(());
            };
            let stop = shutdown::token();
            let mut problem = None;
            while !stop.is_cancelled() {
                let found = provisioning.ensure().await;
                match &found {
                    Ok(created) => report(created),
                    // The same error is reported once.
                    Err(error) if problem.as_ref() != Some(&format!("{error:#}")) => output::warn(format!("{error:#}")),
                    Err(_) => {}
                }
                problem = found.err().map(|error| format!("{error:#}"));
                let _stopped = tokio::time::timeout(interval.0, stop.cancelled()).await;
            }
            Ok(())
        }
    }
}

fn report(created: &[String]) {
    if !created.is_empty() {
        say(format_args!("created {}", created.join(", ")));
    }
}
