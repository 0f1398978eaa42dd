//! `qscale-function`: one of the functions as a process.

use anyhow::Context;
use clap::{Parser, Subcommand};
use qscale_functions::aes::{self, AesArgs};
use qscale_functions::faas::{self, FaasArgs};
use qscale_functions::fibonacci::{self, FibonacciArgs};
use qscale_functions::serve::{self, ServeArgs};

/// Functions to run and scale, with vSwarm's and InVitro's gRPC messages.
///
/// One port serves gRPC (HTTP/2 without TLS) and HTTP/1.1. Every function serves its own method,
/// helloworld.Greeter/SayHello like vSwarm's relay (with generated inputs), GET / with the input as query, GET
/// /healthz, GET /metrics, and grpc.health.v1.Health/Check. SIGTERM ends it after the requests in flight.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    function: FunctionCommand,
}

const EXAMPLES: &str = "Examples:
  qscale-function fibonacci --port 50051
      fibonacci.Greeter/SayHello {name: \"10\"}; helloworld.Greeter computes fib(10) too
  qscale-function fibonacci --generator linear --lowerBound 1000 --upperBound 2000
      helloworld.Greeter computes fib(1000), fib(1001), ... in turn
  qscale-function faas --workers 4 --start-delay 2s
      a slow start, then four concurrent requests; try  curl 'http://127.0.0.1:50051/?runtimeInMilliSec=100'";

#[derive(Debug, Subcommand)]
enum FunctionCommand {
    /// Computes Fibonacci numbers: CPU work that grows with the square of n.
    Fibonacci {
        #[command(flatten)]
        function: FibonacciArgs,
        #[command(flatten)]
        serve: ServeArgs,
    },
    /// Encrypts a text with AES in counter mode: short CPU work.
    Aes {
        #[command(flatten)]
        function: AesArgs,
        #[command(flatten)]
        serve: ServeArgs,
    },
    /// Uses CPU time and memory as requested: faas.Executor/Execute.
    Faas {
        #[command(flatten)]
        function: FaasArgs,
        #[command(flatten)]
        serve: ServeArgs,
    },
}

fn main() -> anyhow::Result<()> {
    let (name, routes, serve) = match Arguments::parse().function {
        FunctionCommand::Fibonacci { function, serve } => ("fibonacci", fibonacci::routes(&function, &serve.workers())?, serve),
        FunctionCommand::Aes { function, serve } => ("aes", aes::routes(&function, &serve.workers())?, serve),
        FunctionCommand::Faas { function, serve } => ("faas", faas::routes(&function, &serve.workers())?, serve),
    };
    // One thread for the network, and the workers' threads for computing: a replica often has less than one core.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(usize::from(serve.workers) + 1)
        .build()
        .context("failed to start the runtime")?;
    let result = runtime.block_on(serve::serve(routes, name, &serve));
    runtime.shutdown_background();
    result
}
