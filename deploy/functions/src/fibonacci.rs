//! The Fibonacci function: CPU work that grows with the square of n. Owns the sum, its range and the format of the reply.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use clap::Args;
use num_bigint::BigUint;

use crate::generator::{GeneratorArgs, NumberGenerator};
use crate::request_error::RequestError;
use crate::{grpc, workers::Workers};
use qscale_messages::{self as messages, HelloReply, HelloRequest};

/// Largest n: some seconds of work and a reply of 208,988 digits, well below 4 MiB, the default limit of gRPC clients.
pub const MAX_N: u32 = 1_000_000;

/// Default input of `helloworld.Greeter`. vSwarm's relay would send `helloWorld`, at which every Fibonacci function fails.
const DEFAULT_N: &str = "10";

/// Options of the Fibonacci function.
#[derive(Debug, Clone, Args)]
pub struct FibonacciArgs {
    /// Input of `helloworld.Greeter`.
    #[command(flatten)]
    pub generator: GeneratorArgs,
}

/// Routes of the function.
///
/// # Errors
/// When the generator's value or bounds are outside 0 to [`MAX_N`].
pub fn routes(args: &FibonacciArgs, workers: &Workers) -> anyhow::Result<Router> {
    let value = parse(args.generator.value.as_deref().unwrap_or(DEFAULT_N)).map_err(|error| anyhow::anyhow!("--value: {error}"))?;
    let numbers = Arc::new(NumberGenerator::new(&args.generator, MAX_N)?);
    let chosen = move || numbers.next().unwrap_or(value);

    let (direct, relayed, page) = (workers.clone(), workers.clone(), workers.clone());
    let chosen_for_page = chosen.clone();
    Ok(Router::new()
        .route(
            messages::FIBONACCI_SAY_HELLO,
            grpc::unary(move |request: HelloRequest| {
                let workers = direct.clone();
                async move {
                    let n = parse(&request.name)?;
                    workers.run(move || Ok(HelloReply { message: reply(n) })).await
                }
            }),
        )
        .route(
            messages::HELLOWORLD_SAY_HELLO,
            grpc::unary(move |_: HelloRequest| {
                let (workers, n) = (relayed.clone(), chosen());
                async move { workers.run(move || Ok(HelloReply { message: reply(n) })).await }
            }),
        )
        .route(
            "/",
            get(move |Query(query): Query<BTreeMap<String, String>>| async move {
                let n = query.get("n").map_or_else(|| Ok(chosen_for_page()), |n| parse(n))?;
                page.run(move || Ok(reply(n) + "\n")).await
            }),
        ))
}

/// Parses n, ignoring surrounding spaces.
///
/// # Errors
/// When the text is not a whole number from 0 to [`MAX_N`].
pub fn parse(text: &str) -> Result<u32, RequestError> {
    let n = text.trim().parse().ok().filter(|n| *n <= MAX_N);
    n.ok_or_else(|| RequestError::invalid("name", text, &format!("a whole number from 0 to {MAX_N}")))
}

/// Reply for n in vSwarm's format.
#[must_use]
pub fn reply(n: u32) -> String {
    format!("fn: Fib: y = fib(x) | x: {n} y: {} | runtime: rust", fibonacci(n))
}

/// The n-th Fibonacci number by n additions: its cost is its purpose.
#[must_use]
pub fn fibonacci(n: u32) -> BigUint {
    let (mut current, mut next) = (BigUint::ZERO, BigUint::from(1_u8));
    for _ in 0..n {
        current += &next;
        std::mem::swap(&mut current, &mut next);
    }
    current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(n: u32, expected: &str) {
        assert_eq!(fibonacci(n).to_string(), expected, "fib({n})");
    }

    #[test]
    fn known_numbers_are_computed() {
        check(0, "0");
        check(1, "1");
        check(2, "1");
        check(10, "55");
        check(93, "12200160415121876738");
        check(94, "19740274219868223167");
        check(300, "222232244629420445529739893461909967206666939096499764990979600");
    }

    #[test]
    fn a_large_number_has_the_digits_that_binet_predicts() {
        assert_eq!(fibonacci(10_000).to_string().len(), 2090);
    }

    #[test]
    fn the_reply_has_vswarms_format() {
        assert_eq!(reply(10), "fn: Fib: y = fib(x) | x: 10 y: 55 | runtime: rust");
    }

    #[test]
    fn only_whole_numbers_in_range_are_accepted() {
        assert_eq!(parse(" 17 "), Ok(17));
        assert_eq!(parse("1000000"), Ok(MAX_N));
        for bad in ["", "ten", "-1", "1.5", "1000001", "99999999999999999999", "NaN", "0x10"] {
            let request_error = parse(bad).expect_err(bad);
            assert!(request_error.to_string().contains(&format!("`{bad}`")), "{request_error}");
        }
    }
}
