//! `mira export`: a collection into files.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mira_proto::model::{
    AttachmentInfo, DEFAULT_COLLECTION, Frame, RecallRequest, ScanRequest, ScannedFrame, StoreItem,
};
use mira_proto::{Code, Problem};
use serde::Serialize;
use uuid::Uuid;

use crate::args::{Remote, collection_name};
use crate::client::Client;
use crate::error::CliError;
use crate::import::files::{self, FileRef};
use crate::import::manifests;
use crate::import::progress::Progress;
#[cfg(not(feature = "parquet"))]
use crate::import::source;
use crate::output;
use crate::transfer::{self, MemoryPlace};

mod order;

/// Frames that are asked for at once.
const PAGE: u32 = 500;
/// Frames of a session that are read at once.
const RECALL: usize = 100;
/// Characters of a session's name in the name of its file.
const FILE_NAME_CHARS: usize = 100;
const NO_SESSION: &str = "without session";
/// Where Markdown has its files.
const FILES: &str = "files";

/// Export a collection
///
/// JSON Lines have the fields of `mira store`, so that `mira import` reads them back: ids, contents, metadata, times of
/// creation and embeddings that callers gave; embeddings that the router made from a text it makes again. Versions begin
/// anew. Private memories come along, readable, when the owner's key is there; those of others are left out and counted.
///
/// Files that memories have beside their text are written as files, which the records name with their sizes and checksums;
/// `mira import` takes them along.
///
/// In a file of JSON Lines the memories of a session stand together, in its order; on standard output, and in a table, they come
/// in the order of their ids, and say where they stand in their sessions (`position`).
///
/// JSON Lines that were stopped on their way into a file go on where they were when the same command is given again, and
/// no file is fetched twice.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira export --collection notes -o notes.jsonl
  mira export | zstd > memories.jsonl.zst
  mira export --collection notes --format parquet -o notes.parquet
  mira export --collection scans -o scans.jsonl --files /mnt/large/scans
  mira export --collection chats --format markdown -o chats/")]
pub struct Export {
    /// The collection
    #[arg(long, default_value = DEFAULT_COLLECTION, value_parser = collection_name)]
    collection: String,
    /// Where it goes: a file (standard output if it is absent), for Markdown a folder
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// How it is written
    #[arg(long, value_enum, default_value = "jsonl")]
    format: ExportFormat,
    /// Where files go that memories have beside their text. Otherwise they go beside the output, into a folder of its name
    /// with `.files` added (with Markdown: `files` within the folder), and from standard output they are left out
    #[arg(long, value_name = "DIR", conflicts_with = "no_files")]
    files: Option<PathBuf>,
    /// Leave files out, and say how many there were
    #[arg(long)]
    no_files: bool,
    #[command(flatten)]
    remote: Remote,
}

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// One JSON object a line
    Jsonl,
    /// A table, for other programs; `mira import` reads it back too. One that was stopped begins again
    Parquet,
    /// A file for each session, in order of time, for reading
    Markdown,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct ExportSummary {
    /// Frames written now.
    frames: u64,
    /// Frames that an earlier export had written.
    frames_before: u64,
    /// Sessions, with Markdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<u64>,
    private_left_out: u64,
    /// Files that were written, or were there from an earlier export.
    files: u64,
    file_bytes: u64,
    /// Files that were not asked for.
    files_left_out: u64,
    seconds: f64,
}

/// What is written of a memory.
#[derive(Debug, Serialize)]
struct Written {
    #[serde(flatten)]
    item: StoreItem,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachment: Option<FileRef>,
}

/// Most times that a memory is looked at again because it was replaced while its file was written.
const MOST_REPLACED: usize = 10;

impl Export {
    /// Exports and says how much.
    pub async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.remote)?;
        let mut progress = Progress::new(0);
        let written = match (self.format, &self.output) {
            (ExportFormat::Jsonl, Some(file)) => self.to_file(&client, file, &mut progress).await,
            (ExportFormat::Jsonl, None) => {
                let mut out = BufWriter::new(std::io::stdout().lock());
                let mut sink = Lines { out: &mut out, name: Path::new("standard output"), bytes: 0 };
                self.lines(&client, &mut sink, None, &mut progress).await
            }
            #[cfg(feature = "parquet")]
            (ExportFormat::Parquet, Some(file)) => self.to_table(&client, file, &mut progress).await,
            #[cfg(not(feature = "parquet"))]
            (ExportFormat::Parquet, Some(_)) => source::Format::Parquet.check().map(|()| ExportSummary::default()),
            (ExportFormat::Parquet, None) => Err(CliError::Usage("say the file for a table: --output FILE".to_owned())),
            (ExportFormat::Markdown, Some(folder)) => self.to_folder(&client, folder, &mut progress).await,
            (ExportFormat::Markdown, None) => {
                Err(CliError::Usage("say the folder for Markdown: --output DIR".to_owned()))
            }
        };
        let seconds = progress.finish().as_secs_f64();
        let summary = ExportSummary { seconds, ..written? };
        match self.output {
            Some(_) => output::print_answer(&summary, self.remote.json, render),
            // Standard output has the data.
            None => {
                eprint!("{}", render(&summary));
                Ok(())
            }
        }
    }

    /// Beside its place first, under a name that says of which collection, so that nobody takes half of it for the whole.
    async fn to_file(&self, client: &Client, file: &Path, progress: &mut Progress) -> Result<ExportSummary, CliError> {
        let part = file.with_added_extension(format!("{}.part", file_name(&self.collection)));
        let io = || CliError::io(&part);
        let mut out =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part).map_err(io())?;
        let (frames_before, cursor, end) = resume(&out).map_err(io())?;
        out.set_len(end).and_then(|()| out.seek(SeekFrom::Start(end))).map_err(io())?;
        let mut out = BufWriter::new(out);
        let mut sink = Lines { out: &mut out, name: &part, bytes: end };
        let summary = self.lines(client, &mut sink, cursor, progress).await?;
        let unordered = out.into_inner().map_err(|error| error.into_error()).map_err(io())?;
        unordered.sync_all().map_err(io())?;
        // Stopped here, the next one finds all lines, and arranges them again.
        let ordered = part.with_added_extension("ordered");
        let mut out = BufWriter::new(File::create(&ordered).map_err(CliError::io(&ordered))?);
        if order::arrange(&unordered, &mut out).map_err(io())? {
            let out = out.into_inner().map_err(|error| error.into_error());
            out.and_then(|out| out.sync_all()).map_err(CliError::io(&ordered))?;
            std::fs::rename(&ordered, file).map_err(CliError::io(file))?;
            std::fs::remove_file(&part).map_err(io())?;
        } else {
            output::say("too many memories to keep sessions together: they are in the order of their ids");
            std::fs::remove_file(&ordered).map_err(CliError::io(&ordered))?;
            std::fs::rename(&part, file).map_err(CliError::io(file))?;
        }
        Ok(ExportSummary { frames_before, ..summary })
    }

    #[cfg(feature = "parquet")]
    async fn to_table(&self, client: &Client, file: &Path, progress: &mut Progress) -> Result<ExportSummary, CliError> {
        let part = file.with_added_extension("part");
        let failed = |error: parquet::errors::ParquetError| CliError::io(&part)(std::io::Error::other(error));
        let mut table = crate::import::parquet::TableWriter::new(File::create(&part).map_err(CliError::io(&part))?)
            .map_err(failed)?;
        let (mut summary, mut cursor) = (ExportSummary::default(), None);
        loop {
            let page = client.scan(&self.collection, &ScanRequest { cursor, limit: Some(PAGE) }).await?;
            for scanned in page.frames {
                if let Some(Written { item, attachment }) = self.written(client, scanned, &mut summary).await? {
                    table.put(item, attachment).map_err(failed)?;
                }
            }
            summary.private_left_out += page.private_left_out;
            progress.update(summary.frames, table.bytes());
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        table.finish().map_err(failed)?.sync_all().map_err(CliError::io(&part))?;
        std::fs::rename(&part, file).map_err(CliError::io(file))?;
        Ok(summary)
    }

    /// Where files go, if anywhere.
    fn files_folder(&self) -> Option<PathBuf> {
        if self.no_files {
            return None;
        }
        let beside = |output: &PathBuf| match self.format {
            ExportFormat::Markdown => output.join(FILES),
            ExportFormat::Jsonl | ExportFormat::Parquet => files::folder_beside(output),
        };
        self.files.clone().or_else(|| self.output.as_ref().map(beside))
    }

    /// What is to be written of a frame, once its file is; nothing of one that is gone, or is a file and no more.
    async fn written(
        &self,
        client: &Client,
        mut scanned: ScannedFrame,
        summary: &mut ExportSummary,
    ) -> Result<Option<Written>, CliError> {
        // What imports have noted means nothing elsewhere, where ids are others.
        if scanned.frame.kind == manifests::KIND {
            return Ok(None);
        }
        let folder = self.files_folder();
        for _ in 0..MOST_REPLACED {
            let (Some(info), Some(folder)) = (&scanned.frame.attachment, &folder) else {
                summary.files_left_out += u64::from(scanned.frame.attachment.is_some());
                let has_content = scanned.frame.content.is_some() || scanned.frame.bytes.is_some();
                summary.frames += u64::from(has_content);
                return Ok(has_content.then(|| Written { item: item_of(scanned), attachment: None }));
            };
            match self.keep_file(client, &scanned.frame, info, folder).await? {
                Kept::Whole(attachment) => {
                    summary.files += 1;
                    summary.file_bytes += attachment.size.unwrap_or_default();
                    summary.frames += 1;
                    return Ok(Some(Written { item: item_of(scanned), attachment: Some(attachment) }));
                }
                Kept::Replaced(now) => scanned = *now,
                // What was forgotten meanwhile belongs in no export.
                Kept::Gone => return Ok(None),
            }
        }
        let detail = format!("memory {} is replaced again and again while its file is written", scanned.frame.id);
        Err(Problem::new(Code::Conflict, detail).into())
    }

    /// Writes the file of a frame, unless an earlier export has. It gets its name only after the frame was found to be of
    /// the same version still, so that a file is the content of the version it is named after.
    async fn keep_file(
        &self,
        client: &Client,
        frame: &Frame,
        info: &AttachmentInfo,
        folder: &Path,
    ) -> Result<Kept, CliError> {
        let name = files::path_of(frame.id, frame.version);
        let path = folder.join(&name);
        let of = |blake3: blake3::Hash| FileRef {
            path: name.clone(),
            content_type: Some(info.content_type.clone()),
            size: Some(info.size),
            blake3: Some(blake3.to_hex().to_string()),
        };
        if std::fs::metadata(&path).is_ok_and(|found| found.len() == info.size) {
            let known = path.clone();
            let read = tokio::task::spawn_blocking(move || files::digest(&known)).await;
            let read = read.map_err(|error| Problem::internal(format!("reading a file: {error}")))?;
            return Ok(Kept::Whole(of(read.map_err(CliError::io(&path))?.0)));
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(CliError::io(parent))?;
        }
        let part = path.with_added_extension("part");
        let place = MemoryPlace { collection: &self.collection, id: frame.id };
        let read = match transfer::download_part(client, place, &part, false).await {
            Ok(read) => Some(read),
            // It may have been replaced meanwhile, or forgotten.
            Err(CliError::Problem(problem)) if matches!(problem.code, Code::NotFound | Code::Conflict) => None,
            Err(error) => return Err(error),
        };
        let before = frame.id.as_u128().checked_sub(1).map(Uuid::from_u128);
        let page = client.scan(&self.collection, &ScanRequest { cursor: before, limit: Some(1) }).await?;
        let now = page.frames.into_iter().find(|now| now.frame.id == frame.id);
        let kept = match (now, read) {
            (None, _) => Kept::Gone,
            (Some(now), Some(read)) if now.frame.version == frame.version => {
                if read.bytes != info.size {
                    let detail =
                        format!("the content of memory {} has {} bytes, not {}", frame.id, read.bytes, info.size);
                    return Err(Problem::new(Code::Damaged, detail).into());
                }
                std::fs::rename(&part, &path).map_err(CliError::io(&path))?;
                return Ok(Kept::Whole(of(read.blake3)));
            }
            (Some(now), _) => Kept::Replaced(Box::new(now)),
        };
        std::fs::remove_file(&part).map_err(CliError::io(&part))?;
        Ok(kept)
    }

    async fn lines<W: Write>(
        &self,
        client: &Client,
        sink: &mut Lines<'_, W>,
        mut cursor: Option<Uuid>,
        progress: &mut Progress,
    ) -> Result<ExportSummary, CliError> {
        let mut summary = ExportSummary::default();
        loop {
            let page = client.scan(&self.collection, &ScanRequest { cursor, limit: Some(PAGE) }).await?;
            for scanned in page.frames {
                if let Some(written) = self.written(client, scanned, &mut summary).await? {
                    sink.put(&written)?;
                }
            }
            // What is told to be done is.
            sink.flush()?;
            summary.private_left_out += page.private_left_out;
            progress.update(summary.frames, sink.bytes);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(summary),
            }
        }
    }

    /// A frame for reading, and where its file is seen from the folder; nothing of one that is gone.
    async fn readable(
        &self,
        client: &Client,
        mut frame: Frame,
        summary: &mut ExportSummary,
    ) -> Result<Option<(Frame, Option<String>)>, CliError> {
        let folder = self.files_folder();
        for _ in 0..MOST_REPLACED {
            let (Some(info), Some(folder)) = (&frame.attachment, &folder) else {
                summary.files_left_out += u64::from(frame.attachment.is_some());
                return Ok(Some((frame, None)));
            };
            match self.keep_file(client, &frame, info, folder).await? {
                Kept::Whole(file) => {
                    summary.files += 1;
                    summary.file_bytes += info.size;
                    let within = self.files.as_deref().unwrap_or(Path::new(FILES));
                    let link = within.join(file.path).display().to_string();
                    return Ok(Some((frame, Some(link))));
                }
                Kept::Replaced(now) => frame = now.frame,
                Kept::Gone => return Ok(None),
            }
        }
        let detail = format!("memory {} is replaced again and again while its file is written", frame.id);
        Err(Problem::new(Code::Conflict, detail).into())
    }

    /// First which sessions there are, then one after the other in its own order.
    async fn to_folder(
        &self,
        client: &Client,
        folder: &Path,
        progress: &mut Progress,
    ) -> Result<ExportSummary, CliError> {
        std::fs::create_dir_all(folder).map_err(CliError::io(folder))?;
        let mut summary = ExportSummary::default();
        let mut sessions: BTreeMap<Option<String>, Vec<(u64, Uuid)>> = BTreeMap::new();
        let mut cursor = None;
        loop {
            let page = client.scan(&self.collection, &ScanRequest { cursor, limit: Some(PAGE) }).await?;
            let memories = page.frames.into_iter().filter(|scanned| scanned.frame.kind != manifests::KIND);
            for ScannedFrame { frame, position, .. } in memories {
                sessions.entry(frame.session).or_default().push((position, frame.id));
            }
            summary.private_left_out += page.private_left_out;
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let (mut names, mut bytes) = (HashSet::new(), 0);
        for (session, mut frames) in sessions {
            frames.sort();
            let title = session.as_deref().unwrap_or(NO_SESSION);
            let path = folder.join(format!("{}.md", unique(title, &mut names)));
            let part = path.with_added_extension("part");
            let write = CliError::io(&part);
            let mut out = BufWriter::new(File::create(&part).map_err(write)?);
            let mut text = format!("# {title}\n");
            for ids in frames.chunks(RECALL) {
                let ids = ids.iter().map(|&(_, id)| id).collect::<Vec<_>>();
                let mut request =
                    RecallRequest { ids: Some(ids), collection: Some(self.collection.clone()), ..Default::default() };
                loop {
                    let reply = client.recall(&request).await?;
                    // A frame that was forgotten meanwhile is not there any more, and belongs in no export.
                    for frame in reply.frames {
                        if let Some((frame, file)) = self.readable(client, frame, &mut summary).await? {
                            text.push_str(&section(&frame, file.as_deref()));
                            summary.frames += 1;
                        }
                    }
                    bytes += text.len() as u64;
                    out.write_all(text.as_bytes()).map_err(CliError::io(&part))?;
                    text.clear();
                    progress.update(summary.frames, bytes);
                    // Large frames come in several answers.
                    request.cursor = reply.next_cursor;
                    if request.cursor.is_none() {
                        break;
                    }
                }
            }
            out.flush().map_err(CliError::io(&part))?;
            std::fs::rename(&part, &path).map_err(CliError::io(&path))?;
        }
        Ok(ExportSummary { sessions: Some(names.len() as u64), ..summary })
    }
}

/// What became of a frame's file.
enum Kept {
    Whole(FileRef),
    Replaced(Box<ScannedFrame>),
    Gone,
}

/// JSON Lines on their way out.
struct Lines<'a, W: Write> {
    out: &'a mut W,
    name: &'a Path,
    bytes: u64,
}

impl<W: Write> Lines<'_, W> {
    fn put(&mut self, written: &Written) -> Result<(), CliError> {
        let mut line = serde_json::to_vec(written).map_err(|error| CliError::io(self.name)(error.into()))?;
        line.push(b'\n');
        self.bytes += line.len() as u64;
        self.out.write_all(&line).map_err(CliError::io(self.name))
    }

    fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush().map_err(CliError::io(self.name))
    }
}

/// What an earlier export has written: how many whole lines, the id of the last, and where it ends. Lines come in order of
/// the ids, so there is nothing else to know.
fn resume(file: &File) -> std::io::Result<(u64, Option<Uuid>, u64)> {
    #[derive(serde::Deserialize)]
    struct Id {
        id: Uuid,
    }
    let (mut lines, mut last, mut end) = (0, None, 0);
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let Some(Id { id }) = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok()) else {
            break;
        };
        (lines, last, end) = (lines + 1, Some(id), end + line.len() as u64);
        line.clear();
    }
    Ok((lines, last, end))
}

/// What `mira import` needs to make the frame again.
fn item_of(ScannedFrame { frame, position, vector, vectors }: ScannedFrame) -> StoreItem {
    StoreItem {
        content: frame.content,
        bytes: frame.bytes,
        kind: Some(frame.kind),
        session: frame.session,
        role: frame.role,
        metadata: (!frame.metadata.is_empty()).then_some(frame.metadata),
        vector,
        vectors,
        id: Some(frame.id),
        expires_at: frame.expires_at,
        created_at: Some(frame.created_at),
        position: Some(position),
        private: frame.private,
        ..StoreItem::default()
    }
}

/// A frame for reading, with a link to its file.
fn section(frame: &Frame, file: Option<&str>) -> String {
    let who = frame.role.as_deref().unwrap_or(&frame.kind);
    let said = match (&frame.content, &frame.bytes) {
        (Some(text), _) => Some(text.trim_end().to_owned()),
        (None, None) => None,
        (None, bytes) => Some(format!("({} bytes)", bytes.as_ref().map_or(0, |base64| base64.len() / 4 * 3))),
    };
    let file = frame.attachment.as_ref().map(|info| {
        let what = format!("{}, {} bytes", info.content_type, info.size);
        file.map_or_else(|| format!("({what})"), |path| format!("[{what}](<{path}>)"))
    });
    let content = said.into_iter().chain(file).collect::<Vec<_>>().join("\n\n");
    format!("\n## {who} · {} · {}\n\n{content}\n", frame.created_at, frame.id)
}

/// A name that any file system takes.
fn file_name(name: &str) -> String {
    let kept = |letter: char| if letter.is_alphanumeric() || "-_.".contains(letter) { letter } else { '_' };
    let short: String = name.chars().map(kept).take(FILE_NAME_CHARS).collect();
    match short.trim_matches('.') {
        "" => "_".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// The same, and another for each name, though they may look alike.
fn unique(name: &str, taken: &mut HashSet<String>) -> String {
    let plain = file_name(name);
    // File systems may not tell upper case from lower.
    if taken.insert(plain.to_lowercase()) {
        return plain;
    }
    let hashed = format!("{plain}-{}", &blake3::hash(name.as_bytes()).to_hex()[..8]);
    taken.insert(hashed.to_lowercase());
    hashed
}

fn render(summary: &ExportSummary) -> String {
    let mut text = format!("exported {} memories in {:.1} s", summary.frames, summary.seconds);
    if let Some(sessions) = summary.sessions {
        text.push_str(&format!(", {sessions} sessions"));
    }
    if summary.frames_before > 0 {
        text.push_str(&format!(", after {} of an earlier export", summary.frames_before));
    }
    text.push('\n');
    if summary.private_left_out > 0 {
        text.push_str(&format!(
            "left out {} private memories: only their owner's key opens them (MIRA_OWNER_KEY)\n",
            summary.private_left_out
        ));
    }
    if summary.files > 0 {
        text.push_str(&format!("{} files of {} bytes beside them\n", summary.files, summary.file_bytes));
    }
    if summary.files_left_out > 0 {
        text.push_str(&format!(
            "left out {} files: --files DIR says where they may go, `mira recall ID --output FILE` reads one\n",
            summary.files_left_out
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_goes_on_after_its_last_whole_line() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(resume(&file).unwrap(), (0, None, 0));
        let line = |n: u128| format!("{{\"content\":\"x\",\"id\":\"{}\"}}\n", Uuid::from_u128(n));
        let whole = line(1) + &line(2);
        file.write_all(format!("{whole}{{\"content\":\"cut").as_bytes()).unwrap();
        file.rewind().unwrap();
        assert_eq!(resume(&file).unwrap(), (2, Some(Uuid::from_u128(2)), whole.len() as u64));
    }

    #[test]
    fn sessions_have_files_of_their_own_whatever_their_names() {
        let mut taken = HashSet::new();
        let names = ["chat 1", "chat/1", "Chat_1", "..", "", &"x".repeat(500), "übung"];
        let files: Vec<String> = names.iter().map(|name| unique(name, &mut taken)).collect();
        assert_eq!(taken.len(), names.len(), "{files:?}");
        assert_eq!((&*files[0], &*files[6]), ("chat_1", "übung"));
        assert!(files.iter().all(|file| !file.is_empty() && !file.contains('/') && !file.starts_with('.')));
    }
}
