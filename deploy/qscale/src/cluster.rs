//! A Kubernetes cluster with the chart, reached by kubectl. Owns how kubectl is run, and the forwarded port of the nats-server.

use std::io::{BufRead as _, BufReader, Write as _};
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

/// Error message if kubectl does not run.
const MISSING: &str = "kubectl cannot be started; install it, or specify the nats-server with --nats";

/// kubectl for one context and the namespace of the chart.
#[derive(Debug, Clone)]
pub struct Kubectl {
    context: String,
    namespace: String,
}

impl Kubectl {
    /// That of `context`.
    pub fn new(context: &str, namespace: &str) -> Self {
        Self { context: context.to_owned(), namespace: namespace.to_owned() }
    }

    /// Namespace of the chart.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(["--context", &self.context, "--namespace", &self.namespace]).args(arguments).stdin(Stdio::null());
        command
    }

    /// Its output for `arguments`, with `input` if that is not empty.
    ///
    /// # Errors
    /// What kubectl says, or that it is missing.
    pub fn ask(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context(MISSING)?;
        // It may end without reading its input; then its exit status says why.
        let _written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let Self { context, namespace } = self;
        let said = text(&output.stderr);
        ensure!(output.status.success(), "context {context}, namespace {namespace}: {}", said.trim_start_matches("error: "));
        Ok(text(&output.stdout))
    }
}

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
    /// Forwards a free port of this machine to the nats-server of the chart.
    ///
    /// # Errors
    /// What kubectl says, or that it is missing.
    pub fn open(kubectl: &Kubectl) -> anyhow::Result<Self> {
        let ask = |arguments: &[&str]| {
            kubectl
                .ask(arguments, "")
                .context("the chart cannot be reached; --context-namespace names its namespace, `qscale doctor` checks it")
        };
        let secret = ask(&["get", SERVICE, "--output", &format!("go-template={{{{index .metadata.annotations \"{CREDENTIALS}\"}}}}")])?;
        let operator = User::Operator.name();
        let password =
            ask(&["get", "secret", &secret, "--output", &format!("go-template={{{{index .data \"{operator}\" | base64decode}}}}")])?;
        let mut command = kubectl.command(&["port-forward", SERVICE, PORT, "--address=127.0.0.1"]);
        let mut child = command.stdout(Stdio::piped()).spawn().context(MISSING)?;
        let mut output = BufReader::new(child.stdout.take().context("kubectl has no output")?);
        // Such as `Forwarding from 127.0.0.1:40000 -> 4222`; without a line kubectl has ended, and said why.
        let mut line = String::new();
        output.read_line(&mut line)?;
        let address: Option<SocketAddr> = line.split_whitespace().find_map(|word| word.parse().ok());
        let password = utf8_percent_encode(&password, NON_ALPHANUMERIC);
        let Some(address) = address else {
            let _ended = child.kill();
            let _ended = child.wait();
            let Kubectl { context, namespace } = kubectl;
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
