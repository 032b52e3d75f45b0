//! Servers and channels of MIRA, built in one place.
//!
//! Every port is served by [`serve`]: an accept loop of its own over hyper, because `axum::serve` sets no time for a
//! request's head and no bound on connections. Every channel between MIRA's programs is dialled by a [`Dialer`], and
//! [`security`] stands between both of them and the bare TCP connection.
//!
//! What a server guarantees:
//! * a connection that says nothing, or sends half a head, ends after [`ServerSettings::head_timeout`], whichever version
//!   of HTTP it speaks; one without requests ends after [`ServerSettings::idle_timeout`];
//! * a request whose body stops half way fails after [`ServerSettings::body_timeout`];
//! * a peer that does not read its answer for [`ServerSettings::write_timeout`] loses its connection;
//! * a listener holds at most [`ServerSettings::connections`], and [`ServerSettings::connections_per_address`] of one peer;
//! * no error of `accept` ends it: lack of descriptors passes when connections end;
//! * told to stop, it accepts no more, closes idle connections, answers what is under way for at most
//!   [`ServerSettings::drain`], and then drops the rest.
//!
//! So that no connection takes a file from a storage engine, [`descriptors`] has a program start only with room for both.
//!
//! How long a request may be worked at is not decided here: its deadline travels with it.

pub mod channel;
pub mod descriptors;
pub mod limits;
#[cfg(feature = "rest")]
pub mod rest;
pub mod security;
pub mod server;

mod activity;
mod address_counts;
mod body;
mod connection;

pub use channel::{ChannelError, Channels, Dialer};
pub use security::{Peer, Security};
pub use server::{Accept, ServerSettings, listen, serve};
