//! Live progress. Owns its format: one line that is rewritten on a terminal, or one line per second elsewhere.

use std::io::{self, IsTerminal, Write};

use crate::run::RunProgress;

/// Shows progress on standard error; standard output is for the result.
pub struct LiveLine {
    rewritten: bool,
}

impl LiveLine {
    /// Detects whether standard error is a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self { rewritten: io::stderr().is_terminal() }
    }

    /// Shows one second.
    pub fn show(&mut self, progress: &RunProgress) {
        let (start, end) = if self.rewritten { ("\r\x1b[2K", "") } else { ("", "\n") };
        // A closed terminal does not end the run.
        let _ = write!(io::stderr(), "{start}{}{end}", line(progress));
        let _ = io::stderr().flush();
    }

    /// Ends the last line.
    pub fn end(&self) {
        if self.rewritten {
            let _ = writeln!(io::stderr());
        }
    }
}

impl Default for LiveLine {
    fn default() -> Self {
        Self::new()
    }
}

fn line(progress: &RunProgress) -> String {
    let latency = progress.latency_ms.map_or_else(
        || "p50 -  p95 -  p99 -".to_owned(),
        |latency| format!("p50 {:.2}  p95 {:.2}  p99 {:.2} ms", latency.p50, latency.p95, latency.p99),
    );
    let lag = progress.lag_us.map_or_else(|| "-".to_owned(), |lag| format!("{:.0} us", lag.p99));
    format!(
        "{:>5.0}s  offered {:.1}/s  good {:.1}/s  {latency}  failed {} (+{})  in flight {}  lag p99 {lag}",
        progress.elapsed.as_secs_f64(),
        progress.offered_rps,
        progress.achieved_rps,
        progress.failed_in_all,
        progress.failed,
        progress.in_flight,
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_without_answers_shows_no_latency() {
        let progress = RunProgress {
            elapsed: Duration::from_secs(3),
            offered_rps: 10.0,
            achieved_rps: 0.0,
            latency_ms: None,
            failed: 2,
            failed_in_all: 5,
            in_flight: 7,
            lag_us: None,
        };
        assert_eq!(line(&progress), "    3s  offered 10.0/s  good 0.0/s  p50 -  p95 -  p99 -  failed 5 (+2)  in flight 7  lag p99 -");
    }
}
