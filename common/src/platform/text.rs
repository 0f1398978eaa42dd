//! Prometheus' text format.

use std::fmt::Write;

/// Kind of a family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

/// Output buffer. Writing to memory cannot fail, so results of `write!` are dropped.
#[derive(Debug, Default)]
pub struct TextBuffer(String);

/// Labels without braces, escaped.
pub fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text
}

impl TextBuffer {
    /// The heading of a family.
    pub fn family(&mut self, name: &str, kind: MetricKind, help: &str) {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One value.
    pub fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = if labels.is_empty() { writeln!(self.0, "{name} {value}") } else { writeln!(self.0, "{name}{{{labels}}} {value}") };
    }

    /// One bucket of a histogram.
    pub fn bucket(&mut self, name: &str, labels: &str, bound: &str, count: u64) {
        let _ = writeln!(self.0, "{name}{{{labels},le=\"{bound}\"}} {count}");
    }

    /// The complete text.
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut text = TextBuffer::default();
        text.family("a_total", MetricKind::Counter, "Of a.");
        text.sample("a_total", &labels(&[("b", "c"), ("d", "e\"f")]), 1.0);
        text.sample("a_total", "", 0.5);
        assert_eq!(text.finish(), "# HELP a_total Of a.\n# TYPE a_total counter\na_total{b=\"c\",d=\"e\\\"f\"} 1\na_total 0.5\n");
    }
}
