//! Services and their names on a real node: kube-proxy, CoreDNS, and the way from pods to the API server. Owns their start and the rules that they leave.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::node::{BRIDGE, GATEWAY, NAME};
use super::{API_ADDRESS, Cluster};
use crate::process::tail;
use crate::{Program, eventually, free_port};

/// Tables of rules in the kernel: those of kube-proxy, and the way to the API server.
const TABLES: [&str; 2] = ["kube-proxy", "qscale-cluster"];

/// The running programs.
#[derive(Debug)]
pub(super) struct Network {
    _proxy: Program,
    _names: Program,
}

impl Network {
    /// Starts both for the pods of `cluster`; their files go to `folder`.
    ///
    /// # Panics
    /// When one does not start.
    pub(super) fn start(cluster: &Cluster, folder: &Path) -> Self {
        reach_api_server(cluster);
        Self { _proxy: start_proxy(cluster, folder), _names: start_names(cluster, folder) }
    }
}

/// Leads pods that ask for the Service `kubernetes` to the API server, which listens on loopback only.
fn reach_api_server(cluster: &Cluster) {
    // Packets to loopback are accepted from the bridge, and those of pods to pods are forwarded. Both settings end with the bridge.
    for setting in ["route_localnet", "forwarding"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{BRIDGE}/{setting}"), "1").expect("written");
    }
    let port = cluster.port;
    let table = TABLES[1];
    // Before kube-proxy's own rules, which know the gateway as the endpoint.
    nft(&format!(
        "table ip {table} {{\n  chain api-server {{\n    type nat hook prerouting priority dstnat - 10;\n    \
         iifname {BRIDGE} ip daddr {API_ADDRESS} tcp dport 443 dnat to 127.0.0.1:{port}\n  }}\n}}\n"
    ));
    let metadata = json!({ "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" } });
    cluster.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4",
        "endpoints": [{ "addresses": [GATEWAY], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    }));
}

fn start_proxy(cluster: &Cluster, folder: &Path) -> Program {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": { "kubeconfig": cluster.path("system:kube-proxy.kubeconfig") },
        "hostnameOverride": NAME,
        "detectLocalMode": "BridgeInterface",
        "detectLocal": { "bridgeInterface": BRIDGE },
        // Pods of one bridge answer each other directly, past the rules, unless the node stands between them.
        "nftables": { "masqueradeAll": true },
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "nodePortAddresses": ["127.0.0.0/8"],
        "healthzBindAddress": format!("127.0.0.1:{}", free_port()),
        "metricsBindAddress": format!("127.0.0.1:{}", free_port()),
    });
    let path = folder.join("kube-proxy.json");
    std::fs::write(&path, config.to_string()).expect("written");
    let log = folder.join("kube-proxy.log");
    let mut proxy = Program::start(&cluster.assets.join("kube-proxy"), [format!("--config={}", path.display())], &log);
    eventually("the rules of kube-proxy", || {
        assert!(proxy.ended().is_none(), "kube-proxy ended: {}", tail(&log));
        let listed = Command::new("nft").args(["list", "table", "ip", TABLES[0]]).output().ok()?;
        String::from_utf8_lossy(&listed.stdout).contains(API_ADDRESS).then_some(())
    });
    proxy
}

fn start_names(cluster: &Cluster, folder: &Path) -> Program {
    let kubeconfig = cluster.path("coredns.kubeconfig");
    let config = format!(
        "cluster.local:53 {{\n  bind {GATEWAY}\n  errors\n  kubernetes cluster.local {{\n    kubeconfig {}\n    pods insecure\n    ttl 5\n  }}\n}}\n",
        kubeconfig.display()
    );
    let path = folder.join("Corefile");
    std::fs::write(&path, config).expect("written");
    let log = folder.join("coredns.log");
    let arguments = ["-conf".to_owned(), path.display().to_string()];
    let mut names = Program::start(&cluster.assets.join("coredns"), arguments, &log);
    eventually("CoreDNS to listen", || {
        assert!(names.ended().is_none(), "CoreDNS ended: {}", tail(&log));
        std::net::TcpStream::connect((GATEWAY, 53)).ok()
    });
    names
}

/// Removes the rules.
pub(super) fn remove() {
    for table in TABLES {
        let _absent = Command::new("nft").args(["delete", "table", "ip", table]).stderr(Stdio::null()).status();
        let _absent = Command::new("nft").args(["delete", "table", "ip6", table]).stderr(Stdio::null()).status();
    }
}

/// Whether rules can be set.
pub(super) fn is_possible() -> bool {
    Command::new("nft").args(["list", "tables"]).output().is_ok_and(|output| output.status.success())
}

fn nft(rules: &str) {
    use std::io::Write as _;

    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft runs");
    child.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("written");
    assert!(child.wait().expect("it ends").success(), "nft refuses {rules}");
}
