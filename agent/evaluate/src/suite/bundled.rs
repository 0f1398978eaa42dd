//! The bundled suites. Owns their texts.

/// A bundled suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundledSuite {
    /// Its name.
    pub name: &'static str,
    /// Its text, TOML.
    pub text: &'static str,
}

/// All bundled suites; the first is for patterns, the second for traces.
pub const BUNDLED: [BundledSuite; 3] = [
    BundledSuite { name: "synthetic", text: include_str!("../../suites/synthetic.toml") },
    BundledSuite { name: "trace", text: include_str!("../../suites/trace.toml") },
    BundledSuite { name: "steady", text: include_str!("../../suites/steady.toml") },
];

/// Rules and grids that a model in training is compared with, TOML: the list `competitors` of a suite.
pub const TRAINING_RULES: &str = include_str!("../../suites/training-rules.toml");

#[cfg(test)]
mod tests {
    use qscale_common::document::Format;

    use super::*;
    use crate::policy_set::{PolicySet, RulePolicies};
    use crate::suite::{Suite, SuiteFilter};

    #[test]
    fn every_suite_can_be_run_with_all_its_settings() {
        for BundledSuite { name, text } in BUNDLED {
            let suite = Suite::parse(text, Format::Toml).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(suite.name.as_str(), name);
            // The learned policy needs a model, which this crate does not have.
            for entry in suite.competitors.iter().filter(|entry| !entry.policy.starts_with("dqn")) {
                for setting in entry.settings().expect("a grid") {
                    let made = RulePolicies.policy(&entry.policy, &setting, None);
                    made.unwrap_or_else(|error| panic!("{name}: {}: {error}", entry.called()));
                }
            }
            suite.narrowed(&SuiteFilter { quick: true, ..SuiteFilter::default() }).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn a_filter_restricts_a_suite() {
        let suite = || Suite::parse(BUNDLED[0].text, Format::Toml).expect("a suite");
        assert_eq!(suite().evaluation_cells().len(), 3 * (7 + 7));
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let filter = SuiteFilter {
            policies: texts(&["kpa", "hpa:cpu_utilization=50,behavior.scale_down.stabilization_window=60s"]),
            workloads: texts(&["diurnal"]),
            perturbations: texts(&["none", "payload"]),
            seeds: Some(4),
            ..SuiteFilter::default()
        };
        let less = suite().narrowed(&filter).expect("a suite").with_natural_ticks(&RulePolicies);
        assert_eq!((less.seeds, less.evaluation_cells().len()), (4, 6));
        assert_eq!(less.competitors[1].params["behavior"]["scale_down"]["stabilization_window"], "60s");
        assert_eq!(less.competitors[1].params["cpu_utilization"], 50);
        assert_eq!(less.competitors[0].tick.map(|tick| tick.millis()), Some(1000));
        let outside = SuiteFilter { workloads: texts(&["step"]), perturbations: texts(&["lag-55s"]), ..SuiteFilter::default() };
        let names: Vec<_> =
            suite().narrowed(&outside).expect("a suite").evaluation_cells().into_iter().map(|cell| cell.report.name).collect();
        assert_eq!(names, ["fibonacci/step/lag-55s", "sleeping/step/lag-55s", "computing/step/lag-55s"]);
        let trace = BUNDLED.iter().find(|suite| suite.name == "trace").expect("bundled");
        let trace = Suite::parse(trace.text, Format::Toml).expect("a suite");
        let named = SuiteFilter { perturbations: texts(&["none", "vertical"]), ..SuiteFilter::default() };
        let cells = trace.narrowed(&named).expect("a suite").cells;
        assert!(["none", "vertical"].iter().all(|name| cells.iter().any(|cell| cell.holds("", "", name))), "{cells:?}");
        let error = suite().narrowed(&SuiteFilter { workloads: texts(&["weekly"]), ..SuiteFilter::default() }).expect_err("refused");
        assert!(error.to_string().contains("`weekly`, must be one of constant, diurnal"), "{error}");
        let labelled = texts(&["a=hpa", "b=hpa:cpu_utilization=50", "hpa:cpu_utilization=50"]);
        let labelled = suite().narrowed(&SuiteFilter { policies: labelled, ..SuiteFilter::default() }).expect("a suite").competitors;
        let called: Vec<_> = labelled.iter().map(|entry| (entry.called(), entry.policy.as_str())).collect();
        assert_eq!(called, [("a", "hpa"), ("b", "hpa"), ("hpa:cpu_utilization=50", "hpa")]);
        assert_eq!(labelled[1].params, labelled[2].params);
        let error = suite().narrowed(&SuiteFilter { policies: texts(&["hpa:fast"]), ..SuiteFilter::default() }).expect_err("refused");
        assert!(error.to_string().contains("`fast`"), "{error}");
    }
}
