//! A client of a router over MCP, as an agent's is: JSON-RPC over streamable HTTP, revision 2025-11-25.

use mira_proto::{Code, Problem};
use serde_json::{Value, json};

use crate::caller::Target;
use crate::rest;

const VERSION: &str = "2025-11-25";

/// One connection. A clone shares it.
#[derive(Clone)]
pub struct McpCaller {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl McpCaller {
    /// Connects and initializes.
    pub async fn connect(target: &Target) -> Result<McpCaller, Problem> {
        let http = rest::http_client(&target.url)?;
        let caller = McpCaller { http, url: format!("{}/mcp", target.url), token: target.token.clone() };
        let hello = json!({ "protocolVersion": VERSION, "capabilities": {},
            "clientInfo": { "name": "mira-benchmark", "version": env!("CARGO_PKG_VERSION") } });
        caller.request("initialize", hello).await?;
        Ok(caller)
    }

    /// Calls a tool and returns its structured content.
    pub async fn call(&self, tool: &str, arguments: Value) -> Result<Value, Problem> {
        let mut result = self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await?;
        if result["isError"] == true {
            let text = result["content"][0]["text"].as_str().unwrap_or_default();
            return Err(Problem::new(Code::parse(text.split(':').next().unwrap_or_default()), text));
        }
        Ok(result["structuredContent"].take())
    }

    async fn request(&self, method: &str, params: Value) -> Result<Value, Problem> {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let request = self
            .http
            .post(&self.url)
            .bearer_auth(&self.token)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", VERSION)
            .json(&message);
        let lost = |error: reqwest::Error| Problem::new(Code::Unavailable, format!("{}: {error}", self.url));
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let mut answer: Value = response.json().await.map_err(lost)?;
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(Problem::internal(format!("{method} gave {status}: {answer}"))),
        }
    }
}
