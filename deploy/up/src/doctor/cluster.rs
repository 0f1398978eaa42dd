//! Checks of a Kubernetes cluster with the chart: its version, the pods of the services, their rights, and the ScalingPolicy objects. Owns what is asked of
//! kubectl and how its answers are judged.

use std::collections::BTreeMap;

use anyhow::Context as _;
use qscale_common::document::{self, Format};
use qscale_common::name::{FunctionId, Name};
use serde::Deserialize;
use serde_json::{Value, json};

use super::report::{CheckedItem, Report};

/// The first minor version of Kubernetes 1 in which pods are resized in place without a feature gate.
const RESIZES_FROM: u32 = 35;
/// Label of the pods of the chart, and the label with the name of their service.
const PODS: &str = "app.kubernetes.io/name=qscale";
const COMPONENT: &str = "app.kubernetes.io/component";
/// Services with rights, and the roles of the chart.
const ROLES: [(&str, &str); 2] = [
    ("actuator", include_str!("../../../cluster/chart/files/actuator-role.yaml")),
    ("collector", include_str!("../../../cluster/chart/files/collector-role.yaml")),
];
/// Path of the API that lists the rights of its caller.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
/// Conditions of a ScalingPolicy that are reported, each with the status that is good and the remedy.
const CONDITIONS: [(&str, &str, &str); 5] = [
    ("Ready", "True", "change the object; `kubectl describe scp` shows it"),
    ("Conflict", "False", "delete the other autoscaler or policy; `qscale import` makes a policy of it"),
    ("ResizePending", "False", "lower bounds.cpu_millicores.max or bounds.memory_mib.max, or add a node"),
    ("ReplicasPending", "False", "raise the quota, add a node, or lower bounds.replicas.max"),
    ("NoLatencySource", "False", "name an endpoint in spec.metrics, or add a Prometheus source to the collector"),
];

/// Runs kubectl with arguments and an input, and returns its output.
pub type RunKubectl<'a> = &'a dyn Fn(&[&str], &str) -> anyhow::Result<String>;

/// Rules of a role, or of an account.
#[derive(Debug, Default, Deserialize)]
struct Rule {
    #[serde(default, rename = "apiGroups")]
    groups: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
}

/// Every check of the chart in `namespace`.
pub fn examine(report: &mut Report, namespace: &str, kubectl: RunKubectl<'_>) {
    let Some(()) = version(report, kubectl) else { return };
    services(report, namespace, kubectl);
    for (service, role) in ROLES {
        rights(report, namespace, service, role, kubectl);
    }
    policies(report, kubectl);
}

fn ask(kubectl: RunKubectl<'_>, arguments: &[&str], input: &str) -> anyhow::Result<Value> {
    serde_json::from_str(&kubectl(arguments, input)?).context("the answer of kubectl is no JSON")
}

/// The version of the API server; `None` if it does not answer.
fn version(report: &mut Report, kubectl: RunKubectl<'_>) -> Option<()> {
    const CHECK: &str = "cluster";
    let answer = match ask(kubectl, &["version", "--output=json"], "") {
        Ok(answer) => answer,
        Err(error) => {
            report.fail(CHECK, format!("{error:#}"), "check the context and the credentials with `kubectl get nodes`");
            return None;
        }
    };
    let server = &answer["serverVersion"];
    let number = |field: &str| server[field].as_str()?.trim_end_matches('+').parse::<u32>().ok();
    let found = server["gitVersion"].as_str().unwrap_or_default();
    if (number("major"), number("minor")) >= (Some(1), Some(RESIZES_FROM)) {
        report.pass(CHECK, format!("Kubernetes {found}"));
    } else {
        let fix = format!("use Kubernetes 1.{RESIZES_FROM} or later");
        report.fail(CHECK, format!("Kubernetes {found}, which may not resize pods in place"), fix);
    }
    Some(())
}

fn services(report: &mut Report, namespace: &str, kubectl: RunKubectl<'_>) {
    let pods = match ask(kubectl, &["get", "pods", "--selector", PODS, "--output=json"], "") {
        Ok(pods) => pods,
        Err(error) => return report.fail("services", format!("{error:#}"), "ask for the right to list pods"),
    };
    let mut services: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        services.entry(pod["metadata"]["labels"][COMPONENT].as_str().unwrap_or_default()).or_default().push(pod);
    }
    if services.is_empty() {
        let found = format!("no pods of the chart in namespace {namespace}");
        report.fail("services", found, "install the chart, or name its namespace with --context-namespace");
    }
    for (service, pods) in services {
        let waiting: Vec<String> = pods.iter().filter_map(|pod| waiting(pod)).collect();
        let (check, ready) = (format!("service {service}"), pods.len() - waiting.len());
        let fix = format!("see `kubectl describe pods` and `kubectl logs` with --namespace {namespace} --selector {COMPONENT}={service}");
        let found = format!("{ready} of {} pods ready: {}", pods.len(), waiting.join(", "));
        match ready {
            _ if waiting.is_empty() => report.pass(check, format!("{ready} of {ready} pods ready")),
            0 => report.fail(check, found, fix),
            _ => report.warn(check, found, fix),
        }
    }
}

/// Name of a pod that is not ready, and why, if kubectl shows it.
fn waiting(pod: &Value) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    if conditions.clone().any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
        return None;
    }
    let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let why = containers.filter_map(|container| container["state"]["waiting"]["reason"].as_str()).next();
    let unscheduled =
        || conditions.filter(|condition| condition["type"] == "PodScheduled").find_map(|condition| condition["message"].as_str());
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    Some(match why.or_else(unscheduled) {
        Some(why) => format!("{name} ({why})"),
        None => name.to_owned(),
    })
}

/// Compares the rights of the account of `service` with its `role`, as the chart has it.
fn rights(report: &mut Report, namespace: &str, service: &str, role: &str, kubectl: RunKubectl<'_>) {
    let check = format!("rights of {service}");
    let account = format!("system:serviceaccount:{namespace}:qscale-{service}");
    let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": { "namespace": namespace } });
    let request = ["create", "--raw", REVIEWS, "--filename=-", "--as", &account];
    let granted = ask(kubectl, &request, &review.to_string())
        .and_then(|answer| Ok(serde_json::from_value::<Vec<Rule>>(answer["status"]["resourceRules"].clone())?));
    let granted = match granted {
        Ok(granted) => granted,
        Err(error) => return report.warn(check, format!("not known: {error:#}"), "ask for the right to impersonate service accounts"),
    };
    let rules = rules(role);
    let wanted = rights_of(&rules);
    let missing: Vec<String> = wanted.iter().filter(|right| !right.is_in(&granted)).map(ToString::to_string).collect();
    if missing.is_empty() {
        report.pass(check, format!("all {} of them", wanted.len()));
    } else {
        let fix = format!("install the chart again, or apply deploy/cluster/chart/files/{service}-role.yaml");
        report.fail(check, format!("missing: {}", missing.join(", ")), fix);
    }
}

/// A verb on a resource of an API group.
struct Right<'a> {
    group: &'a str,
    resource: &'a str,
    verb: &'a str,
}

impl Right<'_> {
    fn is_in(&self, rules: &[Rule]) -> bool {
        let has = |list: &[String], item: &str| list.iter().any(|one| one == "*" || one == item);
        rules.iter().any(|rule| has(&rule.groups, self.group) && has(&rule.resources, self.resource) && has(&rule.verbs, self.verb))
    }
}

impl std::fmt::Display for Right<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, resource, verb } = self;
        write!(f, "{verb} {resource}")?;
        if group.is_empty() { Ok(()) } else { write!(f, ".{group}") }
    }
}

/// The rules of the roles in a file.
fn rules(role: &str) -> Vec<Rule> {
    let sections = document::sections(role, Format::Yaml);
    let parsed = sections.iter().filter_map(|section| document::parse_value(section.text, Format::Yaml).ok());
    parsed.filter_map(|object| serde_json::from_value::<Vec<Rule>>(object["rules"].clone()).ok()).flatten().collect()
}

/// The rights that `rules` grant.
fn rights_of(rules: &[Rule]) -> Vec<Right<'_>> {
    let mut rights = Vec::new();
    for rule in rules {
        for (group, resource) in rule.groups.iter().flat_map(|group| rule.resources.iter().map(move |resource| (group, resource))) {
            rights.extend(rule.verbs.iter().map(|verb| Right { group, resource, verb }));
        }
    }
    rights
}

fn policies(report: &mut Report, kubectl: RunKubectl<'_>) {
    let objects = match ask(kubectl, &["get", "scalingpolicies.qscale.dev", "--all-namespaces", "--output=json"], "") {
        Ok(objects) => objects,
        Err(error) => return report.fail("policy objects", format!("{error:#}"), "install the chart, which has the custom resource"),
    };
    let objects = objects["items"].as_array().map_or(&[][..], Vec::as_slice);
    report.pass("policy objects", format!("{} in the cluster", objects.len()));
    for object in objects {
        let name = |field: &str| Name::new(object["metadata"][field].as_str()?).ok();
        let Some(function) = name("namespace").zip(name("name")).map(|(namespace, name)| FunctionId::new(namespace, name)) else {
            continue;
        };
        let item = CheckedItem::of("policy object", &function);
        let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        if conditions.is_empty() {
            report.fail(item, "no actuator has seen it", "check the service actuator, and platform.namespaces of its configuration");
            continue;
        }
        let state = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind);
        let bad = CONDITIONS.iter().find_map(|(kind, good, fix)| Some((*kind, state(kind).filter(|is| is["status"] != *good)?, *fix)));
        match bad {
            Some((kind, condition, fix)) => {
                let text = |field: &str| condition[field].as_str().unwrap_or_default();
                let found = format!("{kind} is {}: {}: {}", text("status"), text("reason"), text("message"));
                if kind == "Ready" { report.fail(item, found, fix) } else { report.warn(item, found, fix) }
            }
            None => report.pass(item, state("Acting").and_then(|acting| acting["reason"].as_str()).unwrap_or("Ready").to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings for answers by the first argument of kubectl, as lines.
    fn findings(answers: &[(&str, Value)]) -> Vec<String> {
        let mut report = Report::default();
        examine(&mut report, "qscale-system", &|arguments, _| {
            let found = answers.iter().find(|(part, _)| arguments.iter().any(|argument| argument.contains(part)));
            found.map(|(_, answer)| answer.to_string()).context("refused")
        });
        report.findings().iter().map(|finding| format!("{:?} {}: {}", finding.verdict, finding.check, finding.found)).collect()
    }

    fn server(minor: &str) -> Value {
        json!({ "serverVersion": { "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0") } })
    }

    #[test]
    fn a_cluster_that_does_not_answer_is_asked_nothing_else() {
        assert_eq!(findings(&[]), ["Failed cluster: refused"]);
    }

    #[test]
    fn each_problem_is_found() {
        let pod = |name: &str, component: &str, status: Value| json!({ "metadata": { "name": name, "labels": { "app.kubernetes.io/component": component } }, "status": status });
        let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        let crashing = json!({ "containerStatuses": [{ "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] });
        let pods = [pod("a-1", "actuator", ready.clone()), pod("a-2", "actuator", crashing.clone()), pod("c-1", "collector", crashing)];
        let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status, "reason": "Why", "message": "because" });
        let policy = |name: &str, conditions: Value| json!({ "metadata": { "namespace": "shop", "name": name }, "status": { "conditions": conditions } });
        let policies = [
            policy("good", json!([condition("Ready", "True"), condition("Conflict", "False"), condition("Acting", "True")])),
            policy("bad", json!([condition("Ready", "False"), condition("Conflict", "True")])),
            policy("fought", json!([condition("Ready", "True"), condition("Conflict", "True")])),
            policy("new", json!([])),
        ];
        let some = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["list", "watch", "get"] }]);
        let found = findings(&[
            ("version", server("34+")),
            ("pods", json!({ "items": pods })),
            ("qscale-actuator", json!({ "status": { "resourceRules": some.clone() } })),
            ("qscale-collector", json!({ "status": { "resourceRules": some } })),
            ("scalingpolicies", json!({ "items": policies })),
        ]);
        assert_eq!(
            found,
            [
                "Failed cluster: Kubernetes v1.34+.0, which may not resize pods in place",
                "Warning service actuator: 1 of 2 pods ready: a-2 (CrashLoopBackOff)",
                "Failed service collector: 0 of 1 pods ready: c-1 (CrashLoopBackOff)",
                "Failed rights of actuator: missing: update deployments/scale.apps, update statefulsets/scale.apps, patch pods/resize, patch podautoscalers.autoscaling.internal.knative.dev, patch revisions.serving.knative.dev, patch scalingpolicies.qscale.dev, patch scalingpolicies/status.qscale.dev, create events.events.k8s.io, patch events.events.k8s.io, create leases.coordination.k8s.io, update leases.coordination.k8s.io",
                "Passed rights of collector: all 9 of them",
                "Passed policy objects: 4 in the cluster",
                "Passed policy object shop/good: Why",
                "Failed policy object shop/bad: Ready is False: Why: because",
                "Warning policy object shop/fought: Conflict is True: Why: because",
                "Failed policy object shop/new: no actuator has seen it",
            ]
        );
    }

    #[test]
    fn what_may_not_be_asked_is_a_warning_or_a_failure_with_its_reason() {
        let found = findings(&[("version", server("37")), ("pods", json!({ "items": [] }))]);
        assert_eq!(found[0], "Passed cluster: Kubernetes v1.37.0");
        assert_eq!(found[1], "Failed services: no pods of the chart in namespace qscale-system");
        assert_eq!(found[2], "Warning rights of actuator: not known: refused");
        assert_eq!(found[4], "Failed policy objects: refused");
    }
}
