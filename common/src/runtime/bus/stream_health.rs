//! Health of the streams as nats-server reports it: streams that it cannot write or could not recover. Owns the request; must not repair anything.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::RequestErrorKind;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::Bus;
use crate::runtime::nats_accounts::{SERVER_HEALTH, SERVICES};

/// Interval at which a service checks the streams.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// Readiness condition of the streams.
const CONDITION: &str = "streams";

/// Something that nats-server reports as unhealthy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StreamFault {
    /// Account of the stream; empty for JetStream as a whole.
    #[serde(default)]
    account: String,
    /// Name of the stream; empty for JetStream as a whole.
    #[serde(default)]
    pub stream: String,
    /// Error of the server: names the stream and, if it cannot be written, the file and the reason.
    #[serde(default)]
    pub error: String,
}

/// Reply of the server.
#[derive(Debug, Deserialize)]
struct HealthReply {
    #[serde(default)]
    data: ServerHealth,
    /// Set if the server refuses the request.
    error: Option<ServerError>,
}

#[derive(Debug, Deserialize)]
struct ServerError {
    #[serde(default)]
    description: String,
}

#[derive(Debug, Default, Deserialize)]
struct ServerHealth {
    #[serde(default)]
    errors: Vec<StreamFault>,
}

impl Bus {
    /// Streams of the services that the server cannot write or could not recover. Empty if the server does not report its health to this account.
    ///
    /// # Errors
    /// If the server does not answer, or refuses the request.
    pub async fn stream_faults(&self) -> anyhow::Result<Vec<StreamFault>> {
        let reply = match self.client.request(SERVER_HEALTH, r#"{"details":true}"#.into()).await {
            Ok(reply) => reply,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(Vec::new()),
            Err(error) => return Err(error).context("failed to read the health of nats-server"),
        };
        parse(&reply.payload).context("the health that nats-server reports")
    }

    /// Checks the streams until `token` is cancelled; readiness reports faults.
    pub fn watch_streams(&self, token: CancellationToken) {
        let bus = self.clone();
        tokio::spawn(token.run_until_cancelled_owned(async move {
            loop {
                // Without an answer the last one stays: the connection has a condition of its own.
                if let (Ok(faults), Some(health)) = (bus.stream_faults().await, &bus.health) {
                    match faults.first() {
                        None => health.set(CONDITION, true),
                        Some(_) => health.fail(CONDITION, faults.iter().map(|fault| fault.error.as_str()).collect::<Vec<_>>().join("; ")),
                    }
                }
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
        }));
    }
}

fn parse(reply: &[u8]) -> anyhow::Result<Vec<StreamFault>> {
    let HealthReply { data, error } = serde_json::from_slice(reply)?;
    if let Some(ServerError { description }) = error {
        anyhow::bail!("the server refuses the request: {description}");
    }
    let mut faults = data.errors;
    // Streams of other accounts do not concern the services.
    faults.retain(|fault| fault.account.is_empty() || fault.account == SERVICES);
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_other_accounts_are_left_out() {
        let fault = |account: &str| {
            format!(r#"{{"type":"STREAM","account":"{account}","stream":"S","error":"stream '{account} > S' write error"}}"#)
        };
        let reply = |errors: &str| format!(r#"{{"server":{{"name":"n"}},"data":{{"status":"error","errors":[{errors}]}}}}"#);
        let faults = parse(reply(&[fault("QSCALE"), fault("OTHER")].join(",")).as_bytes()).expect("a reply");
        assert_eq!(
            faults.iter().map(|fault| (fault.stream.as_str(), fault.error.as_str())).collect::<Vec<_>>(),
            [("S", "stream 'QSCALE > S' write error")]
        );
        let disabled = reply(r#"{"type":"JETSTREAM","error":"jetstream not enabled"}"#);
        assert_eq!(parse(disabled.as_bytes()).expect("a reply").len(), 1);
        assert_eq!(parse(br#"{"data":{"status":"ok","status_code":200}}"#).expect("a reply"), []);
        assert!(parse(b"{").is_err());
        assert!(parse(br#"{"server":{"name":"n"},"error":{"code":400,"description":"bad request"}}"#).is_err());
    }
}
