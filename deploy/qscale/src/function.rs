//! `qscale function`: functions of the local platform. Owns arguments and output.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use qscale_common::name::FunctionId;
use qscale_common::platform::{AllocationRequest, EventKind, FunctionSpec, FunctionStatus, PlatformEvent, ReplicaState};
use qscale_common::policy::Bounds;
use qscale_common::runtime::files::read_document;
use qscale_common::runtime::platform::{PlatformClient, PlatformError};
use qscale_common::runtime::shutdown;
use qscale_common::units::{Mebibytes, Millicores, Replicas};

use crate::output::{self, Table, TableCell, Tone};
use crate::system::Locate;

/// Interval between requests for new events.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of the list of functions where it is optional.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// Actions on functions.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  qscale function add fibonacci.toml
  qscale function list
  qscale function scale fibonacci --replicas 3 --cpu 500m
  qscale function logs fibonacci --tail 20")]
pub enum FunctionCommand {
    /// Add functions, or replace existing ones
    Add {
        /// Function files, .toml, .yaml or .json
        #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// List all functions
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show one function and its replicas
    Get {
        /// namespace/name, or name
        #[arg(value_name = "NAME")]
        function: FunctionId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete functions after their replicas have finished their requests
    Delete {
        /// namespace/name, or name
        #[arg(required = true, value_name = "NAME")]
        functions: Vec<FunctionId>,
    },
    /// Print the output of a function's replicas
    Logs {
        /// namespace/name, or name
        #[arg(value_name = "NAME")]
        function: FunctionId,
        /// Number of last lines
        #[arg(long, default_value_t = 100, value_name = "LINES")]
        tail: usize,
    },
    /// Set the allocation of a function; omitted parts are unchanged
    Scale {
        /// namespace/name, or name
        #[arg(value_name = "NAME")]
        function: FunctionId,
        /// Number of replicas
        #[arg(long, required_unless_present_any = ["cpu", "memory"])]
        replicas: Option<Replicas>,
        /// CPU per replica, millicores: 500m
        #[arg(long)]
        cpu: Option<Millicores>,
        /// Memory per replica, MiB: 256Mi
        #[arg(long)]
        memory: Option<Mebibytes>,
    },
    /// Print events of the platform
    Events {
        /// Continue with new events
        #[arg(long)]
        follow: bool,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub async fn run(locate: &Locate, command: FunctionCommand) -> anyhow::Result<()> {
    let platform = locate.platform()?;
    match command {
        FunctionCommand::Add { files } => add(&platform, &files).await,
        FunctionCommand::List { json } => list(&platform, json).await,
        FunctionCommand::Get { function, json } => get(&platform, &function, json).await,
        FunctionCommand::Delete { functions } => delete(&platform, &functions).await,
        FunctionCommand::Logs { function, tail } => logs(&platform, &function, tail).await,
        FunctionCommand::Scale { function, replicas, cpu, memory } => scale(&platform, &function, replicas, cpu, memory).await,
        FunctionCommand::Events { follow, json } => {
            let stop = shutdown::token();
            tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                result = events(&platform, follow, json) => result,
            }
        }
    }
}

/// Functions of the platform; `None` if it is unknown or does not answer.
pub async fn known(locate: &Locate) -> Option<BTreeSet<FunctionId>> {
    let platform = locate.platform().ok()?;
    let functions = tokio::time::timeout(LIST_TIMEOUT, platform.list()).await.ok()?.ok()?;
    Some(functions.iter().map(FunctionStatus::id).collect())
}

/// Allocations that the platform can apply; `None` if it is unknown, does not answer or does not report them.
pub async fn platform_bounds(locate: &Locate) -> Option<Bounds> {
    let platform = locate.platform().ok()?;
    tokio::time::timeout(LIST_TIMEOUT, platform.bounds()).await.ok()?.ok()
}

async fn add(platform: &PlatformClient, files: &[PathBuf]) -> anyhow::Result<()> {
    let specs: Vec<FunctionSpec> = files.iter().map(|file| read(file)).collect::<anyhow::Result<_>>()?;
    for (file, spec) in files.iter().zip(&specs) {
        let existing = match platform.get(&spec.id()).await {
            Ok(before) => Some(before.spec),
            Err(PlatformError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let status = platform.add(spec).await.with_context(|| file.display().to_string())?;
        let what = match existing {
            None => "added",
            Some(before) if before == status.spec => "unchanged",
            Some(_) => "replaced",
        };
        output::line(format_args!("function {} {what}: {}; gateway {}", status.id(), status.desired, status.gateway))?;
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<FunctionSpec> {
    let (text, format) = read_document(file)?;
    FunctionSpec::parse(&text, format).with_context(|| file.display().to_string())
}

async fn list(platform: &PlatformClient, json: bool) -> anyhow::Result<()> {
    let functions = platform.list().await?;
    if json {
        return output::json(&functions);
    }
    if functions.is_empty() {
        return output::line("no functions; add one with `qscale function add FILE`");
    }
    if functions.iter().any(|function| !function.vertical) {
        output::warn("the platform cannot limit CPU and memory; only the number of replicas has an effect");
    }
    functions_table(&functions).print()
}

fn functions_table(functions: &[FunctionStatus]) -> Table {
    let mut table = Table::new(&["FUNCTION", "READY", "CPU", "MEMORY", "QUEUED", "RESTARTS", "OOM", "PROTOCOL"]);
    for function in functions {
        let (ready, desired) = (function.actual.ready, function.desired);
        let mut replicas = format!("{ready}/{}", desired.replicas);
        if function.actual.starting > 0 {
            replicas.push_str(&format!(" (+{})", function.actual.starting));
        }
        table.row([
            TableCell::new(function.id(), Tone::Strong),
            TableCell::new(replicas, if ready == desired.replicas.0 { Tone::Good } else { Tone::Warn }),
            desired.cpu_millicores.into(),
            desired.memory_mib.into(),
            TableCell::new(function.queued, attention(u64::from(function.queued))),
            TableCell::new(function.crashes, attention(function.crashes)),
            TableCell::new(function.oom_kills, attention(function.oom_kills)),
            protocol(&function.spec).into(),
        ]);
    }
    table
}

fn attention(count: u64) -> Tone {
    if count == 0 { Tone::Dim } else { Tone::Warn }
}

fn protocol(spec: &FunctionSpec) -> &'static str {
    match spec.protocol {
        qscale_common::platform::Protocol::Grpc => "grpc",
        qscale_common::platform::Protocol::Http => "http",
    }
}

async fn get(platform: &PlatformClient, function: &FunctionId, json: bool) -> anyhow::Result<()> {
    let status = platform.get(function).await?;
    if json {
        return output::json(&status);
    }
    output::line(functions_table(std::slice::from_ref(&status)).render())?;
    output::line(format_args!("\ncommand  {}\ngateway  {}\n", status.spec.program(), status.gateway))?;
    let mut table = Table::new(&["REPLICA", "STATE", "CPU", "MEMORY", "IN FLIGHT", "RESTARTS", "STARTED IN", "PORT", "PID"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for replica in &status.actual.replicas {
        table.row([
            (&replica.id).into(),
            state(replica.state),
            or_dash(replica.cpu_millicores.map(|cpu| cpu.to_string())).into(),
            or_dash(replica.memory_mib.map(|memory| memory.to_string())).into(),
            replica.in_flight.into(),
            TableCell::new(replica.restarts, attention(replica.restarts)),
            or_dash(replica.startup_ms.map(|time| output::latency(time as f64))).into(),
            or_dash(replica.port.map(|port| port.to_string())).into(),
            or_dash(replica.pid.map(|pid| pid.to_string())).into(),
        ]);
    }
    table.print()?;
    for replica in &status.actual.replicas {
        if let Some(why) = &replica.resize_pending {
            output::line(format_args!("{}: {}", replica.id, output::clean(why)))?;
        }
    }
    Ok(())
}

fn state(state: ReplicaState) -> TableCell {
    match state {
        ReplicaState::Ready => TableCell::new("ready", Tone::Good),
        ReplicaState::Starting => TableCell::new("starting", Tone::Warn),
        ReplicaState::BackOff => TableCell::new("back-off", Tone::Bad),
        ReplicaState::Draining => TableCell::new("draining", Tone::Dim),
    }
}

async fn delete(platform: &PlatformClient, functions: &[FunctionId]) -> anyhow::Result<()> {
    let mut errors = Vec::new();
    for function in functions {
        match platform.delete(function).await {
            Ok(()) => output::line(format_args!("function {function} deleted"))?,
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("\nerror: ")) }
}

async fn logs(platform: &PlatformClient, function: &FunctionId, tail: usize) -> anyhow::Result<()> {
    for line in platform.logs(function, tail).await? {
        let head = format!("{} {}", output::clock(line.time), line.replica);
        output::line(format_args!("{}  {}", Tone::Dim.paint(head), output::whole(&line.line)))?;
    }
    Ok(())
}

async fn scale(
    platform: &PlatformClient,
    function: &FunctionId,
    replicas: Option<Replicas>,
    cpu: Option<Millicores>,
    memory: Option<Mebibytes>,
) -> anyhow::Result<()> {
    let before = platform.get(function).await?.desired;
    let request = AllocationRequest {
        replicas: replicas.unwrap_or(before.replicas),
        cpu_millicores: cpu,
        memory_mib: memory,
        lease: None,
        clamp: false,
    };
    let reply = platform.set_allocation(function, &request).await?;
    for warning in &reply.warnings {
        output::warn(output::clean(warning));
    }
    let after = reply.function.desired;
    match output::difference(before, after) {
        Some(difference) => output::line(format_args!(
            "function {function} set to {after} ({difference}); an active ScalingPolicy may change it, `qscale freeze {function}` prevents that"
        )),
        None => output::line(format_args!("function {function} already has {after}")),
    }
}

async fn events(platform: &PlatformClient, follow: bool, json: bool) -> anyhow::Result<()> {
    let mut after = 0;
    let mut reachable = true;
    loop {
        let page = match platform.events(after).await {
            Ok(page) => page,
            Err(error @ PlatformError::Unreachable { .. }) if follow && after > 0 => {
                if std::mem::take(&mut reachable) {
                    output::warn(format_args!("{error}; retrying"));
                }
                tokio::time::sleep(POLL_INTERVAL).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        reachable = true;
        if after > 0 && page.oldest > after.saturating_add(1) {
            output::warn(format_args!("{} events were lost: the platform keeps only the newest", page.oldest - after - 1));
        }
        for event in &page.events {
            if json {
                output::json_line(event)?;
            } else {
                output::line(event_line(event))?;
            }
        }
        after = page.events.last().map_or(after, |event| event.seq);
        if !page.events.is_empty() && after < page.newest {
            continue;
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn event_line(event: &PlatformEvent) -> String {
    let tone = match event.kind {
        EventKind::ReplicaCrashed | EventKind::ReplicaOomKilled | EventKind::ReplicaStartFailed => Tone::Bad,
        EventKind::ResizeRefused | EventKind::StaleLease => Tone::Warn,
        EventKind::ReplicaReady => Tone::Good,
        _ => Tone::Plain,
    };
    let function = FunctionId::new(event.namespace.clone(), event.function.clone());
    let target = event.replica.as_ref().map_or_else(|| function.to_string(), |replica| format!("{function} {}", output::clean(replica)));
    let kind = serde_json::to_value(event.kind).ok().and_then(|kind| kind.as_str().map(|word| word.replace('_', " "))).unwrap_or_default();
    let (time, kind) = (Tone::Dim.paint(output::clock(event.time)), tone.paint(format_args!("{kind:<20}")));
    format!("{time} {kind} {target}  {}", output::clean(&event.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use qscale_common::document::Format;
    use qscale_common::platform::ActualAllocation;
    use qscale_common::units::Allocation;

    #[test]
    fn table_shows_missing_replicas() {
        let status = FunctionStatus {
            spec: FunctionSpec::parse("name = \"f\"\ncommand = [\"x\"]", Format::Toml).expect("valid"),
            desired: Allocation::new(3, 500, 128),
            actual: ActualAllocation { ready: 1, starting: 2, ..ActualAllocation::default() },
            vertical: true,
            queued: 7,
            oom_kills: 0,
            crashes: 4,
            gateway: "127.0.0.1:8700".into(),
        };
        let text = output::plain(&functions_table(&[status]).render());
        assert_eq!(text.lines().nth(1), Some("default/f  1/3 (+2)  500m  128Mi   7       4         0    grpc"), "{text}");
    }
}
