//! Every bound of the system, each with its reason. What passes one gets a `too_large` or `overloaded` problem, never
//! a truncated result.

use std::time::Duration;

/// Content of one frame, bytes. One log entry must stay small enough that replicating it does not delay heartbeats.
pub const MAX_CONTENT_BYTES: usize = 1 << 20;
/// Large content of a frame, bytes: images, recordings, archives.
pub const MAX_ATTACHMENT_BYTES: u64 = 256 << 20;
/// Its chunks: as many as there are megabytes, and room for those that an interrupted upload cut short.
pub const MAX_ATTACHMENT_CHUNKS: usize = 1_024;
/// Chunks of one upload or download at work in a router at once: what it holds of each in memory.
pub const CHUNKS_IN_FLIGHT: usize = 4;
/// Uploads and downloads of a router at once.
pub const MAX_STREAMS: usize = 32;
/// How long an upload waits to be gone on with.
pub const UPLOAD_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a finished upload goes on keeping its chunks, so that they are never without a frame that needs them: more
/// than [`COLLECT_PATIENCE`] and the longest write.
pub const UPLOAD_MEMORY: Duration = Duration::from_secs(1_800);
/// Between two looks for chunks that nothing refers to.
pub const COLLECT_EVERY: Duration = Duration::from_secs(300);
/// How long ago such a chunk must have been stored last: longer than between storing it and noting it in its upload.
pub const CHUNK_IDLE: Duration = Duration::from_secs(3_600);
/// How long asking every shard what it refers to may take before the answers are thrown away.
pub const COLLECT_PATIENCE: Duration = Duration::from_secs(300);
/// Metadata of one frame as JSON text, bytes: it is opened with every hit.
pub const MAX_METADATA_BYTES: usize = 64 << 10;
/// Nesting of metadata; the JSON reader's own stack limit lies at 128.
pub const MAX_METADATA_DEPTH: usize = 32;
/// Type, role, session and collection names, bytes: they are keys, not prose.
pub const MAX_NAME_BYTES: usize = 256;
/// Items of one `store` call (SPEC section 2).
pub const MAX_BATCH_ITEMS: usize = 1_000;
/// Frames sealed into one proposal: bounds the time one entry holds the log.
pub const MAX_PROPOSAL_FRAMES: usize = 100;
/// Payload of one proposal, bytes: a frame of the largest size with its vectors fits.
pub const MAX_PROPOSAL_BYTES: usize = 4 << 20;
/// The longest that a small write waits for company.
pub const BUNDLE_WINDOW: Duration = Duration::from_millis(1);
/// A write of more bytes, vectors included, goes alone. A hundred of these make a message of moderate size.
pub const BUNDLE_WRITE_BYTES: usize = 16 << 10;
/// Results of one search.
pub const MAX_K: u32 = 1_000;
/// Most similar frames that a shard looks through for a search that ranks by more than similarity, and the deepest place
/// that paging reaches.
pub const MAX_POOL: usize = 10_000;
/// As [`MAX_POOL`], where the group of each frame of the pool is looked up; frames with attributes that are not indexed are
/// opened for it.
pub const MAX_GROUP_POOL: usize = 2_048;
/// Memory that the searches of a node at work may take together.
pub const SEARCH_MEMORY_BYTES: usize = 256 << 20;
/// Searches of a node that wait for their turn: at a millisecond each on two cores, half a second.
pub const MAX_SEARCHES_WAITING: usize = 1_024;
/// One search in so many is repeated exactly to learn how right the answers are.
pub const QUALITY_SAMPLE_EVERY: u64 = 1_000;
/// The widest beam that a collection is tuned to: where more is needed, comparing with everything costs as much.
pub const MAX_TUNED_EF: u32 = 2_048;
/// Vectors that a collection is tuned with, of all its shards together: recall is then told within about 0.01.
pub const TUNE_SAMPLES: u32 = 200;
/// Of them, in each shard at least: few shards are to speak for all.
pub const MIN_TUNE_SAMPLES: u32 = 20;
/// The recall that a collection is tuned to when none is named (SPEC section 5).
pub const DEFAULT_TUNED_RECALL: f64 = 0.95;
/// Query vectors of one search: each is a search of its own.
pub const MAX_QUERY_VECTORS: usize = 16;
/// Searches of one batch: they share one deadline.
pub const MAX_BATCH_SEARCHES: usize = 100;
/// Searches of a batch at work at once: a batch is to leave room for others.
pub const MAX_BATCH_IN_FLIGHT: usize = 8;
/// Frames of one group.
pub const MAX_GROUP_SIZE: u32 = 100;
/// `k` when a search names none.
pub const DEFAULT_K: u32 = 10;
/// Frames of one recall.
pub const MAX_RECALL: u32 = 1_000;
/// Frames of one recall by session when it names no limit.
pub const DEFAULT_RECALL: u32 = 100;
/// Frames one `forget` proposal removes; larger sets go in several.
pub const MAX_FORGET_STEP: usize = 1_000;
/// Frames of a page of a scan, at most.
pub const MAX_SCAN: u32 = 1_000;
/// Frames of a page of a scan when nothing is said.
pub const DEFAULT_SCAN: u32 = 200;
/// Bytes after which a shard ends its page of a scan: a page comes from several shards at once.
pub const SCAN_PAGE_BYTES: usize = 2 << 20;
/// Frames that one step of a `forget` by filter opens and looks at: about a second.
pub const MAX_FILTER_STEP: usize = 20_000;
/// Components of a vector (SPEC: 384 text, 1,536 state; the largest public models have 4,096).
pub const MAX_DIM: u32 = 4_096;
/// Named vectors of a collection: each is an index of its own, and a bit in what is known of a frame.
pub const MAX_NAMED_VECTORS: usize = 8;
/// Passages of one frame: 1 MiB of text at about 700 bytes a passage, with room for overlap.
pub const MAX_PASSAGES: usize = 2_048;
/// Query text, bytes: what does not fit one passage of the model would be cut.
pub const MAX_QUERY_BYTES: usize = 8 << 10;
/// Words of a query that are looked for: each is compared with every word of every text.
pub const MAX_QUERY_WORDS: usize = 64;
/// Places in a hit's content that are named as what matched: enough to show.
pub const MAX_HIGHLIGHTS: usize = 32;
/// Levels of a filter: what people and models write has two or three.
pub const MAX_FILTER_DEPTH: usize = 8;
/// Parts of a filter, its tests and what joins them: each is evaluated for every search.
pub const MAX_FILTER_PARTS: usize = 128;
/// Values of all `in` lists of a filter.
pub const MAX_FILTER_VALUES: usize = 1_000;
/// Text of a filter, bytes: a full `in` list of long names.
pub const MAX_FILTER_BYTES: usize = 64 << 10;
/// Collections of a cluster that the map carries to every router in one message.
pub const MAX_COLLECTIONS: usize = 10_000;
/// Shards of a cluster (DESIGN 3.2).
pub const MAX_SHARDS: u32 = 1_024;
/// Nodes of a cluster.
pub const MAX_NODES: usize = 1_000;
/// One gRPC message or HTTP body, bytes: a full batch of large items is refused before it fills memory.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Requests a router works on at once; more wait in the accept queue of the kernel or are told `overloaded`.
pub const MAX_REQUESTS_IN_FLIGHT: usize = 1_024;
/// Items of one ingest stream in work at once.
pub const MAX_INGEST_IN_FLIGHT: usize = 256;
/// A request without a deadline of its own.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// The longest deadline that a caller may ask for; what takes longer should be asked for in parts.
pub const MAX_DEADLINE: Duration = Duration::from_secs(600);
/// Wait between two tries of a request that found no leader: about a heartbeat.
pub const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// A try of one replica for a read before another is asked.
pub const READ_TRY: Duration = Duration::from_secs(2);
/// A try of one leader for a write before the map is asked again.
pub const WRITE_TRY: Duration = Duration::from_secs(5);
/// State older than this is not what a read at level `any` is answered from while another replica answers: longer than
/// an election, in which nobody knows better.
pub const MAX_STALENESS: Duration = Duration::from_secs(3);
/// Entries that a replica may lack, as far as it knows, and still be asked by a read at level `any`: a second of a busy
/// shard.
pub const MAX_READ_LAG: u64 = 5_000;
/// How long a search waits for a shard whose replicas refuse before its answer goes out without it: longer than an
/// election, shorter than a caller's patience.
pub const SHARD_PATIENCE: Duration = Duration::from_secs(5);
/// Shards that one request asks at once; a collection spread wider is asked in turns.
pub const MAX_FAN_OUT: usize = 64;
/// A node that does not answer `status` by then is listed as unreachable.
pub const STATUS_TRY: Duration = Duration::from_secs(1);
/// Query embeddings a router remembers: agents ask the same things again, and 5,000 of 384 components are 8 MB.
pub const QUERY_CACHE: usize = 5_000;
/// Answers of shards that a router keeps to be confirmed: agents ask the same things again.
pub const KEPT_ANSWERS: usize = 10_000;
/// Bytes of all of them: a router stays under 500 MB (SPEC section 2).
pub const KEPT_ANSWERS_BYTES: usize = 64 << 20;
/// Bytes of one of them: a search for everything is not to push out all others.
pub const MAX_KEPT_ANSWER_BYTES: usize = 1 << 20;
/// An `Idempotency-Key`, bytes.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 256;
/// How long a stopping router waits for requests in flight.
pub const SHUTDOWN_DRAIN: Duration = Duration::from_secs(10);
/// How long a request for a newer map is held open.
pub const MAP_WAIT: Duration = Duration::from_secs(20);
/// Changes of a shard that wait for its indexer, of which every search looks at all: beyond them its leader lets writes
/// wait. Comparing a query with so many takes as long as searching the graph.
pub const INDEX_TAIL: usize = 1_024;
/// The same on a replica that falls behind its leader; more slow its apply loop down instead of filling memory.
pub const MAX_INDEX_TAIL: usize = 16_384;
/// Replicas of a cluster that move at once: copying is to stay small beside serving.
pub const MAX_MOVES: usize = 4;
/// Entries a replica may lack to be handed leadership or a vote: less than a heartbeat's worth under load.
pub const CAUGHT_UP_ENTRIES: u64 = 100;
/// Collections that grow at once.
pub const MAX_GROWTHS: usize = 16;
/// Frames of one page that moves from shard to shard while a collection grows; one proposal takes them.
pub const GROWTH_PAGE_FRAMES: usize = 100;
/// Bytes of such a page, unless one frame alone has more.
pub const GROWTH_PAGE_BYTES: usize = 1 << 20;
/// Frames looked at for one page: a pass over what has not changed is quick, and still yields to others.
pub const GROWTH_PAGE_HEADS: usize = 5_000;
/// Bytes per second that move from shard to shard for one node's heirs, so that copying stays small beside serving.
pub const GROWTH_BYTES_PER_SECOND: usize = 16 << 20;
/// Passes over a source's frames before the last one is begun, however much still changes: each is shorter than the one
/// before unless writers outrun it, and then waiting helps nobody.
pub const GROWTH_PASSES: u32 = 5;
/// Frames that changed during a pass, at most, for the next one to be the last: writers of moving frames wait for that.
pub const GROWTH_LAST_FRAMES: u64 = 200;
/// How long after a growth retries of earlier writes are still sent to where they were first written: as long as a shard
/// remembers requests.
pub const GROWTH_MEMORY: Duration = Duration::from_secs(600);
/// How often a shard's leader looks for frames whose time is over. Nobody sees them meanwhile.
pub const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How often the replicas of a shard are compared in the background: damage is found while other replicas are whole, and
/// reading everything once a day is little beside serving.
pub const VERIFY_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How long a verification in the background waits for the slowest replica: it reads at no more than 200 MB/s.
pub const VERIFY_PATIENCE: Duration = Duration::from_secs(3600);
/// Vectors of a collection in a shard from which on its index is kept as an image: fewer are indexed again in a second.
pub const MIN_IMAGE_VECTORS: usize = 2_000;
/// Changes below which no image is written, however small the index.
pub const MIN_IMAGE_CHANGES: u64 = 1_000;
/// Least time between two images of one index: an import would write little else.
pub const IMAGE_PAUSE: Duration = Duration::from_secs(60);
/// Sealed vectors of private frames in one page, bytes: a router holds one page of each shard that it asks.
pub const OWNED_PAGE_BYTES: usize = 4 << 20;
/// Private frames in one page: an entry without vectors has no bytes to speak of.
pub const OWNED_PAGE_FRAMES: usize = 20_000;
/// Shards whose private frames a search reads at once: each holds pages.
pub const OWNED_FAN_OUT: usize = 4;
/// Sealed vectors of private frames that a router keeps, bytes: those of 50,000 frames of 384 components.
pub const OWNED_CACHE_BYTES: usize = 80 << 20;
/// Private frames that one search opens to ask a filter of them, or for their groups: as many as it is likely to have the
/// vectors of, and a few seconds' work.
pub const MAX_PRIVATE_OPENED: usize = 50_000;
/// A private frame's sealed pieces, bytes, beside its content and metadata: names, layers, ranges of passages.
pub const PRIVATE_ROOM_BYTES: usize = 64 << 10;
/// A passphrase or the name of an owner, bytes.
pub const MAX_PASSPHRASE_BYTES: usize = 1 << 10;
/// Owners with a passphrase record: the meta group keeps all of them in memory.
pub const MAX_OWNERS: usize = 10_000;
/// Bytes of one page of a shard's log in a backup, unless one entry alone has more: a proposal of the largest size fits.
pub const ARCHIVE_PAGE_BYTES: usize = 4 << 20;
/// Shards that a node rolls forward at once while a backup is restored. Each holds the frames that its log names on disk.
pub const MAX_ROLLS: usize = 8;
/// One that nobody asks of is given up after this long.
pub const ROLL_IDLE: Duration = Duration::from_secs(300);
/// Places of backups that a cluster knows.
pub const MAX_REPOSITORIES: usize = 64;
/// Passphrases that a router opens at once: each takes 64 MiB and a CPU for a tenth of a second.
pub const MAX_PASSPHRASES_AT_WORK: usize = 2;
/// Owner keys behind passphrases that a router remembers, so that not every request costs such a tenth of a second.
pub const PASSPHRASE_CACHE: usize = 256;
/// How long it remembers one after it was opened.
pub const PASSPHRASE_CACHE_TIME: Duration = Duration::from_secs(60);
