//! Asking a key service over HTTP: patient for a moment, clear about what it said.

use std::time::Duration;

use mira_net::rest::client_builder;
use mira_node::ProviderError;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;

/// For one try.
const TRY: Duration = Duration::from_secs(5);
/// Tries before a service counts as out of reach.
const TRIES: u32 = 4;
/// Before the second try; doubled for each after that.
const PAUSE: Duration = Duration::from_millis(200);

/// A client for key services. `ca` is a file with a certificate that is trusted beside the system's.
pub fn client(ca: Option<&str>) -> Result<reqwest::Client, ProviderError> {
    let malformed = |detail: String| ProviderError::Malformed { place: ca.unwrap_or("TLS").to_owned(), detail };
    let mut builder = client_builder().timeout(TRY).redirect(reqwest::redirect::Policy::none());
    if let Some(file) = ca {
        let pem = std::fs::read(file).map_err(|error| malformed(error.to_string()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| malformed(error.to_string()))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| malformed(error.to_string()))
}

/// Sends until an answer comes that another try would not change: its status and document.
pub async fn ask(
    place: &str,
    request: impl Fn() -> Result<RequestBuilder, ProviderError> + Send + Sync,
) -> Result<(StatusCode, Value), ProviderError> {
    let mut pause = PAUSE;
    for tries in 1.. {
        let failure = match request()?.send().await {
            Ok(reply) => {
                let status = reply.status();
                let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                let body = reply.bytes().await;
                match body {
                    Ok(body) if !again => {
                        let document = serde_json::from_slice(&body).unwrap_or(Value::Null);
                        return Ok((status, document));
                    }
                    Ok(_) => format!("it answered {status}"),
                    Err(error) => innermost(&error),
                }
            }
            Err(error) => innermost(&error),
        };
        if tries == TRIES {
            return Err(ProviderError::Unreachable { place: place.to_owned(), detail: failure });
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    unreachable!("the tries are numbered without end")
}

/// What the system said below the layers of HTTP. Never the request, which may hold a key.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
