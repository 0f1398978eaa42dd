//! `qscale-platform`: runs functions on this machine and serves them.

use std::time::Duration;

use qscale_common::runtime::service::{self, Program};
use qscale_local::server;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

const PROGRAM: Program = Program {
    name: "qscale-platform",
    version: env!("CARGO_PKG_VERSION"),
    about: "Runs functions as processes under CPU and memory limits, behind a gateway for gRPC and HTTP",
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = service::start(PROGRAM)?;
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [interrupt, terminate, hangup] = signals;
    tokio::spawn(watch_signals([interrupt?, terminate?, hangup?], stop.clone(), hurry.clone()));
    server::run(settings, stop, hurry).await
}

/// Time within which signals count as one.
const TOGETHER: Duration = Duration::from_secs(1);

/// The first signal stops in order. A second one, some time later, kills what is left; even then every cgroup is removed, so no signal ends
/// the process by itself. Signals that come together, as from a terminal and from whoever started the platform, count as one.
async fn watch_signals(signals: [Signal; 3], stop: CancellationToken, hurry: CancellationToken) {
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
    tokio::time::sleep(TOGETHER).await;
    next().await;
    hurry.cancel();
}
