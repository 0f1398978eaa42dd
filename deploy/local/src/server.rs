//! The platform from start to stop. Owns the order in which things begin and end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use qscale_common::platform::PlatformAddresses;
use qscale_common::runtime::health::Health;
use qscale_common::runtime::platform::api;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cgroup::Cgroups;
use crate::gateway::{self, Destination};
use crate::host::Host;
use crate::orphans;
use crate::platform::Platform;
use crate::ports::Ports;
use crate::process::Spawner;
use crate::settings::Settings;
use crate::state::StateDir;

/// File in the state folder that says where the platform listens.
pub const ADDRESSES: &str = "addresses.json";

/// Runs the platform until `stop` is cancelled, and then as long as it takes to end in order; cancelling `hurry` ends the order.
///
/// # Errors
/// When the configuration is out of range, the state folder is taken or not readable, or an address cannot be bound.
pub async fn run(settings: Settings, stop: CancellationToken, hurry: CancellationToken) -> anyhow::Result<()> {
    settings.validate()?;
    let client_connections = client_connections(allow_many_files());
    let folder = settings.state_dir.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let state = StateDir::take(&folder)?;
        let saved = state.load()?;
        anyhow::Ok((state, saved))
    });
    let (state, saved) = opened.await.context("opening the state folder")??;
    let (api_listener, api_address) = bind("api", settings.api).await?;
    let (gateway_listener, gateway_address) = bind("gateway", settings.gateway).await?;
    let host = Arc::new(prepare_host(&settings, &state, client_connections, hurry.clone()).await?);
    let addresses = PlatformAddresses { api: api_address.to_string(), gateway: gateway_address.to_string() };
    let addresses = serde_json::to_vec(&addresses)?;
    let written = tokio::task::spawn_blocking(move || state.replace(ADDRESSES, &addresses).map(|()| state)).await;
    let state = written.context("writing the addresses")?.context("cannot write into the state folder")?;

    let health = Health::new();
    let platform = Platform::new(Arc::clone(&host), state, settings.limits, gateway_address);
    let restored = saved.functions.len();
    platform.restore(saved).await;
    let ended = CancellationToken::new();
    let routes = api::routes(Arc::clone(&platform), health.clone(), stop.clone(), api_address.ip().is_loopback(), axum::Router::new());
    let serving_api = tokio::spawn(axum::serve(api_listener, routes).with_graceful_shutdown(ended.clone().cancelled_owned()).into_future());
    let destination = Destination::Named(platform.functions.clone());
    let serving_gateway = tokio::spawn(gateway::serve(gateway_listener, destination, stop.clone(), Arc::clone(&host)));
    health.set("serving", true);
    info!(api = %api_address, gateway = %gateway_address, vertical = host.cgroups.is_some(), functions = restored, "platform ready");

    stop.cancelled().await;
    info!("stopping: finishing requests, then replicas");
    health.set("serving", false);
    let forced = tokio::spawn(hurry_after(settings.stop_timeout.0, hurry.clone()));
    if let Err(error) = serving_gateway.await {
        error!(%error, "the gateway failed");
    }
    platform.stop().await;
    forced.abort();
    ended.cancel();
    if tokio::time::timeout(std::time::Duration::from_secs(1), serving_api).await.is_err() {
        info!("a client of the API did not close its connection");
    }
    tokio::task::spawn_blocking(move || {
        if let Some(cgroups) = &host.cgroups {
            cgroups.remove();
        }
    })
    .await
    .context("removing cgroups")?;
    info!("stopped");
    Ok(())
}

async fn bind(field: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("{field} = {address}: cannot listen there; choose another address"))?;
    let bound = listener.local_addr().with_context(|| format!("{field} = {address}"))?;
    Ok((listener, bound))
}

/// Cleans up after a predecessor, and finds out what this machine offers.
async fn prepare_host(settings: &Settings, state: &StateDir, client_connections: usize, hurry: CancellationToken) -> anyhow::Result<Host> {
    let folder = state.path().to_path_buf();
    let orphans = tokio::task::spawn_blocking(move || orphans::sweep(&folder)).await.context("looking for orphans")?;
    if orphans > 0 {
        warn!(processes = orphans, "ended the functions of a platform that was killed");
    }
    let instance = fingerprint(state.path().as_os_str().as_encoded_bytes());
    let cgroups = if settings.vertical {
        let (root, name, folder) = (settings.cgroup_root.clone(), format!("{instance:08x}"), state.path().to_path_buf());
        let detected = tokio::task::spawn_blocking(move || detect_cgroups(&root, &name, &folder)).await;
        detected.context("looking for cgroups")?.context("cannot write into the state folder")?
    } else {
        warn!("vertical = false: CPU and memory are not limited, only the number of replicas is scaled");
        None
    };
    let spawner = Spawner::start(Handle::current()).context("cannot start the thread that starts functions")?;
    let (first, last) = settings.replica_ports;
    let ports = Ports::new(first, last, std::process::id());
    Ok(Host::new(spawner, ports, cgroups, state.path().to_path_buf(), settings.kill_grace.0, hurry, client_connections))
}

/// Finds out whether limits can be set here, and records in the state folder where: a successor cleans up there after a crash.
fn detect_cgroups(root: &str, instance: &str, state_dir: &Path) -> std::io::Result<Option<Cgroups>> {
    match Cgroups::detect(root, instance) {
        Ok(cgroups) => {
            orphans::remember(state_dir, &cgroups.folders())?;
            Ok(Some(cgroups))
        }
        Err(reason) => {
            warn!(reason, "cgroups cannot be written: CPU and memory are not limited, only the number of replicas is scaled");
            Ok(None)
        }
    }
}

async fn hurry_after(time: std::time::Duration, hurry: CancellationToken) {
    tokio::time::sleep(time).await;
    warn!("stop_timeout is over: replicas are killed");
    hurry.cancel();
}

/// A number that names the state folder, the same for every platform that uses it (FNV-1a).
fn fingerprint(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Most connections of clients where `files` may be open. As many are for connections to replicas, and a quarter stays for the platform: its
/// API answers and its replicas start however many clients there are.
fn client_connections(files: u64) -> usize {
    usize::try_from(files / 8 * 3).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}

/// Each request under way takes two descriptors, so as many are allowed as may be. Functions inherit the limit; it is returned.
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
    // Never seen to fail; what POSIX promises every process is far less.
    1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_files_for_replicas_and_for_the_platform() {
        assert_eq!(client_connections(1_024), 384);
        assert_eq!(client_connections(0), 1);
        assert!(client_connections(u64::MAX) <= Semaphore::MAX_PERMITS);
    }
}
