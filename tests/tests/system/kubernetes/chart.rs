//! The chart: what it installs is accepted by a real API server, and the services work with its configuration, passwords and rights, and with no others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qscale_tests::cluster::Right;
use qscale_tests::command::CommandResult;
use qscale_tests::nats::listening_port;
use qscale_tests::{Cluster, Folder, Program, eventually, free_port, nats, process, repository, within};
use serde_json::{Value, json};

use super::{DECISIONS, policy, rights};

const NAMESPACE: &str = "qscale-system";
/// Values for clusters with simulated nodes, whose kubelets have certificates that cannot be checked.
const VALUES: [&str; 2] = ["--set", "collector.sources.cluster.insecure_kubelets=true"];

/// A source that reads a Prometheus server.
const PROMETHEUS_SOURCE: &str = "collector.sources.requests.kind=prometheus,collector.sources.requests.url=https://prometheus.monitoring:9090,\
                                 collector.sources.requests.preset=istio,collector.sources.requests.token_file=/etc/qscale/token/token";

fn chart() -> String {
    repository().join("deploy/cluster/chart").display().to_string()
}

/// A volume for the streams, as no provisioner makes one here.
fn volume() -> Value {
    let spec = json!({
        "capacity": { "storage": "4Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/data" }, "persistentVolumeReclaimPolicy": "Retain"
    });
    json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "streams" }, "spec": spec })
}

/// An installed chart, whose services run as processes of this machine.
struct Installed<'a> {
    cluster: &'a Cluster,
    folder: Folder,
    programs: BTreeMap<String, Program>,
    /// Ports of the metrics.
    ports: BTreeMap<String, u16>,
    url: String,
}

impl<'a> Installed<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, folder: Folder::new("chart"), programs: BTreeMap::new(), ports: BTreeMap::new(), url: String::new() }
    }

    fn object(&self, kind: &str, name: &str) -> Value {
        self.cluster.get(&[kind, name, "-n", NAMESPACE])
    }

    /// The passwords, as a pod has them mounted.
    fn credentials(&self) -> PathBuf {
        let folder = self.folder.path().join("credentials");
        std::fs::create_dir_all(&folder).expect("created");
        let secret = self.object("secret", "qscale-credentials");
        for (user, password) in secret["data"].as_object().expect("passwords") {
            let password = STANDARD.decode(password.as_str().expect("text")).expect("base64");
            std::fs::write(folder.join(user), password).expect("written");
        }
        folder
    }

    fn qscale(&self, arguments: &[&str]) -> String {
        let output = Command::new(process::binary("qscale")).args(arguments).output().expect("qscale runs");
        CommandResult::of(&output).success()
    }

    /// Starts the nats-server as its pod does: accounts, server, streams.
    fn start_nats(&mut self) {
        let credentials = self.credentials().display().to_string();
        let (folder, accounts) = (self.folder.path().to_owned(), self.folder.path().join("run/qscale/accounts/accounts.conf"));
        self.qscale(&["bus", "accounts", "--credentials", &credentials, "--output", &accounts.display().to_string()]);
        let config = self.object("configmap", "qscale-nats")["data"]["nats.conf"].as_str().expect("configured").to_owned();
        let config = config
            .replace("/data", &folder.join("data").display().to_string())
            .replace("0.0.0.0:4222", "127.0.0.1:-1")
            .replace("0.0.0.0:8222", "127.0.0.1:-1");
        let path = folder.join("etc/nats/nats.conf");
        std::fs::create_dir_all(folder.join("etc/nats")).expect("created");
        std::fs::write(&path, config).expect("written");
        let mut command = Command::new(nats::program());
        command.arg("--config").arg(path).arg("--ports_file_dir").arg(&folder);
        self.programs.insert("nats".into(), Program::spawn(command, &folder.join("nats.log")));
        self.url = format!("nats://127.0.0.1:{}", eventually("nats-server to listen", || listening_port(&folder)));
        let created = self.qscale(&["bus", "provision", "--credentials", &credentials, "--server", &self.url]);
        assert!(created.is_empty(), "steps are no result: {created}");
    }

    /// Starts `program` of `component` as `instance`, with its configuration, password and rights.
    fn start(&mut self, instance: &str, component: &str, kind: &str, program: &str) {
        let name = format!("qscale-{component}");
        let text = self.object("configmap", &name)["data"]["config.json"].as_str().expect("configured").to_owned();
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        let pod = self.object(kind, &name)["spec"]["template"]["spec"].clone();
        let secret = pod["volumes"].as_array().and_then(|all| all.iter().find(|volume| volume["name"] == "credentials")).expect("mounted");
        let user = secret["secret"]["items"][0]["key"].as_str().expect("a key");
        assert_eq!(config["nats"]["url"], format!("nats://qscale-nats.{NAMESPACE}.svc:4222"));
        config["nats"]["url"] = json!(self.url);
        config["nats"]["password_file"] = json!(self.folder.path().join("credentials").join(user));
        let port = free_port();
        config["health"] = json!(format!("127.0.0.1:{port}"));
        let path = self.folder.path().join(format!("{instance}.json"));
        std::fs::write(&path, config.to_string()).expect("written");

        let mut command = Command::new(process::binary(program));
        command.arg("--config").arg(path).env("HOME", self.folder.path()).env_remove("KUBECONFIG");
        for variable in pod["containers"][0]["env"].as_array().into_iter().flatten() {
            let value = variable["value"].as_str().unwrap_or("0");
            command.env(variable["name"].as_str().expect("named"), value);
        }
        if let Some(account) = pod["serviceAccountName"].as_str() {
            let token = self.cluster.kubectl(&["create", "token", account, "-n", NAMESPACE]);
            command.env("KUBECONFIG", self.cluster.kubeconfig_of(account, token.trim()));
        }
        let log = self.folder.path().join(format!("{instance}.log"));
        self.programs.insert(instance.to_owned(), Program::spawn(command, &log));
        self.ports.insert(instance.to_owned(), port);
    }

    /// Metrics of `instance`, as Prometheus reads them; `None` before it listens.
    fn metrics(&self, instance: &str) -> Option<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.ports[instance])).ok()?;
        write!(connection, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut reply = String::new();
        connection.read_to_string(&mut reply).ok()?;
        reply.starts_with("HTTP/1.1 200").then_some(reply)
    }

    /// The actuator that leads.
    fn leader(&self) -> Option<String> {
        let leads = |name: &&String| {
            name.starts_with("actuator") && self.metrics(name).is_some_and(|text| text.contains("qscale_actuator_leader 1\n"))
        };
        self.programs.keys().find(leads).cloned()
    }

    /// Waits for a value while all programs run.
    #[track_caller]
    fn until<T>(&mut self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        within(DECISIONS, what, || {
            for (name, program) in &mut self.programs {
                assert!(program.ended().is_none(), "{name} ended: {}", process::tail(&self.folder.path().join(format!("{name}.log"))));
            }
            condition(self)
        })
    }

    fn logs(&self) -> String {
        let log = |name: &String| format!("{name}:\n{}", process::tail(&self.folder.path().join(format!("{name}.log"))));
        self.programs.keys().map(log).collect()
    }
}

/// Metrics that are shown from their first event on, with the file that registers them and their name there.
const SHOWN_LATER: [(&str, &str, &str); 4] = [
    ("qscale_actuator_guard", "actuator/src/metrics.rs", "\"qscale_actuator_guard\""),
    ("qscale_collector_late_readings", "collector/src/metrics.rs", "\"qscale_collector_late_readings\""),
    ("qscale_promoter_decisions", "agent/promote/src/metrics.rs", "register(\"decisions\""),
    ("qscale_promoter_candidate_in_use", "agent/promote/src/metrics.rs", "register(\"candidate_in_use\""),
];

/// Names of the metrics in the queries of the dashboard.
fn queried() -> BTreeSet<String> {
    let path = repository().join("deploy/cluster/chart/files/dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("JSON");
    let targets =
        dashboard["panels"].as_array().expect("panels").iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().expect("a query")).collect();
    let words = queries.iter().flat_map(|query| query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_'));
    words.filter(|word| word.starts_with("qscale_")).map(str::to_owned).collect()
}

#[track_caller]
fn the_dashboard_asks_for_metrics_that_exist(installed: &Installed<'_>) {
    let texts: Vec<String> = installed.ports.keys().map(|name| eventually("the metrics", || installed.metrics(name))).collect();
    let names: BTreeSet<&str> =
        texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let queried = queried();
    assert!(queried.len() > 15, "{queried:?}");
    for name in queried {
        let family = ["_total", "_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(&name);
        let registered = SHOWN_LATER.iter().find(|(later, ..)| *later == family).is_some_and(|(_, file, name)| {
            let source = std::fs::read_to_string(repository().join(file)).expect("readable");
            source.contains(name)
        });
        assert!(names.contains(family) || registered, "no service shows {name}; they show {names:?}");
    }
}

/// Runs all that the services do in a cluster, and compares the audit log with their roles.
fn every_right_is_used_and_none_is_missing(installed: &mut Installed<'_>) {
    let cluster = installed.cluster;
    let mut set = Cluster::deployment(1, "400m");
    (set["kind"], set["metadata"]["name"], set["spec"]["serviceName"]) = (json!("StatefulSet"), json!("aes"), json!("aes"));
    set["spec"]["selector"]["matchLabels"]["app"] = json!("aes");
    set["spec"]["template"]["metadata"]["labels"]["app"] = json!("aes");
    cluster.apply(&set);
    let mut of_set = policy("active");
    (of_set["metadata"]["name"], of_set["spec"]["workload"]) = (json!("aes"), json!({ "kind": "stateful_set" }));
    cluster.apply(&of_set);
    installed.until("replicas of a StatefulSet", |_| (cluster.get(&["statefulset", "aes"])["spec"]["replicas"] != 1).then_some(()));

    // The same change again is the same event again.
    let recurs = |used: &BTreeMap<Right, u32>| used.keys().any(|right| right.verb == "patch" && right.resource == "events");
    installed.until("an event that recurs", |_| {
        if cluster.get(&["deployment", "fib"])["spec"]["replicas"] == 3 {
            cluster.kubectl(&["scale", "deployment", "fib", "--replicas=2"]);
        }
        recurs(&cluster.requests_of("qscale-actuator").used).then_some(())
    });

    let leader = installed.until("a leader", |installed| installed.leader());
    installed.start("actuator-1", "actuator", "deployment", "qscale-actuator");
    installed.programs.remove(&leader).expect("it runs").kill();
    installed.until("the next leader", |installed| installed.leader());
    let mut restored = policy("active");
    let bounds = json!({ "replicas": { "min": 4, "max": 4 }, "cpu_millicores": { "min": 600, "max": 1000 } });
    (restored["spec"]["on_delete"], restored["spec"]["bounds"]) = (json!("restore"), bounds);
    cluster.apply(&restored);
    let cpu = |of: &Value| of["spec"]["containers"][0]["resources"]["limits"]["cpu"].as_str().map(str::to_owned);
    installed.until("a change of replicas and CPU by the next leader", |_| {
        let pods = cluster.get(&["pods", "-l", "app=fib"]);
        let pods = pods["items"].as_array().filter(|pods| pods.len() == 4)?;
        pods.iter().all(|pod| cpu(pod).as_deref() == Some("600m")).then_some(())
    });
    cluster.kubectl(&["delete", "scp", "fib", "--timeout=120s"]);
    assert_eq!(cluster.get(&["deployment", "fib"])["spec"]["replicas"], 1, "the original allocation");
    cluster.apply(&policy("active"));

    for service in ["actuator", "collector"] {
        rights::check(cluster, service, rights::NodeKind::Simulated);
    }
}

fn the_collector_accepts_the_source_with_its_token(installed: &Installed<'_>) {
    let text = installed.object("configmap", "qscale-collector")["data"]["config.json"].as_str().expect("configured").to_owned();
    let path = installed.folder.path().join("sources.json");
    std::fs::write(&path, text).expect("written");
    let mut command = Command::new(process::binary("qscale-collector"));
    let printed = command.arg("--config").arg(&path).arg("--print-config").output().expect("the collector runs");
    let printed = CommandResult::of(&printed).success();
    let pod = installed.object("statefulset", "qscale-collector")["spec"]["template"]["spec"].clone();
    let volumes = pod["volumes"].as_array().expect("volumes");
    assert!(volumes.iter().any(|volume| volume["secret"]["secretName"] == "prometheus"), "{pod}");
    let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
    assert!(mounts.iter().any(|mount| mount["mountPath"] == "/etc/qscale/token"), "{pod}");
    assert!(mounts.iter().any(|mount| mount["mountPath"] == "/etc/qscale/ca"), "{pod}");
    let environment = pod["containers"][0]["env"].as_array().expect("variables");
    assert!(environment.iter().any(|variable| variable["value"] == "/etc/qscale/ca/ca.crt"), "{pod}");
    assert!(printed.contains("/etc/qscale/token/token"), "{printed}");
}

fn users(secret: &Value) -> BTreeMap<String, Value> {
    secret["data"].as_object().expect("passwords").clone().into_iter().collect()
}

#[test]
fn the_services_of_the_chart_scale_a_workload() {
    let Some(cluster) = Cluster::start() else { return };
    let Some(checked) = cluster.helm(&["lint", "--strict", &chart()]) else { return };
    CommandResult::of(&checked).success();
    cluster.apply(&volume());
    let run = |arguments: &[&str]| CommandResult::of(&cluster.helm(arguments).expect("helm is there"));
    let place = ["--namespace", NAMESPACE, "--wait", "--timeout", "180s"];
    run(&[&["install", "qscale", &chart(), "--create-namespace"][..], &place, &VALUES].concat()).success();

    let mut installed = Installed::new(&cluster);
    installed.start_nats();
    installed.start("collector", "collector", "statefulset", "qscale-collector");
    installed.start("actuator-0", "actuator", "deployment", "qscale-actuator");
    installed.start("agent-threshold", "agent-threshold", "statefulset", "qscale-agent");
    installed.start("promoter", "promoter", "deployment", "qscale-promoter");
    cluster.apply(&Cluster::deployment(1, "400m"));
    cluster.apply(&policy("active"));
    let replicas = || cluster.get(&["deployment", "fib"])["spec"]["replicas"].clone();
    installed.until("the largest number of replicas", |_| (replicas() == 3).then_some(()));
    the_dashboard_asks_for_metrics_that_exist(&installed);
    every_right_is_used_and_none_is_missing(&mut installed);
    assert!(!installed.logs().contains("forbidden"), "a right is missing: {}", installed.logs());

    let before = users(&installed.object("secret", "qscale-credentials"));
    let more = [
        "agents.hpa.replicas=2,collector.replicas=2,collector.tokenSecret=prometheus,collector.caConfigMap=authorities",
        PROMETHEUS_SOURCE,
    ];
    let more = more.map(|values| ["--set", values]).concat();
    run(&[&["upgrade", "qscale", &chart()][..], &place, &VALUES, &more].concat()).success();
    let after = users(&installed.object("secret", "qscale-credentials"));
    assert!(before.iter().all(|(user, password)| after[user] == *password), "passwords stay");
    assert_eq!(after.keys().filter(|user| !before.contains_key(*user)).collect::<Vec<_>>(), ["agent-hpa"]);
    assert_eq!(installed.object("statefulset", "qscale-agent-hpa")["status"]["readyReplicas"], 2);
    assert_eq!(installed.object("poddisruptionbudget", "qscale-collector")["spec"]["maxUnavailable"], 1);
    the_collector_accepts_the_source_with_its_token(&installed);

    run(&["uninstall", "qscale", "--namespace", NAMESPACE, "--wait", "--timeout", "180s"]).success();
    assert_eq!(cluster.get(&["scp", "fib"])["metadata"]["name"], "fib", "policies stay");
}

#[test]
fn values_that_make_no_sense_are_refused_with_their_place() {
    let Some(cluster) = Cluster::start() else { return };
    for (value, place) in [
        ("actuator.replicas=0", "actuator/replicas"),
        ("nats.url=http://nats:4222", "nats/url"),
        ("agents.DQN.replicas=1", "DQN"),
        ("colector.replicas=1", "colector"),
        ("nats.storage.size=lots", "nats/storage/size"),
    ] {
        let Some(refused) = cluster.helm(&["template", "qscale", &chart(), "--set", value]) else { return };
        let error = CommandResult::of(&refused).failure();
        assert!(error.contains(place), "{value}: {error}");
    }
}

#[test]
fn every_container_has_the_least_rights() {
    let Some(cluster) = Cluster::start() else { return };
    let Some(rendered) = cluster.helm(&["template", "qscale", &chart(), "--namespace", NAMESPACE]) else {
        return;
    };
    let path = cluster_file(&cluster, &CommandResult::of(&rendered).success());
    let objects = cluster.kubectl(&["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", &path.display().to_string()]);
    let mut pods = 0;
    for object in serde_json::Deserializer::from_str(&objects).into_iter::<Value>().map(|object| object.expect("JSON")) {
        let pod = &object["spec"]["template"]["spec"];
        let containers = ["initContainers", "containers"].iter().flat_map(|list| pod[list].as_array().into_iter().flatten());
        for container in containers {
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true, "{object}");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{object}");
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{object}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{object}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{object}");
            let token = pod["serviceAccountName"].is_string();
            assert_eq!(pod["automountServiceAccountToken"] == false, !token, "{object}");
            pods += 1;
        }
    }
    assert!(pods > 5, "{pods} containers");
}

fn cluster_file(cluster: &Cluster, text: &str) -> PathBuf {
    let path = cluster.kubeconfig().parent().unwrap_or(Path::new(".")).join("rendered.yaml");
    std::fs::write(&path, text).expect("written");
    path
}
