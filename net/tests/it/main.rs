//! Servers and channels over loopback.

mod channels;
mod connections;
mod stopping;
mod support;
