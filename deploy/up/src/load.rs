//! The load of a run. Owns how it is passed to the load generator; sends nothing.

use qscale_common::name::FunctionId;
use qscale_common::time::Span;
use qscale_common::workload::Gaps;

/// Duration of a load that runs until it is stopped.
const UNTIL_STOPPED: Span = Span::seconds(365 * 24 * 3600);

/// Protocol and content of requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestForm {
    /// Protocol of the load generator.
    pub protocol: String,
    /// Fields of a request, `name=value`.
    pub inputs: Vec<String>,
}

/// A load that the load generator sends.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadPlan {
    /// Rate over time, a pattern.
    pub pattern: String,
    /// Gaps between requests.
    pub gaps: Gaps,
    /// The requests.
    pub request: RequestForm,
    /// Length of the load; until it is stopped where it is `None`.
    pub duration: Option<Span>,
    /// Seed of the arrivals.
    pub seed: u64,
}

impl LoadPlan {
    /// Arguments of the load generator that send this load to each of `functions` through the gateway at `target`.
    pub fn arguments<'a>(&self, target: &str, functions: impl IntoIterator<Item = &'a FunctionId>) -> Vec<String> {
        let mut arguments = vec!["run".to_owned(), "--json".into(), "--quiet".into(), format!("--target={target}"), "--spread=each".into()];
        arguments.extend(functions.into_iter().map(|function| format!("--function={function}")));
        arguments.extend(self.request.inputs.iter().map(|input| format!("--input={input}")));
        arguments.extend([
            format!("--protocol={}", self.request.protocol),
            format!("--rate={}", self.pattern),
            format!("--gaps={}", self.gaps),
            format!("--seed={}", self.seed),
            format!("--for={}", self.duration.unwrap_or(UNTIL_STOPPED)),
        ]);
        arguments
    }
}
