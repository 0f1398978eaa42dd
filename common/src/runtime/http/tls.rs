//! TLS of HTTP clients. Owns which authorities are trusted: those of the system, or of the files that the environment names in `SSL_CERT_FILE` and `SSL_CERT_DIR`.

use std::sync::Arc;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;

/// Remedy for a certificate that is not trusted.
const REMEDY: &str = "SSL_CERT_FILE names a file with the certificates of other authorities";

/// A connector for URLs with `https`, through `plain`.
///
/// # Errors
/// If no certificate of an authority can be read.
pub(super) fn connector(plain: HttpConnector) -> Result<HttpsConnector<HttpConnector>, String> {
    let provider: Arc<CryptoProvider> = Arc::new(default_provider());
    let builder = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider);
    let builder = builder.map_err(|error| format!("no authorities for TLS: {error}; install the package ca-certificates, or: {REMEDY}"))?;
    Ok(builder.https_only().enable_http1().wrap_connector(through(plain)))
}

/// `plain`, for any scheme.
fn through(mut plain: HttpConnector) -> HttpConnector {
    plain.enforce_http(false);
    plain
}

/// The message of a failed connection, with the remedy if its certificate is not trusted.
pub(super) fn explain(error: String) -> String {
    if error.contains("invalid peer certificate") { format!("{error}; {REMEDY}") } else { error }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A connector that trusts `certificate` only.
    pub fn trusting(certificate: CertificateDer<'static>, plain: HttpConnector) -> HttpsConnector<HttpConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().wrap_connector(through(plain))
    }

    /// A server behind TLS that answers each request with `ok`, its address and its certificate.
    pub async fn server() -> (SocketAddr, CertificateDer<'static>) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).expect("valid");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust the certificate ends the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                if stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                    let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        });
        (address, cert.der().clone())
    }
}
