//! A real Kubernetes control plane on loopback, with simulated nodes: etcd, API server, controllers, scheduler and kwok. Owns their start, credentials and end.

mod audit;
mod installation;
mod knative;
mod metrics;
mod network;
mod node;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

pub use audit::{AuditedRequests, Right};
pub use knative::{FUNCTION_IMAGE, PROXY_IMAGE};
pub use node::RealNode;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::process::tail;
use crate::{Folder, Program, eventually, free_port, repository};

/// Behaviour of the simulated nodes and their pods.
const KWOK: &str = include_str!("cluster/kwok.yaml");
/// Address range of simulated pods, for benchmarks (RFC 2544); nothing listens there.
const PODS: &str = "198.18.0.0/16";
/// Address range of Services, and the first address, that of the API server.
const SERVICES: &str = "10.96.0.0/16";
const API_ADDRESS: &str = "10.96.0.1";
/// Names by which the API server is reached.
const API_NAMES: [&str; 5] = ["localhost", "127.0.0.1", API_ADDRESS, "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
/// Programs of a cluster.
const PROGRAMS: [&str; 6] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok"];
/// Users with a token: name and group.
const USERS: [(&str, &str); 8] = [
    ("admin", "system:masters"),
    ("system:kube-controller-manager", "system:authenticated"),
    ("system:kube-scheduler", "system:authenticated"),
    ("kwok", "system:masters"),
    ("metrics-server", "system:masters"),
    ("coredns", "system:masters"),
    ("system:kube-proxy", "system:authenticated"),
    ("system:node:real", "system:nodes"),
];

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first, the API server before etcd.
    controllers: Vec<Program>,
    api_server: Mutex<Option<Program>>,
    _etcd: Program,
    assets: PathBuf,
    folder: Folder,
    port: u16,
    etcd_port: u16,
}

/// Folder with the programs: `KUBEBUILDER_ASSETS`, or the one that `make kube-assets` fills.
fn assets() -> Option<PathBuf> {
    let folder = match std::env::var_os("KUBEBUILDER_ASSETS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let output = Command::new(repository().join("deploy/cluster/assets.sh")).arg("where").output().ok()?;
            PathBuf::from(String::from_utf8(output.stdout).ok()?.trim())
        }
    };
    let missing: Vec<_> = PROGRAMS.iter().filter(|program| !folder.join(program).is_file()).collect();
    if missing.is_empty() {
        return Some(folder);
    }
    eprintln!("skipped: {} has no {missing:?}; `make kube-assets` builds them", folder.display());
    None
}

impl Cluster {
    /// Starts a cluster with two simulated nodes of 32 cores and 256 GiB; `None`, with a message, if its programs are missing.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let mut cluster = Self::start_without_nodes()?;
        cluster.add_simulated_nodes(2, &json!({ "cpu": "32", "memory": "256Gi", "pods": "500" }));
        Some(cluster)
    }

    /// Starts a cluster without nodes; `None`, with a message, if its programs are missing.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_without_nodes() -> Option<Self> {
        let assets = assets()?;
        let (folder, port, etcd_port) = (Folder::new("cluster"), free_port(), free_port());
        write_credentials(folder.path(), port);
        std::fs::write(folder.path().join("kwok.yaml"), KWOK).expect("written");
        std::fs::write(folder.path().join("audit.json"), audit::policy().to_string()).expect("written");
        let (client, peer) = (format!("http://127.0.0.1:{etcd_port}"), format!("http://127.0.0.1:{}", free_port()));
        let arguments = [
            "--name=test".to_owned(),
            format!("--data-dir={}", folder.path().join("etcd").display()),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=test={peer}"),
        ];
        let etcd = Program::start(&assets.join("etcd"), arguments, &folder.path().join("etcd.log"));
        let mut cluster = Self { controllers: Vec::new(), api_server: Mutex::default(), _etcd: etcd, assets, folder, port, etcd_port };
        cluster.start_api_server();
        cluster.start_controllers();
        Some(cluster)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launch(&self, program: &str, arguments: &[String]) -> Program {
        Program::start(&self.assets.join(program), arguments, &self.path(&format!("{program}.log")))
    }

    /// Starts the API server and waits until it is ready.
    fn start_api_server(&self) {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        let arguments = [
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            // An API server on loopback cannot be an Endpoint.
            "--endpoint-reconciler-type=none".into(),
            format!("--secure-port={}", self.port),
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--service-cluster-ip-range={SERVICES}"),
            file("audit-policy-file", "audit.json"),
            file("audit-log-path", audit::LOG),
            "--authorization-mode=Node,RBAC".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            file("service-account-key-file", "service-accounts.pub"),
            file("service-account-signing-key-file", "service-accounts.pem"),
            file("token-auth-file", "tokens.csv"),
            file("tls-cert-file", "server.pem"),
            file("tls-private-key-file", "server.key"),
            file("cert-dir", "."),
            file("kubelet-client-certificate", "client.pem"),
            file("kubelet-client-key", "client.key"),
            // No name server knows the nodes.
            "--kubelet-preferred-address-types=InternalIP".into(),
            // Of servers that add their API to this one.
            file("requestheader-client-ca-file", "authority.pem"),
            "--requestheader-allowed-names=api-server".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            file("proxy-client-cert-file", "client.pem"),
            file("proxy-client-key-file", "client.key"),
            "--enable-aggregator-routing=false".into(),
        ];
        let mut server = self.launch("kube-apiserver", &arguments);
        eventually("the API server to be ready", || {
            assert!(server.ended().is_none(), "the API server ended: {}", tail(&self.path("kube-apiserver.log")));
            self.run(&["get", "--raw", "/readyz"], "").ok()
        });
        *self.api_server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }

    fn start_controllers(&mut self) {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        let shared = |user: &str| {
            let kubeconfig = format!("{user}.kubeconfig");
            ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"].map(|flag| file(flag, &kubeconfig)).to_vec()
        };
        let fast = ["--leader-elect=false", "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400"].map(str::to_owned);
        let own = [
            "--use-service-account-credentials=true".into(),
            file("service-account-private-key-file", "service-accounts.pem"),
            // Pods check the API server by it.
            file("root-ca-file", "authority.pem"),
        ];
        let manager = [&shared("system:kube-controller-manager")[..], &fast, &own].concat();
        let scheduler = [&shared("system:kube-scheduler")[..], &fast].concat();
        for (program, arguments) in [("kube-controller-manager", &manager[..]), ("kube-scheduler", &scheduler)] {
            self.controllers.push(self.launch(program, arguments));
        }
        eventually("the controllers", || self.run(&["get", "serviceaccount", "default"], "").ok());
    }

    /// Adds `count` simulated nodes, each with `resources`, and waits until they are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub fn add_simulated_nodes(&mut self, count: usize, resources: &Value) {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        let kubelets = free_port();
        let kwok = [
            format!("--server-address=127.0.0.1:{kubelets}"),
            format!("--node-port={kubelets}"),
            file("tls-cert-file", "server.pem"),
            file("tls-private-key-file", "server.key"),
            file("kubeconfig", "kwok.kubeconfig"),
            file("config", "kwok.yaml"),
            "--manage-all-nodes=false".into(),
            "--manage-nodes-with-label-selector=type=simulated".into(),
            "--node-ip=127.0.0.1".into(),
            format!("--cidr={PODS}"),
            "--node-lease-duration-seconds=40".into(),
        ];
        self.controllers.push(self.launch("kwok", &kwok));
        for name in (0..count).map(|number| format!("node-{number}")) {
            let annotations = json!({ "metrics.k8s.io/resource-metrics-path": format!("/metrics/nodes/{name}/metrics/resource") });
            let metadata =
                json!({ "name": name, "annotations": annotations, "labels": { "kubernetes.io/hostname": name, "type": "simulated" } });
            let status = json!({ "allocatable": resources, "capacity": resources });
            self.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status }));
        }
        self.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]);
    }

    /// Folder with the programs.
    #[must_use]
    pub fn assets(&self) -> &Path {
        &self.assets
    }

    /// Configuration of clients with all rights.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    /// Configuration of clients that have `token`.
    #[must_use]
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> PathBuf {
        write_kubeconfig(self.folder.path(), name, self.port, token)
    }

    /// Kills the API server and starts it again.
    pub fn restart_api_server(&self) {
        if let Some(mut server) = self.api_server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            server.kill();
        }
        self.start_api_server();
    }

    /// Runs kubectl with all rights and returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// Runs kubectl with all rights and returns what it prints.
    ///
    /// # Errors
    /// What it prints when it fails, such as that a pod that it had listed is gone.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.run(arguments, "")
    }

    /// Creates or changes `object`.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.run(&["apply", "-f", "-"], &object.to_string()).unwrap_or_else(|error| panic!("{object}: {error}"));
    }

    /// Creates `objects`, which must be new.
    ///
    /// # Panics
    /// When one is refused.
    #[track_caller]
    pub fn create(&self, objects: &[Value]) {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        self.run(&["create", "-f", "-"], &list.to_string()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Why the API server refuses `object`.
    ///
    /// # Panics
    /// When it accepts it.
    #[track_caller]
    pub fn refuse(&self, object: &Value) -> String {
        self.run(&["apply", "-f", "-"], &object.to_string()).expect_err("refused")
    }

    /// Applies a manifest of `deploy/cluster`.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn install(&self, manifest: &str) {
        let path = repository().join("deploy/cluster").join(manifest);
        self.kubectl(&["apply", "--server-side", "-f", &path.display().to_string()]);
    }

    /// Installs the custom resource, and waits until it is served.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn install_policies(&self) {
        self.install("chart/files/scaling-policies.yaml");
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/scalingpolicies.qscale.dev"]);
        let served = || !self.kubectl(&["api-resources", "--api-group=qscale.dev", "-o", "name"]).is_empty();
        eventually("the resource to be served", || served().then_some(()));
    }

    /// Configuration of a client with the published rights of `service`, and no others.
    ///
    /// # Panics
    /// When there are none.
    #[track_caller]
    pub fn service_account(&self, service: &str) -> PathBuf {
        self.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "qscale-system" } }));
        self.install(&format!("chart/files/{service}-role.yaml"));
        let name = format!("qscale-{service}");
        self.kubectl(&["create", "serviceaccount", &name, "-n", "qscale-system"]);
        let (role, account) = (format!("--clusterrole={name}"), format!("--serviceaccount=qscale-system:{name}"));
        self.kubectl(&["create", "clusterrolebinding", service, &role, &account]);
        let namespaced = self.get(&["roles", "-n", "qscale-system"]);
        for role in namespaced["items"].as_array().into_iter().flatten() {
            let role = format!("--role={}", role["metadata"]["name"].as_str().expect("named"));
            self.kubectl(&["create", "rolebinding", service, "-n", "qscale-system", &role, &account]);
        }
        self.kubeconfig_of(service, self.kubectl(&["create", "token", &name, "-n", "qscale-system"]).trim())
    }

    /// Runs helm with the rights of an administrator; `None`, with a message, if it is missing.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn helm(&self, arguments: &[&str]) -> Option<Output> {
        let program = self.assets.join("helm");
        if !program.is_file() {
            eprintln!("skipped: {} is missing; `make kube-assets` builds it", program.display());
            return None;
        }
        let mut command = Command::new(program);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments).env("HOME", self.folder.path());
        Some(command.output().expect("helm runs"))
    }

    /// A Deployment `fib` of pods that have 500m and 256Mi, and use `cpu` and 96Mi.
    #[must_use]
    pub fn deployment(replicas: u32, cpu: &str) -> Value {
        let labels = json!({ "app": "fib" });
        let annotations = json!({ "qscale.dev/uses-cpu": cpu, "qscale.dev/uses-memory": "96Mi" });
        let resources = json!({ "cpu": "500m", "memory": "256Mi" });
        let container = json!({ "name": "f", "image": "function", "resources": { "requests": resources, "limits": resources } });
        let pods = json!({ "containers": [container], "terminationGracePeriodSeconds": 0 });
        let template = json!({ "metadata": { "labels": &labels, "annotations": annotations }, "spec": pods });
        let spec = json!({ "replicas": replicas, "selector": { "matchLabels": &labels }, "template": template });
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "fib", "namespace": "default" }, "spec": spec })
    }

    /// An object, or a list of objects, that kubectl gets with `arguments`.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat());
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(self.assets.join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.env("HOME", self.folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        // kubectl may end before it has read everything, and says why.
        let _closed = child.stdin.take().expect("piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("kubectl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It waits for open watches before it ends by itself.
        self.api_server.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|server| server.signal(libc::SIGKILL));
    }
}

/// Writes the certificates of the API server, the key of service accounts, and a token and a kubeconfig for each user.
fn write_credentials(folder: &Path, port: u16) {
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("written");
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::<String>::new()).expect("valid");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "cluster of a test");
    let authority_key = key();
    write("authority.pem", authority.self_signed(&authority_key).expect("signed").pem());
    let issuer = Issuer::new(authority, authority_key);
    let (server, server_key) = (CertificateParams::new(API_NAMES.map(str::to_owned)).expect("valid"), key());
    write("server.pem", server.signed_by(&server_key, &issuer).expect("signed").pem());
    write("server.key", server_key.serialize_pem());
    let (mut client, client_key) = (CertificateParams::new(Vec::<String>::new()).expect("valid"), key());
    client.distinguished_name.push(DnType::CommonName, "api-server");
    client.distinguished_name.push(DnType::OrganizationName, "system:masters");
    client.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    write("client.pem", client.signed_by(&client_key, &issuer).expect("signed").pem());
    write("client.key", client_key.serialize_pem());
    let accounts = key();
    write("service-accounts.pem", accounts.serialize_pem());
    write("service-accounts.pub", accounts.public_key_pem());
    let mut tokens = String::new();
    for (user, group) in USERS {
        let token = format!("token-of-{}", user.replace(':', "-"));
        tokens.push_str(&format!("{token},{user},{user},\"{group}\"\n"));
        write_kubeconfig(folder, user, port, &token);
    }
    write("tokens.csv", tokens);
}

fn write_kubeconfig(folder: &Path, user: &str, port: u16, token: &str) -> PathBuf {
    let cluster = json!({ "server": format!("https://127.0.0.1:{port}"), "certificate-authority": folder.join("authority.pem") });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": user, "user": { "token": token } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user } }],
        "current-context": "test",
    });
    let path = folder.join(format!("{user}.kubeconfig"));
    std::fs::write(&path, config.to_string()).expect("written");
    path
}
