//! The server of a function: address, start, health and graceful stop. Must not know functions.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::grpc;
use crate::metrics;
use crate::workers::Workers;
use qscale_messages::{self as messages, HealthCheckRequest, HealthCheckResponse};

/// Default port, as in vSwarm.
pub const DEFAULT_PORT: u16 = 50_051;

/// Options of every function.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Serving")]
pub struct ServeArgs {
    /// Address to listen on: `host` or `host:port`.
    #[arg(long, default_value = "127.0.0.1")]
    pub addr: String,
    /// Port to listen on, 0 for any free port. Default: the port of --addr, else $PORT, else $GRPC_PORT, else 50051.
    #[arg(long)]
    pub port: Option<u16>,
    /// Number of requests computed concurrently; 1 in vSwarm's Python functions.
    #[arg(long, alias = "concurrency", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: u16,
    /// Number of requests that may wait for a worker; further ones are refused with RESOURCE_EXHAUSTED, over HTTP with 503.
    #[arg(long, default_value_t = 1000)]
    pub queue: u32,
    /// Delay before listening, to imitate a slow start.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub start_delay: Duration,
    /// Longest time for requests in flight after SIGTERM or SIGINT; then they are aborted.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub drain: Duration,
}

impl ServeArgs {
    /// Workers with these options.
    #[must_use]
    pub fn workers(&self) -> Workers {
        Workers::new(self.workers.into(), usize::try_from(self.queue).unwrap_or(usize::MAX))
    }

    /// Address to listen on, given the values of `PORT` and `GRPC_PORT`.
    ///
    /// # Errors
    /// When the address or a port is invalid.
    pub fn address(&self, port: Option<&str>, grpc_port: Option<&str>) -> anyhow::Result<SocketAddr> {
        if let Ok(mut address) = self.addr.parse::<SocketAddr>() {
            address.set_port(self.port.unwrap_or(address.port()));
            return Ok(address);
        }
        let host = if self.addr == "localhost" { "127.0.0.1" } else { self.addr.trim_matches(['[', ']']) };
        let host: IpAddr = host.parse().with_context(|| format!("--addr = `{}`, must be an IP address or address:port", self.addr))?;
        let named = [("PORT", port), ("GRPC_PORT", grpc_port)].into_iter().find_map(|(name, value)| Some((name, value?)));
        let port = match (self.port, named) {
            (Some(port), _) => port,
            (None, Some((name, value))) => value.parse().with_context(|| format!("{name} = `{value}`, must be a port from 0 to 65535"))?,
            (None, None) => DEFAULT_PORT,
        };
        Ok(SocketAddr::new(host, port))
    }
}

/// Serves `function` until SIGTERM or SIGINT, then finishes the requests in flight.
///
/// # Errors
/// When the address cannot be bound, or requests are aborted at the end of the drain.
pub async fn serve(function: Router, name: &str, args: &ServeArgs) -> anyhow::Result<()> {
    let environment = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let address = args.address(environment("PORT").as_deref(), environment("GRPC_PORT").as_deref())?;
    let stop = stop_signal()?;
    tokio::select! {
        () = tokio::time::sleep(args.start_delay) => {}
        () = stop.cancelled() => return Ok(()),
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    // A function works without its log.
    let _lost = writeln!(io::stderr(), "{name}: listening on {}", listener.local_addr().context("failed to read the port")?);
    // Without TCP_NODELAY the kernel delays small replies until earlier ones are acknowledged.
    let listener = listener.tap_io(|connection| {
        let _keeps_the_default_where_refused = connection.set_nodelay(true);
    });
    let server =
        axum::serve(listener, with_health(metrics::counted(function), &stop)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let server = server.into_future();
    tokio::pin!(server);
    tokio::select! {
        result = &mut server => return result.context("the server failed"),
        () = stop.cancelled() => {}
    }
    match tokio::time::timeout(args.drain, server).await {
        Ok(result) => result.context("the server failed"),
        Err(_) => {
            anyhow::bail!("aborted requests still in flight {} after the signal", humantime::format_duration(args.drain))
        }
    }
}

/// Adds the health checks of both protocols and replies for unknown paths.
fn with_health(function: Router, stop: &CancellationToken) -> Router {
    let (asked_by_grpc, asked_by_http) = (stop.clone(), stop.clone());
    let check = move |_: HealthCheckRequest| {
        let stopping = asked_by_grpc.is_cancelled();
        async move { Ok(HealthCheckResponse { status: if stopping { HealthCheckResponse::NOT_SERVING } else { HealthCheckResponse::SERVING } }) }
    };
    let page = move || async move {
        if asked_by_http.is_cancelled() { (StatusCode::SERVICE_UNAVAILABLE, "stopping\n") } else { (StatusCode::OK, "ok\n") }
    };
    function.route(messages::HEALTH_CHECK, grpc::unary(check)).route("/healthz", get(page)).fallback(grpc::not_found)
}

/// Token that is cancelled by SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(addr: &str, port: Option<u16>) -> ServeArgs {
        let addr = addr.to_owned();
        ServeArgs { addr, port, workers: 1, queue: 1, start_delay: Duration::ZERO, drain: Duration::ZERO }
    }

    #[track_caller]
    fn check(given: &ServeArgs, port: Option<&str>, grpc_port: Option<&str>, expected: &str) {
        assert_eq!(given.address(port, grpc_port).expect("an address").to_string(), expected);
    }

    #[test]
    fn the_port_comes_from_the_option_then_the_environment() {
        check(&args("0.0.0.0", None), None, None, "0.0.0.0:50051");
        check(&args("0.0.0.0", None), None, Some("7"), "0.0.0.0:7");
        check(&args("0.0.0.0", None), Some("8"), Some("7"), "0.0.0.0:8");
        check(&args("0.0.0.0", Some(9)), Some("8"), Some("7"), "0.0.0.0:9");
        check(&args("0.0.0.0:50000", None), Some("8"), None, "0.0.0.0:50000");
        check(&args("[::1]:50000", Some(1)), None, None, "[::1]:1");
        check(&args("::1", None), None, None, "[::1]:50051");
        check(&args("localhost", None), None, None, "127.0.0.1:50051");
    }

    #[test]
    fn an_invalid_address_or_port_is_refused_with_its_value() {
        assert!(args("nowhere", None).address(None, None).expect_err("no address").to_string().contains("`nowhere`"));
        assert!(args("127.0.0.1", None).address(Some("70000"), None).expect_err("no port").to_string().contains("PORT = `70000`"));
    }
}
