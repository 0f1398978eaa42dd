//! The command line of `qscale-loadgen`: options, runs, output. In the library, so that its code is compiled once.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::config::LoadConfig;
use crate::progress::LiveLine;
use crate::report::SummaryTable;
use crate::run::{self, Observers};
use crate::service::{self, ServeConfig};
use crate::sink::{self, SinkArgs};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use prometheus_client::registry::Registry;
use qscale_common::load::{LoadFailure, LoadSummary};
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::config::{self, ConfigArgs};
use qscale_common::runtime::health::Health;
use qscale_common::runtime::shutdown;
use qscale_common::runtime::telemetry::{self, TelemetryConfig};

/// Open-loop load generator for serverless functions: gRPC as in vSwarm and InVitro, or HTTP
///
/// Every request has an intended send time, and its latency counts from there.
#[derive(Parser)]
#[command(name = "qscale-loadgen", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send load, show progress and print a summary
    #[command(after_long_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Run as a service: the load of a configuration, with health, metrics and Load messages on NATS
    #[command(after_long_help = SERVE_HELP)]
    Serve(ConfigArgs),
    /// Serve gRPC and HTTP without doing work, to measure the generator itself
    #[command(after_long_help = SINK_HELP)]
    Sink(SinkArgs),
}

const RUN_HELP: &str = "\
Examples:
  A step of load on a function behind a gateway, two copies of it under the same arrivals:
    qscale-loadgen run --target 127.0.0.1:8700 --function fib-a --function fib-b --spread each \\
        --rate step:10@0s,80@20s,10@40s --for 60s
  Requests with a chosen duration and memory:
    qscale-loadgen run --protocol faas --function faas --rate 50 --duration-ms 20 --memory-mib 32
  vSwarm's fibonacci, a random number each time, replies checked:
    qscale-loadgen run --target 127.0.0.1:50051 --protocol direct:fibonacci --input name=10..30 --function fibonacci
  An hour of an Azure trace in a minute, at a tenth of its rate, on one function:
    qscale-loadgen run --trace traces/azure2019-8h-100 --time-scale 60 --rate-scale 0.1 --for 60s --protocol faas --function faas
  One row per request, and the files of vSwarm's invoker and InVitro:
    qscale-loadgen run --function fibonacci --csv out/requests.csv --vswarm out --invitro out/experiment

Exit status: 0 success, 1 error, 2 invalid command line, 3 the run is void, 4 no request succeeded, or none was due.
With --json an error is an object with the field `error`.

Columns of --csv: function, intended_us, sent_us, replied_us (microseconds since the start of the run), status (ok, a gRPC status,
http_<code>, timeout, refused, unreachable, broken, malformed, censored, not_sent), connection (new, reused), valid (the reply is
correct), sequence, connected_us, duration_ms, memory_mib, reported_us, reported_kib.";

const SERVE_HELP: &str = "\
Examples:
  See every setting with its default:
    qscale-loadgen serve --print-config
  Load from a file, with one setting changed:
    qscale-loadgen serve --config loadgen.toml --set load.rate=diurnal:5..50/1h --set 'load.functions=[\"fibonacci\"]'
  The same from the environment:
    QSCALE_LOADGEN__LOAD__RATE=50 qscale-loadgen serve --config loadgen.toml";

const SINK_HELP: &str = "\
Examples:
  Send lag at 5,000 requests per second:
    qscale-loadgen sink --listen 127.0.0.1:9090 &
    qscale-loadgen run --target 127.0.0.1:9090 --function sink --rate 5000
    curl 127.0.0.1:9090/stats
  Effect of a stall: 200 ms every 2 s give a p99 of 180 ms:
    qscale-loadgen sink --stall 200ms --every 2s

At its end (Ctrl-C) it prints statistics as JSON: requests, rate, index of dispersion of arrivals, stalls.";

/// Default duration of a pattern.
const DEFAULT_LENGTH: Duration = Duration::from_secs(10);

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    load: LoadConfig,
    /// Print the summary, or the error, as JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Do not show progress
    #[arg(long, short, help_heading = "Output")]
    quiet: bool,
    /// Publish Load messages on this nats-server
    #[arg(long, value_name = "URL", env = "QSCALE_NATS_URL", help_heading = "Output")]
    nats: Option<String>,
    /// User on the nats-server
    #[arg(long, value_name = "USER", env = "QSCALE_NATS_USER", default_value = "", help_heading = "Output")]
    nats_user: String,
    /// Password on the nats-server
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "QSCALE_NATS_PASSWORD",
        default_value = "",
        hide_env_values = true,
        help_heading = "Output"
    )]
    nats_password: String,
    /// Log filter
    #[arg(long, value_name = "FILTER", default_value = "warn", help_heading = "Output")]
    log: String,
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => {
            let json = args.json;
            let result = run(*args);
            if let (true, Err(error)) = (json, &result) {
                let failure = LoadFailure { error: format!("{error:#}") };
                // Standard error shows it, too, and the exit status says that it failed.
                let _closed = serde_json::to_string(&failure).map(|text| writeln!(io::stdout(), "{text}"));
            }
            finish(result)
        }
        Command::Serve(args) => finish(serve(&args)),
        Command::Sink(args) => finish(sink(&args).map(|()| ExitCode::SUCCESS)),
    }
}

fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        telemetry::say(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    telemetry::init("loadgen", &TelemetryConfig { log: args.log, ..TelemetryConfig::default() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let summary = runtime.block_on(async {
        // The first signal ends sending and drains; a later one ends the drain.
        let (stop, abort) = shutdown::stop_and_abort();
        let loads = match args.nats {
            Some(url) => {
                let config = BusConfig { url, user: args.nats_user, password: args.nats_password, ..BusConfig::default() };
                let bus =
                    Bus::connect("loadgen", &std::process::id().to_string(), &config, &Health::new(), &mut Registry::default()).await?;
                Some(service::publisher(bus))
            }
            None => None,
        };
        let mut live = (!args.quiet).then(LiveLine::new);
        let observers = Observers {
            progress: Box::new(move |progress| live.iter_mut().for_each(|live| live.show(progress))),
            trace: Box::new(move |description| {
                if !args.quiet {
                    telemetry::say(format_args!("{description}"));
                }
            }),
            loads,
            default_length: DEFAULT_LENGTH,
        };
        let load = args.load;
        let summary = tokio::task::spawn_blocking(move || run::run(&load, observers, &stop, &abort)).await.context("the run panicked")?;
        if !args.quiet {
            LiveLine::new().end();
        }
        summary
    })?;
    if args.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&summary)?)?;
    } else {
        write!(io::stdout(), "{}", SummaryTable(&summary))?;
    }
    Ok(status(&summary))
}

fn serve(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let config: ServeConfig = config::load("loadgen", args)?;
    telemetry::init("loadgen", &config.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let summary = runtime.block_on(async { service::serve(config, shutdown::token()).await })?;
    writeln!(io::stdout(), "{}", serde_json::to_string(&summary)?)?;
    Ok(status(&summary))
}

fn sink(args: &SinkArgs) -> anyhow::Result<()> {
    telemetry::init("loadgen", &TelemetryConfig { log: "warn".to_owned(), ..TelemetryConfig::default() })?;
    // Signals are handled on a separate thread, so that a stall does not delay them.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = runtime.block_on(async { shutdown::token() });
    let stats = sink::serve(args, &stop, |address| telemetry::say(format_args!("serving on {address}")))?;
    writeln!(io::stdout(), "{}", serde_json::to_string(&stats)?)?;
    Ok(())
}

/// Exit status of a run; reports on standard error that no request was due.
fn status(summary: &LoadSummary) -> ExitCode {
    const VOID: u8 = 3;
    const NOTHING_GOOD: u8 = 4;
    if summary.total.due == 0 && !summary.stopped_early {
        telemetry::say(format_args!(
            "error: no request was due in {:.1} s; raise the rate or the duration, or use a part of the trace with invocations",
            summary.sending_s
        ));
    }
    match () {
        () if summary.void => ExitCode::from(VOID),
        () if summary.total.succeeded == 0 => ExitCode::from(NOTHING_GOOD),
        () => ExitCode::SUCCESS,
    }
}
