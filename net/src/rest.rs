//! Clients of REST interfaces.

use reqwest::{Client, ClientBuilder};

/// Makes the choice of TLS provider for the whole process; every later one finds it made already, which is no error.
pub fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A builder of clients.
pub fn client_builder() -> ClientBuilder {
    install_tls_provider();
    Client::builder()
}

/// A builder of clients for `url`, and for whatever else is reached by its scheme.
pub fn client_builder_for(url: &str) -> ClientBuilder {
    if url.starts_with("http://") {
        // Without TLS nobody needs the machine's root certificates, which take time to read and may be missing.
        client_builder().tls_certs_only([])
    } else {
        client_builder()
    }
}
