//! Several policies for one workload. Owns which one acts.

use std::collections::BTreeMap;

use super::{ScalingPolicy, WorkloadId};
use crate::name::FunctionId;

/// The policies that do not act because another one scales the same workload, each with that other. Of several, the one that is named like the workload acts,
/// else the first by name.
#[must_use]
pub fn superseded<'a>(policies: impl IntoIterator<Item = &'a ScalingPolicy>) -> BTreeMap<FunctionId, FunctionId> {
    let mut by_workload: BTreeMap<_, Vec<&ScalingPolicy>> = BTreeMap::new();
    for policy in policies {
        let name = FunctionId::new(policy.namespace.clone(), policy.workload_name().clone());
        by_workload.entry(WorkloadId { kind: policy.workload.kind, name }).or_default().push(policy);
    }
    let mut superseded = BTreeMap::new();
    for (workload, policies) in by_workload {
        let first = policies.iter().map(|policy| policy.function()).min_by_key(|function| (*function != workload.name, function.clone()));
        let Some(first) = first else { continue };
        let others = policies.iter().map(|policy| policy.function()).filter(|function| *function != first);
        superseded.extend(others.map(|function| (function, first.clone())));
    }
    superseded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::WorkloadKind;

    fn policy(id: &str, workload: &str, kind: WorkloadKind) -> ScalingPolicy {
        let mut policy = ScalingPolicy::new(id.parse().expect("a function"));
        policy.workload.name = Some(workload.parse().expect("a name"));
        policy.workload.kind = kind;
        policy
    }

    #[test]
    fn of_several_policies_for_a_workload_the_one_with_its_name_acts() {
        use WorkloadKind::{Deployment, Local};
        let policies = [
            policy("default/a", "fib", Local),
            policy("default/fib", "fib", Local),
            policy("default/other", "fib", Deployment),
            policy("shop/fib", "fib", Local),
            policy("default/y", "x", Local),
            policy("default/z", "x", Local),
        ];
        let found: Vec<(String, String)> =
            superseded(&policies).iter().map(|(function, by)| (function.to_string(), by.to_string())).collect();
        let expected = [("default/a", "default/fib"), ("default/z", "default/y")];
        assert_eq!(found, expected.map(|(function, by)| (function.to_owned(), by.to_owned())));
    }
}
