//! A real Prometheus server that scrapes an endpoint of a test.

use std::path::PathBuf;
use std::process::Command;

use crate::{Folder, Program, free_port};

/// A running server.
#[derive(Debug)]
pub struct PrometheusProgram {
    // Ends before its folder is deleted.
    _program: Program,
    _folder: Folder,
    /// Its address, `http://host:port`.
    pub url: String,
}

/// `PROMETHEUS_BIN`, or `prometheus` in the folder `KUBEBUILDER_ASSETS` or on the PATH.
fn program() -> Option<PathBuf> {
    let folders = ["KUBEBUILDER_ASSETS", "PATH"].into_iter().filter_map(std::env::var_os);
    let files = || folders.flat_map(|path| std::env::split_paths(&path).map(|folder| folder.join("prometheus")).collect::<Vec<_>>());
    let found = std::env::var_os("PROMETHEUS_BIN").map(PathBuf::from).or_else(|| files().find(|path| path.is_file()));
    if found.is_none() {
        eprintln!("skipped: there is no prometheus; install Debian's package `prometheus`, or set PROMETHEUS_BIN");
    }
    found
}

impl PrometheusProgram {
    /// Starts a server that reads `http://target/metrics` each second and accepts samples of the last hours in any order; `None`, with a message, if the
    /// program is missing.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(target: &str) -> Option<Self> {
        let (program, folder, port) = (program()?, Folder::new("prometheus"), free_port());
        let config = format!(
            "storage: {{ tsdb: {{ out_of_order_time_window: 3h }} }}\nscrape_configs:\n- job_name: test\n  scrape_interval: 1s\n  honor_labels: true\n  \
             static_configs: [{{ targets: ['{target}'] }}]\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).expect("written");
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let program = Program::spawn(command, &folder.path().join("prometheus.log"));
        Some(Self { _program: program, _folder: folder, url: format!("http://127.0.0.1:{port}") })
    }
}
