//! Private frames: sealed with a key that only their owner has.
//!
//! WHAT IS PROMISED. Nodes, disks and backups hold nothing that says what a private frame is about: neither content nor
//! names, metadata or vectors. Nodes learn when it was made, how large it is, and which frames of a collection have the
//! same owner or the same session, by names that only the owner's key makes. The router sees the key for as long as a
//! request lasts, and wipes what it opens.
//!
//! THE OWNER. A request names its owner by a key, or by a passphrase that stands for one ([`credential`]). The cluster
//! keeps a record for each passphrase, which only the passphrase opens (`owners`).
//!
//! THE LAYERS. The owner's layer is the innermost of three, the only one that a router makes and opens ([`seal`]); nodes
//! put theirs around it and know nothing else. A frame is sealed in two pieces: its body, and its vectors, so that a
//! search opens no bodies.
//!
//! THE SEARCH. An index is made of vectors in clear, so no node can have one of private frames. The router asks each
//! shard for the owner's sealed vectors ([`search`]), keeps them *as the owner sealed them* for the next time
//! (`cache`), opens them a few hundred at a time, compares each with the question, and wipes them (`compare`). That
//! is exact, and costs time in proportion to the owner's frames: an owner has thousands of memories, not millions.
//!
//! WHAT ONLY BODIES SAY. Filters, groups and words are asked of bodies ([`post_filter`], [`text`]): those of the best
//! candidates are fetched and opened in growing steps until the answer is settled. A search that would have to open more
//! than [`mira_proto::limits::MAX_PRIVATE_OPENED`] is refused, because an answer that leaves out what it has not looked
//! at would look like a whole one.
//!
//! Everything here goes to the shards through [`crate::cluster::fan_out`], as plain reads do, and what is found is
//! ranked together with plain hits ([`crate::ranking::merge`]).

mod brake;
pub(crate) mod cache;
mod compare;
pub mod credential;
pub(crate) mod owners;
pub mod post_filter;
pub mod seal;
pub mod search;
pub mod text;
