//! The program `qscale-platform`: configuration and signals. In the library, so that its code is compiled once.

use qscale_common::runtime::service::{self, Program};
use qscale_common::runtime::shutdown;

use crate::server;

const PROGRAM: Program = Program {
    name: "qscale-platform",
    version: env!("CARGO_PKG_VERSION"),
    about: "Runs functions as processes under CPU and memory limits, behind a gateway for gRPC and HTTP",
};

/// Runs the platform until a signal ends it: the first one stops it gracefully, a later one kills the remaining replicas.
///
/// # Errors
/// When the configuration is invalid, or the platform cannot be served.
#[tokio::main]
pub async fn main() -> anyhow::Result<()> {
    let config = service::start(PROGRAM)?;
    // Every cgroup is removed also after a second signal, so no signal may end the process directly.
    let (stop, abort) = shutdown::stop_and_abort();
    server::run(config, stop, abort).await
}
