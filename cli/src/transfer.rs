//! Files as large contents of memories: up in steps that can be repeated, down with ranges that go on where it broke off.

use std::io::SeekFrom;
use std::path::Path;

use bytes::Bytes;
use indicatif::ProgressBar;
use mira_proto::model::{Stored, UploadReply, UploadRequest};
use mira_proto::{Code, Problem, limits};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use uuid::Uuid;

use crate::client::{Client, Received};
use crate::error::CliError;
use crate::output;

/// Bytes of one step: what a router stores at once.
const STEP: usize = limits::CHUNKS_IN_FLIGHT * limits::MAX_CONTENT_BYTES;
/// What is shown of a file on its way.
const BAR: &str = "[{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";
/// How often a download is gone on with before it is given up.
const TRIES: u32 = 8;

/// A file on its way into a collection.
pub struct Upload<'a> {
    /// Where to.
    pub client: &'a Client,
    /// The collection.
    pub collection: &'a str,
    /// The file.
    pub path: &'a Path,
    /// One of many: no bar, and no word on how to go on.
    pub is_quiet: bool,
}

impl Upload<'_> {
    /// Begins an upload and sends the file.
    pub async fn begin(&self, mut request: UploadRequest) -> Result<Stored, CliError> {
        let (file, size) = self.open().await?;
        request.size = Some(size);
        let begun = self.client.begin_upload(self.collection, &request, None).await?;
        self.send(begun, file, size).await
    }

    /// Begins an upload or goes on with the one that the same key has begun, for as long as the cluster knows of that.
    pub async fn begin_or_go_on(&self, mut request: UploadRequest, key: &str) -> Result<Stored, CliError> {
        let (file, size) = self.open().await?;
        request.size = Some(size);
        let begun = self.client.begin_upload(self.collection, &request, Some(key)).await?;
        match self.send(begun, file, size).await {
            // Its time was over, and only the answer to its beginning was remembered.
            Err(CliError::Problem(problem)) if problem.code == Code::NotFound => self.begin(request).await,
            sent => sent,
        }
    }

    /// Goes on with an upload.
    pub async fn resume(&self, upload: Uuid) -> Result<Stored, CliError> {
        let (file, size) = self.open().await?;
        let known = self.client.upload(self.collection, upload).await?;
        if known.size.is_some_and(|known| known != size) {
            return Err(
                self.bad(format!("the upload is of a file of {} bytes, this has {size}", known.size.unwrap_or(0)))
            );
        }
        self.send(known, file, size).await
    }

    async fn open(&self) -> Result<(File, u64), CliError> {
        let name = self.path.display().to_string();
        let file = File::open(self.path).await.map_err(CliError::io(&name))?;
        let size = file.metadata().await.map_err(CliError::io(&name))?.len();
        if size <= limits::MAX_ATTACHMENT_BYTES {
            Ok((file, size))
        } else {
            Err(self.bad(format!("{size} bytes, the most is {}", limits::MAX_ATTACHMENT_BYTES)))
        }
    }

    async fn send(&self, mut known: UploadReply, mut file: File, size: u64) -> Result<Stored, CliError> {
        let id = known.upload;
        let bar = if self.is_quiet { ProgressBar::hidden() } else { output::bar(Some(size), BAR) };
        let broken_off = |error| {
            if self.is_quiet {
                return error;
            }
            eprintln!("upload {id} can be gone on with for a day: give --resume {id} with the same file");
            error
        };
        while known.stored.is_none() && known.offset < size {
            bar.set_position(known.offset);
            let bytes = self.read(&mut file, known.offset).await?;
            known = match self.client.append(self.collection, id, known.offset, bytes).await {
                // An earlier try was taken, and its answer lost.
                Err(CliError::Problem(problem)) if problem.code == Code::Conflict => {
                    let now = self.client.upload(self.collection, id).await.map_err(broken_off)?;
                    if now.offset == known.offset { return Err(CliError::Problem(problem)) } else { now }
                }
                answer => answer.map_err(broken_off)?,
            };
        }
        bar.finish_and_clear();
        let done = self.client.finish_upload(self.collection, id).await.map_err(broken_off)?;
        done.stored.ok_or_else(|| self.bad("the cluster finished the upload without a frame".into()))
    }

    async fn read(&self, file: &mut File, offset: u64) -> Result<Bytes, CliError> {
        let name = self.path.display().to_string();
        file.seek(SeekFrom::Start(offset)).await.map_err(CliError::io(&name))?;
        let mut bytes = Vec::with_capacity(STEP);
        file.take(STEP as u64).read_to_end(&mut bytes).await.map_err(CliError::io(&name))?;
        if bytes.is_empty() {
            Err(self.bad("the file became shorter while it was sent".into()))
        } else {
            Ok(bytes.into())
        }
    }

    fn bad(&self, detail: String) -> CliError {
        CliError::BadFile { path: self.path.to_owned(), detail }
    }
}

/// Where a memory is.
#[derive(Debug, Clone, Copy)]
pub struct MemoryPlace<'a> {
    /// Its collection.
    pub collection: &'a str,
    /// Its id.
    pub id: Uuid,
}

/// Writes a memory's content to a file, which is there only when it is whole.
pub async fn download(client: &Client, place: MemoryPlace<'_>, path: &Path) -> Result<u64, CliError> {
    let part = path.with_added_extension("part");
    let read = download_part(client, place, &part, true).await?;
    tokio::fs::rename(&part, path).await.map_err(CliError::io(path))?;
    Ok(read.bytes)
}

/// The same, to a file that is not in its place yet.
pub async fn download_part(
    client: &Client,
    place: MemoryPlace<'_>,
    part: &Path,
    shows_bar: bool,
) -> Result<Read, CliError> {
    let mut file = File::create(part).await.map_err(CliError::io(part))?;
    let read = read_content(client, place, Some(Target { file: &mut file, path: part }), shows_bar).await?;
    file.sync_all().await.map_err(CliError::io(part))?;
    Ok(read)
}

/// What a memory's content is, without keeping it.
pub async fn digest(client: &Client, place: MemoryPlace<'_>) -> Result<Read, CliError> {
    read_content(client, place, None, false).await
}

/// A content that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// How long it is.
    pub bytes: u64,
    /// What it is.
    pub blake3: blake3::Hash,
}

/// A file that a content is written to.
struct Target<'a> {
    file: &'a mut File,
    path: &'a Path,
}

/// Reads a content, going on where the connection broke.
async fn read_content(
    client: &Client,
    place: MemoryPlace<'_>,
    mut into: Option<Target<'_>>,
    shows_bar: bool,
) -> Result<Read, CliError> {
    let MemoryPlace { collection, id } = place;
    let (mut at, mut etag, mut tries, mut bar_of_all) = (0, None, 0, None);
    let mut hasher = blake3::Hasher::new();
    loop {
        let mut content = client.content(collection, id, Received { bytes: at, etag: etag.as_deref() }).await?;
        if etag.is_some() && content.is_whole {
            let detail = format!("memory {id} was replaced while its content was read: try again");
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        etag = content.etag.take();
        let size = at + content.bytes;
        let make_bar = || if shows_bar { output::bar(Some(size), BAR) } else { ProgressBar::hidden() };
        let bar = bar_of_all.get_or_insert_with(make_bar);
        let broken_off = loop {
            match content.next().await {
                Ok(Some(bytes)) => {
                    hasher.update(&bytes);
                    if let Some(Target { file, path }) = &mut into {
                        file.write_all(&bytes).await.map_err(CliError::io(*path))?;
                    }
                    at += bytes.len() as u64;
                    bar.set_position(at);
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if at == size {
            bar.finish_and_clear();
            return Ok(Read { bytes: size, blake3: hasher.finalize() });
        }
        tries += 1;
        if let Some(error) = broken_off.filter(|_| tries == TRIES) {
            return Err(error);
        }
        tokio::time::sleep(crate::backoff::backoff(tries, rand::random())).await;
    }
}
