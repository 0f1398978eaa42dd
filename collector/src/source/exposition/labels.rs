//! Names of the labels of an exposition. Owns their defaults.

use serde::{Deserialize, Serialize};

/// Names of the labels of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelNames {
    /// Namespace of the function.
    pub namespace: String,
    /// Name of the workload. A sample without it belongs to the workload of its replica, if another sample names that.
    pub function: String,
    /// Name of the replica.
    pub replica: String,
    /// Name of a container within the replica; empty or missing where a sample is the sum over a pod.
    pub container: String,
    /// Cgroup of a container.
    pub container_id: String,
    /// Name of a container in its runtime.
    pub runtime_name: String,
    /// HTTP status of a response: a number, or a class such as `5xx` or `5`.
    pub http_status: String,
    /// gRPC status of a response: a number, or a name such as `NOT_FOUND`.
    pub grpc_status: String,
}

impl Default for LabelNames {
    fn default() -> Self {
        Self {
            namespace: "namespace".into(),
            function: "function".into(),
            replica: "pod".into(),
            container: "container".into(),
            container_id: "id".into(),
            runtime_name: "name".into(),
            http_status: "http_response_status_code".into(),
            grpc_status: "rpc_grpc_status_code".into(),
        }
    }
}
