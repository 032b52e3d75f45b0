//! HashiCorp Vault's transit engine: <https://developer.hashicorp.com/vault/api-docs/secret/transit>.
//!
//! Reached by `VAULT_ADDR` with the token of `VAULT_TOKEN`, or of `~/.vault-token`; `VAULT_NAMESPACE` and `VAULT_CACERT` mean
//! what they mean to the `vault` program.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mira_node::ProviderError;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::service;

/// A Vault server.
pub struct Vault {
    http: reqwest::Client,
    address: Url,
    token: Zeroizing<String>,
    namespace: Option<String>,
}

impl Vault {
    /// As the environment says.
    pub fn from_env() -> Result<Self, ProviderError> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let place = || "Vault".to_owned();
        let missing = |detail: &str| ProviderError::NotFound { place: place(), detail: detail.to_owned() };
        let address = set("VAULT_ADDR").ok_or_else(|| missing("set VAULT_ADDR to the address of the server"))?;
        let address = address
            .parse::<Url>()
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && !url.cannot_be_a_base())
            .ok_or_else(|| ProviderError::Malformed {
                place: place(),
                detail: format!("VAULT_ADDR={address} is no address"),
            })?;
        let kept = || std::fs::read_to_string(std::env::home_dir()?.join(".vault-token")).ok();
        let token =
            set("VAULT_TOKEN").or_else(kept).ok_or_else(|| missing("set VAULT_TOKEN, or log in with `vault login`"))?;
        Ok(Vault {
            http: service::client(set("VAULT_CACERT").as_deref())?,
            address,
            token: Zeroizing::new(token.trim().to_owned()),
            namespace: set("VAULT_NAMESPACE"),
        })
    }

    /// What `encrypt` made of a text.
    pub async fn decrypt(&self, key: &str, ciphertext: &str) -> Result<Zeroizing<String>, ProviderError> {
        let data = self.ask("decrypt", key, &json!({ "ciphertext": ciphertext })).await?;
        let plain = data["plaintext"].as_str().and_then(|plain| STANDARD.decode(plain).ok()).map(Zeroizing::new);
        let text = plain.and_then(|plain| String::from_utf8(plain.to_vec()).ok());
        text.map(Zeroizing::new).ok_or_else(|| self.malformed("its answer holds no text".to_owned()))
    }

    /// A text that only this key of the server opens.
    pub async fn encrypt(&self, key: &str, text: &str) -> Result<String, ProviderError> {
        let data = self.ask("encrypt", key, &json!({ "plaintext": STANDARD.encode(text) })).await?;
        let ciphertext = data["ciphertext"].as_str().filter(|text| !text.contains([' ', ',', '#', '\n']));
        ciphertext.map(str::to_owned).ok_or_else(|| self.malformed("its answer holds no ciphertext".to_owned()))
    }

    async fn ask(&self, action: &str, key: &str, body: &Value) -> Result<Value, ProviderError> {
        let (mount, name) = key
            .rsplit_once('/')
            .filter(|(mount, name)| !mount.is_empty() && !name.is_empty())
            .ok_or_else(|| self.malformed(format!("{key:?} is no key: write MOUNT/NAME, such as transit/mira")))?;
        let mut url = self.address.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(mount.split('/')).push(action).push(name);
        }
        let place = self.place();
        let request = || {
            let request = self.http.post(url.clone()).header("X-Vault-Token", self.token.as_str()).json(body);
            let request = request.header("X-Vault-Request", "true");
            Ok(self.namespace.iter().fold(request, |request, name| request.header("X-Vault-Namespace", name)))
        };
        let (status, mut answer) = service::ask(&place, request).await?;
        let said = answer["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
        let said = if said.is_empty() { status.to_string() } else { said.join("; ") };
        match status {
            StatusCode::OK => Ok(answer["data"].take()),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(ProviderError::Denied { place, detail: said }),
            StatusCode::NOT_FOUND => Err(ProviderError::NotFound { place, detail: format!("{key}: {said}") }),
            _ => Err(ProviderError::Malformed { place, detail: format!("{key}: {said}") }),
        }
    }

    fn place(&self) -> String {
        format!("Vault at {}", self.address)
    }

    fn malformed(&self, detail: String) -> ProviderError {
        ProviderError::Malformed { place: self.place(), detail }
    }
}
