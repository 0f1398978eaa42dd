//! The AsyncAPI 3.0 document: channels, messages, and what each service does with them.

use serde_json::{Map, Value, json};

use super::file_name;
use crate::contract::{Action, Epoch, Event, EventType, MAX_PAYLOAD, TraceParent, Version, subject};
use crate::name::{FunctionId, Name};
use crate::time::{Tick, Timestamp};

/// The AsyncAPI document.
#[must_use]
pub fn asyncapi() -> Value {
    let all = |entry: fn(EventType) -> Value| -> Map<String, Value> {
        EventType::ALL.iter().copied().map(|kind| (kind.word().into(), entry(kind))).collect()
    };
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Qscale",
            "version": Version::CURRENT.to_string(),
            "description": overview(),
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" }
        },
        "defaultContentType": "application/json",
        "servers": { "local": server() },
        "channels": all(channel),
        "operations": operations(),
        "components": {
            "messages": all(message),
            "parameters": parameters(),
            "schemas": { "headers": headers() },
            "securitySchemes": { "user": { "type": "userPassword", "description": "One user a service: collector, actuator, loadgen, operator, and agent-<name> for each agent." } }
        }
    })
}

fn overview() -> String {
    let mine = Name::new("mine").expect("a DNS label");
    let function = FunctionId::new(Name::new("default").expect("a DNS label"), Name::new("fib").expect("a DNS label"));
    let (states, group, action) = (subject::all(EventType::State), subject::agent_group(&mine), subject::action(&mine, &function));
    let (live, record, actions, policies) =
        (subject::LIVE_STREAM, subject::RECORD_STREAM, subject::action_stream(&mine), subject::POLICY_BUCKET);
    let reads = subject::read(&mine, subject::LIVE_STREAM);
    let (changes, change) = (subject::CHANGE_STREAM, subject::changes_of("<user>"));
    let (kib, major, most) = (MAX_PAYLOAD / 1024, Version::CURRENT.major, Action::MAX_TEXT);
    format!(
        "Qscale scales serverless functions. Each tick the collector publishes a State of each function; agents answer it with Actions; the actuator applies those of \
the agent in the function's ScalingPolicy, within its guard, and publishes an Outcome; the collector publishes the Reward of the tick.\n\
\n\
## Messages\n\
- Bodies are JSON in UTF-8, at most {kib} KiB. Field names carry their unit; instants (`_at_ms`) and `epoch` are milliseconds since 1970.\n\
- A value that was not measured is absent, never zero or null.\n\
- Ignore unknown fields. Refuse a `version` with a major number other than {major}.\n\
- Names of namespaces, functions and agents are DNS-1123 labels, so that a subject token never contains a dot. A body with other names than its subject is refused.\n\
- CloudEvents 1.0 attributes (binary mode) and a W3C `traceparent` travel as NATS headers. The body alone is sufficient. \
With `Nats-Msg-Id` a stream stores a message that was published twice only once.\n\
\n\
## Delivery\n\
- State and Load: published without acknowledgement; the stream `{live}` retains as many hours as fit.\n\
- Outcome and Reward: the stream `{record}` acknowledges them (publish with a reply subject) and retains them for replay and learning. Without an acknowledgement the publisher repeats the message.\n\
- Action: likewise, in a stream of each agent, such as `{actions}`, which is the agent's quota.\n\
- ScalingPolicies are in the key-value bucket `{policies}` under `<namespace>.<function>`; see `scaling-policy.schema.json`.\n\
- Changes of ScalingPolicies, freezes and models by operators and the promoter are in the append-only stream `{changes}`; see `change.schema.json`. \
The subject `{change}` ends with the user whose credential made the change.\n\
\n\
## How to be an agent\n\
For an agent named `mine`:\n\
1. Connect as user `agent-mine`. The user is in an account of its own, without JetStream: it may publish its own Actions, subscribe to States, Rewards and Outcomes, and request \
retained States and Loads, and on the subject of its stream its own Actions, on `{reads}`, nothing else. The body of a request is that of a direct get of JetStream, such as `{{\"batch\":100,\"next_by_subj\":\"{states}\"}}`; an answer with the header `Qscale-Status` is the last one.\n\
2. Subscribe to `{states}` in the queue group `{group}`. Every agent receives every State; the instances of one agent share them, and the others take over from one that stops.\n\
3. Answer each State promptly with one Action on `<action>.<namespace>.<function>`, such as `{action}`: copy `namespace`, `function`, `epoch` and `tick` from the State, and set `agent` to the agent's name.\n\
4. `allocation` is absolute: replicas, CPU and memory of each. To change nothing, repeat the State's `allocation`: after some ticks without an Action the fallback rule of the \
ScalingPolicy takes over. If the State has no `allocation` and the agent needs one, send nothing.\n\
5. `expires_at_ms` must not be before `decided_at_ms`. Two ticks after `observed_at_ms` is usual.\n\
6. Stay within `bounds` of the State. The guard may limit any request; the Outcome lists the rules that it applied.\n\
7. `reason` is for people, `provenance` names the policy and model for programs; each text has at most {most} bytes. Pass on the State's `traceparent`.\n\
\n\
Any agent other than the one in the ScalingPolicy is a shadow: its Actions are recorded and evaluated, never applied. A change of the field `agent` of the ScalingPolicy switches the agent between two ticks.",
        action = action,
    )
    .replace("<action>", &subject::all_of_agent(&mine).replace(".>", ""))
}

fn server() -> Value {
    json!({
        "host": "127.0.0.1:4222",
        "protocol": "nats",
        "description": "nats-server 2.11 or newer with JetStream.",
        "security": [{ "$ref": "#/components/securitySchemes/user" }]
    })
}

/// Address of `kind`, from [`subject`] with parameters in place of the names.
fn address(kind: EventType) -> String {
    let name = |text: &str| Name::new(text).expect("a DNS label");
    let function = FunctionId::new(name("namespace"), name("function"));
    let spelt = match kind {
        EventType::Action => subject::action(&name("agent"), &function),
        _ => subject::of(kind, &function),
    };
    let parameters = channel_parameters(kind);
    let token = |token: &str| if parameters.contains(&token) { format!("{{{token}}}") } else { token.to_owned() };
    spelt.split('.').map(token).collect::<Vec<_>>().join(".")
}

fn channel_parameters(kind: EventType) -> &'static [&'static str] {
    match kind {
        EventType::Action => &["agent", "namespace", "function"],
        _ => &["namespace", "function"],
    }
}

fn channel(kind: EventType) -> Value {
    let parameters: Map<_, _> = channel_parameters(kind)
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/parameters/{name}") })))
        .collect();
    json!({
        "address": address(kind),
        "title": title(kind),
        "description": format!("{} {}", purpose(kind), delivery(kind)),
        "messages": { kind.word(): { "$ref": format!("#/components/messages/{kind}") } },
        "parameters": parameters
    })
}

fn parameters() -> Value {
    json!({
        "namespace": { "description": "Namespace of the function, a DNS-1123 label.", "location": "$message.payload#/namespace", "examples": [FunctionId::DEFAULT_NAMESPACE] },
        "function": { "description": "Name of the function's ScalingPolicy, a DNS-1123 label.", "location": "$message.payload#/function", "examples": ["fibonacci-python"] },
        "agent": { "description": "Name of the agent, a DNS-1123 label.", "location": "$message.payload#/agent", "examples": ["threshold"] }
    })
}

fn title(kind: EventType) -> &'static str {
    match kind {
        EventType::State => "State",
        EventType::Reward => "Reward",
        EventType::Action => "Action",
        EventType::Outcome => "Outcome",
        EventType::Load => "Load",
    }
}

fn purpose(kind: EventType) -> &'static str {
    match kind {
        EventType::State => {
            "Measurements of one function at one tick, sufficient to decide without memory. From the collector, every tick."
        }
        EventType::Reward => {
            "Reward of one tick with its terms, by one formula for every agent. From the collector, a tick after the State."
        }
        EventType::Action => {
            "Allocation that an agent requests, absolute. From agents, one per State; it counts once for (agent, function, tick)."
        }
        EventType::Outcome => {
            "Result of a decision, and the rules that the guard applied. From the actuator, for every Action, the fallback and operators."
        }
        EventType::Load => "Load offered to a function and its results, as the client measures them. From the load generator.",
    }
}

fn delivery(kind: EventType) -> String {
    match kind {
        EventType::State | EventType::Load => {
            format!("Published without waiting, newest wins; kept by the stream `{}`.", subject::LIVE_STREAM)
        }
        EventType::Action => {
            let agent = Name::new("agent").expect("a DNS label");
            format!("Acknowledged and kept by a stream of each agent, `{}`.", subject::action_stream(&agent).replace("agent", "{agent}"))
        }
        EventType::Outcome | EventType::Reward => format!("Acknowledged and kept by the stream `{}`.", subject::RECORD_STREAM),
    }
}

fn message(kind: EventType) -> Value {
    json!({
        "name": title(kind),
        "title": title(kind),
        "summary": purpose(kind),
        "contentType": "application/json",
        "headers": { "allOf": [{ "$ref": "#/components/schemas/headers" }, { "properties": { "ce-type": { "const": format!("{}.{kind}", subject::PREFIX) } } }] },
        "payload": { "$ref": format!("./{}", file_name(kind)) },
        "correlationId": { "description": "One trace for a State, the Actions that answer it and their Outcomes.", "location": "$message.header#/traceparent" },
        "examples": [{ "name": "full", "payload": example(kind) }]
    })
}

/// The golden message with every field, which the tests read and write back.
fn example(kind: EventType) -> Value {
    let text = match kind {
        EventType::State => include_str!("../../tests/golden/state.full.json"),
        EventType::Reward => include_str!("../../tests/golden/reward.full.json"),
        EventType::Action => include_str!("../../tests/golden/action.full.json"),
        EventType::Outcome => include_str!("../../tests/golden/outcome.full.json"),
        EventType::Load => include_str!("../../tests/golden/load.full.json"),
    };
    serde_json::from_str(text).expect("the golden messages are JSON, which the tests of the contract read")
}

/// The headers of an event as the bus writes them, none of which a reader needs.
fn headers() -> Value {
    let sample = Event {
        id: format!("state.default.fibonacci-python.{}.{}", Epoch(1_760_000_000_123).0, Tick(352_000_012)),
        source: "/qscale/collector/0".into(),
        kind: EventType::State,
        subject: "default/fibonacci-python".into(),
        time: Timestamp(1_760_000_064_990),
        trace: TraceParent { trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, span: 0x00f0_67aa_0ba9_02b7 },
    };
    let properties: Map<_, _> = sample
        .headers()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), json!({ "type": "string", "description": meaning(name), "examples": [value] })))
        .collect();
    json!({ "type": "object", "description": "CloudEvents 1.0 in binary mode, with W3C trace context. None is required of a publisher.", "properties": properties })
}

fn meaning(header: &str) -> &'static str {
    match header {
        "ce-specversion" => "Version of CloudEvents.",
        "ce-id" => "Names the event; the same where it is published again.",
        "ce-source" => "Service and instance that published.",
        "ce-type" => "Kind of message.",
        "ce-subject" => "The function, as namespace/function.",
        "ce-time" => "When it was published, RFC 3339.",
        "content-type" => "Type of the body.",
        "traceparent" => "W3C trace context; an Action continues the trace of its State.",
        "Nats-Msg-Id" => "Same as ce-id; a stream stores the id once.",
        _ => "",
    }
}

/// Permissions and flow of the messages.
fn operations() -> Map<String, Value> {
    use EventType::{Action, Load, Outcome, Reward, State};
    let services: [(&str, &[EventType], &[EventType]); 5] = [
        ("collector", &[State, Reward], &[Outcome]),
        ("agent", &[Action], &[State, Reward, Outcome]),
        ("actuator", &[Outcome], &[State, Action]),
        ("loadgen", &[Load], &[]),
        ("operator", &[], EventType::ALL),
    ];
    let mut operations = Map::new();
    for (service, sends, receives) in services {
        for kind in sends {
            operations.insert(format!("{service}Sends{}", title(*kind)), operation(service, "send", *kind));
        }
        for kind in receives {
            operations.insert(format!("{service}Receives{}", title(*kind)), operation(service, "receive", *kind));
        }
    }
    operations
}

fn operation(service: &str, action: &str, kind: EventType) -> Value {
    let mut operation = json!({
        "action": action,
        "channel": { "$ref": format!("#/channels/{kind}") },
        "summary": format!("The {service} {action}s {}.", title(kind)),
        "tags": [{ "name": service }],
        "messages": [{ "$ref": format!("#/channels/{kind}/messages/{kind}") }]
    });
    if (service, action, kind) == ("agent", "receive", EventType::State) {
        let group = subject::agent_group(&Name::new("agent").expect("a DNS label")).replacen("agent.agent", "agent.{agent}", 1);
        operation["bindings"] = json!({ "nats": { "queue": group, "bindingVersion": "0.1.0" } });
        operation["description"] =
            "One queue group per agent: its instances share the States, and every agent receives all of them.".into();
    }
    operation
}
