//! What stands between a TCP connection and HTTP, on both sides.
//!
//! The only file that knows how connections are secured: a server hands every accepted connection to
//! `Security::accept`, a channel gets its endpoint from `Security::endpoint`, and who the peer is goes into each
//! request's extensions as a [`Peer`].

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tonic::transport::{Endpoint, Error};

/// How connections are secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// Not at all: the network is trusted, or a proxy in front ends TLS.
    #[default]
    Plain,
}

/// What HTTP is served on.
pub(crate) type ServedStream = TcpStream;

/// The other end of a connection; handlers find it in a request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it called from.
    pub address: SocketAddr,
}

impl Security {
    /// Secures an accepted connection, and says who called.
    pub(crate) async fn accept(&self, stream: TcpStream, address: SocketAddr) -> io::Result<(ServedStream, Peer)> {
        match self {
            Self::Plain => Ok((stream, Peer { address })),
        }
    }

    /// Where, and how, `address` (host:port) is dialled.
    pub(crate) fn endpoint(&self, address: &str) -> Result<Endpoint, Error> {
        match self {
            Self::Plain => Endpoint::from_shared(format!("http://{address}")),
        }
    }
}
