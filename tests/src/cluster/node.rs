//! A node with real pods in a [`Cluster`]: kubelet, containerd and runc on this machine. Owns their start, the images, and the end, which leaves nothing behind.
//!
//! Pods are on a bridge without a route to other machines. They reach each other, Services, their names, and the API server.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::network::{self, Network};
use super::{Cluster, SERVICES};
use crate::process::tail;
use crate::{Program, eventually, free_port, repository};

/// Name of the node and of its user.
pub(super) const NAME: &str = "real";
/// Bridge of the pods, its own address, and its network.
pub(super) const BRIDGE: &str = "qscale0";
pub(super) const GATEWAY: &str = "10.213.0.1";
const NETWORK: &str = "10.213.0.0/24";
/// Settings of the kernel that a kubelet changes.
const SETTINGS: [&str; 3] = ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"];
/// Image of the process that holds the network of a pod.
const PAUSE: &str = "pause:1";
const PAUSE_SOURCE: &[u8] = b"#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";
/// Programs of a node, besides those of a cluster.
const PROGRAMS: [&str; 10] =
    ["kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "bridge", "host-local", "loopback", "kube-proxy", "coredns"];
/// File with the [`Traces`] of the node.
const TRACES: &str = "/run/qscale-node.json";
/// Folders that a kubelet and containerd use outside their own. Another containerd, such as Docker's, may use them, too.
const SHARED: [&str; 6] =
    ["/run/containerd", "/run/containerd/s", "/var/lib/cni", "/var/lib/cni/results", "/var/lib/kubelet", "/var/log/containers"];
/// Folder of the named networks of pods.
const NETWORKS: &str = "/run/netns";

/// A node with real pods. Dropped before its cluster.
#[derive(Debug)]
pub struct RealNode<'a> {
    cluster: &'a Cluster,
    containerd: Option<Program>,
    kubelet: Option<Program>,
    network: Option<Network>,
    traces: Traces,
}

/// Traces of a node on this machine, which its process removes when it ends, or else the next node.
#[derive(Debug, Serialize, Deserialize)]
struct Traces {
    /// Process that started the node.
    process: u32,
    folder: PathBuf,
    /// Settings of the kernel before.
    settings: Vec<(PathBuf, String)>,
    /// Shared folders that were not there before.
    created: Vec<PathBuf>,
    /// Named networks that were there before.
    networks: Vec<PathBuf>,
}

/// Why a machine cannot run one.
fn obstacle(cluster: &Cluster) -> Option<String> {
    // SAFETY: geteuid only returns a number.
    if unsafe { libc::geteuid() } != 0 {
        return Some("a node with real pods needs root".into());
    }
    let traces = std::fs::read_to_string(TRACES).ok().and_then(|text| serde_json::from_str::<Traces>(&text).ok());
    match traces {
        Some(Traces { process, .. }) if Path::new("/proc").join(process.to_string()).exists() => {
            return Some(format!("process {process} runs such a node already"));
        }
        Some(traces) => traces.remove(),
        None => {}
    }
    if !network::is_possible() {
        return Some("a node with real pods needs nft; install it with: apt-get install nftables".into());
    }
    if let Some(folder) = cgroups().into_iter().find(|folder| folder.exists()) {
        return Some(format!("{} exists: this machine is a node of a cluster", folder.display()));
    }
    let missing: Vec<_> = PROGRAMS.iter().filter(|program| !cluster.assets.join(program).is_file()).collect();
    let absent = || format!("{} has no {missing:?}; `deploy/cluster/assets.sh node` builds them", cluster.assets.display());
    (!missing.is_empty()).then(absent)
}

impl<'a> RealNode<'a> {
    /// Starts a node of `cluster` and waits until it is ready.
    ///
    /// # Errors
    /// Why this machine cannot run one.
    ///
    /// # Panics
    /// When it does not start although it could.
    pub fn start(cluster: &'a Cluster) -> Result<Self, String> {
        if let Some(obstacle) = obstacle(cluster) {
            return Err(obstacle);
        }
        let folder = cluster.path("node");
        for name in ["network", "containerd", "state", "kubelet", "logs"] {
            std::fs::create_dir_all(folder.join(name)).expect("created");
        }
        let setting = |name: &str| {
            let path = Path::new("/proc/sys").join(name);
            let value = std::fs::read_to_string(&path).expect("readable");
            (path, value)
        };
        let settings = SETTINGS.into_iter().map(setting).collect();
        let created = SHARED.iter().map(PathBuf::from).filter(|folder| !folder.exists()).collect();
        let traces = Traces { process: std::process::id(), folder, settings, created, networks: entries(Path::new(NETWORKS)) };
        std::fs::write(TRACES, serde_json::to_string(&traces).expect("JSON")).expect("written");
        let mut node = Self { cluster, containerd: None, kubelet: None, network: None, traces };
        ip(&["link", "add", BRIDGE, "type", "bridge"]);
        ip(&["address", "add", &format!("{GATEWAY}/24"), "dev", BRIDGE]);
        ip(&["link", "set", BRIDGE, "up"]);
        node.start_containerd();
        node.start_kubelet();
        // Once the node has its address: kube-proxy ends when that changes.
        node.network = Some(Network::start(cluster, &node.traces.folder));
        Ok(node)
    }

    fn start_containerd(&mut self) {
        let path = |name: &str| self.traces.folder.join(name);
        let ranges = json!([[{ "subnet": NETWORK, "gateway": GATEWAY }]]);
        let routes = json!([{ "dst": SERVICES, "gw": GATEWAY }]);
        let addresses = json!({ "type": "host-local", "dataDir": path("addresses"), "ranges": ranges, "routes": routes });
        let plugin = json!({ "type": "bridge", "bridge": BRIDGE, "isGateway": false, "ipMasq": false, "ipam": addresses });
        let network = json!({ "cniVersion": "1.0.0", "name": "qscale", "plugins": [plugin] });
        std::fs::write(path("network/10-bridge.conflist"), network.to_string()).expect("written");
        let socket = self.traces.socket();
        let assets = self.cluster.assets.display();
        let config = format!(
            "version = 3\nroot = '{root}'\nstate = '{state}'\ndisabled_plugins = ['io.containerd.nri.v1.nri']\n\
             [grpc]\naddress = '{socket}'\n[ttrpc]\naddress = '{socket}.ttrpc'\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = 'docker.io/library/{PAUSE}'\n\
             [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nBinaryName = '{assets}/runc'\nRoot = '{runc}'\nSystemdCgroup = false\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['{assets}']\nconf_dir = '{network}'\n",
            root = path("containerd").display(),
            state = path("state").display(),
            network = path("network").display(),
            runc = path("runc").display(),
        );
        std::fs::write(path("containerd.toml"), config).expect("written");
        let mut command = Command::new(self.cluster.assets.join("containerd"));
        // It finds its shim there.
        command.env("PATH", format!("{assets}:{}", std::env::var("PATH").unwrap_or_default())).arg("--config").arg(path("containerd.toml"));
        let log = path("containerd.log");
        let mut containerd = Program::spawn(command, &log);
        eventually("containerd to answer", || {
            assert!(containerd.ended().is_none(), "containerd ended: {}", tail(&log));
            self.ctr(&["version"]).ok()
        });
        self.containerd = Some(containerd);
        let program = path("pause");
        let mut compiler = Command::new("cc")
            .args(["-Os", "-static", "-x", "c", "-o"])
            .arg(&program)
            .arg("-")
            .stdin(Stdio::piped())
            .spawn()
            .expect("cc runs");
        compiler.stdin.take().expect("piped").write_all(PAUSE_SOURCE).expect("written");
        assert!(compiler.wait().expect("it ends").success(), "cc failed");
        self.import(PAUSE, &[program]);
    }

    fn start_kubelet(&mut self) {
        let path = |name: &str| self.traces.folder.join(name);
        let port = free_port();
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": GATEWAY,
            "port": port,
            "healthzPort": 0,
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": self.cluster.path("authority.pem") },
            },
            "authorization": { "mode": "Webhook" },
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": false,
            "failSwapOn": false,
            "makeIPTablesUtilChains": false,
            "containerRuntimeEndpoint": format!("unix://{}", self.traces.socket()),
            "podLogsDir": path("logs"),
            "clusterDomain": "cluster.local",
            "clusterDNS": [GATEWAY],
            "resolvConf": "",
            "enforceNodeAllocatable": ["pods"],
            "evictionHard": { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%" },
            "nodeStatusUpdateFrequency": "5s",
            "maxPods": 100,
        });
        std::fs::write(path("kubelet.json"), config.to_string()).expect("written");
        let file = |flag: &str, file: PathBuf| format!("--{flag}={}", file.display());
        let arguments = [
            file("config", path("kubelet.json")),
            file("kubeconfig", self.cluster.path(&format!("system:node:{NAME}.kubeconfig"))),
            file("root-dir", path("kubelet")),
            file("cert-dir", path("certificates")),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={GATEWAY}"),
        ];
        let log = path("kubelet.log");
        let mut kubelet = Program::start(&self.cluster.assets.join("kubelet"), arguments, &log);
        eventually("the node to be ready", || {
            assert!(kubelet.ended().is_none(), "the kubelet ended: {}", tail(&log));
            self.cluster.try_kubectl(&["wait", "--for=condition=Ready", "node", NAME, "--timeout=2s"]).ok()
        });
        self.kubelet = Some(kubelet);
    }

    /// Makes `programs`, with their libraries, the image `name` of the node, such as `function:dev`.
    ///
    /// # Panics
    /// When that fails.
    pub fn import(&self, name: &str, programs: &[PathBuf]) {
        let archive = self.folder().join("image.tar");
        let packed = Command::new(repository().join("deploy/cluster/image.py")).arg(name).arg(&archive).args(programs).status();
        assert!(packed.is_ok_and(|status| status.success()), "image.py failed");
        self.ctr(&["images", "import", "--local", &archive.display().to_string()]).unwrap_or_else(|error| panic!("{name}: {error}"));
        std::fs::remove_file(archive).expect("removed");
    }

    /// Its cluster.
    pub(super) fn cluster(&self) -> &Cluster {
        self.cluster
    }

    /// Folder of its files, removed with it.
    pub(super) fn folder(&self) -> &Path {
        &self.traces.folder
    }

    /// Runs containerd's client and returns what it prints.
    fn ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(self.cluster.assets.join("ctr"))
            .args(["--address", &self.traces.socket(), "--namespace", "k8s.io"])
            .args(arguments)
            .output();
        let output = output.map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for RealNode<'_> {
    fn drop(&mut self) {
        // Each step is tried, whatever became of the others.
        let _unreachable = self.cluster.try_kubectl(&["cordon", NAME]);
        let selector = format!("--field-selector=spec.nodeName={NAME}");
        let _slow = self.cluster.try_kubectl(&["delete", "pods", "--all-namespaces", &selector, "--grace-period=1", "--timeout=20s"]);
        let empty = || self.ctr(&["tasks", "list", "--quiet"]).is_ok_and(|tasks| tasks.trim().is_empty());
        let _left = (0..40).any(|_| {
            std::thread::sleep(Duration::from_millis(250));
            empty()
        });
        drop(self.kubelet.take());
        drop(self.network.take());
        self.traces.end_shims();
        drop(self.containerd.take());
        self.traces.remove();
    }
}

impl Traces {
    fn socket(&self) -> String {
        self.folder.join("containerd.sock").display().to_string()
    }

    /// Ends the shims of this node that are left, with their containers.
    fn end_shims(&self) {
        let socket = self.socket();
        let processes: Vec<_> = procfs::process::all_processes().into_iter().flatten().flatten().collect();
        let is_shim = |process: &procfs::process::Process| {
            process
                .cmdline()
                .is_ok_and(|line| line.iter().any(|argument| argument.contains("containerd-shim-runc-v2")) && line.contains(&socket))
        };
        let shims: Vec<i32> = processes.iter().filter(|process| is_shim(process)).map(|process| process.pid).collect();
        let children =
            processes.iter().filter(|process| process.stat().is_ok_and(|stat| shims.contains(&stat.ppid))).map(|process| process.pid);
        for pid in children.chain(shims.iter().copied()) {
            // SAFETY: kill takes numbers only. The processes are the shims of this node and their children.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Removes everything that the node left, once its programs have ended.
    fn remove(&self) {
        self.end_shims();
        let of_pod =
            |network: &PathBuf| network.to_string_lossy().starts_with(&format!("{NETWORKS}/cni-")) && !self.networks.contains(network);
        let networks: Vec<PathBuf> = entries(Path::new(NETWORKS)).into_iter().filter(of_pod).collect();
        unmount(|target| target.starts_with(&self.folder) || networks.iter().any(|network| network == target));
        cgroups().iter().for_each(|folder| remove_cgroups(folder));
        network::remove();
        ip(&["link", "delete", BRIDGE]);
        for (path, value) in &self.settings {
            let _refused = std::fs::write(path, value);
        }
        networks.iter().for_each(|network| drop(std::fs::remove_file(network)));
        for folder in self.created.iter().chain([&self.folder]) {
            let _absent = std::fs::remove_dir_all(folder);
        }
        let _absent = std::fs::remove_file(TRACES);
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        eprintln!("ip {arguments:?}: {status:?}");
    }
}

/// Unmounts what `ours` accepts, the deepest first.
fn unmount(ours: impl Fn(&Path) -> bool) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut targets: Vec<PathBuf> =
        mounts.lines().filter_map(|line| Some(line.split(' ').nth(1)?.into())).filter(|target: &PathBuf| ours(target)).collect();
    targets.sort();
    for target in targets.iter().rev() {
        let _busy = Command::new("umount").arg(target).status();
    }
}

/// Entries of a folder; none if it is not there.
fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Cgroups in which a kubelet puts all pods: of version 2, and of each controller of version 1.
fn cgroups() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    entries(&root).into_iter().chain([root]).map(|folder| folder.join("kubepods")).collect()
}

/// Removes a folder of cgroups and those in it.
fn remove_cgroups(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _absent = std::fs::remove_dir(folder);
}
