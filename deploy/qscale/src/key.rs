//! `qscale key`: keys that sign policies and models. Owns arguments and output; keys belong to
//! `qscale_common::runtime::signature`.

use std::path::PathBuf;

use clap::Subcommand;
use qscale_common::runtime::signature::SigningKey;

use crate::output;

/// Actions on keys.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  qscale key create ada.key
  qscale policy apply fibonacci.yaml --sign-with ada.key
  qscale key show ada.key                  for trust.keys of the services, and QSCALE_TRUSTED_KEYS")]
pub enum KeyCommand {
    /// Make a key, write its seed to a new file with mode 600, and print its public key
    Create {
        /// File to write; must not exist
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print the public key of a seed
    Show {
        /// File with the seed
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
}

/// Runs the command.
pub fn run(command: &KeyCommand) -> anyhow::Result<()> {
    let key = match command {
        KeyCommand::Create { file } => SigningKey::create(file)?,
        KeyCommand::Show { file } => SigningKey::read(file)?,
    };
    output::line(key.public_key())
}
