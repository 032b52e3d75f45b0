//! A node as others see it: over gRPC, on real disks.

mod collections;
mod common;
mod expiry;
mod filters;
mod headers;
mod history;
mod images;
mod load;
mod membership;
mod migration;
mod modes;
mod node;
mod pages;
mod placement;
mod private;
mod requests;
mod samples;
mod spaces;
mod tune;
