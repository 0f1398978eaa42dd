//! `qscale agent`: credentials of agents. Owns their creation and removal in the state folder and the nats-server's reload; permissions are defined in
//! `qscale_common`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use qscale_common::change::ChangeKind;
use qscale_common::contract::{EventType, subject};
use qscale_common::name::Name;
use qscale_common::runtime::author;
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::clock;
use qscale_common::runtime::kv;
use qscale_common::runtime::nats_accounts::{self, User};
use qscale_common::runtime::private;
use qscale_common::runtime::provision;
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::time::Timestamp;
use qscale_up::pending::{self, UnrecordedChange};
use qscale_up::storage::Storage;
use serde_json::json;

use crate::author::AuthorArgs;
use crate::output::{self, Table, TableCell, Tone};
use crate::system::{Locate, StateDir};

/// Timeout until a new credential connects.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most attempts of a new agent to read, each after a reload of the accounts. Two reloads suffice; a collector notices an agent within a second.
const ATTEMPTS: u32 = 20;
/// Pause between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Actions on agents.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  eval \"$(qscale agent add mine)\"      the output sets environment variables
  qscale agent list
  qscale agent remove mine")]
pub enum AgentCommand {
    /// Create a credential for an agent and print its connection settings
    ///
    /// The output can be evaluated by a shell: eval "$(qscale agent add mine)"
    Add {
        /// Name of the agent, part of the subject of its Actions
        #[arg(value_name = "NAME")]
        agent: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List agents with a credential
    List,
    /// Remove an agent's credential and disconnect it
    Remove {
        /// Name of the agent
        #[arg(value_name = "NAME")]
        agent: Name,
    },
}

/// Runs the command.
pub async fn run(locate: &Locate, command: AgentCommand) -> anyhow::Result<()> {
    match command {
        AgentCommand::Add { agent, json } => add(&locate.own_state()?, &agent, json).await,
        AgentCommand::List => list(locate, &locate.state()?).await,
        AgentCommand::Remove { agent } => remove(locate, &locate.own_state()?, &agent).await,
    }
}

async fn add(state: &StateDir, agent: &Name, json: bool) -> anyhow::Result<()> {
    let user = User::Agent(agent.clone()).name();
    let lock = state.lock_credentials().await?;
    let existing = state.known_passwords()?;
    let known = existing.contains_key(&user);
    if state.nats_server().is_some() {
        let agents = nats_accounts::agents(existing.keys().chain([&user]));
        Storage::measure(&state.existing_store(), &agents).check()?;
    }
    let passwords = state.passwords(std::slice::from_ref(agent))?;
    let password = passwords.get(&user).context("the password was just created")?;
    write_accounts(state, &passwords)?;
    let url = state.addresses().map(|addresses| addresses.nats).ok();
    let config = BusConfig {
        url: url.clone().unwrap_or_else(|| BusConfig::default().url),
        user,
        password: password.clone(),
        ..BusConfig::default()
    };
    let running = reload(state)?.is_some();
    if running && url.is_some() {
        let refused = || format!("the nats-server does not accept the new credential; see {}", state.log("nats-server").display());
        let jetstream = setup(state).await.with_context(refused)?;
        provision::ensure(&jetstream, &nats_accounts::agents(passwords.keys())).await.context("failed to create the agent's stream")?;
        activate(state, &config, agent).await.with_context(refused)?;
    }
    if !known {
        record(state, running, ChangeKind::AgentAdded, agent).await;
    }
    drop(lock);
    let status = match (running, known) {
        (true, false) => "added; its credential is active",
        (true, true) => "already has a credential, which is active",
        (false, false) => "added; its credential becomes active with the next `qscale up`",
        (false, true) => "already has a credential; no system runs in this state folder",
    };
    let connection = AgentConnection::new(agent, &config);
    if json { output::json(&connection.as_json()) } else { output::line(connection.text(status)) }
}

/// Appends a change of `agent` to the record of changes of a `running` system. The next start appends one that could not be. A failure is a warning.
async fn record(state: &StateDir, running: bool, kind: ChangeKind, agent: &Name) {
    let at_ms = clock::now();
    if running && append(state, kind, agent, at_ms).await.unwrap_or(false) {
        return;
    }
    let change = UnrecordedChange { kind, agent: agent.clone(), by: author::user_name(), at_ms };
    if let Err(error) = pending::keep(state, change) {
        output::warn(format_args!("the change is made but will not be recorded: {error:#}"));
    }
}

async fn append(state: &StateDir, kind: ChangeKind, agent: &Name, at: Timestamp) -> anyhow::Result<bool> {
    let config = state.bus_config(&state.addresses()?.nats, &User::Operator.name());
    let bus = Bus::of_client(config.connect_once("qscale-agent", CONNECT_TIMEOUT).await?, "/qscale/operator");
    Ok(AuthorArgs::default().author(&bus).record_change(kind, agent.as_str(), None, None, at).await)
}

/// JetStream as the user that creates streams.
async fn setup(state: &StateDir) -> anyhow::Result<async_nats::jetstream::Context> {
    let config = state.bus_config(&state.addresses()?.nats, &User::Setup.name());
    Ok(async_nats::jetstream::new(config.connect_once("qscale-agent", CONNECT_TIMEOUT).await?))
}

/// Reloads the accounts until the agent's requests reach the account of the services. nats-server connects the imports of a new account only with the reload
/// after the one that creates it.
async fn activate(state: &StateDir, config: &BusConfig, agent: &Name) -> anyhow::Result<()> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let client = config.connect_once("qscale-agent", CONNECT_TIMEOUT).await?;
        let bus = Bus::of_client(client, "/qscale/operator").reading_as(agent.clone());
        match bus.last_message(EventType::State, &subject::all(EventType::State)).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(RETRY_DELAY).await;
        reload(state)?;
    }
    let why = last.map_or_else(String::new, |error| format!(": {error:#}"));
    bail!("the agent cannot read{why}; restart `qscale up`")
}

/// Connection settings of an agent.
struct AgentConnection<'a> {
    agent: &'a Name,
    url: String,
}

impl<'a> AgentConnection<'a> {
    fn new(agent: &'a Name, config: &BusConfig) -> Self {
        let (scheme, host) = config.url.split_once("://").unwrap_or(("nats", &config.url));
        let url = format!("{scheme}://{}:{}@{host}", config.user, config.password);
        Self { agent, url }
    }

    fn publish(&self) -> String {
        subject::all_of_agent(self.agent).replace(".>", ".<namespace>.<function>")
    }

    /// Lines that a shell can evaluate.
    fn text(&self, status: &str) -> String {
        let Self { agent, url } = self;
        let (states, group) = (subject::all(EventType::State), subject::agent_group(agent));
        format!(
            "# agent {agent} {status}\n\
             export NATS_URL={url}\n\
             export QSCALE_AGENT={agent}\n\
             # States           {states}  in queue group {group}\n\
             # Rewards, Outcomes {}  {}\n\
             # publish Actions  {}\n\
             # let it act       qscale policy set <function> agent={agent} mode=active",
            subject::all(EventType::Reward),
            subject::all(EventType::Outcome),
            self.publish(),
        )
    }

    fn as_json(&self) -> serde_json::Value {
        json!({
            "agent": self.agent,
            "nats_url": self.url,
            "subscribe": subject::all(EventType::State),
            "queue_group": subject::agent_group(self.agent),
            "publish": self.publish(),
        })
    }
}

async fn list(locate: &Locate, state: &StateDir) -> anyhow::Result<()> {
    let agents = nats_accounts::agents(state.known_passwords()?.keys());
    if agents.is_empty() {
        return output::line("no agent has a credential; create one with `qscale agent add NAME`");
    }
    let bus = match locate.bus().await {
        Ok(bus) => Some(bus),
        Err(error) => {
            output::warn(format_args!("{error:#}"));
            None
        }
    };
    let trust = locate.trust().unwrap_or_default().policies;
    let mut table = Table::new(&["AGENT", "ACTS ON", "LAST ACTION"]);
    for agent in agents {
        let (functions, last) = match &bus {
            Some(bus) => (acts_on(bus, &trust, &agent).await?.join(", "), last_action(bus, &agent).await),
            None => ("?".to_owned(), "?".to_owned()),
        };
        let tone = if functions.is_empty() { Tone::Plain } else { Tone::Good };
        table.row([TableCell::new(&agent, tone), if functions.is_empty() { "-".into() } else { functions.into() }, last.into()]);
    }
    table.print()
}

/// Functions whose ScalingPolicy selects `agent`.
async fn acts_on(bus: &Bus, trust: &TrustConfig, agent: &Name) -> anyhow::Result<Vec<String>> {
    let policies = kv::policies(bus, trust).await?;
    Ok(policies
        .into_values()
        .filter_map(Result::ok)
        .filter(|policy| policy.agent == *agent)
        .map(|policy| policy.function().to_string())
        .collect())
}

/// Age of the last Action of `agent`. What one agent stored must not hide the others.
async fn last_action(bus: &Bus, agent: &Name) -> String {
    match bus.last_message(EventType::Action, &subject::all_of_agent(agent)).await {
        Ok(last) => last.map_or_else(|| "never".to_owned(), |last| format!("{} ago", output::age(clock::now().since(last.at)))),
        Err(error) => {
            output::warn(format_args!("agent {agent}: {error:#}"));
            "?".to_owned()
        }
    }
}

async fn remove(locate: &Locate, state: &StateDir, agent: &Name) -> anyhow::Result<()> {
    let user = User::Agent(agent.clone()).name();
    let lock = state.lock_credentials().await?;
    let Some(passwords) = state.forget(&user)? else {
        bail!("agent {agent} has no credential; `qscale agent list` lists the agents with one");
    };
    write_accounts(state, &passwords)?;
    let running = reload(state)?.is_some();
    if running {
        // Last, so that the agent cannot write any more.
        let jetstream = setup(state).await.context("the credential is removed, but not the Actions; the next start deletes them")?;
        provision::remove_agent(&jetstream, agent).await?;
    }
    record(state, running, ChangeKind::AgentRemoved, agent).await;
    drop(lock);
    let effect =
        if running { "it is disconnected and its Actions are deleted" } else { "no system runs; the next start deletes its Actions" };
    output::line(format_args!("agent {agent} removed; {effect}"))?;
    // A warning only: without a running system the policies are unknown.
    if let Ok(bus) = locate.bus().await
        && let Ok(functions) = acts_on(&bus, &locate.trust().unwrap_or_default().policies, agent).await
    {
        for function in functions {
            output::warn(format_args!(
                "policy {function} still selects agent {agent}; its fallback decides until `qscale policy set {function} agent=NAME`"
            ));
        }
    }
    Ok(())
}

fn write_accounts(state: &StateDir, passwords: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let text = nats_accounts::accounts(passwords).context("credentials.json")?;
    private::write(&state.join("nats/accounts.conf"), text.as_bytes())
}

/// Makes the nats-server of this folder reload its accounts; `None` if none runs.
fn reload(state: &StateDir) -> anyhow::Result<Option<u32>> {
    let Some(pid) = state.nats_server() else { return Ok(None) };
    // SAFETY: kill takes integers only; the process is the nats-server of this folder.
    let sent = unsafe { libc::kill(pid.cast_signed(), libc::SIGHUP) };
    if sent == 0 {
        Ok(Some(pid))
    } else {
        Err(std::io::Error::last_os_error()).with_context(|| format!("failed to reload the accounts of nats-server (process {pid})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_can_be_evaluated_by_a_shell() {
        let agent: Name = "mine".parse().expect("valid");
        let config =
            BusConfig { url: "nats://127.0.0.1:4222".into(), user: "agent-mine".into(), password: "secret".into(), ..BusConfig::default() };
        let connection = AgentConnection::new(&agent, &config);
        let text = connection.text("added");
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("export ")), "{text}");
        for part in [
            "export NATS_URL=nats://agent-mine:secret@127.0.0.1:4222",
            "export QSCALE_AGENT=mine",
            "qscale.v1.state.>  in queue group agent.mine",
            "qscale.v1.action.mine.<namespace>.<function>",
            "qscale policy set <function> agent=mine mode=active",
        ] {
            assert!(text.contains(part), "`{part}` in {text}");
        }
        assert_eq!(connection.as_json()["queue_group"], "agent.mine");
    }
}
