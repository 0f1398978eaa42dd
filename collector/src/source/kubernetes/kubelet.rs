//! CPU and memory of the pods of a node, from its kubelet. Owns the request and its limits.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::api::core::v1::Node;
use kube::{Client, Config, ResourceExt as _};
use qscale_common::runtime::clock;

use super::super::SourceError;
use super::super::exposition::syntax::{ExpositionFormat, ExpositionText};
use super::super::exposition::{ACCEPTED, ExpositionConfig, ExpositionReader};
use super::KubernetesConfig;
use super::sweep::Sweep;
use crate::reading::Reading;

/// Annotation of a node that names the path of its resource metrics, as metrics-server reads it.
const PATH: &str = "metrics.k8s.io/resource-metrics-path";
/// Port of a kubelet that does not say.
const PORT: i32 = 10250;

/// Address and path of a kubelet's metrics.
struct KubeletAddress {
    url: String,
    path: String,
}

/// Reads kubelets with the credentials of the cluster.
pub(super) struct Kubelets {
    config: Config,
    path: String,
    /// Connections by address.
    connections: HashMap<String, Client>,
    reader: Arc<KubeletReader>,
    sweep: Sweep<Reading>,
}

/// Reads one kubelet.
struct KubeletReader {
    max_body: usize,
    reader: ExpositionReader,
}

impl Kubelets {
    /// Kubelets of the cluster that `config` connects to.
    pub(super) fn new(mut cluster: Config, config: &KubernetesConfig) -> Self {
        // The authority of the cluster stays, which is not asked then: without one, the system would need authorities.
        cluster.accept_invalid_certs |= config.insecure_kubelets;
        let max_body = (config.max_body_mib as usize) << 20;
        let reader = KubeletReader { max_body, reader: ExpositionReader::new(&ExpositionConfig::default()) };
        Self {
            config: cluster,
            path: config.kubelet_path.clone(),
            connections: HashMap::new(),
            reader: Arc::new(reader),
            sweep: Sweep::new("CPU and memory of nodes", config),
        }
    }

    /// Measurements of the pods of `nodes`. A node that cannot be read is left out.
    pub(super) async fn read(&mut self, nodes: &[Arc<Node>]) -> Vec<Reading> {
        let (mut connections, mut reads) = (HashMap::new(), Vec::new());
        for node in nodes {
            let reachable = self.address(node).and_then(|KubeletAddress { url, path }| {
                let client = self.connections.remove(&url).map_or_else(|| self.connect(&url), Ok)?;
                connections.insert(url, client.clone());
                Ok((client, path))
            });
            let reader = Arc::clone(&self.reader);
            let read = async move {
                let (client, path) = reachable?;
                reader.read(&client, &path).await
            };
            reads.push((node.name_any(), read));
        }
        self.connections = connections;
        self.sweep.read(reads).await
    }

    /// Where the kubelet of `node` shows its metrics.
    fn address(&self, node: &Node) -> Result<KubeletAddress, SourceError> {
        let status = node.status.as_ref();
        let mut addresses = status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
        let address = addresses.find(|address| address.type_ == "InternalIP");
        let address = address.ok_or_else(|| SourceError::Connection("the node has no internal address".into()))?;
        let host = if address.address.contains(':') { format!("[{}]", address.address) } else { address.address.clone() };
        let port = status.and_then(|status| status.daemon_endpoints.as_ref()).and_then(|endpoints| endpoints.kubelet_endpoint.as_ref());
        let port = port.map_or(PORT, |endpoint| endpoint.port);
        let path = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(PATH)).unwrap_or(&self.path);
        Ok(KubeletAddress { url: format!("https://{host}:{port}/"), path: path.clone() })
    }

    /// A connection to a kubelet.
    fn connect(&self, url: &str) -> Result<Client, SourceError> {
        let mut config = self.config.clone();
        config.cluster_url = url.parse().map_err(|error| failed(anyhow::Error::new(error).context(url.to_owned())))?;
        Client::try_from(config).map_err(|error| failed(error.into()))
    }
}

impl KubeletReader {
    /// Measurements of the pods of a node.
    async fn read(&self, client: &Client, path: &str) -> Result<Reading, SourceError> {
        let requested_at = clock::now();
        let (body, content_type) = self.fetch(client, path).await?;
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
