//! Where a running system is: the state folder of `qscale up`, or addresses given on the command line. Owns these options; the layout of the folder belongs to
//! `qscale_up`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::clock;
use qscale_common::runtime::platform::PlatformClient;
use qscale_replay::SettingsFolder;
pub use qscale_up::state_dir::{Addresses, StateDir, conditions, find_nats_server, write_private};

/// Timeout of requests to servers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Where the system is.
#[derive(Debug, Clone, Args)]
pub struct Locate {
    /// Folder in which `qscale up` keeps its state
    #[arg(long, global = true, env = "QSCALE_STATE", default_value = ".qscale", value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub state_dir: PathBuf,
    /// Address of the nats-server, where it is not the one of `qscale up`: nats://user:password@host:port
    #[arg(long, global = true, env = "QSCALE_NATS", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// Address of the local platform's API, where it is not the one of `qscale up`
    #[arg(long, global = true, env = "QSCALE_PLATFORM", value_name = "HOST:PORT")]
    pub platform: Option<String>,
}

impl Locate {
    /// The state folder of a system that is, or was, up.
    pub fn state(&self) -> anyhow::Result<StateDir> {
        anyhow::ensure!(
            self.state_dir.is_dir(),
            "no system is up in {}; start one with `qscale up`, or name one with --nats",
            self.state_dir.display()
        );
        StateDir::new(&self.state_dir)
    }

    /// Has this process live as fast as the system that is up, so that both mean the same by an age.
    pub fn follow_clock(&self) -> anyhow::Result<()> {
        if self.nats.is_some() || !self.state_dir.is_dir() {
            return Ok(());
        }
        // Without a system there is no clock to follow; whoever needs one says so.
        let Ok(addresses) = self.state().and_then(|state| state.addresses()) else { return Ok(()) };
        if let Some(text) = addresses.clock {
            clock::follow(
                text.parse().map_err(|error: String| anyhow::anyhow!("{}/addresses.json: clock: {error}", self.state_dir.display()))?,
            );
        }
        Ok(())
    }

    /// Configurations of the agents of the system in the state folder.
    pub fn agent_settings(&self) -> SettingsFolder {
        SettingsFolder(self.nats.is_none().then(|| self.state_dir.join("config")))
    }

    /// How the operator reaches the bus.
    pub fn bus_config(&self) -> anyhow::Result<BusConfig> {
        if let Some(url) = &self.nats {
            return split_url(url);
        }
        let state = self.state()?;
        let url = state.addresses()?.nats;
        Ok(BusConfig { url, user: "operator".into(), password: String::new(), password_file: Some(state.password_file("operator")) })
    }

    /// Connects to the bus as operator.
    pub async fn bus(&self) -> anyhow::Result<Bus> {
        let client = self.bus_config()?.connect_once("qscale", ANSWER_WITHIN).await?;
        qscale_common::runtime::provision::check_server(&client)?;
        Ok(Bus::of_client(client, "/qscale/operator"))
    }

    /// The local platform's API.
    pub fn platform(&self) -> anyhow::Result<PlatformClient> {
        let address = match &self.platform {
            Some(address) => address.clone(),
            None => self.state()?.addresses()?.platform,
        };
        PlatformClient::new(&address).with_context(|| format!("platform {address}"))
    }
}

/// Takes user and password out of an address, where they stand in it.
fn split_url(url: &str) -> anyhow::Result<BusConfig> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    let Some((credentials, host)) = rest.rsplit_once('@') else {
        return Ok(BusConfig { url: format!("{scheme}://{rest}"), ..Default::default() });
    };
    let (user, password) = credentials.split_once(':').context("--nats: write user and password as nats://user:password@host:port")?;
    Ok(BusConfig { url: format!("{scheme}://{host}"), user: user.into(), password: password.into(), password_file: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out_of_the_address() {
        let config = split_url("nats://operator:a@b@127.0.0.1:4222").expect("valid");
        assert_eq!((config.url.as_str(), config.user.as_str(), config.password.as_str()), ("nats://127.0.0.1:4222", "operator", "a@b"));
        assert_eq!(split_url("127.0.0.1:4222").expect("valid").url, "nats://127.0.0.1:4222");
        assert!(split_url("nats://operator@host").is_err());
    }
}
