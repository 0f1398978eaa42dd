//! Arrivals and targets of a run. Owns opening traces, resolving addresses and the mapping from functions of a trace to called functions.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use qscale_common::name::FunctionId;
use qscale_common::runtime::traces::{OpenedTrace, open_endpoints, open_trace};
use qscale_common::workload::trace::{Keep, Trace};
use qscale_common::workload::{Arrivals, Demand, PatternArrivals, Scale, Spread, WorkloadRng};
use rand::SeedableRng;

use crate::config::LoadConfig;
use crate::engine::RequestTarget;

/// A called function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFunction {
    /// Name in outputs.
    pub label: String,
    /// Id on the bus; `None` for an endpoint of vSwarm, which has only a host name.
    pub id: Option<FunctionId>,
}

/// Requests to send: functions, targets and arrivals.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Functions, by index.
    pub functions: Vec<TargetFunction>,
    /// Targets of their requests, by index.
    pub targets: Vec<RequestTarget>,
    /// Addresses of the targets.
    pub addresses: Vec<SocketAddr>,
    /// Arrivals before the mapping to functions.
    source: ArrivalSource,
    /// Duration of sending; `Duration::MAX` for a whole trace.
    pub length: Duration,
    /// The part of the trace that was read, for the user; `None` without a trace.
    pub description: Option<String>,
}

#[derive(Debug, Clone)]
enum ArrivalSource {
    Pattern { spread: Spread },
    Trace(Trace, Scale),
}

impl Schedule {
    /// Reads the trace, if any, and resolves addresses. Unless configured, a pattern lasts for `default_length` and a trace until its end.
    ///
    /// # Errors
    /// When a file cannot be read, a function name is invalid, or an address does not resolve.
    pub fn new(config: &LoadConfig, default_length: Duration) -> anyhow::Result<Self> {
        let scale = Scale::new(config.time_scale, config.rate_scale).map_err(anyhow::Error::msg)?;
        match &config.trace {
            None => {
                let functions = named(&config.functions)?;
                if functions.is_empty() {
                    bail!("no function given: use --function NAME, for example --function fibonacci");
                }
                Self::at_target(config, functions, ArrivalSource::Pattern { spread: config.spread }, default_length)
            }
            Some(path) if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) => {
                Self::at_endpoints(config, path, default_length)
            }
            Some(path) => {
                let OpenedTrace { trace, description } = open_trace(path, keep(config), config.memory_mib)?;
                trace.check_rate(scale.rate).map_err(anyhow::Error::msg)?;
                let functions = for_trace(config, trace.functions())?;
                let schedule = Self::at_target(config, functions, ArrivalSource::Trace(trace, scale), Duration::MAX)?;
                Ok(Self { description: Some(description), ..schedule })
            }
        }
    }

    fn at_target(config: &LoadConfig, functions: Vec<FunctionId>, source: ArrivalSource, length: Duration) -> anyhow::Result<Self> {
        let address = resolve(&config.target)
            .with_context(|| format!("target = {}: must be host:port, for example 127.0.0.1:8700", config.target))?;
        let target = |function: &FunctionId| RequestTarget {
            address: 0,
            authority: config.authority.clone().unwrap_or_else(|| format!("{}.{}", function.name, function.namespace)),
        };
        Ok(Self {
            targets: functions.iter().map(target).collect(),
            functions: functions.into_iter().map(|id| TargetFunction { label: id.to_string(), id: Some(id) }).collect(),
            addresses: vec![address],
            source,
            length: config.length.map_or(length, |length| length.0),
            description: None,
        })
    }

    /// Each endpoint is a separate host, on the port of the target. Requests are distributed in turn, like in vSwarm's invoker.
    fn at_endpoints(config: &LoadConfig, path: &Path, default_length: Duration) -> anyhow::Result<Self> {
        let endpoints = open_endpoints(path)?;
        let port = config.target.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let port = port.with_context(|| format!("target = {}: must be host:port; its port is that of every endpoint", config.target))?;
        let mut addresses = Vec::new();
        let mut known: HashMap<SocketAddr, usize> = HashMap::new();
        let mut targets = Vec::new();
        for endpoint in &endpoints {
            let host = format!("{}:{port}", endpoint.hostname);
            let address = resolve(&host).with_context(|| {
                let name = &endpoint.hostname;
                format!(
                    "{}: hostname `{name}`: must be a name that this machine resolves; list another one, add it to the hosts file, or call it at the \
                     target with --function and --authority {name} instead of --trace",
                    shown(path)
                )
            })?;
            let index = *known.entry(address).or_insert_with(|| {
                addresses.push(address);
                addresses.len() - 1
            });
            targets
                .push(RequestTarget { address: index, authority: config.authority.clone().unwrap_or_else(|| endpoint.hostname.clone()) });
        }
        Ok(Self {
            functions: endpoints.into_iter().map(|endpoint| TargetFunction { label: endpoint.hostname, id: None }).collect(),
            targets,
            addresses,
            source: ArrivalSource::Pattern { spread: config.spread },
            length: config.length.map_or(default_length, |length| length.0),
            description: None,
        })
    }

    /// Arrivals in order of time; the same for equal configurations.
    #[must_use]
    pub fn arrivals(&self, config: &LoadConfig) -> Box<dyn Iterator<Item = qscale_common::workload::Arrival> + Send> {
        let mut rng = WorkloadRng::seed_from_u64(config.seed);
        let functions = u32::try_from(self.functions.len()).unwrap_or(u32::MAX).max(1);
        let arrivals = match &self.source {
            ArrivalSource::Pattern { spread } => {
                let demand = Demand::Fixed { duration_ms: config.duration_ms, memory_mib: config.memory_mib };
                let arrivals = PatternArrivals::new(config.rate.clone(), config.gaps, self.length, WorkloadRng::from_rng(&mut rng));
                Arrivals::pattern(arrivals, *spread, functions, demand, rng)
            }
            ArrivalSource::Trace(Trace::Minutes(trace), scale) => Arrivals::minutes(trace, config.iat, *scale, self.length, &mut rng),
            ArrivalSource::Trace(Trace::Rows(trace), scale) => Arrivals::rows(trace, config.memory_mib, *scale, self.length, rng),
        };
        // If fewer functions are called than the trace contains, its functions are mapped to them in turn.
        Box::new(arrivals.map(move |mut arrival| {
            arrival.function %= functions;
            arrival
        }))
    }
}

fn named(names: &[String]) -> anyhow::Result<Vec<FunctionId>> {
    names.iter().map(|name| name.parse().with_context(|| format!("function = {name}"))).collect()
}

fn for_trace(config: &LoadConfig, count: usize) -> anyhow::Result<Vec<FunctionId>> {
    if !config.functions.is_empty() {
        return named(&config.functions);
    }
    (0..count).map(|index| Ok(format!("trace-func-{index}").parse::<FunctionId>()?)).collect()
}

fn keep(config: &LoadConfig) -> Keep {
    Keep { functions: config.trace_functions.unwrap_or(usize::MAX), skip_minutes: config.skip_minutes, ..Keep::default() }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn resolve(host: &str) -> anyhow::Result<SocketAddr> {
    host.to_socket_addrs()?.next().context("the name has no address")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn config(functions: &[&str]) -> LoadConfig {
        LoadConfig { functions: functions.iter().map(|name| (*name).to_owned()).collect(), ..LoadConfig::default() }
    }

    #[test]
    fn the_authority_is_name_dot_namespace() {
        let schedule = Schedule::new(&config(&["fib", "prod/aes"]), TEN).expect("valid");
        let authorities: Vec<_> = schedule.targets.iter().map(|target| target.authority.as_str()).collect();
        assert_eq!(authorities, ["fib.default", "aes.prod"]);
        let given = LoadConfig { authority: Some("x.example".to_owned()), ..config(&["fib"]) };
        assert_eq!(Schedule::new(&given, TEN).expect("valid").targets[0].authority, "x.example");
    }

    #[test]
    fn errors_contain_the_invalid_value() {
        let error = |config: LoadConfig| format!("{:#}", Schedule::new(&config, TEN).expect_err("refused"));
        assert!(error(config(&[])).contains("--function"));
        assert!(error(config(&["Fib.One"])).contains("`Fib.One`"));
        assert!(error(LoadConfig { target: "nowhere".to_owned(), ..config(&["fib"]) }).contains("nowhere"));
        assert!(error(LoadConfig { trace: Some("/no/such.csv".into()), ..config(&["fib"]) }).contains("/no/such.csv"));
        assert!(error(LoadConfig { time_scale: -1.0, ..config(&["fib"]) }).contains("-1"));
    }

    #[test]
    fn advice_on_an_endpoint_fits_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("endpoints.json");
        std::fs::write(&path, "\u{feff}[{\"hostname\": \"nowhere.invalid\"}]").expect("written");
        let with = |target: &str| LoadConfig { trace: Some(path.clone()), target: target.to_owned(), ..LoadConfig::default() };
        let error = |target: &str| format!("{:#}", Schedule::new(&with(target), TEN).expect_err("refused"));
        let unresolved = error("127.0.0.1:80");
        assert!(unresolved.contains("hostname `nowhere.invalid`") && unresolved.contains("endpoints.json"), "{unresolved}");
        assert!(!unresolved.contains("host:port"), "a hostname has no port: {unresolved}");
        assert!(error("gateway").contains("target = gateway: must be host:port"));
    }

    #[test]
    fn equal_configurations_give_equal_arrivals() {
        let config = LoadConfig { rate: "100".parse().expect("a rate"), ..config(&["a", "b"]) };
        let schedule = Schedule::new(&config, TEN).expect("valid");
        let arrivals: Vec<_> = schedule.arrivals(&config).collect();
        assert!(arrivals.len() > 800 && schedule.arrivals(&config).eq(arrivals));
    }
}
