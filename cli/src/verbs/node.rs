//! `mira node`: one storage node.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use mira_net::descriptors;
use mira_node::{Formation, NodeConfig, RunningNode, Shape};
use serde::Deserialize;

use crate::args::duration;
use crate::error::CliError;
use crate::server::keys::KeySource;
use crate::server::settings::{Layer, list, with_file};
use crate::server::{LogFormat, asked_to_stop, start_logging};

/// Run a storage node
///
/// A node without data comes to its cluster by --bootstrap, --join or --peers; one that has data knows its cluster, and
/// the same command starts it again. SIGTERM hands leadership over and stops it in order.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira node --data /var/lib/mira --cluster-key-file key --bootstrap --advertise 10.0.0.1:7892
  mira node --data /var/lib/mira --cluster-key-file key --join 10.0.0.1:7892 --advertise 10.0.0.2:7892
  mira node --config /etc/mira/node.toml")]
pub struct Node {
    /// TOML file with settings: the names below with underscores
    #[arg(long, env = "MIRA_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: NodeSettings,
}

#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NodeSettings {
    /// Folder of its data; made if missing
    #[arg(long, env = "MIRA_DATA", hide_env_values = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// File with the cluster key (base64 of 32 bytes, mode 0600), the same on every node; older keys may follow, one a
    /// line. The variable MIRA_CLUSTER_KEY may hold the keys themselves
    #[arg(long, env = "MIRA_CLUSTER_KEY_FILE", hide_env_values = true, value_name = "FILE")]
    cluster_key_file: Option<PathBuf>,
    /// Make a new cluster, with this node as its first
    #[arg(long, env = "MIRA_BOOTSTRAP", hide_env_values = true)]
    bootstrap: bool,
    /// Ask these nodes to be let into their cluster
    #[arg(long, env = "MIRA_JOIN", hide_env_values = true, value_name = "ADDR,…", value_delimiter = ',')]
    join: Vec<String>,
    /// The fixed list of all nodes, this one among them: the first makes the cluster, the others join
    #[arg(long, env = "MIRA_PEERS", hide_env_values = true, value_name = "ADDR,…", value_delimiter = ',')]
    peers: Vec<String>,
    /// Nodes of a new cluster to wait for before shards are placed [default: 3]
    #[arg(long, env = "MIRA_EXPECT", hide_env_values = true, value_name = "N")]
    expect: Option<u32>,
    /// Shards of a new cluster, for ever [default: 16]
    #[arg(long, env = "MIRA_SHARDS", hide_env_values = true, value_name = "N")]
    shards: Option<u32>,
    /// Replicas of each shard of a new cluster: 1, 3 or 5 [default: 3]
    #[arg(long, env = "MIRA_REPLICATION", hide_env_values = true, value_name = "N")]
    replication: Option<u32>,
    /// Where gRPC listens [default: 127.0.0.1:7892]
    #[arg(long, env = "MIRA_LISTEN", hide_env_values = true, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where HTTP (metrics, health) listens [default: 127.0.0.1:7893]
    #[arg(long, env = "MIRA_HTTP", hide_env_values = true, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// host:port under which other nodes and routers reach this one [default: the listening address]
    #[arg(long, env = "MIRA_ADVERTISE", hide_env_values = true, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Failure domain: replicas of a shard go to different ones
    #[arg(long, env = "MIRA_ZONE", hide_env_values = true)]
    zone: Option<String>,
    /// Threads that keep indexes up to date [default: 1]
    #[arg(long, env = "MIRA_INDEX_THREADS", hide_env_values = true, value_name = "N")]
    index_threads: Option<usize>,
    /// MiB of block cache [default: 64]
    #[arg(long, env = "MIRA_CACHE_MIB", hide_env_values = true, value_name = "N")]
    cache_mib: Option<usize>,
    /// MiB of vectors kept in memory for scoring [default: 64]
    #[arg(long, env = "MIRA_ROW_CACHE_MIB", hide_env_values = true, value_name = "N")]
    row_cache_mib: Option<usize>,
    /// Connections of each port at a time [default: 4096]
    #[arg(long, env = "MIRA_CONNECTIONS", hide_env_values = true, value_name = "N")]
    connections: Option<usize>,
    /// Compare the replicas of each shard this often, in the background (such as 12h, 7d; `never`) [default: 1d]
    #[arg(long, env = "MIRA_VERIFY_EVERY", hide_env_values = true, value_name = "TIME")]
    verify_every: Option<String>,
    /// Only say so when a replica differs from the others, do not have it rebuilt
    #[arg(long, env = "MIRA_VERIFY_ONLY", hide_env_values = true)]
    verify_only: bool,
    /// How log lines look [default: text]
    #[arg(long, env = "MIRA_LOG_FORMAT", hide_env_values = true, value_enum)]
    log_format: Option<LogFormat>,
}

impl Layer for NodeSettings {
    fn over(self, below: Self) -> Self {
        NodeSettings {
            data: self.data.or(below.data),
            cluster_key_file: self.cluster_key_file.or(below.cluster_key_file),
            bootstrap: self.bootstrap || below.bootstrap,
            join: list(self.join, below.join),
            peers: list(self.peers, below.peers),
            expect: self.expect.or(below.expect),
            shards: self.shards.or(below.shards),
            replication: self.replication.or(below.replication),
            listen: self.listen.or(below.listen),
            http: self.http.or(below.http),
            advertise: self.advertise.or(below.advertise),
            zone: self.zone.or(below.zone),
            index_threads: self.index_threads.or(below.index_threads),
            cache_mib: self.cache_mib.or(below.cache_mib),
            row_cache_mib: self.row_cache_mib.or(below.row_cache_mib),
            connections: self.connections.or(below.connections),
            verify_every: self.verify_every.or(below.verify_every),
            verify_only: self.verify_only || below.verify_only,
            log_format: self.log_format.or(below.log_format),
        }
    }
}

impl Node {
    /// Serves until asked to stop.
    pub async fn run(self) -> Result<(), CliError> {
        let settings = with_file(self.settings, self.config.as_deref())?;
        start_logging(settings.log_format.unwrap_or(LogFormat::Text), "info")?;
        let config = settings.into_config()?;
        descriptors::ensure(config.descriptors()).map_err(CliError::start)?;
        let node = RunningNode::start(config).await.map_err(CliError::start)?;
        asked_to_stop().await?;
        node.shutdown().await;
        Ok(())
    }
}

impl NodeSettings {
    fn into_config(self) -> Result<NodeConfig, CliError> {
        let formation = self.formation()?;
        let keys = KeySource::choose(self.cluster_key_file)?;
        let data = self.data.ok_or_else(|| CliError::Usage("say where the data lies: --data DIR".to_owned()))?;
        let mut config = NodeConfig::new(data, keys, formation);
        config.listen = self.listen.unwrap_or(config.listen);
        config.http_listen = self.http.unwrap_or(config.http_listen);
        config.zone = self.zone.unwrap_or_default();
        config.index_threads = self.index_threads.unwrap_or(config.index_threads).max(1);
        config.cache_bytes = self.cache_mib.map_or(config.cache_bytes, |mib| mib << 20);
        config.row_cache_bytes = self.row_cache_mib.map_or(config.row_cache_bytes, |mib| mib << 20);
        config.connections = self.connections.unwrap_or(config.connections).max(1);
        config.verification.every = match self.verify_every.as_deref() {
            None => config.verification.every,
            Some("never") => None,
            Some(text) => Some(duration(text).map_err(|why| CliError::Usage(format!("--verify-every {text}: {why}")))?),
        };
        config.verification.repairs = !self.verify_only;
        if self.advertise.is_none() && config.listen.ip().is_unspecified() {
            let listen = config.listen;
            return Err(CliError::Usage(format!(
                "{listen} is no address that others can reach: say --advertise HOST:PORT"
            )));
        }
        config.advertise = self.advertise;
        Ok(config)
    }

    fn formation(&self) -> Result<Formation, CliError> {
        let usual = Shape::default();
        let shape = Shape {
            shards: self.shards.unwrap_or(usual.shards),
            replication: self.replication.unwrap_or(usual.replication),
            expect: self.expect.unwrap_or(usual.expect),
        };
        match (self.bootstrap, self.join.is_empty(), self.peers.is_empty()) {
            (true, true, true) => Ok(Formation::Bootstrap(shape)),
            (false, false, true) => Ok(Formation::Join(self.join.clone())),
            (false, true, false) => Ok(Formation::Peers(self.peers.clone(), shape)),
            _ => Err(CliError::Usage("say one of --bootstrap, --join and --peers".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "data = '/below'\nzone = 'a'\npeers = ['x:1', 'y:1']\nlisten = '127.0.0.1:1'")
            .unwrap();
        let above = NodeSettings { data: Some("/above".into()), ..NodeSettings::default() };
        let settings = with_file(above, Some(file.path())).unwrap();
        assert_eq!(settings.data.as_deref(), Some(Path::new("/above")));
        assert_eq!(settings.zone.as_deref(), Some("a"));
        assert!(matches!(settings.formation(), Ok(Formation::Peers(peers, _)) if peers.len() == 2));
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "dta = '/x'").unwrap();
        let error = with_file(NodeSettings::default(), Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("unknown field `dta`"), "{error}");
    }

    #[test]
    fn one_way_into_a_cluster_is_needed() {
        let settings = |bootstrap, join: &[&str]| NodeSettings {
            bootstrap,
            join: join.iter().map(ToString::to_string).collect(),
            ..NodeSettings::default()
        };
        assert!(settings(true, &[]).formation().is_ok());
        assert!(settings(false, &["a:1"]).formation().is_ok());
        assert!(settings(false, &[]).formation().is_err());
        assert!(settings(true, &["a:1"]).formation().is_err());
    }
}
