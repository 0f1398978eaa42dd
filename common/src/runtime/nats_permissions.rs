//! NATS permissions: one user per service, with its own subjects and the JetStream calls that it needs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::contract::{EventType, subject};
use crate::name::{InvalidName, Name};

/// A user of the bus.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// Creates streams and buckets at set-up.
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

impl Account {
    /// The accounts of the services, with those of `agents`.
    pub fn all(agents: impl IntoIterator<Item = Name>) -> Vec<Account> {
        let mut all = vec![Self::Setup, Self::Collector, Self::Actuator, Self::Loadgen, Self::Promoter, Self::Operator];
        all.extend(agents.into_iter().map(Self::Agent));
        all
    }

    /// The account of a user name.
    ///
    /// # Errors
    /// If the name belongs to no account.
    pub fn of_user(user: &str) -> Result<Self, InvalidName> {
        match user {
            "setup" => Ok(Self::Setup),
            "collector" => Ok(Self::Collector),
            "actuator" => Ok(Self::Actuator),
            "loadgen" => Ok(Self::Loadgen),
            "promoter" => Ok(Self::Promoter),
            "operator" => Ok(Self::Operator),
            _ => match user.strip_prefix("agent-") {
                Some(agent) => Name::new(agent).map(Self::Agent),
                None => Err(InvalidName { name: user.into() }),
            },
        }
    }

    /// The user name.
    #[must_use]
    pub fn user(&self) -> String {
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

    fn rights(&self) -> Rights {
        let mut rights = Rights::default();
        let user = self.user();
        rights.subscribe.push(format!("{}.>", inbox_prefix(&user)));
        match self {
            Self::Setup => {
                rights.publish.push("$JS.API.>".into());
            }
            Self::Collector => {
                rights
                    .publishes(EventType::State)
                    .publishes(EventType::Reward)
                    .reads(EventType::Outcome)
                    .reads_bucket(subject::POLICY_BUCKET);
            }
            Self::Agent(agent) => {
                rights.publish.push(subject::all_of_agent(agent));
                rights.subscribe.push(format!("{} {}", subject::all(EventType::State), subject::agent_group(agent)));
                rights.reads(EventType::State).reads(EventType::Reward).reads(EventType::Outcome).reads_bucket(subject::POLICY_BUCKET);
                // An agent with memory rebuilds it from the States of the last hours.
                rights.reads_stream(subject::LIVE_STREAM).reads_store(subject::MODEL_STORE);
            }
            Self::Actuator => {
                rights.publishes(EventType::Outcome).reads(EventType::State).reads(EventType::Action);
                rights.reads_bucket(subject::POLICY_BUCKET).reads_bucket(subject::CONTROL_BUCKET);
                rights.writes_bucket(subject::ACTUATOR_BUCKET).writes_key(subject::LEASE_BUCKET, subject::ACTUATOR_LEASE);
            }
            Self::Loadgen => {
                rights.publishes(EventType::Load);
            }
            Self::Promoter => {
                rights.reads_stream(subject::LIVE_STREAM).reads_stream(subject::RECORD_STREAM).reads_bucket(subject::POLICY_BUCKET);
                rights.writes_bucket(subject::FINETUNE_BUCKET).writes_store(subject::MODEL_STORE);
                rights.writes_key(subject::LEASE_BUCKET, subject::PROMOTER_LEASE);
            }
            Self::Operator => {
                for kind in EventType::ALL.iter().copied() {
                    rights.reads(kind);
                }
                for stream in [subject::LIVE_STREAM, subject::RECORD_STREAM] {
                    rights.reads_stream(stream);
                }
                rights.writes_bucket(subject::POLICY_BUCKET).writes_bucket(subject::CONTROL_BUCKET).writes_bucket(subject::FINETUNE_BUCKET);
                rights.reads_bucket(subject::ACTUATOR_BUCKET).reads_bucket(subject::LEASE_BUCKET).writes_store(subject::MODEL_STORE);
                rights.publish.push("$JS.API.INFO".into());
            }
        }
        rights
    }
}

/// Prefix of the reply subjects of `user`; no other user may subscribe to them.
#[must_use]
pub fn inbox_prefix(user: &str) -> String {
    format!("_INBOX_{user}")
}

#[derive(Debug, Default)]
struct Rights {
    publish: Vec<String>,
    subscribe: Vec<String>,
}

impl Rights {
    fn publishes(&mut self, kind: EventType) -> &mut Self {
        self.publish.push(subject::all(kind));
        self
    }

    fn reads(&mut self, kind: EventType) -> &mut Self {
        self.subscribe.push(subject::all(kind));
        self
    }

    fn reads_stream(&mut self, stream: &str) -> &mut Self {
        for call in
            ["STREAM.INFO", "CONSUMER.CREATE", "CONSUMER.INFO", "CONSUMER.DELETE", "CONSUMER.MSG.NEXT", "DIRECT.GET", "STREAM.MSG.GET"]
        {
            self.publish.push(format!("$JS.API.{call}.{stream}"));
            if call != "STREAM.INFO" {
                self.publish.push(format!("$JS.API.{call}.{stream}.>"));
            }
        }
        self.publish.push(format!("$JS.ACK.{stream}.>"));
        self.publish.push("$JS.FC.>".into());
        self
    }

    fn reads_bucket(&mut self, bucket: &str) -> &mut Self {
        self.reads_stream(&format!("KV_{bucket}"))
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

    fn reads_store(&mut self, store: &str) -> &mut Self {
        self.reads_stream(&format!("OBJ_{store}"))
    }

    /// Writing an object again purges its previous chunks.
    fn writes_store(&mut self, store: &str) -> &mut Self {
        self.publish.push(format!("$O.{store}.>"));
        self.publish.push(format!("$JS.API.STREAM.PURGE.OBJ_{store}"));
        self.reads_store(store)
    }

    fn render(mut self) -> String {
        let list = |subjects: &mut Vec<String>| {
            subjects.sort();
            subjects.dedup();
            subjects.iter().map(|subject| format!("\"{subject}\"")).collect::<Vec<_>>().join(", ")
        };
        format!("publish: {{ allow: [{}] }}, subscribe: {{ allow: [{}] }}", list(&mut self.publish), list(&mut self.subscribe))
    }
}

/// The `authorization` block of a nats-server configuration for the users of `passwords`.
///
/// # Errors
/// If a user name belongs to no account.
pub fn authorization(passwords: &BTreeMap<String, String>) -> Result<String, InvalidName> {
    let mut text = String::from("authorization {\n  users: [\n");
    for (user, password) in passwords {
        let rights = Account::of_user(user)?.rights().render();
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "    {{ user: \"{user}\", password: {password:?}, permissions: {{ {rights} }} }}");
    }
    text.push_str("  ]\n}\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_is_found_by_its_user_name() {
        let agent = Name::new("threshold").expect("valid");
        for account in Account::all([agent]) {
            assert_eq!(Account::of_user(&account.user()), Ok(account));
        }
        assert!(Account::of_user("root").is_err());
        assert!(Account::of_user("agent-a.b").is_err());
    }

    #[test]
    fn a_service_may_write_its_own_leases_only() {
        let leases = |account: Account| {
            let prefix = format!("$KV.{}.", subject::LEASE_BUCKET);
            let own = |subject: String| subject.strip_prefix(&prefix).map(str::to_owned);
            account.rights().publish.into_iter().filter_map(own).collect::<Vec<_>>()
        };
        assert_eq!(leases(Account::Actuator), ["actuator", "actuator.>"]);
        assert_eq!(leases(Account::Promoter), ["promoter", "promoter.>"]);
    }

    #[test]
    fn an_agent_may_publish_its_own_actions_and_no_outcome() {
        let rights = Account::Agent(Name::new("mine").expect("valid")).rights();
        let messages: Vec<_> = rights.publish.iter().filter(|subject| subject.starts_with("qscale.")).collect();
        assert_eq!(messages, ["qscale.v1.action.mine.>"]);
    }
}
