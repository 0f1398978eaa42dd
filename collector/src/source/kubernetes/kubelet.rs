//! CPU and memory of the pods of a node, from its kubelet. Owns the request and its limits.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::api::core::v1::Node;
use kube::{Client, Config};
use qscale_common::runtime::clock;

use super::super::SourceError;
use super::super::exposition::syntax::{ExpositionFormat, ExpositionText};
use super::super::exposition::{ACCEPTED, ExpositionConfig, ExpositionReader};
use super::KubernetesConfig;
use crate::reading::Reading;

/// Annotation of a node that names the path of its resource metrics, as metrics-server reads it.
const PATH: &str = "metrics.k8s.io/resource-metrics-path";
/// Port of a kubelet that does not say.
const PORT: i32 = 10250;

/// Address and path of a kubelet's metrics.
pub(super) struct KubeletAddress {
    pub url: String,
    pub path: String,
}

/// Reads kubelets with the credentials of the cluster.
pub(super) struct Kubelets {
    config: Config,
    path: String,
    max_body: usize,
    timeout: Duration,
    reader: ExpositionReader,
}

impl Kubelets {
    /// Kubelets of the cluster that `config` connects to.
    pub(super) fn new(mut cluster: Config, config: &KubernetesConfig) -> Self {
        if config.insecure_kubelets {
            cluster.accept_invalid_certs = true;
            cluster.root_cert = None;
        }
        Self {
            config: cluster,
            path: config.kubelet_path.clone(),
            max_body: (config.max_body_mib as usize) << 20,
            // The other nodes must be read in time.
            timeout: config.timeout.0 * 3 / 4,
            reader: ExpositionReader::new(&ExpositionConfig::default()),
        }
    }

    /// Where the kubelet of `node` shows its metrics; `None` if the node has no address.
    pub(super) fn address(&self, node: &Node) -> Option<KubeletAddress> {
        let status = node.status.as_ref()?;
        let address = status.addresses.iter().flatten().find(|address| address.type_ == "InternalIP")?;
        let host = if address.address.contains(':') { format!("[{}]", address.address) } else { address.address.clone() };
        let port = status.daemon_endpoints.as_ref().and_then(|endpoints| endpoints.kubelet_endpoint.as_ref());
        let port = port.map_or(PORT, |endpoint| endpoint.port);
        let path = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(PATH)).unwrap_or(&self.path);
        Some(KubeletAddress { url: format!("https://{host}:{port}/"), path: path.clone() })
    }

    /// A connection to a kubelet; `None` if `url` is malformed.
    pub(super) fn connect(&self, url: &str) -> Option<Client> {
        let mut config = self.config.clone();
        config.cluster_url = url.parse().ok()?;
        Client::try_from(config).ok()
    }

    /// Measurements of the pods of a node.
    pub(super) async fn read(&self, client: &Client, path: &str) -> Result<Reading, SourceError> {
        let requested_at = clock::now();
        let fetched = tokio::time::timeout(self.timeout, self.fetch(client, path)).await.map_err(|_| SourceError::Timeout)?;
        let (body, content_type) = fetched?;
        let text = ExpositionText { body: &body, format: ExpositionFormat::of(&content_type), complete: true };
        if text.is_truncated() {
            return Err(SourceError::Truncated);
        }
        let reading = self.reader.read(text, requested_at);
        if reading.unreadable {
            return Err(SourceError::Unreadable { malformed: reading.malformed, samples: reading.samples });
        }
        Ok(reading)
    }

    async fn fetch(&self, client: &Client, path: &str) -> Result<(Bytes, Vec<u8>), SourceError> {
        let request = Request::get(path).header(header::ACCEPT, ACCEPTED);
        let request = request.body(kube::client::Body::empty()).map_err(|error| failed(error.into()))?;
        let response = client.send(request).await.map_err(|error| failed(error.into()))?;
        super::super::exposition::check(response.status(), response.headers())?;
        let content_type = response.headers().get(header::CONTENT_TYPE).map_or_else(Vec::new, |value| value.as_bytes().to_vec());
        let body =
            Limited::new(response.into_body(), self.max_body).collect().await.map_err(|error| failed(anyhow::Error::from_boxed(error)))?;
        Ok((body.to_bytes(), content_type))
    }
}

/// A failed exchange, with the causes.
fn failed(error: anyhow::Error) -> SourceError {
    SourceError::Connection(format!("{error:#}"))
}
