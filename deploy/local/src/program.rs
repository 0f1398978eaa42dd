//! The program `qscale-platform`: configuration and signals. In the library, so that its code is compiled once.

use std::time::Duration;

use qscale_common::runtime::service::{self, Program};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::server;

const PROGRAM: Program = Program {
    name: "qscale-platform",
    version: env!("CARGO_PKG_VERSION"),
    about: "Runs functions as processes under CPU and memory limits, behind a gateway for gRPC and HTTP",
};

/// Runs the platform until a signal ends it.
///
/// # Errors
/// When the configuration is invalid, or the platform cannot be served.
#[tokio::main]
pub async fn main() -> anyhow::Result<()> {
    let config = service::start(PROGRAM)?;
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [interrupt, terminate, hangup] = signals;
    tokio::spawn(watch_signals([interrupt?, terminate?, hangup?], stop.clone(), abort.clone()));
    server::run(config, stop, abort).await
}

/// Time within which signals count as one.
const SIGNAL_WINDOW: Duration = Duration::from_secs(1);

/// The first signal stops the platform gracefully, a later one kills the remaining replicas. Every cgroup is removed in both cases, so no signal
/// ends the process directly. Signals within [`SIGNAL_WINDOW`], as from a terminal and from the parent process, count as one.
async fn watch_signals(signals: [Signal; 3], stop: CancellationToken, abort: CancellationToken) {
    let [mut interrupt, mut terminate, mut hangup] = signals;
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    next().await;
    stop.cancel();
    let window = tokio::time::sleep(SIGNAL_WINDOW);
    tokio::pin!(window);
    loop {
        tokio::select! {
            biased;
            () = &mut window => break,
            () = next() => {}
        }
    }
    next().await;
    abort.cancel();
}
