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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_and_field_of_a_load_is_an_argument() {
        let load = LoadPlan {
            pattern: "constant:5".to_owned(),
            gaps: Gaps::Constant,
            request: RequestForm { protocol: "direct:fibonacci".to_owned(), inputs: vec!["name=9".to_owned()] },
            duration: Some(Span::seconds(3)),
            seed: 7,
        };
        let functions: Vec<FunctionId> = ["one", "two"].map(|name| name.parse().expect("a name")).into();
        let arguments = load.arguments("127.0.0.1:1", &functions);
        let given = [
            "--target=127.0.0.1:1",
            "--function=default/one",
            "--function=default/two",
            "--protocol=direct:fibonacci",
            "--input=name=9",
            "--rate=constant:5",
            "--gaps=constant",
            "--seed=7",
            "--for=3s",
        ];
        for argument in given {
            assert!(arguments.iter().any(|other| other == argument), "{argument} in {arguments:?}");
        }
        assert!(LoadPlan::default().arguments("x:1", []).iter().any(|argument| argument.starts_with("--for=")), "it runs until stopped");
    }
}
