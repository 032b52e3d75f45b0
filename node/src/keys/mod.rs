//! The keys of a node: where cluster keys come from, and what is unwrapped with them.

pub mod keyring;
pub mod provider;
