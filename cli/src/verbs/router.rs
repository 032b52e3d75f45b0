//! `mira router`: one router.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use mira_net::descriptors;
use mira_router::{AccessToken, RouterConfig};
use serde::Deserialize;

use crate::error::CliError;
use crate::server::settings::{Layer, list, with_file};
use crate::server::{LogFormat, asked_to_stop, default_model_folder, load_model, start_logging, tokens};

/// Run a router
///
/// Routers keep nothing: run as many as you like, behind any balancer. SIGTERM lets requests end first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira router --nodes 10.0.0.1:7892,10.0.0.2:7892 --token-file tokens --http 0.0.0.0:7890
  mira router --config /etc/mira/router.toml")]
pub struct Router {
    /// TOML file with settings: the names below with underscores
    #[arg(long, env = "MIRA_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: RouterSettings,
}

#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RouterSettings {
    /// Storage nodes to learn the cluster map from; one that answers is enough
    #[arg(long, env = "MIRA_NODES", hide_env_values = true, value_name = "ADDR,…", value_delimiter = ',')]
    nodes: Vec<String>,
    /// Where MCP, REST, metrics and health are served [default: 127.0.0.1:7890]
    #[arg(long, env = "MIRA_HTTP", hide_env_values = true, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Where gRPC is served [default: 127.0.0.1:7891]
    #[arg(long, env = "MIRA_GRPC", hide_env_values = true, value_name = "ADDR")]
    grpc: Option<SocketAddr>,
    /// File with the tokens that are let in, a line NAME TOKEN for each (mode 0600). The variable MIRA_TOKEN may hold one
    ///
    /// Private memories behind passphrases, and idempotency keys, belong to the name. To replace a token, add the new one
    /// under the same name, and take the old one out later. The file is read again within five seconds of a change, and at once
    /// on SIGHUP; one that is wrong changes nothing, and is logged. A line with a token alone is of the name `default`.
    #[arg(long, env = "MIRA_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Serve without any token: only behind something else that checks callers
    #[arg(long, env = "MIRA_INSECURE_WITHOUT_TOKENS", hide_env_values = true)]
    insecure_without_tokens: bool,
    /// Let every caller name any owner of private memories (X-Mira-Owner), for one that acts for many people
    #[arg(long, env = "MIRA_ANY_OWNER", hide_env_values = true)]
    any_owner: bool,
    /// Folder of the embedding model [default: where `make model` puts it]
    #[arg(long, env = "MIRA_MODEL_DIR", hide_env_values = true, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Host headers that MCP requests may carry beside the router's own address
    #[arg(long, env = "MIRA_ALLOWED_HOSTS", hide_env_values = true, value_name = "HOST,…", value_delimiter = ',')]
    allowed_hosts: Vec<String>,
    /// Origins of web pages that may send MCP requests
    #[arg(long, env = "MIRA_ALLOWED_ORIGINS", hide_env_values = true, value_name = "ORIGIN,…", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    /// Connections of each port at a time [default: 4096]
    #[arg(long, env = "MIRA_CONNECTIONS", hide_env_values = true, value_name = "N")]
    connections: Option<usize>,
    /// How log lines look [default: text]
    #[arg(long, env = "MIRA_LOG_FORMAT", hide_env_values = true, value_enum)]
    log_format: Option<LogFormat>,
}

impl Layer for RouterSettings {
    fn over(self, below: Self) -> Self {
        RouterSettings {
            nodes: list(self.nodes, below.nodes),
            http: self.http.or(below.http),
            grpc: self.grpc.or(below.grpc),
            token_file: self.token_file.or(below.token_file),
            insecure_without_tokens: self.insecure_without_tokens || below.insecure_without_tokens,
            any_owner: self.any_owner || below.any_owner,
            model: self.model.or(below.model),
            allowed_hosts: list(self.allowed_hosts, below.allowed_hosts),
            allowed_origins: list(self.allowed_origins, below.allowed_origins),
            connections: self.connections.or(below.connections),
            log_format: self.log_format.or(below.log_format),
        }
    }
}

impl Router {
    /// Serves until asked to stop.
    pub async fn run(self) -> Result<(), CliError> {
        let settings = with_file(self.settings, self.config.as_deref())?;
        start_logging(settings.log_format.unwrap_or(LogFormat::Text), "info")?;
        let token_file = settings.token_file.clone();
        let config = settings.into_config()?;
        descriptors::ensure(config.descriptors()).map_err(CliError::start)?;
        let router = mira_router::Router::start(config).await.map_err(CliError::start)?;
        tokio::select! {
            asked = asked_to_stop() => asked?,
            failed = tokens::follow(token_file, &router) => match failed? {},
        }
        router.shutdown().await;
        Ok(())
    }
}

impl RouterSettings {
    fn into_config(self) -> Result<RouterConfig, CliError> {
        let usual = RouterConfig::default();
        let tokens = self.tokens()?;
        let model_folder = self.model.or_else(default_model_folder);
        let embedder = match &model_folder {
            Some(folder) => load_model(folder)?,
            None => None,
        };
        Ok(RouterConfig {
            nodes: self.nodes,
            http: self.http.unwrap_or(usual.http),
            grpc: self.grpc.unwrap_or(usual.grpc),
            tokens,
            insecure_without_tokens: self.insecure_without_tokens,
            any_owner: self.any_owner,
            embedder,
            allowed_hosts: self.allowed_hosts,
            allowed_origins: self.allowed_origins,
            connections: self.connections.unwrap_or(usual.connections).max(1),
            ..usual
        })
    }

    fn tokens(&self) -> Result<Vec<AccessToken>, CliError> {
        let Some(file) = &self.token_file else {
            let text = std::env::var("MIRA_TOKEN").unwrap_or_default();
            return AccessToken::parse_all(&text).map_err(|error| CliError::Usage(format!("MIRA_TOKEN: {error}")));
        };
        tokens::read(file)
    }
}
