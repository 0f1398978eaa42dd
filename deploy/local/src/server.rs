//! The platform process. Owns the order of start and stop.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use qscale_common::hash::fnv1a;
use qscale_common::platform::PlatformAddresses;
use qscale_common::runtime::health::Health;
use qscale_common::runtime::http;
use qscale_common::runtime::leftovers;
use qscale_common::runtime::platform::api::{self, Access};
use qscale_common::runtime::platform::token::ApiToken;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cgroup::Cgroups;
use crate::config::LocalConfig;
use crate::gateway::{self, ListenerTarget};
use crate::host::Host;
use crate::orphans;
use crate::platform::LocalPlatform;
use crate::ports::Ports;
use crate::process::Spawner;
use crate::sandbox::Sandbox;
use crate::state::PlatformStateDir;

/// File in the state folder with the addresses of the platform.
pub const ADDRESSES: &str = "addresses.json";

/// Runs the platform until `stop` is cancelled, then stops it gracefully; cancelling `abort` kills the remaining replicas.
///
/// # Errors
/// When the configuration is out of range, the state folder is locked or unreadable, or an address cannot be bound.
pub async fn run(config: LocalConfig, stop: CancellationToken, abort: CancellationToken) -> anyhow::Result<()> {
    config.validate()?;
    let client_connections = client_connections(allow_many_files());
    let folder = config.state_dir.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let state = PlatformStateDir::take(&folder)?;
        let saved = state.load()?;
        anyhow::Ok((state, saved))
    });
    let (state, saved) = opened.await.context("opening the state folder")??;
    let (api_listener, api_address) = bind("api", config.api).await?;
    let (gateway_listener, gateway_address) = bind("gateway", config.gateway).await?;
    let host = Arc::new(prepare_host(&config, &state, client_connections, abort.clone()).await?);
    let token = ApiToken::issue(state.path(), api_address)?;
    let addresses = PlatformAddresses { api: api_address.to_string(), gateway: gateway_address.to_string() };
    let addresses = serde_json::to_vec(&addresses)?;
    let written = tokio::task::spawn_blocking(move || state.replace(ADDRESSES, &addresses).map(|()| state)).await;
    let state = written.context("writing the addresses")?.context("cannot write into the state folder")?;

    let health = Health::new();
    let platform = LocalPlatform::new(Arc::clone(&host), state, config.limits, gateway_address);
    let restored = saved.functions.len();
    platform.restore(saved).await;
    let ended = CancellationToken::new();
    let access = Access { token, loopback: api_address.ip().is_loopback() };
    let routes = api::routes(Arc::clone(&platform), health.clone(), stop.clone(), access, axum::Router::new());
    let serving_api = tokio::spawn(http::serve(api_listener, routes, ended.clone()));
    let destination = ListenerTarget::Named(platform.functions.clone());
    let serving_gateway = tokio::spawn(gateway::serve(gateway_listener, destination, stop.clone(), Arc::clone(&host)));
    health.set("serving", true);
    info!(api = %api_address, gateway = %gateway_address, vertical = host.cgroups.is_some(), functions = restored, "platform ready");

    stop.cancelled().await;
    info!("stopping: finishing requests, then stopping replicas");
    health.set("serving", false);
    let forced = tokio::spawn(abort_after(config.stop_timeout.0, abort.clone()));
    if let Err(error) = serving_gateway.await {
        error!(%error, "the gateway failed");
    }
    platform.stop().await;
    forced.abort();
    ended.cancel();
    if tokio::time::timeout(std::time::Duration::from_secs(1), serving_api).await.is_err() {
        info!("stopped with an API connection still open");
    }
    tokio::task::spawn_blocking(move || {
        if let Some(cgroups) = &host.cgroups {
            cgroups.remove();
        }
        host.sandbox.remove();
    })
    .await
    .context("removing cgroups and temporary files")?;
    info!("stopped");
    Ok(())
}

async fn bind(field: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("{field} = {address}: cannot listen; choose another address"))?;
    let bound = listener.local_addr().with_context(|| format!("{field} = {address}"))?;
    Ok((listener, bound))
}

/// Cleans up after a platform that was killed, and detects the capabilities of this machine.
async fn prepare_host(
    config: &LocalConfig,
    state: &PlatformStateDir,
    client_connections: usize,
    abort: CancellationToken,
) -> anyhow::Result<Host> {
    let folder = state.path().to_path_buf();
    let orphans = tokio::task::spawn_blocking(move || orphans::sweep(&folder)).await.context("searching for orphans")?;
    if orphans > 0 {
        warn!(processes = orphans, "killed processes of an earlier platform");
    }
    // The same for every platform with this state folder.
    let instance = fnv1a(state.path().as_os_str().as_encoded_bytes().iter().copied());
    let cgroups = if config.vertical {
        let (root, name, folder) = (config.cgroup_root.clone(), format!("{instance:016x}"), state.path().to_path_buf());
        let detected = tokio::task::spawn_blocking(move || detect_cgroups(&root, &name, &folder)).await;
        detected.context("detecting cgroups")?.context("cannot write into the state folder")?
    } else {
        warn!("vertical = false: horizontal scaling only");
        None
    };
    let spawner = Spawner::start(Handle::current()).context("cannot start the thread that starts functions")?;
    let (first, last) = config.replica_ports;
    let ports = Ports::new(first, last, std::process::id());
    let (folder, user, hidden) = (state.path().to_path_buf(), config.function_user, config.hidden_folders.clone());
    let sandbox = tokio::task::spawn_blocking(move || Sandbox::open(&folder, user, &hidden)).await.context("isolating functions")??;
    Ok(Host::new(spawner, ports, cgroups, sandbox, config.kill_grace.0, abort, client_connections))
}

/// Detects whether limits can be set on this machine, and records the folders in the state folder for the cleanup after a crash.
fn detect_cgroups(root: &str, instance: &str, state_dir: &Path) -> anyhow::Result<Option<Cgroups>> {
    match Cgroups::detect(root, instance) {
        Ok(cgroups) => {
            leftovers::record_cgroups(state_dir, &cgroups.folders())?;
            Ok(Some(cgroups))
        }
        Err(reason) => {
            warn!(reason, "cgroups are not writable: horizontal scaling only");
            Ok(None)
        }
    }
}

async fn abort_after(time: std::time::Duration, abort: CancellationToken) {
    tokio::time::sleep(time).await;
    warn!("stop_timeout exceeded; killing replicas");
    abort.cancel();
}

/// Maximum number of client connections for a limit of `files` open files: three eighths. The same share is for
/// connections to replicas, and a quarter is reserved for the API and for starting replicas.
fn client_connections(files: u64) -> usize {
    usize::try_from(files / 8 * 3).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}

/// Raises the limit of open files to its maximum and returns it: each request in flight needs two descriptors. Functions inherit the limit.
fn allow_many_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local that outlives both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            let before = std::mem::replace(&mut limit.rlim_cur, limit.rlim_max);
            if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 {
                return limit.rlim_cur;
            }
            return before;
        }
    }
    // Not expected to fail; POSIX guarantees far less.
    1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_connections_leave_files_for_replicas_and_the_platform() {
        assert_eq!(client_connections(1_024), 384);
        assert_eq!(client_connections(0), 1);
        assert!(client_connections(u64::MAX) <= Semaphore::MAX_PERMITS);
    }
}
