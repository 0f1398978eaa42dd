//! The chart in real pods: images of the programs of this build, a volume for the streams, and helm. Owns what `make cluster-install` and the tests install.

use std::os::unix::fs::chown;

use serde_json::{Value, json};

use super::RealNode;
use crate::nats;
use crate::process::binary;

/// Namespace of the services.
const NAMESPACE: &str = "qscale-system";
/// Programs in the image of the services.
const PROGRAMS: [&str; 5] = ["qscale", "qscale-actuator", "qscale-agent", "qscale-collector", "qscale-promoter"];
/// User of the pods.
const USER: u32 = 65532;
/// Values for images of this machine, and for kubelets with certificates that they have signed themselves.
const VALUES: [&str; 4] =
    ["image.tag=dev", "nats.image.repository=qscale-nats", "nats.image.tag=dev", "collector.sources.cluster.insecure_kubelets=true"];

impl RealNode<'_> {
    /// Installs the chart in the namespace `qscale-system`, with further `arguments` of helm, and waits until all its pods are ready.
    ///
    /// # Errors
    /// What helm and the pods say if they do not become ready.
    ///
    /// # Panics
    /// When the images cannot be made.
    pub fn install_chart(&self, arguments: &[&str]) -> Result<(), String> {
        self.import("qscale:dev", &PROGRAMS.map(binary));
        self.import("qscale-nats:dev", &[nats::program()]);
        self.cluster().apply(&self.volume());
        let chart = crate::repository().join("deploy/cluster/chart").display().to_string();
        let mut command =
            vec!["upgrade", "--install", "qscale", &chart, "--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "180s"];
        command.extend(VALUES.iter().flat_map(|value| ["--set", value]));
        command.extend(arguments);
        let output = self.cluster().helm(&command).ok_or("helm is missing")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{}\n{}", text(&output.stderr), self.pods_of_chart())) }
    }

    /// State and last lines of each pod of the chart.
    #[must_use]
    pub fn pods_of_chart(&self) -> String {
        let ask = |arguments: &[&str]| {
            let arguments = [&["--namespace", NAMESPACE], arguments].concat();
            self.cluster().try_kubectl(&arguments).unwrap_or_else(|error| error)
        };
        let logs = ["--selector=app.kubernetes.io/name=qscale", "--all-containers", "--prefix", "--tail=20", "--max-log-requests=30"];
        let events = ["get", "events", "--field-selector=type=Warning", "--sort-by=.lastTimestamp"];
        format!("{}\n{}\n{}", ask(&["get", "pods", "--output=wide"]), ask(&events), ask(&[&["logs"], &logs[..]].concat()))
    }

    /// A volume for the streams, as no provisioner makes one here.
    fn volume(&self) -> Value {
        let folder = self.folder().join("streams");
        std::fs::create_dir_all(&folder).expect("created");
        chown(&folder, Some(USER), Some(USER)).expect("its owner is changed");
        let spec = json!({
            "capacity": { "storage": "4Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": folder },
            "persistentVolumeReclaimPolicy": "Retain",
        });
        json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "streams" }, "spec": spec })
    }
}
