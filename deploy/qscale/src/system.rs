//! Address of a running system: the state folder of `qscale up`, or command-line options. Owns these options; the
//! layout of the folder belongs to `qscale_up`.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use percent_encoding::percent_decode_str;
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::clock;
use qscale_common::runtime::nats_accounts::User;
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::signature::{PublicKey, SigningKey, TrustConfig};
use qscale_replay::SettingsFolder;
pub use qscale_up::state_dir::{StateDir, SystemTrust};

use crate::cluster::{Kubectl, PortForward};

/// Timeout of requests to servers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Address of the system.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection to a system")]
pub struct Locate {
    /// State folder of `qscale up`
    #[arg(long, global = true, env = "QSCALE_STATE", default_value = ".qscale", value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub state_dir: PathBuf,
    /// Address of a nats-server not started by `qscale up`: nats://user:password@host:port
    #[arg(long, global = true, env = "QSCALE_NATS", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// Context of kubectl: for `up --backend kubernetes` the cluster whose workloads are scaled, for other commands the one in which the chart runs
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace of the chart in that cluster
    #[arg(long, global = true, value_name = "NAME", default_value = "qscale-system")]
    pub context_namespace: String,
    /// Address of a local platform's API not started by `qscale up`
    #[arg(long, global = true, env = "QSCALE_PLATFORM", value_name = "HOST:PORT")]
    pub platform: Option<String>,
    /// File with the token of that API [default: the one that a platform of this user has noted]
    #[arg(long, global = true, env = "QSCALE_TOKEN_FILE", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
    /// Public keys of which one must have signed policies and models, separated by commas [default: those of the system in the state folder]
    #[arg(long, global = true, env = "QSCALE_TRUSTED_KEYS", value_name = "KEYS", value_delimiter = ',', hide_default_value = true)]
    pub trusted_keys: Vec<PublicKey>,
}

impl Locate {
    /// kubectl for the cluster of `--context`.
    pub fn kubectl(&self) -> Option<Kubectl> {
        self.context.as_ref().map(|context| Kubectl::new(context, &self.context_namespace))
    }

    /// Makes the nats-server of the chart in the cluster of `--context` the one of this command, until the result is dropped.
    pub fn forward(&mut self) -> anyhow::Result<Option<PortForward>> {
        let Some(kubectl) = self.kubectl() else { return Ok(None) };
        let forward = PortForward::open(&kubectl)?;
        self.nats = Some(forward.url.clone());
        Ok(Some(forward))
    }

    /// State folder of a system that runs or ran, to read from it.
    pub fn state(&self) -> anyhow::Result<StateDir> {
        self.check_state()?;
        StateDir::open(&self.state_dir)
    }

    /// As [`Locate::state`], to write to it: accessible to this user alone.
    pub fn own_state(&self) -> anyhow::Result<StateDir> {
        self.check_state()?;
        StateDir::new(&self.state_dir)
    }

    fn check_state(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.state_dir.is_dir(),
            "no system runs in {}; start one with `qscale up`, or specify one with --nats",
            self.state_dir.display()
        );
        Ok(())
    }

    /// Sets the clock rate of this process to that of the running system, so that ages agree.
    pub fn follow_clock(&self) -> anyhow::Result<()> {
        if self.nats.is_some() || !self.state_dir.is_dir() {
            return Ok(());
        }
        // Commands that need a running system report that it is missing.
        let Ok(addresses) = self.state().and_then(|state| state.addresses()) else { return Ok(()) };
        if let Some(text) = addresses.clock {
            clock::set_rate(
                text.parse().map_err(|error: String| anyhow::anyhow!("{}/addresses.json: clock: {error}", self.state_dir.display()))?,
            );
        }
        Ok(())
    }

    /// Configurations of the agents of the system in the state folder.
    pub fn agent_settings(&self) -> SettingsFolder {
        SettingsFolder(self.nats.is_none().then(|| self.state_dir.join("config")))
    }

    /// Bus configuration of the operator.
    pub fn bus_config(&self) -> anyhow::Result<BusConfig> {
        if let Some(url) = &self.nats {
            return split_url(url);
        }
        let state = self.state()?;
        Ok(state.bus_config(&state.addresses()?.nats, &User::Operator.name()))
    }

    /// Connects to the bus as operator.
    pub async fn bus(&self) -> anyhow::Result<Bus> {
        let client = self.bus_config()?.connect_once("qscale", ANSWER_WITHIN).await?;
        qscale_common::runtime::provision::check_server(&client)?;
        Ok(Bus::of_client(client, "/qscale/operator"))
    }

    /// Keys that the system trusts.
    pub fn trust(&self) -> anyhow::Result<SystemTrust> {
        if !self.trusted_keys.is_empty() {
            let trust = TrustConfig::of(self.trusted_keys.clone());
            return Ok(SystemTrust { policies: trust.clone(), models: trust });
        }
        if self.nats.is_some() {
            return Ok(SystemTrust::default());
        }
        Ok(self.state()?.addresses()?.trust)
    }

    /// The operator's key in the state folder, if there is one.
    pub fn signing_key(&self) -> anyhow::Result<Option<SigningKey>> {
        if self.nats.is_some() { Ok(None) } else { self.state()?.signing_key(&User::Operator) }
    }

    /// Client of the local platform.
    pub fn platform(&self) -> anyhow::Result<PlatformClient> {
        if let Some(platform) = self.given_platform()? {
            return Ok(platform);
        }
        let state = self.state()?;
        let platform = state.platform(&state.addresses()?)?;
        Ok(match &self.token_file {
            Some(file) => platform.with_token_file(file.clone()),
            None => platform,
        })
    }

    /// Client of the platform that the options name, if they do.
    pub fn given_platform(&self) -> anyhow::Result<Option<PlatformClient>> {
        let Some(address) = &self.platform else { return Ok(None) };
        let platform = PlatformClient::new(address).with_context(|| format!("platform {address}"))?;
        Ok(Some(match &self.token_file {
            Some(file) => platform.with_token_file(file.clone()),
            None => platform,
        }))
    }
}

/// Separates user and password from an address, or from a list of addresses separated by commas. As for other clients of NATS, `%2F` in user or password
/// is a slash.
fn split_url(urls: &str) -> anyhow::Result<BusConfig> {
    let mut config = BusConfig::default();
    let (mut servers, mut common) = (Vec::new(), None);
    for url in urls.split(',').map(str::trim) {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let Some((credentials, host)) = rest.rsplit_once('@') else {
            servers.push(format!("{scheme}://{rest}"));
            continue;
        };
        let (user, password) = credentials
            .split_once(':')
            .with_context(|| format!("--nats must be nats://user:password@host:port, with a comma as %2C; that of {host} has no `:`"))?;
        let credentials = (decoded(user), decoded(password));
        anyhow::ensure!(
            common.as_ref().is_none_or(|common| *common == credentials),
            "--nats has another user or password for {host} than for the servers before it; all must have the same"
        );
        servers.push(format!("{scheme}://{host}"));
        common = Some(credentials);
    }
    config.url = servers.join(",");
    if let Some((user, password)) = common {
        (config.user, config.password) = (user, password);
    }
    Ok(config)
}

/// Text in which a byte may be written as `%2F`; the text itself if the result is not UTF-8.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_separated_from_the_address() {
        let config = split_url("nats://operator:a@b@127.0.0.1:4222").expect("valid");
        assert_eq!((config.url.as_str(), config.user.as_str(), config.password.as_str()), ("nats://127.0.0.1:4222", "operator", "a@b"));
        assert_eq!(split_url("127.0.0.1:4222").expect("valid").url, "nats://127.0.0.1:4222");
        assert!(split_url("nats://operator@host").is_err());
    }

    #[test]
    fn credentials_are_decoded_and_belong_to_all_servers_of_a_list() {
        let check = |url: &str, expected: [&str; 3]| {
            let config = split_url(url).expect(url);
            assert_eq!([config.url.as_str(), config.user.as_str(), config.password.as_str()], expected, "{url}");
        };
        check("nats://op:p%40ss%2F1@host", ["nats://host", "op", "p@ss/1"]);
        check("nats://op:100%@host", ["nats://host", "op", "100%"]);
        check("nats://op:a%ff@host", ["nats://host", "op", "a%ff"]);
        check("nats://op:pw@h1,nats://op:pw@h2", ["nats://h1,nats://h2", "op", "pw"]);
        check("nats://op:pw@h1, tls://h2:4223", ["nats://h1,tls://h2:4223", "op", "pw"]);
        let error = split_url("nats://op:pw@h1,nats://op:SECRET@h2").expect_err("two passwords").to_string();
        assert!(error.contains("h2") && !error.contains("SECRET"), "{error}");
        let error = format!("{:#}", split_url("nats://op:p,SECRET@h1").expect_err("a comma"));
        assert!(error.contains("%2C") && !error.contains("SECRET"), "{error}");
    }
}
