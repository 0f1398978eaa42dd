//! CPU and memory of the container that a function runs in. Owns how an allocation becomes requests and limits, so that the quality-of-service class and the
//! other containers of a pod stay as they are; must not send anything.
//!
//! The allocation is the limit of the container, or its request where it has no limit. A request keeps the ratio to its limit that the pod template gives it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;
use serde_json::{Value, json};

use crate::quantity;
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};

/// Annotation of pods that names the container that people mean.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
const CPU: &str = "cpu";
const MEMORY: &str = "memory";
const MIB: f64 = 1_048_576.0;

/// CPU and memory of one pod's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// CPU.
    pub cpu: Millicores,
    /// Memory.
    pub memory: Mebibytes,
}

impl Size {
    /// That of each replica of `allocation`.
    #[must_use]
    pub fn of(allocation: Allocation) -> Self {
        Self { cpu: allocation.cpu_millicores, memory: allocation.memory_mib }
    }

    /// The allocation of `replicas` of this size.
    #[must_use]
    pub fn allocation(self, replicas: Replicas) -> Allocation {
        Allocation { replicas, cpu_millicores: self.cpu, memory_mib: self.memory }
    }
}

/// How one resource is given in the template.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Given {
    /// A limit, and a request of this share of it.
    Limit(f64),
    Request,
}

/// The container of a pod template, and how it is sized.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizing {
    container: String,
    cpu: Option<Given>,
    memory: Option<Given>,
    in_place: bool,
    template: Size,
}

impl Sizing {
    /// That of a template; `None` if it has no container.
    #[must_use]
    pub fn of(template: &PodTemplateSpec) -> Option<Self> {
        let annotations = template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
        let containers = &template.spec.as_ref()?.containers;
        let named = annotations.and_then(|annotations| annotations.get(DEFAULT_CONTAINER));
        let container = named.and_then(|name| containers.iter().find(|container| container.name == *name)).or(containers.first())?;
        let restarts = container.resize_policy.iter().flatten().any(|policy| policy.restart_policy != "NotRequired");
        Some(Self {
            container: container.name.clone(),
            cpu: given(container, CPU),
            memory: given(container, MEMORY),
            in_place: !restarts,
            template: size(container).unwrap_or_default(),
        })
    }

    /// Whether both CPU and memory can be changed without a restart.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.cpu.is_some() && self.memory.is_some() && self.in_place
    }

    /// The size of a pod's container; `None` if it lacks CPU or memory.
    #[must_use]
    pub fn size(&self, pod: &Pod) -> Option<Size> {
        let containers = &pod.spec.as_ref()?.containers;
        size(containers.iter().find(|container| container.name == self.container)?)
    }

    /// The size that was requested for `pods`: the `last` one unless a pod has another one. Without a request it is the most frequent one, and without pods
    /// that of the template.
    #[must_use]
    pub fn requested<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>, last: Option<Size>) -> Size {
        let sizes: Vec<_> = pods.into_iter().filter_map(|pod| self.size(pod)).collect();
        match last {
            Some(last) => sizes.into_iter().find(|size| *size != last).unwrap_or(last),
            None => {
                let count = |size: &Size| sizes.iter().filter(|other| *other == size).count();
                sizes.iter().copied().max_by_key(count).unwrap_or(self.template)
            }
        }
    }

    /// Name of the sized container.
    #[must_use]
    pub fn container(&self) -> &str {
        &self.container
    }

    /// Requests and limits of the container at `size`, as text.
    #[must_use]
    pub fn resources(&self, size: Size) -> ContainerResources {
        let mut resources = ContainerResources::default();
        let cpu = |share: f64| format!("{}m", ((f64::from(size.cpu.0) * share).round() as u32).max(1));
        let memory = |share: f64| format!("{}Mi", ((f64::from(size.memory.0) * share).round() as u32).max(1));
        for (name, given, text) in [(CPU, self.cpu, &cpu as &dyn Fn(f64) -> String), (MEMORY, self.memory, &memory)] {
            match given {
                Some(Given::Limit(share)) => {
                    resources.limits.insert(name.to_owned(), text(1.0));
                    resources.requests.insert(name.to_owned(), text(share));
                }
                Some(Given::Request) => drop(resources.requests.insert(name.to_owned(), text(1.0))),
                None => {}
            }
        }
        resources
    }

    /// The body of a resize of `pod` to `size`, for the revision that was read.
    #[must_use]
    pub fn patch(&self, pod: &Pod, size: Size) -> Value {
        let container = json!({ "name": self.container, "resources": self.resources(size) });
        json!({ "metadata": { "resourceVersion": pod.metadata.resource_version }, "spec": { "containers": [container] } })
    }
}

/// Requests and limits of a container, by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ContainerResources {
    /// Amounts that a node must have free.
    pub requests: BTreeMap<String, String>,
    /// Largest amounts that it may use.
    pub limits: BTreeMap<String, String>,
}

fn resource(resources: Option<&ResourceRequirements>, name: &str) -> (Option<f64>, Option<f64>) {
    let value =
        |map: Option<&BTreeMap<String, Quantity>>| map.and_then(|map| map.get(name)).and_then(|amount| quantity::positive(&amount.0));
    (value(resources.and_then(|resources| resources.requests.as_ref())), value(resources.and_then(|resources| resources.limits.as_ref())))
}

fn given(container: &Container, name: &str) -> Option<Given> {
    match resource(container.resources.as_ref(), name) {
        // The API server takes a limit for the request where there is none.
        (request, Some(limit)) => Some(Given::Limit((request.unwrap_or(limit) / limit).min(1.0))),
        (Some(_), None) => Some(Given::Request),
        (None, None) => None,
    }
}

/// The limits of a container, or its requests where it has none.
fn size(container: &Container) -> Option<Size> {
    let amount = |name| match resource(container.resources.as_ref(), name) {
        (_, Some(limit)) => Some(limit),
        (request, None) => request,
    };
    Some(Size { cpu: Millicores((amount(CPU)? * 1000.0).round() as u32), memory: Mebibytes((amount(MEMORY)? / MIB).round() as u32) })
}
