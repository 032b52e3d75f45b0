//! The operations of MIRA as values: one JSON schema for MCP tools, REST bodies and the shell.
//!
//! Each file holds what one operation, or one part of the administration, takes and gives. Unknown fields of a request are
//! errors, so that a misspelt option is not silently dropped. A field that has nothing to say is left out.

mod backup;
mod batch;
pub mod bounded;
mod change;
mod collections;
mod consistency;
mod erasure;
mod explain;
mod forget;
mod frame;
mod keys;
mod nodes;
mod recall;
mod scan;
mod search;
mod sessions;
mod status;
mod store;
mod tune;
mod uploads;
mod vector;
mod verify;

pub use crate::filter::{Filter, Scalar};
pub use backup::{BackupRepository, RepositoriesReply};
pub use batch::{Batch, BatchEntry, check_count};
pub use change::{ChangeAction, ChangeReply, ChangeRequest};
pub use collections::{
    Collection, CollectionSettings, GrowReply, GrowRequest, GrowthStatus, Metric, NamedVectors, Quantization,
    VersionsKept,
};
pub use consistency::Consistency;
pub use erasure::{Erasure, ErasuresReply, SignedReceipt};
pub use explain::{SearchExplain, ShardExplain};
pub use forget::{ForgetReply, ForgetRequest};
pub use frame::{AttachmentInfo, Frame, Metadata, parse_metadata};
pub use keys::{CollectionKeys, KeyInfo, KeysReply, NodeKeys, RotateReply, RotateRequest, RotationStatus};
pub use nodes::{MovesSetting, NodeAction, NodeChange, NodeChangeReply, ReplicaMove};
pub use recall::{RecallReply, RecallRequest};
pub use scan::{ScanReply, ScanRequest, ScannedFrame};
pub use search::{
    Combine, Hit, Recency, SearchMode, SearchReply, SearchRequest, SearchResult, TextReason, VectorReason, Why,
};
pub use sessions::{Session, SessionsReply, SessionsRequest};
pub use status::{NodeStatus, ReplicaStatus, ShardStatus, StatusReply, StatusRequest};
pub use store::{ItemResult, StoreItem, StoreReply, StoreRequest, Stored};
pub use tune::{BeamRecall, TuneReply, TuneRequest};
pub use uploads::{UploadReply, UploadRequest};
pub use verify::{ReplicaVerification, ShardVerification, VerifyReply, VerifyRequest};

/// The collection that a request without one means.
pub const DEFAULT_COLLECTION: &str = "default";

/// The `type` of a frame that names none.
pub const DEFAULT_TYPE: &str = "general";
