//! AWS KMS, and what speaks its protocol: <https://docs.aws.amazon.com/kms/latest/APIReference>.
//!
//! Region, credentials and endpoint come from the variables and services that AWS programs ask (`AWS_REGION`,
//! `AWS_ACCESS_KEY_ID` …, web identity, instance metadata; `AWS_ENDPOINT_URL_KMS` for another endpoint).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mira_node::ProviderError;
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, AwsCredentialProvider};
use object_store::client::HttpRequestBody;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::service;

/// What a wrapped key is bound to: it shows in KMS's log, and no other ciphertext of the key opens as a cluster key.
const CONTEXT: (&str, &str) = ("mira", "cluster-key");

/// A key service.
pub struct Kms {
    http: reqwest::Client,
    endpoint: String,
    region: String,
    credentials: AwsCredentialProvider,
}

impl Kms {
    /// As the environment says.
    pub fn from_env() -> Result<Self, ProviderError> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let place = || "KMS".to_owned();
        let region = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION"));
        let region =
            region.ok_or_else(|| ProviderError::NotFound { place: place(), detail: "set AWS_REGION".to_owned() })?;
        let endpoint = set("AWS_ENDPOINT_URL_KMS").or_else(|| set("AWS_ENDPOINT_URL"));
        let endpoint = endpoint.unwrap_or_else(|| format!("https://kms.{region}.amazonaws.com"));
        let http = service::client(set("AWS_CA_BUNDLE").as_deref())?;
        // The credentials that a bucket would be opened with; there is no bucket.
        let store = AmazonS3Builder::from_env().with_region(&region).with_bucket_name("none").build();
        let store = store.map_err(|error| ProviderError::Malformed { place: place(), detail: error.to_string() })?;
        let credentials = store.credentials().clone();
        Ok(Kms { http, endpoint, region, credentials })
    }

    /// What `encrypt` made of a text.
    pub async fn decrypt(&self, blob: &str) -> Result<Zeroizing<String>, ProviderError> {
        let (name, value) = CONTEXT;
        let body = json!({ "CiphertextBlob": blob, "EncryptionContext": { name: value } });
        let answer = self.ask("Decrypt", &body).await?;
        let plain = answer["Plaintext"].as_str().and_then(|plain| STANDARD.decode(plain).ok()).map(Zeroizing::new);
        let text = plain.and_then(|plain| String::from_utf8(plain.to_vec()).ok());
        text.map(Zeroizing::new).ok_or_else(|| self.malformed("its answer holds no text".to_owned()))
    }

    /// A text that only this key of the service opens.
    pub async fn encrypt(&self, key: &str, text: &str) -> Result<String, ProviderError> {
        let (name, value) = CONTEXT;
        let body = json!({ "KeyId": key, "Plaintext": STANDARD.encode(text), "EncryptionContext": { name: value } });
        let answer = self.ask("Encrypt", &body).await?;
        let blob = answer["CiphertextBlob"].as_str().filter(|blob| STANDARD.decode(blob).is_ok());
        blob.map(str::to_owned).ok_or_else(|| self.malformed("its answer holds no ciphertext".to_owned()))
    }

    async fn ask(&self, action: &str, body: &Value) -> Result<Value, ProviderError> {
        let body = body.to_string();
        let credential = self.credentials.get_credential().await;
        let credential =
            credential.map_err(|error| ProviderError::Denied { place: self.place(), detail: error.to_string() })?;
        let request = || {
            let malformed = |error: &dyn std::fmt::Display| self.malformed(error.to_string());
            let mut signed = http::Request::post(&self.endpoint)
                .header("content-type", "application/x-amz-json-1.1")
                .header("x-amz-target", format!("TrentService.{action}"))
                .body(HttpRequestBody::from(body.clone()))
                .map_err(|error| malformed(&error))?;
            let authorizer = AwsAuthorizer::new(&credential, "kms", &self.region);
            authorizer.try_authorize(&mut signed, None).map_err(|error| malformed(&error))?;
            Ok(self.http.post(&self.endpoint).headers(signed.into_parts().0.headers).body(body.clone()))
        };
        let (status, answer) = service::ask(&self.place(), request).await?;
        if status.is_success() {
            return Ok(answer);
        }
        // Some services put the namespace of the error before its name.
        let kind = answer["__type"].as_str().unwrap_or_default().rsplit('#').next().unwrap_or_default().to_owned();
        let said = answer["message"].as_str().or_else(|| answer["Message"].as_str()).unwrap_or_default();
        let (place, detail) = (self.place(), format!("{kind} {said} ({status})").trim().to_owned());
        Err(match kind.as_str() {
            "NotFoundException" => ProviderError::NotFound { place, detail },
            _ if kind.contains("AccessDenied")
                || kind.contains("Unrecognized")
                || kind.contains("Signature")
                || kind.contains("Token") =>
            {
                ProviderError::Denied { place, detail }
            }
            _ => ProviderError::Malformed { place, detail },
        })
    }

    fn place(&self) -> String {
        format!("KMS at {}", self.endpoint)
    }

    fn malformed(&self, detail: String) -> ProviderError {
        ProviderError::Malformed { place: self.place(), detail }
    }
}
