//! Configuration of a run. Owns every setting with its default, help and range; must not open files.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qscale_common::time::Span;
use qscale_common::workload::{Gaps, Iat, Pattern, Rate, Spread};
use serde::{Deserialize, Serialize};

use crate::protocol::{CallProtocol, HttpRequest};

/// Reuse of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionMode {
    /// Connections are kept and reused.
    #[default]
    Reuse,
    /// One connection per request, like vSwarm's invoker.
    PerRequest,
}

/// The load of a run: targets, requests, send times and output files.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Where")]
pub struct LoadConfig {
    /// Address to send requests to, as host:port
    ///
    /// With endpoints.json each endpoint is a host of its own, and only the port is used.
    #[arg(long, value_name = "HOST:PORT", default_value_t = Self::default().target)]
    pub target: String,
    /// Function to call, as name or namespace/name; may be repeated
    ///
    /// Sets the `:authority` (or `Host`) of its requests to name.namespace. A trace without this calls trace-func-0, trace-func-1, ...
    #[arg(long = "function", value_name = "NAME")]
    pub functions: Vec<String>,
    /// Use this `:authority` (or `Host`) for every request instead of the function's name
    #[arg(long, value_name = "HOST")]
    pub authority: Option<String>,
    /// Distribution of a pattern's requests over several functions: round-robin, random, or each (all get the same arrivals)
    #[arg(long, value_name = "HOW", default_value_t = Self::default().spread)]
    pub spread: Spread,

    /// Protocol: relay, faas, http, or direct:SERVICE (fibonacci, aes, auth, ...)
    #[arg(long, value_name = "PROTOCOL", default_value_t = Self::default().protocol, help_heading = "What")]
    pub protocol: CallProtocol,
    /// Field of a direct call, as name=value; LOW..HIGH draws a whole number for each request; may be repeated
    #[arg(long = "input", value_name = "FIELD=VALUE", help_heading = "What")]
    pub inputs: Vec<String>,
    /// Duration that a faas request of a pattern asks for, milliseconds
    #[arg(long, value_name = "MS", default_value_t = Self::default().duration_ms, help_heading = "What")]
    pub duration_ms: u32,
    /// Memory that a faas request asks for unless a trace sets it, MiB
    #[arg(long, value_name = "MIB", default_value_t = Self::default().memory_mib, help_heading = "What")]
    pub memory_mib: u32,
    /// HTTP method
    #[arg(long, value_name = "METHOD", default_value_t = Self::default().method, help_heading = "What")]
    pub method: String,
    /// HTTP path and query, beginning with /
    #[arg(long, value_name = "PATH", default_value_t = Self::default().path, help_heading = "What")]
    pub path: String,
    /// HTTP body
    #[arg(long, value_name = "TEXT", default_value_t = Self::default().body, help_heading = "What")]
    pub body: String,
    /// Text that the body of a valid HTTP reply contains
    #[arg(long, value_name = "TEXT", default_value_t = Self::default().expect, help_heading = "What")]
    pub expect: String,

    /// Requests/s over time: a number, or a pattern such as step:10@0s,80@20s,10@40s
    #[arg(long = "rate", long_help = rate_help(), value_name = "PATTERN", default_value_t = Self::default().rate, help_heading = "When")]
    pub rate: Pattern,
    /// Gaps between the requests of a pattern: poisson, constant or uniform
    #[arg(long, value_name = "KIND", default_value_t = Self::default().gaps, help_heading = "When")]
    pub gaps: Gaps,
    /// Duration of sending; default: 10s, or the whole trace
    #[arg(long = "for", value_name = "DURATION", help_heading = "When")]
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub length: Option<Span>,
    /// Seed of all random numbers
    #[arg(long, value_name = "NUMBER", default_value_t = Self::default().seed, help_heading = "When")]
    pub seed: u64,

    /// Replay a trace instead of a pattern: a folder (InVitro, Azure 2019), a file (Azure 2021), or endpoints.json
    ///
    /// A folder contains invocations.csv, durations.csv and optionally memory.csv, or the published files; of several
    /// days the first is used, or the one of a given file. endpoints.json lists functions, which are called in turn at
    /// --rate.
    #[arg(long, value_name = "PATH", help_heading = "Trace")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<PathBuf>,
    /// Placement of a trace's invocations within their minute: conditioned (Poisson), or InVitro's exponential, exponential_shift,
    /// uniform, uniform_shift, equidistant
    #[arg(long, value_name = "RULE", default_value_t = Self::default().iat, help_heading = "Trace")]
    pub iat: Iat,
    /// Speed-up: seconds of the trace per second
    #[arg(long, value_name = "FACTOR", default_value_t = Self::default().time_scale, help_heading = "Trace")]
    pub time_scale: f64,
    /// Requests per invocation of the trace
    #[arg(long, value_name = "FACTOR", default_value_t = Self::default().rate_scale, help_heading = "Trace")]
    pub rate_scale: f64,
    /// Use only the first NUMBER functions of the trace
    #[arg(long, value_name = "NUMBER", help_heading = "Trace")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_functions: Option<usize>,
    /// Skip the first MINUTES of the trace
    #[arg(long, value_name = "MINUTES", default_value_t = Self::default().skip_minutes, help_heading = "Trace")]
    pub skip_minutes: u32,

    /// Reuse connections (reuse) or open one per request (per-request)
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Self::default().connection, help_heading = "How")]
    pub connection: ConnectionMode,
    /// Connections that each thread opens to each address before the start; more are opened on demand
    #[arg(long, value_name = "NUMBER", default_value_t = Self::default().connections, help_heading = "How")]
    pub connections: u32,
    /// Timeout of a request, from its intended send time to the reply
    #[arg(long, value_name = "DURATION", default_value_t = Self::default().timeout, help_heading = "How")]
    pub timeout: Span,
    /// Longest wait for replies after the last request; requests still in flight then are marked censored
    #[arg(long, value_name = "DURATION", default_value_t = Self::default().drain, help_heading = "How")]
    pub drain: Span,
    /// Maximum number of requests in flight; a further one is marked not_sent
    #[arg(long, value_name = "NUMBER", default_value_t = Self::default().max_in_flight, help_heading = "How")]
    pub max_in_flight: u32,
    /// Pacing threads
    #[arg(long, value_name = "NUMBER", default_value_t = Self::default().threads, help_heading = "How")]
    pub threads: u32,
    /// Do not request real-time scheduling
    #[arg(long, help_heading = "How")]
    pub no_real_time: bool,
    /// Bound on the p99 of send lag; the run is void if it is exceeded, or if more than 1% of the requests were not sent
    #[arg(long, value_name = "DURATION", default_value_t = Self::default().max_lag, help_heading = "How")]
    pub max_lag: Span,

    /// Write one row per request to this file
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csv: Option<PathBuf>,
    /// Write rps<rate>_lat.csv in the format of vSwarm's invoker to this folder
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vswarm: Option<PathBuf>,
    /// Write <PREFIX>_duration_<minutes>.csv in InVitro's format
    #[arg(long, value_name = "PREFIX", help_heading = "Files")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invitro: Option<PathBuf>,
}

fn rate_help() -> String {
    let forms: Vec<String> = Pattern::forms().iter().map(|form| format!("  {}: {}", form.grammar, form.meaning)).collect();
    format!("Requests/s over time: a number, or a pattern:\n{}\nTimes carry their unit: 30s, 5m, 1h.", forms.join("\n"))
}

impl Default for LoadConfig {
    fn default() -> Self {
        let http = HttpRequest::default();
        Self {
            target: "127.0.0.1:8700".to_owned(),
            functions: Vec::new(),
            authority: None,
            spread: Spread::default(),
            protocol: CallProtocol::default(),
            inputs: Vec::new(),
            duration_ms: 10,
            memory_mib: 0,
            method: http.method,
            path: http.path,
            body: http.body,
            expect: http.expect,
            rate: Pattern::constant(Rate::new(10.0).expect("10 is a valid rate")),
            gaps: Gaps::default(),
            length: None,
            seed: 1,
            trace: None,
            iat: Iat::default(),
            time_scale: 1.0,
            rate_scale: 1.0,
            trace_functions: None,
            skip_minutes: 0,
            connection: ConnectionMode::default(),
            connections: 4,
            timeout: Span::seconds(30),
            drain: Span::seconds(30),
            max_in_flight: 10_000,
            threads: 1,
            no_real_time: false,
            max_lag: Span::millis(5),
            csv: None,
            vswarm: None,
            invitro: None,
        }
    }
}

impl LoadConfig {
    /// HTTP part of the configuration.
    #[must_use]
    pub fn http(&self) -> HttpRequest {
        HttpRequest { method: self.method.clone(), path: self.path.clone(), body: self.body.clone(), expect: self.expect.clone() }
    }

    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value out of range, with its range.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u32, low: u32, high: u32| {
            if (low..=high).contains(&value) { Ok(()) } else { Err(format!("{name} = {value}, must be {low} to {high}")) }
        };
        within("threads", self.threads, 1, 256)?;
        within("connections", self.connections, 0, 10_000)?;
        within("max-in-flight", self.max_in_flight, self.threads, 1_000_000)?;
        within("duration-ms", self.duration_ms, 0, 86_400_000)?;
        for (name, span) in [("timeout", self.timeout), ("max-lag", self.max_lag)] {
            if span.0.is_zero() {
                return Err(format!("{name} = {span}, must be greater than 0s"));
            }
        }
        if !self.path.starts_with('/') || self.path.contains(|character: char| character.is_whitespace() || character.is_control()) {
            return Err(format!(
                "path = \"{}\", must begin with / and have no white space; write a space as %20",
                self.path.escape_debug()
            ));
        }
        // Instants are computed by adding these to the start; a thousand years keep them far from overflow.
        let longest = Span::seconds(1_000 * 366 * 86_400);
        for (name, span) in [("timeout", self.timeout), ("drain", self.drain), ("for", self.length.unwrap_or_default())] {
            if span > longest {
                return Err(format!("{name} = {span}, must be at most 1000 years"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(LoadConfig::default().check(), Ok(()));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let threads = LoadConfig { threads: 0, ..LoadConfig::default() };
        assert_eq!(threads.check(), Err("threads = 0, must be 1 to 256".to_owned()));
        let timeout = LoadConfig { timeout: Span::seconds(0), ..LoadConfig::default() };
        assert_eq!(timeout.check(), Err("timeout = 0s, must be greater than 0s".to_owned()));
    }

    #[test]
    fn a_path_begins_with_a_slash() {
        let check = |path: &str| LoadConfig { path: path.to_owned(), ..LoadConfig::default() }.check();
        assert_eq!(check("/a?b=c%20d"), Ok(()));
        for path in ["foo", "", "?a=1", "http://a/", "*", "/a b", "/a\r\nb"] {
            let error = check(path).expect_err(path);
            assert!(error.starts_with(&format!("path = \"{}\", must begin with /", path.escape_debug())), "{error}");
        }
    }

    #[test]
    fn a_configuration_is_read_as_written() {
        let config = LoadConfig { length: Some(Span::seconds(5)), protocol: "direct:aes".parse().expect("known"), ..LoadConfig::default() };
        let text = serde_json::to_string(&config).expect("writes");
        assert_eq!(serde_json::from_str::<LoadConfig>(&text).expect("reads"), config);
        assert!(serde_json::from_str::<LoadConfig>(r#"{"rat": 5}"#).expect_err("unknown").to_string().contains("rat"));
    }
}
