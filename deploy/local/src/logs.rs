//! Recent output of a function's replicas. Owns the bounded ring of lines; must not write to disk.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use qscale_common::platform::LogLine;
use qscale_common::runtime::clock;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Lines kept per function.
const KEPT_LINES: usize = 2_000;
/// Bytes kept per function, over all lines.
const KEPT_BYTES: usize = 1 << 20;
/// Bytes kept per line.
const LINE_BYTES: usize = 4_096;

/// Recent lines of a function.
#[derive(Debug, Default)]
pub struct Logs(Mutex<LogRing>);

#[derive(Debug, Default)]
struct LogRing {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Logs {
    /// Adds `line`, dropping the oldest lines when the ring is full.
    pub fn push(&self, line: LogLine) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.bytes += line.line.len();
        ring.lines.push_back(line);
        while ring.lines.len() > KEPT_LINES || ring.bytes > KEPT_BYTES {
            let Some(oldest) = ring.lines.pop_front() else { break };
            ring.bytes -= oldest.line.len();
        }
    }

    /// Last `count` lines, oldest first.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<LogLine> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.lines.iter().skip(ring.lines.len().saturating_sub(count)).cloned().collect()
    }

    /// Reads lines of `replica` from `output` until it ends. The rest of a line longer than 4 KiB is skipped.
    pub async fn follow(&self, replica: &str, output: impl AsyncRead + Unpin) {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(bytes) = output.fill_buf().await {
            if bytes.is_empty() {
                break;
            }
            let (end, ended) = bytes.iter().position(|byte| *byte == b'\n').map_or((bytes.len(), false), |index| (index, true));
            let room = LINE_BYTES - line.len();
            line.extend_from_slice(&bytes[..end.min(room)]);
            output.consume(end + usize::from(ended));
            if ended {
                self.push_bytes(replica, &line);
                line.clear();
            }
        }
        if !line.is_empty() {
            self.push_bytes(replica, &line);
        }
    }

    fn push_bytes(&self, replica: &str, line: &[u8]) {
        let line = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
        self.push(LogLine { time: clock::now(), replica: replica.to_owned(), line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_and_the_oldest_forgotten() {
        let logs = Logs::default();
        let long = "x".repeat(10 * LINE_BYTES);
        let text = format!("{long}\nshort\nlast without newline");
        logs.follow("f-1", text.as_bytes()).await;
        let lines: Vec<_> = logs.tail(10).into_iter().map(|line| line.line).collect();
        assert_eq!(lines, [&long[..LINE_BYTES], "short", "last without newline"]);
        for _ in 0..2 * KEPT_LINES {
            logs.follow("f-1", &b"y\n"[..]).await;
        }
        assert_eq!(logs.tail(usize::MAX).len(), KEPT_LINES);
    }
}
