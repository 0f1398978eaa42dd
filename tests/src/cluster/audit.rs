//! Requests of service accounts in the audit log of a [`Cluster`], and the rights that its roles grant them. Owns the policy of the log and the comparison.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Cluster;

/// The log, in the folder of the cluster.
pub(super) const LOG: &str = "audit.log";
/// Group of the service accounts of a namespace.
const ACCOUNTS: &str = "system:serviceaccounts:qscale-system";

/// A verb on a resource of an API group; a subresource follows its resource after a slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group; empty for the core group.
    pub group: String,
    /// Resource, such as `deployments/scale`.
    pub resource: String,
    /// Verb, such as `list`.
    pub verb: String,
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, resource, verb } = self;
        if group.is_empty() { write!(f, "{verb} {resource}") } else { write!(f, "{verb} {resource}.{group}") }
    }
}

/// Requests of a service account.
#[derive(Debug, Default)]
pub struct AuditedRequests {
    /// Rights that were used, with the number of requests.
    pub used: BTreeMap<Right, u32>,
    /// Requests that the API server refused for want of a right, and never accepted. One that starts refuses some before it has read the roles.
    pub forbidden: BTreeSet<String>,
}

/// Policy of the log: requests of the services, and reviews of their rights by kubelets, which serve their own metrics.
pub(super) fn policy() -> Value {
    let reviews = json!([{ "group": "authorization.k8s.io", "resources": ["subjectaccessreviews"] }]);
    let rules = json!([
        { "level": "Metadata", "userGroups": [ACCOUNTS] },
        { "level": "RequestResponse", "resources": reviews },
        { "level": "None" },
    ]);
    json!({ "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules })
}

/// `resource` or `resource/subresource`.
fn resource(reference: &Value) -> String {
    let resource = reference["resource"].as_str().unwrap_or_default();
    match reference["subresource"].as_str() {
        Some(subresource) if !subresource.is_empty() => format!("{resource}/{subresource}"),
        _ => resource.to_owned(),
    }
}

impl Cluster {
    /// Requests that the service account `account` of the namespace `qscale-system` has made so far. Discovery and other paths without a resource need no right.
    ///
    /// # Panics
    /// When the audit log cannot be read.
    #[must_use]
    pub fn requests_of(&self, account: &str) -> AuditedRequests {
        let user = format!("system:serviceaccount:qscale-system:{account}");
        let text = std::fs::read_to_string(self.path(LOG)).expect("an audit log");
        let (mut found, mut accepted, mut refused) = (AuditedRequests::default(), BTreeSet::new(), BTreeSet::new());
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            // Only the kubelet knows of a request to it. It asks the API server whether it is allowed.
            let review = &event["responseObject"];
            let (reference, verb, allowed) = if event["user"]["username"] == user.as_str() && event["objectRef"]["resource"].is_string() {
                (&event["objectRef"], &event["verb"], event["responseStatus"]["code"] != 403)
            } else if review["kind"] == "SubjectAccessReview" && review["spec"]["user"] == user.as_str() {
                let attributes = &review["spec"]["resourceAttributes"];
                (attributes, &attributes["verb"], review["status"]["allowed"] == true)
            } else {
                continue;
            };
            let group = reference["apiGroup"].as_str().or_else(|| reference["group"].as_str()).unwrap_or_default().to_owned();
            let right = Right { group, resource: resource(reference), verb: verb.as_str().unwrap_or_default().to_owned() };
            // The API server refuses a resize that no node can ever do with the same status as a missing right.
            let reason = event["annotations"]["authorization.k8s.io/decision"].as_str();
            let object = ["namespace", "name"].map(|field| reference[field].as_str().unwrap_or_default().to_owned());
            if allowed || reason == Some("allow") {
                accepted.insert((right.clone(), object));
                *found.used.entry(right).or_default() += 1;
            } else {
                refused.insert((right, object));
            }
        }
        found.forbidden = refused.difference(&accepted).map(|(right, object)| format!("{right} {object:?}")).collect();
        found
    }

    /// Rights that roles of the cluster grant the service account `account` of the namespace `qscale-system` itself.
    ///
    /// # Panics
    /// When a role is missing.
    #[must_use]
    pub fn rights_of(&self, account: &str) -> BTreeSet<Right> {
        let mut rights = BTreeSet::new();
        let bindings = self.get(&["clusterrolebindings,rolebindings", "--all-namespaces"]);
        let is_own = |binding: &&Value| {
            let subjects = binding["subjects"].as_array().into_iter().flatten();
            subjects.into_iter().any(|subject| subject["name"] == account && subject["namespace"] == "qscale-system")
        };
        for binding in bindings["items"].as_array().into_iter().flatten().filter(is_own) {
            let (kind, name) = (&binding["roleRef"]["kind"], binding["roleRef"]["name"].as_str().expect("a name"));
            let role = match binding["metadata"]["namespace"].as_str() {
                Some(namespace) if kind == "Role" => self.get(&["role", name, "--namespace", namespace]),
                _ => self.get(&["clusterrole", name]),
            };
            for rule in role["rules"].as_array().into_iter().flatten() {
                let texts = |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
                for group in texts("apiGroups") {
                    for resource in texts("resources") {
                        rights.extend(texts("verbs").map(|verb| Right { group: group.clone(), resource: resource.clone(), verb }));
                    }
                }
            }
        }
        rights
    }
}
