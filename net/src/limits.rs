//! The bounds of connections, with a reason for each.

use std::time::Duration;

/// Connections of one listener at a time. Each costs a descriptor and some tens of KiB; a process may usually have 2^20
/// descriptors in a container, and does not start without enough for these and its files. Further connections wait in the
/// system's queue.
pub const MAX_CONNECTIONS: usize = 4096;

/// Connections of one peer address to one listener. Many agents may come through one proxy, so this is no fair share; it
/// keeps a single peer from taking the whole listener.
pub const MAX_CONNECTIONS_PER_ADDRESS: usize = 1024;

/// From accepting a connection, or from the first byte of a request on one that was idle, to the end of the request's
/// head. Heads fit into a few packets; a peer that needs longer holds the connection, not a conversation.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// For the next piece of a request's body in HTTP/1, while somebody waits to read it. A slow sender is still sending; one
/// that is silent for so long holds a place for nothing.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// For a peer to take the next bytes of an answer: as patient as with a body. One that reads nothing for so long holds a
/// place, and what its answer holds, for nothing.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection without requests is kept this long: longer than the pools of common proxies (60 s), so that they close
/// first and no request meets a closing connection.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// For requests under way when a server stops.
pub const DRAIN: Duration = Duration::from_secs(10);

/// After an error of `accept` that is not one connection's own, such as a lack of descriptors: long enough for some
/// connection to end, short enough that nobody notices.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The head of a request in HTTP/1: request line and headers. hyper's own bound of 100 headers stays: setting another
/// one costs an allocation per request.
pub const MAX_HTTP1_HEAD_BYTES: usize = 128 << 10;

/// The headers of a request in HTTP/2, as hyper counts them: names, values, and 32 bytes each.
pub const MAX_HTTP2_HEADER_BYTES: u32 = 32 << 10;

/// Requests under way on one HTTP/2 connection. A router sends all that it asks of a node over one, and a thousand
/// searches at once are no error.
pub const MAX_HTTP2_STREAMS: u32 = 4096;

/// Requests under way on one HTTP/2 connection of a stranger: a client that has more waits for its own.
pub const MAX_PUBLIC_HTTP2_STREAMS: u32 = 256;

/// The HTTP/2 window of a stranger's request and of its connection: what it may send before anybody has looked at it.
pub const PUBLIC_WINDOW_BYTES: u32 = 1 << 20;

/// A server asks a silent HTTP/2 peer for a sign of life this often, and waits as long again for the answer: a peer that
/// vanished without closing gives its place back within a minute.
pub const SERVER_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The HTTP/2 window of a request or an answer: frames of up to 1 MiB and batches of them should not wait for the
/// reader's permission.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// The HTTP/2 window of a channel: two streams that wait for their readers do not hold up the third.
pub const CHANNEL_WINDOW_BYTES: u32 = 8 << 20;

/// Time to make a connection. A peer in the same network accepts within milliseconds; one that does not is down.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A channel asks for a sign of life this often, and waits as long for the answer: a peer that vanished without closing
/// its connections is noticed after two of these.
pub const CHANNEL_KEEP_ALIVE: Duration = Duration::from_secs(2);
