//! Every bound of the system, each with its reason.
//!
//! What passes a bound gets a `too_large` or `overloaded` problem, never a truncated result. A file holds the bounds of one
//! owner; users name them without it, as `limits::X`.

mod background;
mod backup;
mod cluster;
mod content;
mod filter;
mod index;
mod migration;
mod pages;
mod private;
mod requests;
mod search;
mod store;
mod tuning;
mod uploads;
mod versions;

pub use background::*;
pub use backup::*;
pub use cluster::*;
pub use content::*;
pub use filter::*;
pub use index::*;
pub use migration::*;
pub use pages::*;
pub use private::*;
pub use requests::*;
pub use search::*;
pub use store::*;
pub use tuning::*;
pub use uploads::*;
pub use versions::*;
