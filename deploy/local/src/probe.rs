//! Readiness probes. Owns the probe of each protocol; the caller limits the total time.

use std::net::SocketAddr;
use std::time::Duration;

use procfs::net::TcpState;
use qscale_common::platform::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Timeout of one attempt, so that a replica that hangs is probed again.
const ATTEMPT: Duration = Duration::from_secs(1);
/// First pause between attempts; doubles up to the longest. Short, because it adds to every cold start.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Probes until the replica is ready. If it has a user of its own, only a listener of this user counts: another function could listen on the port before
/// the replica does.
pub async fn until_ready(address: SocketAddr, protocol: Protocol, health: Option<&str>, owner: Option<u32>) {
    let mut pause = FIRST_PAUSE;
    while !(is_ready(address, protocol, health).await && listens(address.port(), owner).await) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether every listener on `port` is of the user `owner`, where one is given.
async fn listens(port: u16, owner: Option<u32>) -> bool {
    let Some(owner) = owner else { return true };
    let listeners = move || {
        let entries = procfs::net::tcp().into_iter().chain(procfs::net::tcp6()).flatten();
        let of_port = entries.filter(|entry| entry.state == TcpState::Listen && entry.local_address.port() == port);
        of_port.map(|entry| entry.uid).collect::<Vec<_>>()
    };
    let found = tokio::task::spawn_blocking(listeners).await.unwrap_or_default();
    !found.is_empty() && found.iter().all(|user| *user == owner)
}

async fn is_ready(address: SocketAddr, protocol: Protocol, health: Option<&str>) -> bool {
    let attempt = async {
        let mut stream = TcpStream::connect(address).await?;
        match (protocol, health) {
            (Protocol::Grpc, _) => opens_http2(&mut stream).await,
            (Protocol::Http, Some(path)) => answers(&mut stream, address, path).await,
            (Protocol::Http, None) => Ok(true),
        }
    };
    tokio::time::timeout(ATTEMPT, attempt).await.is_ok_and(|ready: std::io::Result<bool>| ready.unwrap_or(false))
}

/// Whether the server sends its first HTTP/2 frame, SETTINGS. An accepted connection is not enough: the kernel accepts
/// before the server runs.
async fn opens_http2(stream: &mut TcpStream) -> std::io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS: u8 = 4;
    stream.write_all(&[PREFACE, EMPTY_SETTINGS].concat()).await?;
    let mut header = [0; 9];
    stream.read_exact(&mut header).await?;
    Ok(header[3] == SETTINGS)
}

/// Whether a GET of `path` answers with status 200 to 399, as in Kubernetes.
async fn answers(stream: &mut TcpStream, address: SocketAddr, path: &str) -> std::io::Result<bool> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: qscale-platform\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200"
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(status.starts_with(b"HTTP/1.") && matches!(status[9], b'2' | b'3'))
}
