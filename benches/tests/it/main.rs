//! The cluster benchmark at tiny sizes.

#[path = "../../benches/cluster/run.rs"]
mod run;
mod smoke;
