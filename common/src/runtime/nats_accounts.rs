//! Accounts and users of the nats-server: one account for the services and one for each agent. Owns which subjects a user may publish and read; must not
//! connect to a server.
//!
//! The services share an account with JetStream, in which each user has permissions. An agent has an account of its own without JetStream. It imports the
//! few subjects that it may read or write, so an answer of the server reaches its own account only, whatever reply subject its message names: permissions
//! alone would not prevent that, because the server does not check them for its answers.

use std::collections::BTreeMap;

use crate::contract::{EventType, MAX_PAYLOAD, subject};
use crate::name::{InvalidName, Name};

/// Name of the account of the services.
pub const SERVICES: &str = "QSCALE";
/// Name of the account of the server itself. It has no user.
const SERVER: &str = "SYS";
/// Request for the health of the server and its streams, which the account of the services imports.
pub(super) const SERVER_HEALTH: &str = "$SYS.REQ.SERVER.PING.HEALTHZ";
/// Connections of an agent: instances, and tools of its author. Each may leave [`MAX_PENDING`] bytes unread.
const AGENT_CONNECTIONS: u32 = 16;
/// Subscriptions of each connection of an agent.
const AGENT_SUBSCRIPTIONS: u32 = 64;
/// Bytes that the server holds for a connection that does not read, before it closes it.
const MAX_PENDING: u32 = 16 << 20;
/// Time for which the server keeps the return path of an agent's request; the default of two minutes would let a flood of requests fill its memory.
const RESPONSE_SECONDS: u32 = 10;

/// Most messages in the answer to a read of an agent.
pub(super) const READ_MESSAGES: u64 = 250;

/// A user of the bus.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// Creates streams and buckets at set-up, and restores lost entries of buckets.
    Setup,
    /// Publishes State and Reward.
    Collector,
    /// Publishes the Actions of one agent.
    Agent(Name),
    /// Publishes Outcomes, holds the lease.
    Actuator,
    /// Publishes Load.
    Loadgen,
    /// Reads recordings, writes models and their promotion, holds a lease.
    Promoter,
    /// The command line: reads everything, writes ScalingPolicies, controls and models.
    Operator,
}

impl User {
    /// The users of the services.
    pub const SERVICES: [Self; 6] = [Self::Setup, Self::Collector, Self::Actuator, Self::Loadgen, Self::Promoter, Self::Operator];

    /// The users of the services, with those of `agents`.
    pub fn all(agents: impl IntoIterator<Item = Name>) -> Vec<Self> {
        Self::SERVICES.into_iter().chain(agents.into_iter().map(Self::Agent)).collect()
    }

    /// The user with this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn of_name(user: &str) -> Result<Self, InvalidName> {
        if let Some(service) = Self::SERVICES.into_iter().find(|service| service.name() == user) {
            return Ok(service);
        }
        match user.strip_prefix("agent-") {
            Some(agent) => Name::new(agent).map(Self::Agent),
            None => Err(InvalidName { name: user.into() }),
        }
    }

    /// Name with which it connects.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Setup => "setup".into(),
            Self::Collector => "collector".into(),
            Self::Agent(agent) => format!("agent-{agent}"),
            Self::Actuator => "actuator".into(),
            Self::Loadgen => "loadgen".into(),
            Self::Promoter => "promoter".into(),
            Self::Operator => "operator".into(),
        }
    }

    /// Subjects that it may publish and read in its account; each of `agents` has a stream.
    #[must_use]
    pub fn permissions(&self, agents: &[Name]) -> Permissions {
        let mut rights = Permissions::default();
        rights.subscribe.push(format!("{}.>", inbox_prefix(&self.name())));
        match self {
            Self::Setup => {
                rights.publish.extend(["$JS.API.>", "$JS.FC.>", "$KV.>", SERVER_HEALTH].map(str::to_owned));
            }
            Self::Collector => {
                rights
                    .publishes(EventType::State)
                    .publishes(EventType::Reward)
                    .reads(EventType::Outcome)
                    .reads_bucket(subject::POLICY_BUCKET)
                    .reads_health()
                    .answers_reads(agents);
            }
            Self::Agent(agent) => {
                rights.publish.extend(agent_services(agent));
                rights.subscribe.push(format!("{DEFAULT_INBOX_PREFIX}.>"));
                for messages in agent_streams() {
                    // With a queue group in the list, the server refuses all others: an agent cannot take the messages of another one's group.
                    rights.subscribe.push(format!("{messages} {}", subject::agent_group(agent)));
                    rights.subscribe.push(messages);
                }
            }
            Self::Actuator => {
                rights.publishes(EventType::Outcome).reads(EventType::State).reads(EventType::Action);
                rights.publish.push("$JS.API.STREAM.NAMES".into());
                rights
                    .reads_bucket(subject::CONTROL_BUCKET)
                    .writes_bucket(subject::ACTUATOR_BUCKET)
                    .writes_key(subject::LEASE_BUCKET, subject::ACTUATOR_LEASE)
                    .reads_health();
                // Policies that are objects of its platform.
                rights.writes_bucket(subject::POLICY_BUCKET).records_changes(self);
            }
            Self::Loadgen => {
                rights.publishes(EventType::Load);
            }
            Self::Promoter => {
                rights.reads_streams(agents).reads_bucket(subject::POLICY_BUCKET).reads_health();
                rights.writes_bucket(subject::FINETUNE_BUCKET).writes_models().records_changes(self);
                rights.writes_key(subject::LEASE_BUCKET, subject::PROMOTER_LEASE);
            }
            Self::Operator => {
                for kind in EventType::ALL.iter().copied() {
                    rights.reads(kind);
                }
                rights.reads_streams(agents).reads_stream(subject::CHANGE_STREAM).records_changes(self);
                rights.writes_bucket(subject::POLICY_BUCKET).writes_bucket(subject::CONTROL_BUCKET).writes_bucket(subject::FINETUNE_BUCKET);
                rights.reads_bucket(subject::ACTUATOR_BUCKET).reads_bucket(subject::LEASE_BUCKET).writes_models().reads_health();
                rights.publish.push("$JS.API.INFO".into());
            }
        }
        rights
    }
}

/// Messages that every agent receives: those of the contract and changes of the models in use.
fn agent_streams() -> Vec<String> {
    let mut streams = [EventType::State, EventType::Reward, EventType::Outcome].map(subject::all).to_vec();
    streams.push(format!("$O.{}.M.>", subject::MODEL_STORE));
    streams
}

/// Subjects that `agent` may publish: its own Actions, and reads of retained messages: States and Loads, with which an agent with memory rebuilds it, and
/// models. A collector answers them.
fn agent_services(agent: &Name) -> [String; 2] {
    [subject::all_of_agent(agent), subject::reads_of(agent)]
}

fn direct_get(stream: &str) -> [String; 2] {
    [format!("$JS.API.DIRECT.GET.{stream}"), format!("$JS.API.DIRECT.GET.{stream}.>")]
}

/// Prefix of the reply subjects of `user`; no other user may subscribe to them.
#[must_use]
pub fn inbox_prefix(user: &str) -> String {
    format!("_INBOX_{user}")
}

/// Prefix of reply subjects that NATS clients use by default. An agent may use it, because it has its account for itself.
const DEFAULT_INBOX_PREFIX: &str = "_INBOX";

/// Subjects that a user may publish and subscribe to; a queue group may follow a subject after a space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects to publish.
    pub publish: Vec<String>,
    /// Subjects to subscribe to.
    pub subscribe: Vec<String>,
    /// Whether the user may publish on the reply subjects of requests that it receives.
    pub answers: bool,
}

impl Permissions {
    fn publishes(&mut self, kind: EventType) -> &mut Self {
        self.publish.push(subject::all(kind));
        self
    }

    fn reads(&mut self, kind: EventType) -> &mut Self {
        self.subscribe.push(subject::all(kind));
        self
    }

    /// May append to the record of changes under the name of `user`.
    fn records_changes(&mut self, user: &User) -> &mut Self {
        self.publish.push(subject::changes_of(&user.name()));
        self
    }

    /// Read access to every stream of messages.
    fn reads_streams(&mut self, agents: &[Name]) -> &mut Self {
        self.reads_stream(subject::LIVE_STREAM).reads_stream(subject::RECORD_STREAM);
        for agent in agents {
            self.reads_stream(&subject::action_stream(agent));
        }
        self.publish.push("$JS.API.STREAM.NAMES".into());
        self
    }

    fn reads_stream(&mut self, stream: &str) -> &mut Self {
        for call in ["STREAM.INFO", "CONSUMER.CREATE", "CONSUMER.INFO", "CONSUMER.DELETE", "CONSUMER.MSG.NEXT", "STREAM.MSG.GET"] {
            self.publish.push(format!("$JS.API.{call}.{stream}"));
            if call != "STREAM.INFO" {
                self.publish.push(format!("$JS.API.{call}.{stream}.>"));
            }
        }
        self.publish.extend(direct_get(stream));
        self.publish.push(format!("$JS.ACK.{stream}.>"));
        self.publish.push("$JS.FC.>".into());
        self
    }

    /// May answer the reads of agents.
    fn answers_reads(&mut self, agents: &[Name]) -> &mut Self {
        self.subscribe.push(subject::all_reads());
        let own = agents.iter().map(subject::action_stream);
        for stream in [subject::LIVE_STREAM.to_owned(), subject::model_stream()].into_iter().chain(own) {
            self.publish.extend(direct_get(&stream));
        }
        // To follow the agents.
        self.publish.push("$JS.API.STREAM.NAMES".into());
        self.answers = true;
        self
    }

    fn reads_health(&mut self) -> &mut Self {
        self.publish.push(SERVER_HEALTH.into());
        self
    }

    fn reads_bucket(&mut self, bucket: &str) -> &mut Self {
        self.reads_stream(&subject::bucket_stream(bucket))
    }

    fn writes_bucket(&mut self, bucket: &str) -> &mut Self {
        self.publish.push(format!("$KV.{bucket}.>"));
        self.reads_bucket(bucket)
    }

    /// Write access to `key`, and to keys that begin with it.
    fn writes_key(&mut self, bucket: &str, key: &str) -> &mut Self {
        self.publish.push(format!("$KV.{bucket}.{key}"));
        self.publish.push(format!("$KV.{bucket}.{key}.>"));
        self.reads_bucket(bucket)
    }

    /// Write access to models. Writing an object again purges its previous chunks.
    fn writes_models(&mut self) -> &mut Self {
        let stream = subject::model_stream();
        self.publish.push(format!("$O.{}.>", subject::MODEL_STORE));
        self.publish.push(format!("$JS.API.STREAM.PURGE.{stream}"));
        self.reads_stream(&stream)
    }

    fn render(mut self) -> String {
        let answers = if self.answers {
            format!(", allow_responses: {{ max: {}, expires: \"{RESPONSE_SECONDS}s\" }}", READ_MESSAGES + 1)
        } else {
            String::new()
        };
        format!("publish: {{ allow: [{}] }}, subscribe: {{ allow: [{}] }}{answers}", list(&mut self.publish), list(&mut self.subscribe))
    }
}

fn list(subjects: &mut Vec<String>) -> String {
    subjects.sort();
    subjects.dedup();
    subjects.iter().map(|subject| format!("\"{subject}\"")).collect::<Vec<_>>().join(", ")
}

/// The agents among the users with these names.
#[must_use]
pub fn agents<'a>(users: impl IntoIterator<Item = &'a String>) -> Vec<Name> {
    let agent = |user: &String| match User::of_name(user) {
        Ok(User::Agent(agent)) => Some(agent),
        _ => None,
    };
    users.into_iter().filter_map(agent).collect()
}

/// The accounts in the configuration of a nats-server for the users of `passwords`, and its limit of unread bytes of a connection.
///
/// # Errors
/// If a name belongs to no user.
pub fn accounts(passwords: &BTreeMap<String, String>) -> Result<String, InvalidName> {
    let users = passwords.iter().map(|(name, password)| Ok((User::of_name(name)?, password))).collect::<Result<Vec<_>, InvalidName>>()?;
    let agents = agents(passwords.keys());
    let entry = |user: &User, password: &str| {
        let permissions = user.permissions(&agents).render();
        format!("      {{ user: \"{}\", password: {password:?}, permissions: {{ {permissions} }} }}\n", user.name())
    };
    let (mut services, mut others) = (String::new(), String::new());
    for (user, password) in &users {
        match user {
            User::Agent(agent) => others.push_str(&agent_account(agent, &entry(user, password))),
            _ => services.push_str(&entry(user, password)),
        }
    }
    let exports = exports(&agents);
    Ok(format!(
        "max_pending: {MAX_PENDING}\naccounts {{\n  {SERVICES}: {{\n    jetstream: enabled\n    users: [\n{services}    ]\n    exports: [\n{exports}    ]\n    \
         imports: [ {{ service: {{ account: {SERVER}, subject: \"{SERVER_HEALTH}\" }} }} ]\n  }}\n{others}  \
         {SERVER}: {{ exports: [ {{ service: \"{SERVER_HEALTH}\", accounts: [{SERVICES}] }} ] }}\n}}\nsystem_account: {SERVER}\n"
    ))
}

/// Exports of the account of the services to `agents`.
fn exports(agents: &[Name]) -> String {
    if agents.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    let all = agents.iter().map(account_of).collect::<Vec<_>>().join(", ");
    for messages in agent_streams() {
        text.push_str(&format!("      {{ stream: \"{messages}\", accounts: [{all}] }}\n"));
    }
    for agent in agents {
        let (reads, actions, account) = (subject::reads_of(agent), subject::all_of_agent(agent), account_of(agent));
        text.push_str(&format!(
            "      {{ service: \"{reads}\", accounts: [{account}], response_type: \"stream\", response_threshold: \"{RESPONSE_SECONDS}s\" }}\n"
        ));
        text.push_str(&format!("      {{ service: \"{actions}\", accounts: [{account}], response_threshold: \"{RESPONSE_SECONDS}s\" }}\n"));
    }
    text
}

fn account_of(agent: &Name) -> String {
    format!("AGENT_{agent}")
}

fn agent_account(agent: &Name, user: &str) -> String {
    let mut imports = String::new();
    for messages in agent_streams() {
        imports.push_str(&format!("      {{ stream: {{ account: {SERVICES}, subject: \"{messages}\" }} }}\n"));
    }
    for service in agent_services(agent) {
        imports.push_str(&format!("      {{ service: {{ account: {SERVICES}, subject: \"{service}\" }} }}\n"));
    }
    format!(
        "  {}: {{\n    limits: {{ max_connections: {AGENT_CONNECTIONS}, max_subscriptions: {AGENT_SUBSCRIPTIONS}, max_payload: {} }}\n    \
         users: [\n{user}    ]\n    imports: [\n{imports}    ]\n  }}\n",
        account_of(agent),
        MAX_PAYLOAD + HEADER_BYTES,
    )
}

/// Room for the headers of a message, which count as payload.
const HEADER_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn mine() -> Name {
        Name::new("mine").expect("valid")
    }

    #[test]
    fn every_user_is_found_by_its_name() {
        for user in User::all([mine()]) {
            assert_eq!(User::of_name(&user.name()), Ok(user));
        }
        assert!(User::of_name("root").is_err());
        assert!(User::of_name("agent-a.b").is_err());
    }

    #[test]
    fn only_agents_are_listed() {
        let users = ["operator", "agent-a", "setup", "agent-b"].map(str::to_owned);
        assert_eq!(agents(&users).iter().map(Name::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_service_may_write_its_own_leases_only() {
        let leases = |user: User| {
            let prefix = format!("$KV.{}.", subject::LEASE_BUCKET);
            let own = |subject: String| subject.strip_prefix(&prefix).map(str::to_owned);
            user.permissions(&[]).publish.into_iter().filter_map(own).collect::<Vec<_>>()
        };
        assert_eq!(leases(User::Actuator), ["actuator", "actuator.>"]);
        assert_eq!(leases(User::Promoter), ["promoter", "promoter.>"]);
    }

    #[test]
    fn changes_are_recorded_under_the_name_of_their_user_only() {
        for user in User::all([mine()]) {
            let rights = user.permissions(&[mine()]);
            let recorded: Vec<_> = rights.publish.iter().filter_map(|subject| subject::author_of(subject)).collect();
            let expected = if matches!(user, User::Actuator | User::Operator | User::Promoter) { vec![user.name()] } else { Vec::new() };
            assert_eq!(recorded, expected);
            if user != User::Setup {
                let deletes =
                    ["DELETE", "PURGE", "UPDATE", "MSG.DELETE"].map(|call| format!("$JS.API.STREAM.{call}.{}", subject::CHANGE_STREAM));
                assert!(rights.publish.iter().all(|subject| !deletes.contains(subject)), "{user:?}");
            }
        }
    }

    #[test]
    fn an_agent_publishes_its_own_actions_and_reads() {
        let permissions = User::Agent(mine()).permissions(&[mine()]);
        assert_eq!(permissions.publish, ["qscale.v1.action.mine.>", "qscale.v1.read.mine.*"]);
    }
}
