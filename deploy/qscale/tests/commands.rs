//! The command-line tool against a real nats-server.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::jetstream;
use futures::StreamExt;
use qscale_common::contract::subject;
use qscale_common::control::Control;
use qscale_common::name::Name;
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::clock;
use qscale_tests::{CommandResult, Folder, NatsServer, TIMEOUT, eventually_async};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

/// A server with streams, buckets and accounts, and a folder to run commands in.
struct Fixture {
    server: NatsServer,
    folder: Folder,
}

impl Fixture {
    async fn new() -> Self {
        let server = NatsServer::start_with_accounts(&["threshold"]);
        server.provision().await;
        Self { server, folder: Folder::new("commands") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let operator = self.server.config("operator");
        let address = operator.url.trim_start_matches("nats://");
        let mut command = Command::new(env!("CARGO_BIN_EXE_qscale"));
        command.env("QSCALE_NATS", format!("nats://operator:{}@{address}", operator.password));
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> CommandResult {
        CommandResult::of(&self.command(arguments).output().expect("the command starts"))
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> CommandResult {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("the command reads its input");
        CommandResult::of(&child.wait_with_output().expect("the command ends"))
    }

    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.folder.path().join(name), text).expect("the file can be written");
        name.to_owned()
    }

    async fn client(&self, user: &str) -> async_nats::Client {
        self.server.config(user).connect_once("test", TIMEOUT).await.expect("the server answers")
    }

    async fn bucket(&self, bucket: &str) -> jetstream::kv::Store {
        jetstream::new(self.client("operator").await).get_key_value(bucket).await.expect("the bucket is there")
    }

    async fn policy(&self, key: &str) -> Option<ScalingPolicy> {
        let value = self.bucket(subject::POLICY_BUCKET).await.get(key).await.expect("readable")?;
        Some(ScalingPolicy::from_json(&value).expect("what the command wrote is valid"))
    }

    async fn control(&self, key: &str) -> Option<Control> {
        let value = self.bucket(subject::CONTROL_BUCKET).await.get(key).await.expect("readable")?;
        let control = Control::from_json(&value);
        assert!(!control.malformed, "the command wrote a {control:?}");
        Some(control)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_applied_changed_listed_and_deleted() {
    let fixture = Fixture::new().await;
    let yaml = fixture.file("fib.yaml", "name: fibonacci\nagent: threshold\nbounds:\n  replicas: { min: 0, max: 4 }\n");
    assert!(fixture.run(&["policy", "apply", &yaml]).success().contains("policy default/fibonacci created"));
    assert!(fixture.run(&["policy", "apply", &yaml]).success().contains("unchanged"));
    assert_eq!(fixture.policy("default.fibonacci").await.expect("written").bounds.replicas.max().0, 4);

    let toml = "name = \"aes\"\nnamespace = \"prod\"\nmode = \"active\"";
    assert!(
        fixture.run_with_input(&["policy", "apply", "-"], toml).success().contains("policy prod/aes created: agent threshold, mode active")
    );

    let changed = fixture.run(&["policy", "set", "fibonacci", "agent=mine", "mode=active", "bounds.replicas.max=6"]).success();
    assert_eq!(
        changed.trim(),
        "policy default/fibonacci changed: agent threshold → mine, bounds.replicas.max 4 → 6, mode recommend → active"
    );
    assert_eq!(fixture.policy("default.fibonacci").await.expect("there").agent.as_str(), "mine");

    let printed = fixture.run(&["policy", "get", "fibonacci"]).success();
    assert!(fixture.run_with_input(&["policy", "apply", "-"], &printed).success().contains("unchanged"), "{printed}");
    let json: Value = serde_json::from_str(&fixture.run(&["policy", "get", "default/fibonacci", "--json"]).success()).expect("JSON");
    assert_eq!(json["bounds"]["replicas"]["max"], 6);

    let list = fixture.run(&["policy", "list"]).success();
    assert!(list.lines().next().is_some_and(|heading| heading.starts_with("FUNCTION")), "{list}");
    assert!(list.contains("default/fibonacci  active  mine") && list.contains("prod/aes"), "{list}");

    assert!(fixture.run(&["policy", "delete", "fibonacci", "missing"]).failure().contains("default/missing"));
    assert_eq!(fixture.policy("default.fibonacci").await, None);
    assert!(fixture.run(&["policy", "get", "fibonacci"]).failure().contains("default/fibonacci"));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_policy_is_refused_with_file_field_value_and_range() {
    let fixture = Fixture::new().await;
    let good = fixture.file("good.yaml", "name: good\n");
    let bad = fixture.file("bad.toml", "name = \"bad\"\n[objective]\npercentile = 120\n");
    let error = fixture.run(&["policy", "apply", &good, &bad]).failure();
    for part in ["bad.toml", "objective.percentile", "120"] {
        assert!(error.contains(part), "`{part}` in {error}");
    }
    assert_eq!(fixture.policy("default.good").await, None, "nothing is written unless everything is valid");

    for (text, part) in [
        ("name: Bad.Name\n", "`Bad.Name`"),
        ("name: f\ncolour: red\n", "`colour`"),
        ("name: f\nbounds: { replicas: { min: 5, max: 2 } }\n", "min = 5"),
        ("name: f\ntick: 5\n", "tick"),
        ("name: [\n", "standard input"),
        ("", "name"),
    ] {
        let error = fixture.run_with_input(&["policy", "apply", "-"], text).failure();
        assert!(error.contains(part), "`{part}` in {error}");
    }
    assert!(fixture.run(&["policy", "apply", "absent.yaml"]).failure().contains("absent.yaml"));
    fixture.run(&["policy", "apply", &good]).success();
    assert!(fixture.run(&["policy", "set", "good", "guard.resize_factor=0.5"]).failure().contains("guard.resize_factor"));
    assert!(fixture.run(&["policy", "set", "missing", "agent=mine"]).failure().contains("default/missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_mirrored_from_an_object_is_changed_there() {
    let fixture = Fixture::new().await;
    let mut policy = ScalingPolicy::new("fibonacci".parse().expect("a name"));
    policy.mirrored = true;
    fixture.bucket(subject::POLICY_BUCKET).await.put("default.fibonacci", policy.to_json().into()).await.expect("written");
    let file = fixture.file("fib.yaml", "name: fibonacci\nagent: mine\n");
    for arguments in [&["policy", "set", "fibonacci", "agent=mine"][..], &["policy", "apply", &file]] {
        let error = fixture.run(arguments).failure();
        assert!(error.contains("kubectl edit scp fibonacci"), "{error}");
    }
    assert_eq!(fixture.policy("default.fibonacci").await, Some(policy));
    let forged = fixture.file("forged.yaml", "name: other\nmirrored: true\n");
    fixture.run(&["policy", "apply", &forged]).failure();
    assert_eq!(fixture.policy("default.other").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn autoscalers_are_imported_from_what_kubectl_prints() {
    let fixture = Fixture::new().await;
    let hpa = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: web, namespace: shop}\n\
               spec: {scaleTargetRef: {kind: Deployment, name: web}, minReplicas: 2, maxReplicas: 9}\n";
    let file = fixture.file("hpa.yaml", hpa);
    let printed = fixture.run(&["import", &file]).success();
    for part in ["# in place of HorizontalPodAutoscaler shop/web", "kind: ScalingPolicy", "agent: hpa", "mode: recommend", "max: 9"] {
        assert!(printed.contains(part), "`{part}` in {printed}");
    }
    let list = json!({ "kind": "List", "items": [{ "kind": "ScaledObject", "metadata": { "name": "q" }, "spec": { "scaleTargetRef": { "name": "q" } } }] });
    assert!(fixture.run_with_input(&["import", "-"], &list.to_string()).success().contains("agent: keda"));
    assert!(fixture.run_with_input(&["import", "-"], "{}").failure().contains("HorizontalPodAutoscaler"));
    assert!(fixture.run_with_input(&["import", "-"], "{").failure().contains("standard input"));
}

#[test]
fn examples_and_schemas_need_no_system() {
    let folder = Folder::new("offline");
    let run = |arguments: &[&str]| {
        CommandResult::of(&Command::new(env!("CARGO_BIN_EXE_qscale")).current_dir(folder.path()).args(arguments).output().expect("starts"))
    };
    assert!(run(&["policy", "example"]).success().contains("name: fibonacci"));
    let schema: Value = serde_json::from_str(&run(&["policy", "schema"]).success()).expect("JSON");
    assert!(schema["properties"]["bounds"].is_object());
    assert!(run(&["completions", "bash"]).success().contains("qscale"));
    assert!(run(&["policy", "list"]).failure().contains("qscale up"));
    assert_eq!(run(&["freeze"]).code, Some(2), "neither a function nor --all");
    assert_eq!(run(&["freeze", "f", "--all"]).code, Some(2), "both");
}

#[tokio::test(flavor = "multi_thread")]
async fn freeze_and_unfreeze_need_no_agent() {
    let fixture = Fixture::new().await;
    fixture.run(&["freeze", "--all", "--reason", "incident 7"]).success();
    let all = fixture.control("all").await.expect("written");
    assert!(all.frozen && all.restore.is_none() && all.reason == "incident 7", "{all:?}");
    assert!(fixture.run(&["freeze", "--all"]).success().contains("incident 7"), "an existing freeze is shown with its reason");
    assert_eq!(fixture.control("all").await.expect("written"), all, "and is left as it is");

    let one = fixture.run(&["freeze", "prod/f"]);
    assert!(one.err.contains("prod/f"), "there is no such policy: {one:?}");
    one.success();
    assert!(fixture.control("prod.f").await.expect("written").frozen);
    let lifted = fixture.run(&["unfreeze", "prod/f"]);
    assert!(lifted.err.contains("qscale unfreeze --all"), "all functions are still frozen: {lifted:?}");
    assert!(!fixture.control("prod.f").await.expect("written").frozen);

    fixture.run(&["freeze", "prod/f"]).success();
    let lifted = fixture.run(&["unfreeze", "--all"]).success();
    assert!(lifted.contains("prod/f"), "{lifted}");
    let controls = fixture.bucket(subject::CONTROL_BUCKET).await;
    controls.put("prod.f", "{".into()).await.expect("operators may write");
    assert!(fixture.run(&["unfreeze", "--all"]).success().contains("prod/f"), "a malformed request counts as a freeze");
    assert!(!fixture.control("all").await.expect("written").frozen && !fixture.control("prod.f").await.expect("written").frozen);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_remains_requested_without_an_actuator() {
    let fixture = Fixture::new().await;
    let ran = fixture.run(&["restore", "f", "--wait", "100ms"]);
    assert!(ran.err.contains("default/f") && ran.err.contains("100ms"), "{ran:?}");
    ran.success();
    let control = fixture.control("default.f").await.expect("written");
    assert!(control.frozen && control.restore.is_some(), "{control:?}");
    fixture.run(&["freeze", "f", "--reason", "keep"]).success();
    assert_eq!(fixture.control("default.f").await.expect("written").restore, control.restore, "a freeze does not cancel a restore");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_requests_the_restore_that_the_policy_names_and_freezes_nothing() {
    let fixture = Fixture::new().await;
    for (name, on_delete) in [("f", "restore"), ("g", "keep")] {
        let yaml = fixture.file("policy.yaml", &format!("name: {name}\non_delete: {on_delete}\n"));
        fixture.run(&["policy", "apply", &yaml]).success();
    }
    let deleted = fixture.run(&["policy", "delete", "f", "g"]).success();
    assert!(deleted.contains("default/f deleted; the function gets the allocation from before the first change"), "{deleted}");
    assert!(deleted.contains("default/g deleted; the function keeps its allocation"), "{deleted}");
    let control = fixture.control("default.f").await.expect("requested");
    assert!(!control.frozen && control.restore.is_some(), "{control:?}");
    assert_eq!(fixture.control("default.g").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_reports_the_outcome() {
    let fixture = Fixture::new().await;
    let actuator = jetstream::new(fixture.client("actuator").await);
    let mut controls = actuator.get_key_value(subject::CONTROL_BUCKET).await.expect("there").watch_all().await.expect("watched");
    let answering = tokio::spawn(async move {
        controls.next().await.expect("asked").expect("readable");
        let mut outcome = outcome("operator", "applied");
        outcome["agent"] = json!("restore");
        actuator.publish("qscale.v1.outcome.default.f", outcome.to_string().into()).await.expect("sent").await.expect("stored");
    });
    let out = fixture.run(&["restore", "f"]).success();
    assert!(out.contains("default/f") && out.contains("2 x 500m 128Mi (1 → 2 replicas)"), "{out}");
    answering.await.expect("the answer was sent");
}

/// The recorded changes that `qscale changes` prints with `arguments`, without those of an unreadable entry.
fn changes(fixture: &Fixture, arguments: &[&str]) -> Vec<Value> {
    let printed = fixture.run(&[&["changes", "--json"], arguments].concat()).success();
    serde_json::from_str(&printed).expect("a JSON array")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_an_operator_is_recorded() {
    let fixture = Fixture::new().await;
    let yaml = fixture.file("f.yaml", "name: f\nagent: threshold\n");
    let by = ["--by", "ada", "--reason", "incident 7"];
    let run = |arguments: &[&str]| fixture.run(&[arguments, &by[..]].concat()).success();
    assert!(fixture.run(&["changes"]).success().contains("no changes"));
    run(&["policy", "apply", &yaml]);
    run(&["policy", "apply", &yaml]);
    fixture.run(&["policy", "apply", "--dry-run", &yaml]).success();
    run(&["policy", "set", "f", "mode=active"]);
    run(&["policy", "set", "f", "mode=active"]);
    run(&["freeze", "--all"]);
    run(&["freeze", "--all"]);
    run(&["unfreeze", "--all"]);
    run(&["restore", "f", "--wait", "100ms"]);
    run(&["policy", "delete", "f"]);
    let all = changes(&fixture, &[]);
    let kinds: Vec<&str> = all.iter().filter_map(|entry| entry["change"]["kind"].as_str()).collect();
    assert_eq!(kinds, ["policy_written", "policy_written", "frozen", "unfrozen", "restore_requested", "policy_deleted"], "{all:?}");
    for entry in &all {
        let change = &entry["change"];
        assert_eq!(
            (&entry["user"], &change["by"], &change["reason"]),
            (&json!("operator"), &json!("ada"), &json!("incident 7")),
            "{entry}"
        );
    }
    let set = &all[1]["change"];
    assert_eq!((&set["before"]["value"]["mode"], &set["after"]["value"]["mode"]), (&json!("recommend"), &json!("active")));
    assert_eq!(set["before"]["revision"], all[0]["change"]["after"]["revision"]);
    assert!(set["after"]["revision"].as_u64() > set["before"]["revision"].as_u64(), "{set}");
    assert_eq!(all[5]["change"]["after"], Value::Null);

    let text = fixture.run(&["changes", "--function", "f"]).success();
    assert!(text.contains("ada as operator: policy default/f changed: mode recommend → active (incident 7)"), "{text}");
    assert_eq!(text.lines().count(), 6, "with freezes of all functions: {text}");
    assert_eq!(changes(&fixture, &["--function", "other"]).len(), 2, "those of all functions");
    assert_eq!(changes(&fixture, &["--kind", "frozen,unfrozen"]).len(), 2);
    assert_eq!(changes(&fixture, &["--model", "f"]).len(), 0);
    assert_eq!(changes(&fixture, &["--since", "1h"]).len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_applies_even_if_it_cannot_be_recorded() {
    let fixture = Fixture::new().await;
    let setup = jetstream::new(fixture.client("setup").await);
    setup.delete_stream(subject::CHANGE_STREAM).await.expect("setup may delete streams");
    let ran = fixture.run(&["freeze", "--all"]);
    assert!(ran.err.contains("not recorded") && ran.err.contains(subject::CHANGE_STREAM), "{ran:?}");
    ran.success();
    assert!(fixture.control("all").await.expect("written").frozen);
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_changes_cannot_be_deleted_or_replaced() {
    let fixture = Fixture::new().await;
    fixture.run(&["freeze", "--all"]).success();
    let setup = jetstream::new(fixture.client("setup").await);
    let stream = setup.get_stream(subject::CHANGE_STREAM).await.expect("there");
    assert!(stream.delete_message(1).await.is_err() && stream.purge().await.is_err(), "not even by setup");
    let operator = jetstream::new(fixture.client("operator").await);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    let replaced = operator.publish_with_headers(subject::changes_of("operator"), headers, "{}".into()).await.expect("sent").await;
    assert!(replaced.is_err(), "{replaced:?}");
    let as_promoter = operator.publish(subject::changes_of("promoter"), "{}".into()).await.expect("sent").await;
    assert!(as_promoter.is_err(), "only the promoter writes under its name");
    operator.publish(subject::changes_of("operator"), "broken".into()).await.expect("sent").await.expect("stored");
    let shown = changes(&fixture, &[]);
    assert_eq!((&shown[0]["change"]["kind"], shown.len()), (&json!("frozen"), 2), "{shown:?}");
    assert!(shown[1]["error"].is_string(), "{shown:?}");
}

fn state(tick: u64) -> Value {
    let policy = ScalingPolicy::new("f".parse().expect("valid"));
    json!({
        "version": "1.0", "namespace": "default", "function": "f", "epoch": 1, "tick": tick, "tick_length_ms": 5000,
        "observed_at_ms": clock::now(), "agent": "threshold", "allocation": { "replicas": 1, "cpu_millicores": 500, "memory_mib": 128 },
        "age": { "requests_ms": 1, "cpu_ms": 1, "memory_ms": 1, "replicas_ms": 1 },
        "windows": { "tick": { "covered_ms": 5000, "rate_rps": tick as f64 * 10.0 }, "short": { "covered_ms": 0 }, "long": { "covered_ms": 0 } },
        "changes": {}, "objective": policy.objective.wire(), "bounds": policy.bounds, "prices": policy.prices
    })
}

fn action() -> Value {
    let now = clock::now();
    json!({
        "version": "1.0", "agent": "threshold", "namespace": "default", "function": "f", "epoch": 1, "tick": 2, "decided_at_ms": now,
        "expires_at_ms": now.0 + 5000, "allocation": { "replicas": 2, "cpu_millicores": 500, "memory_mib": 128 }, "reason": "cpu is high"
    })
}

fn outcome(source: &str, effect: &str) -> Value {
    json!({
        "version": "1.0", "namespace": "default", "function": "f", "epoch": 1, "tick": 2, "source": source, "agent": "threshold",
        "effect": effect, "decided_at_ms": clock::now(), "requested": { "replicas": 2, "cpu_millicores": 500, "memory_mib": 128 },
        "before": { "replicas": 1, "cpu_millicores": 500, "memory_mib": 128 },
        "allowed": { "replicas": 2, "cpu_millicores": 500, "memory_mib": 128 }
    })
}

/// Records a State, the Action that answers it, the Outcome, and a State that cannot be read, in this order.
async fn record(fixture: &Fixture) {
    let collector = fixture.client("collector").await;
    let stored = async |count: u64| {
        let operator = jetstream::new(fixture.client("operator").await);
        eventually_async("the stream to hold the States", || async {
            let stream = operator.get_stream(subject::LIVE_STREAM).await.expect("there");
            (stream.cached_info().state.messages == count).then_some(())
        })
        .await;
    };
    collector.publish("qscale.v1.state.default.f", state(2).to_string().into()).await.expect("sent");
    stored(1).await;
    for (user, subject, message) in [
        ("agent-threshold", "qscale.v1.action.threshold.default.f", action()),
        ("actuator", "qscale.v1.outcome.default.f", outcome("agent", "applied")),
    ] {
        let jetstream = jetstream::new(fixture.client(user).await);
        jetstream.publish(subject, message.to_string().into()).await.expect("sent").await.expect("stored");
    }
    collector.publish("qscale.v1.state.default.g", "{\"version\": \"9.0\"}".into()).await.expect("sent");
    stored(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_messages_are_shown_in_order() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.run(&["watch", "--since", "1h"]).success(), "", "nothing was recorded yet");
    record(&fixture).await;
    let out = fixture.run(&["watch", "--since", "1h"]).success();
    let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with('─')).collect();
    let expected = ["state   default/f", "action  default/f", "outcome default/f", "qscale.v1.state.default.g"];
    assert_eq!(lines.len(), expected.len(), "{out}");
    for (line, part) in lines.iter().zip(expected) {
        assert!(line.contains(part), "`{part}` in {out}");
    }
    assert!(lines[1].contains("2 x 500m 128Mi (1 → 2 replicas): cpu is high"), "{out}");
    assert!(lines[3].contains("9.0"), "{out}");
    assert!(!out.contains('\x1b'), "no colours without a terminal");

    let json = fixture.run(&["watch", "--since", "1h", "--json", "--kind", "action,outcome", "f"]).success();
    let objects: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(objects.iter().map(|object| object["kind"].as_str()).collect::<Vec<_>>(), [Some("action"), Some("outcome")]);
    assert_eq!(objects[0]["subject"], "qscale.v1.action.threshold.default.f");
    assert_eq!(objects[0]["message"]["allocation"]["replicas"], 2);

    assert_eq!(fixture.run(&["watch", "--since", "1h", "h"]).success(), "", "another function");
    assert_eq!(fixture.run(&["watch", "--since", "1h", "--kind", "action", "--agent", "other"]).success(), "", "another agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_messages_are_shown_until_interrupted() {
    let fixture = Fixture::new().await;
    record(&fixture).await;
    for arguments in [&["watch", "--kind", "state", "f"][..], &["watch", "--kind", "state", "f", "--since", "1h", "--follow"]] {
        let mut watching = Watching::start(&fixture, arguments);
        let collector = fixture.client("collector").await;
        watching.until("70/s", &collector, "qscale.v1.state.default.f", &state(7)).await;
        watching.interrupt();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_of_an_agent_that_is_added_later_are_shown() {
    let server = NatsServer::start_with_accounts(&["early", "late"]);
    let fixture = Fixture { server, folder: Folder::new("commands") };
    let [early, late] = ["early", "late"].map(|agent| agent.parse::<Name>().expect("valid"));
    fixture.server.provision_for(std::slice::from_ref(&early)).await;
    let mut watching = Watching::start(&fixture, &["watch", "--kind", "action"]);
    for agents in [vec![early.clone()], vec![early, late]] {
        fixture.server.provision_for(&agents).await;
        let agent = agents.last().expect("one");
        let action = json!({
            "version": "1.0", "agent": agent, "namespace": "default", "function": "f", "epoch": 1, "tick": 1, "decided_at_ms": 1,
            "expires_at_ms": 2, "allocation": { "replicas": 1, "cpu_millicores": 100, "memory_mib": 64 }
        });
        let client = fixture.client(&format!("agent-{agent}")).await;
        watching.until(agent.as_str(), &client, &format!("qscale.v1.action.{agent}.default.f"), &action).await;
    }
    watching.interrupt();
}

/// A running `qscale watch`.
struct Watching {
    child: Child,
    shown: UnboundedReceiver<String>,
    reading: JoinHandle<bool>,
}

impl Watching {
    fn start(fixture: &Fixture, arguments: &[&str]) -> Self {
        let mut child = fixture.command(arguments).stdout(Stdio::piped()).spawn().expect("the command starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, shown) = tokio::sync::mpsc::unbounded_channel();
        let reading = std::thread::spawn(move || lines.by_ref().map_while(Result::ok).try_for_each(|line| sender.send(line)).is_ok());
        Self { child, shown, reading }
    }

    /// Publishes `message` until a line contains `text`: it is unknown when the command has subscribed.
    async fn until(&mut self, text: &str, client: &async_nats::Client, subject: &str, message: &Value) {
        let heard = async {
            loop {
                client.publish(subject.to_owned(), message.to_string().into()).await.expect("sent");
                let line = tokio::time::timeout(Duration::from_millis(100), self.shown.recv()).await;
                if line.is_ok_and(|line| line.expect("the command runs").contains(text)) {
                    return;
                }
            }
        };
        tokio::time::timeout(TIMEOUT, heard).await.expect("live messages are shown");
    }

    fn interrupt(mut self) {
        let pid = i32::try_from(self.child.id()).expect("process numbers are small");
        // SAFETY: kill takes integers only, and the child was not waited for yet.
        unsafe { libc::kill(pid, libc::SIGINT) };
        assert!(self.child.wait().expect("it ends").success());
        drop(self.shown);
        self.reading.join().expect("the reader ends with the command");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_output_is_not_an_error() {
    let fixture = Fixture::new().await;
    record(&fixture).await;
    let mut child =
        fixture.command(&["watch", "--since", "1h"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    drop(child.stdout.take());
    let ran = CommandResult::of(&child.wait_with_output().expect("the command ends"));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_failed_checks() {
    let fixture = Fixture::new().await;
    fixture.run_with_input(&["policy", "apply", "-"], "name: f\nmode: active\n").success();
    fixture.run(&["freeze", "--all"]).success();
    let ran = fixture.run(&["doctor"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in [
        "✓ NATS:",
        "✓ stream QSCALE_LIVE",
        "✓ bucket qscale_policies",
        "✓ policy default/f: active",
        "✗ state of default/f:",
        "✗ lease:",
        "! freeze:",
    ] {
        assert!(ran.out.contains(part), "`{part}` in {}", ran.out);
    }
    let findings: Value = serde_json::from_str(&fixture.run(&["doctor", "--json"]).out).expect("JSON");
    let failed = findings.as_array().expect("a list").iter().filter(|finding| finding["verdict"] == "failed");
    assert!(failed.clone().count() >= 2 && failed.clone().all(|finding| finding["fix"].is_string()), "{findings}");
}

#[test]
fn doctor_works_without_a_system() {
    let folder = Folder::new("doctor");
    let output = Command::new(env!("CARGO_BIN_EXE_qscale")).current_dir(folder.path()).arg("doctor").output().expect("starts");
    let ran = CommandResult::of(&output);
    assert!(ran.out.contains("! system:") && ran.out.contains("nats-server program"), "{ran:?}");
    assert!(std::fs::read_dir(folder.path()).expect("there").next().is_none(), "nothing is created");
}
