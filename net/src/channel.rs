//! Channels to MIRA's gRPC ports.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::limits;
use crate::security::Security;

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The address is not one that can be dialled; another try will not help.
    #[error("{address:?} is not an address: {source}")]
    InvalidAddress {
        /// What was given.
        address: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// Nobody answered there, or not in HTTP/2.
    #[error("no connection: {0}")]
    Refused(#[source] tonic::transport::Error),
    /// The connection was not made within this time.
    #[error("no connection in {0:?}")]
    TimedOut(Duration),
}

/// Makes channels.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// How connections are secured.
    pub security: Security,
    /// Time to make a connection.
    pub connect_timeout: Duration,
}

impl Default for Dialer {
    fn default() -> Self {
        Self { security: Security::default(), connect_timeout: limits::CONNECT_TIMEOUT }
    }
}

impl Dialer {
    /// A channel to `address` (host:port) that connects when it is first used, and again when the connection is lost.
    pub fn lazy(&self, address: &str) -> Result<Channel, ChannelError> {
        Ok(self.endpoint(address)?.connect_lazy())
    }

    /// A channel to `address` (host:port) that is connected.
    pub async fn connect(&self, address: &str) -> Result<Channel, ChannelError> {
        // The endpoint's own timeout ends with TCP; a peer that accepts and then says nothing is no better than none.
        match timeout(self.connect_timeout, self.endpoint(address)?.connect()).await {
            Ok(connected) => connected.map_err(ChannelError::Refused),
            Err(_) => Err(ChannelError::TimedOut(self.connect_timeout)),
        }
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, ChannelError> {
        let endpoint = self.security.endpoint(address);
        let endpoint =
            endpoint.map_err(|source| ChannelError::InvalidAddress { address: address.to_owned(), source })?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(limits::CHANNEL_KEEP_ALIVE)
            .keep_alive_timeout(limits::CHANNEL_KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::CHANNEL_WINDOW_BYTES))
    }
}

/// One channel per address, made when it is first asked for and shared by all that ask.
#[derive(Debug, Default)]
pub struct Channels {
    dialer: Dialer,
    by_address: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    /// No channels yet.
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, by_address: Mutex::default() }
    }

    /// The channel to `address` (host:port); connects when it is first used.
    pub fn get(&self, address: &str) -> Result<Channel, ChannelError> {
        let mut channels = self.by_address.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.dialer.lazy(address)?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Drops the channels to all other addresses.
    pub fn keep_only<'a>(&self, addresses: impl Iterator<Item = &'a String>) {
        let keep: HashSet<&String> = addresses.collect();
        self.by_address.lock().retain(|address, _| keep.contains(address));
    }
}
