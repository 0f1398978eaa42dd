//! `qscale platform`: the platform as a whole. Owns arguments and output.

use clap::Subcommand;
use qscale_common::change::ChangeKind;
use qscale_common::runtime::clock;

use crate::author::AuthorArgs;
use crate::output;
use crate::system::Locate;

/// Actions on the platform.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  qscale platform show
  qscale platform reset-lease
  qscale platform reset-lease --to 1200")]
pub enum PlatformCommand {
    /// Show the highest fencing token and the isolation of functions
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace the highest fencing token, so that an actuator with a lower one can write again
    ///
    /// A platform refuses writes with a token below the highest one that it has seen. Reset it when that one belongs to no actuator: after a mistake, or
    /// when the bucket of leases was created again, so that tokens begin at 1. First make sure that no former leader still runs.
    ResetLease {
        /// New highest token; 0 accepts that of the next writer
        #[arg(long, default_value_t = 0, value_name = "TOKEN")]
        to: u64,
        #[command(flatten)]
        author: AuthorArgs,
    },
}

/// Runs the command.
pub async fn run(locate: &Locate, command: PlatformCommand) -> anyhow::Result<()> {
    let platform = locate.platform()?;
    match command {
        PlatformCommand::Show { json } => {
            let status = platform.status().await?;
            if json {
                return output::json(&status);
            }
            output::line(format_args!("highest fencing token  {}", status.highest_lease))?;
            if let Some(isolation) = status.isolation {
                output::line(format_args!("functions run as       {}", output::clean(&isolation.user)))?;
                for gap in isolation.missing {
                    output::line(format_args!("missing isolation      {}", output::clean(&gap.found)))?;
                }
            }
            Ok(())
        }
        PlatformCommand::ResetLease { to, author } => {
            let reply = platform.reset_lease(to).await?;
            match locate.bus().await {
                Ok(bus) => {
                    let (before, after) = (Some(reply.before.into()), Some(reply.after.into()));
                    author.author(&bus).record_change(ChangeKind::LeaseReset, platform.address(), before, after, clock::now()).await;
                }
                Err(error) => output::warn(format_args!("the token is replaced but the change is not recorded: {error:#}")),
            }
            output::line(format_args!("highest fencing token replaced: {} before, {} now", reply.before, reply.after))
        }
    }
}
