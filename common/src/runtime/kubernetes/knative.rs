//! Services of Knative, as the Deployments and pods of their revisions show them. Owns which revision serves; must not write.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ObjectMeta;

/// Label of the objects of a revision: the name of its Service.
pub const SERVICE: &str = "serving.knative.dev/service";
/// Port and path at which the proxy in each pod of a Service shows the requests.
pub const METRICS: (u16, &str) = (9091, "/metrics");
/// Label of the objects of a revision: its name.
const REVISION: &str = "serving.knative.dev/revision";
/// Label of the objects of a revision: its number among those of its Service.
const GENERATION: &str = "serving.knative.dev/configurationGeneration";

fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// Name of the Service of a Deployment or pod; `None` if it belongs to none.
#[must_use]
pub fn service(metadata: &ObjectMeta) -> Option<&str> {
    label(metadata, SERVICE)
}

/// Name of the revision of a Deployment or pod.
#[must_use]
pub fn revision(metadata: &ObjectMeta) -> Option<&str> {
    label(metadata, REVISION)
}

/// Order of the Deployments of a Service. The last one serves: the newest with ready replicas, or else the newest.
fn rank(deployment: &Deployment) -> (bool, u64) {
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas);
    let generation = label(&deployment.metadata, GENERATION).and_then(|number| number.parse().ok());
    (ready > Some(0), generation.unwrap_or_default())
}

/// The Deployment that serves `name` in `namespace`, of `deployments`.
pub fn serving<'a>(deployments: impl IntoIterator<Item = &'a Arc<Deployment>>, namespace: &str, name: &str) -> Option<&'a Arc<Deployment>> {
    let own = |deployment: &&Arc<Deployment>| {
        deployment.metadata.namespace.as_deref() == Some(namespace) && service(&deployment.metadata) == Some(name)
    };
    deployments.into_iter().filter(own).max_by_key(|deployment| rank(deployment))
}

/// Removes the Deployments of revisions that do not serve.
pub fn retain_serving(deployments: &mut Vec<Arc<Deployment>>) {
    let mut newest: HashMap<(String, String), (bool, u64)> = HashMap::new();
    let key = |deployment: &Deployment| {
        Some((deployment.metadata.namespace.clone().unwrap_or_default(), service(&deployment.metadata)?.to_owned()))
    };
    for deployment in deployments.iter() {
        if let Some(service) = key(deployment) {
            let newest = newest.entry(service).or_default();
            *newest = rank(deployment).max(*newest);
        }
    }
    deployments.retain(|deployment| key(deployment).is_none_or(|service| newest.get(&service) == Some(&rank(deployment))));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(name: &str, service: Option<&str>, generation: &str, ready: Option<i32>) -> Arc<Deployment> {
        let labels = service.map(|service| json!({ SERVICE: service, GENERATION: generation, REVISION: name }));
        let metadata = json!({ "namespace": "shop", "name": name, "labels": labels });
        Arc::new(serde_json::from_value(json!({ "metadata": metadata, "status": { "readyReplicas": ready } })).expect("a Deployment"))
    }

    #[track_caller]
    fn check(mut deployments: Vec<Arc<Deployment>>, expected: &[&str]) {
        let own = serving(&deployments, "shop", "fib").and_then(|serving| serving.metadata.name.clone());
        retain_serving(&mut deployments);
        let kept: Vec<_> = deployments.iter().filter_map(|deployment| deployment.metadata.name.as_deref()).collect();
        assert_eq!(kept, expected);
        assert_eq!(own.as_deref(), expected.iter().find(|name| name.starts_with("fib")).copied());
    }

    #[test]
    fn the_newest_revision_with_ready_replicas_serves() {
        let of = |name, generation, ready| deployment(name, Some("fib"), generation, ready);
        check(vec![of("fib-1", "1", Some(2)), of("fib-2", "2", None)], &["fib-1"]);
        check(vec![of("fib-9", "9", Some(2)), of("fib-10", "10", Some(1))], &["fib-10"]);
        check(vec![of("fib-1", "1", None), of("fib-2", "2", Some(0)), deployment("web", None, "", None)], &["fib-2", "web"]);
        check(vec![deployment("aes-1", Some("aes"), "1", None)], &["aes-1"]);
    }
}
