//! The nats-server of the chart in a Kubernetes cluster, reached by `kubectl port-forward`. Owns the child process and what is asked of kubectl.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use qscale_common::runtime::nats_accounts::User;

/// The Service of the chart's nats-server, and its port.
const SERVICE: &str = "service/qscale-nats";
const PORT: &str = ":4222";
/// Annotation of that Service with the name of the Secret that holds the passwords.
const CREDENTIALS: &str = "qscale.dev/credentials";

/// A forwarded port. It is closed when this is dropped.
#[derive(Debug)]
pub struct PortForward {
    child: Child,
    /// Open, because kubectl ends if it cannot write to it.
    _output: BufReader<ChildStdout>,
    /// Address of the nats-server on this machine, with the operator's credentials.
    pub url: String,
}

impl PortForward {
    /// Forwards a free port of this machine to the nats-server of the chart in `namespace` of the cluster of `context`.
    ///
    /// # Errors
    /// What kubectl says, or that it is missing.
    pub fn open(context: &str, namespace: &str) -> anyhow::Result<Self> {
        let kubectl = |arguments: &[&str]| {
            let mut command = Command::new("kubectl");
            command.args(["--context", context, "--namespace", namespace]).args(arguments).stdin(Stdio::null());
            command
        };
        let missing = "kubectl cannot be started; install it, or specify the nats-server with --nats";
        let ask = |arguments: &[&str]| -> anyhow::Result<String> {
            let output = kubectl(arguments).output().context(missing)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            ensure!(
                output.status.success(),
                "context {context}, namespace {namespace}: {}; is the chart installed there? --context-namespace names another namespace",
                text(&output.stderr).trim_start_matches("error: ")
            );
            Ok(text(&output.stdout))
        };
        let secret = ask(&["get", SERVICE, "--output", &format!("go-template={{{{index .metadata.annotations \"{CREDENTIALS}\"}}}}")])?;
        let operator = User::Operator.name();
        let password =
            ask(&["get", "secret", &secret, "--output", &format!("go-template={{{{index .data \"{operator}\" | base64decode}}}}")])?;
        let mut child = kubectl(&["port-forward", SERVICE, PORT, "--address=127.0.0.1"]).stdout(Stdio::piped()).spawn().context(missing)?;
        let mut output = BufReader::new(child.stdout.take().context("kubectl has no output")?);
        // Such as `Forwarding from 127.0.0.1:40000 -> 4222`; without a line kubectl has ended, and said why.
        let mut line = String::new();
        output.read_line(&mut line)?;
        let address: Option<SocketAddr> = line.split_whitespace().find_map(|word| word.parse().ok());
        let password = utf8_percent_encode(&password, NON_ALPHANUMERIC);
        let Some(address) = address else {
            let _ended = child.kill();
            let _ended = child.wait();
            bail!("context {context}, namespace {namespace}: kubectl forwards no port to {SERVICE}");
        };
        Ok(Self { child, _output: output, url: format!("nats://{operator}:{password}@{address}") })
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
