//! Clients of REST interfaces.

use reqwest::{Client, ClientBuilder, Url};

/// A builder of clients for `url` and whatever else lies on its scheme.
pub fn client_builder(url: &Url) -> ClientBuilder {
    // The process-wide choice of TLS provider; a second client finds it made already, which is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder();
    if url.scheme() == "http" {
        // Without TLS nobody needs the machine's root certificates, which take time to read and may be missing.
        builder.tls_certs_only([])
    } else {
        builder
    }
}
