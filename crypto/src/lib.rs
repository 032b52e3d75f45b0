//! Sealing and keys: everything that MIRA puts on a disk or a wire between replicas passes through here first.
//!
//! The crate is pure: bytes and keys in, bytes out. It reads no file, keeps no global state, starts no thread, and
//! takes its randomness as an argument, so that a simulator's seed decides every nonce. No cryptography is made here:
//! the ciphers are RustCrypto's, this crate decides which one seals what, under which key, bound to which place, in
//! which layout.
//!
//! ```text
//!  cluster key ── wraps ──▶ collection key (one per collection and version)
//!      │                        ├── HKDF(frame id) ──▶ frame::seal      body, metadata, vectors, chunks
//!      │                        ├── HKDF(file id)  ──▶ PageSealer       index images, text index files
//!      │                        ├── tag, content_digest                 blind equality
//!      │                        ├── PlacementKey                        sessions in ids of frames, derived ids
//!      │                        └── private::seal_collection            middle layer of private frames
//!      ├── wraps ──▶ cluster layer key ──▶ private::seal_cluster        outermost layer
//!      ├── wraps ──▶ receipt key ──▶ ReceiptKey::sign                   receipts of erasure
//!      ├── wraps ──▶ repository key ──▶ RepositoryKey                   pieces and manifests of backups
//!      └── MetaSealer                                                   the meta group's log and state
//!  owner key (its owner's alone) ──▶ private::seal_owner                innermost layer
//! ```
//!
//! Where to look: `envelope` has the byte layout of everything sealed, `derive` the tree of keys, [`Context`] what
//! pieces are bound to, [`CryptoError`] what can go wrong. Opening never panics, whatever the bytes; sealing panics
//! only on a caller's mistake, as documented.
//!
//! Keys are wiped when dropped, have no `Clone`, and print their id. Plaintext buffers belong to the caller; only the
//! owner layer's plaintext wipes itself.

mod collection;
pub mod constants;
mod context;
mod derive;
mod envelope;
mod error;
pub mod frame;
mod key;
mod key_id;
pub mod meta;
mod owner;
pub mod page;
mod payload;
mod placement;
pub mod private;
mod receipt;
mod repository;
mod wrap;

pub use collection::{CollectionKey, ContentHasher};
pub use context::{Bound, Context, OwnerContext, Part};
pub use derive::KEY_LEN;
pub use envelope::MAX_PLAIN_LEN;
pub use error::{CryptoError, KeyName};
pub use key::ClusterKey;
pub use key_id::KeyId;
pub use meta::MetaSealer;
pub use owner::{OwnerKey, PassphraseCost};
pub use page::PageSealer;
pub use placement::{IdSource, PlacementKey};
pub use private::ClusterLayerKey;
pub use rand_core::CryptoRng;
pub use receipt::ReceiptKey;
pub use repository::RepositoryKey;
pub use wrap::WrappedKey;

/// The operating system's randomness, for keys. Hot paths seal with a generator seeded from it, which saves a system
/// call per nonce.
///
/// The returned generator panics when the operating system has no randomness: nothing may be sealed then.
pub const fn os_rng() -> impl CryptoRng {
    rand_core::UnwrapErr(rand_core::OsRng)
}
