//! Index images on disk: sealed, whole or not there, bound to where they belong.
//!
//! ```text
//! file   = "MIRASIMG" version:u32 key_version:u32 file:u128 page*
//! page   = a page of `crypto::page`, sealed with the collection's key of that version under that file id
//! plain  = collection:u64 shard:u32 space:u8 from:u64 upto:u64 image      of all pages together, little-endian
//! ```
//! `image` is the layout of `index/src/image.rs`. The file id is random, so pages of two files cannot be mixed; a page
//! opens only in its place, and the last only as the last. Where the file belongs is sealed in it, so a file that was
//! moved or renamed is noticed. What `from` and `upto` promise is told at [`Span`].
//!
//! A file is written beside its place, synced, and renamed into it, so at every moment there is the last whole image or
//! none. An image is worth nothing but time: whatever is wrong with it, it is deleted and the index is built from frames.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use mira_crypto::{
    CollectionKey, CryptoError, PageSealer, os_rng,
    page::{PAGE_LEN, PagePosition, SEALED_PAGE_LEN},
};
use mira_index::{ImageError, RowStorage, Snapshot, VectorIndex};
use mira_proto::{CollectionId, ShardId, vectors::SpaceNumber};

use crate::shard::index::SpaceId;

const MAGIC: [u8; 8] = *b"MIRASIMG";
const VERSION: u32 = 2;
const HEADER_LEN: usize = 8 + 4 + 4 + 16;
const PLACE_LEN: usize = 8 + 4 + 1 + 8 + 8;
const SUFFIX: &str = "image";
/// Of files that are being written.
const NEW_SUFFIX: &str = "image-new";

/// Which log positions an image stands for.
///
/// For a state at `upto` or later: a frame whose last change is at `from` or earlier is in the image as it is in the
/// state. What changed later may be in the image in any of its versions, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Everything up to here is in it.
    pub from: u64,
    /// Nothing beyond here is in it.
    pub upto: u64,
}

/// What an image holds.
pub struct ImageContent {
    /// The space that it is of.
    pub number: SpaceNumber,
    /// Which log positions it stands for.
    pub span: Span,
    /// The index at that moment.
    pub snapshot: Snapshot,
}

/// Why an image could not be written or is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SealedImageError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no image, or of a version that this program does not know.
    #[error("not an image of this version")]
    Foreign,
    /// It was made for another collection, space or shard.
    #[error("the image belongs to collection {collection}, space {space}, shard {shard}")]
    Misplaced {
        /// The collection it was made for.
        collection: CollectionId,
        /// The space it was made for.
        space: SpaceNumber,
        /// The shard it was made for.
        shard: ShardId,
    },
    /// It does not open.
    #[error(transparent)]
    Sealed(#[from] CryptoError),
    /// What was sealed is no whole index.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The images of one shard.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    folder: PathBuf,
    shard: ShardId,
}

impl ImageFolder {
    /// Those of a shard of the node with this data folder.
    pub fn new(data: &Path, shard: ShardId) -> Self {
        ImageFolder { folder: data.join("index").join(format!("shard-{shard}")), shard }
    }

    /// Where the image of a space lies, if there is one.
    pub fn path(&self, space: SpaceId) -> PathBuf {
        self.named(space, SUFFIX)
    }

    fn named(&self, SpaceId { collection, number }: SpaceId, suffix: &str) -> PathBuf {
        self.folder.join(format!("{collection:016x}-{number}.{suffix}"))
    }

    /// The version of the collection's key that an image needs; `None` if there is no image.
    pub fn key_version(&self, space: SpaceId) -> Result<Option<u32>, SealedImageError> {
        match File::open(self.path(space)) {
            Ok(mut file) => Ok(Some(Header::read(&mut file)?.key_version)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the image of a space of the key's collection.
    pub fn read(
        &self,
        key: &CollectionKey,
        number: SpaceNumber,
        storage: &RowStorage,
    ) -> Result<(VectorIndex, Span), SealedImageError> {
        let file = File::open(self.path(SpaceId { collection: key.collection(), number }))?;
        let length = file.metadata()?.len();
        let mut file = BufReader::with_capacity(SEALED_PAGE_LEN, file);
        let header = Header::read(&mut file)?;
        let left = length.saturating_sub(HEADER_LEN as u64);
        let sealer = PageSealer::new(key, header.file);
        let mut pages = SealedReader { file, sealer, left, number: 0, page: Vec::new(), used: 0 };
        let mut place = [0; PLACE_LEN];
        pages.read_exact(&mut place)?;
        let position = |at: usize| u64::from_le_bytes(place[at..at + 8].try_into().expect("eight bytes"));
        let collection = position(0);
        let shard = u32::from_le_bytes(place[8..12].try_into().expect("four bytes"));
        let space = place[12];
        if (collection, space, shard) != (key.collection(), number, self.shard) {
            return Err(SealedImageError::Misplaced { collection, space, shard });
        }
        let index = VectorIndex::read_image(&mut pages, storage)?;
        if pages.left > 0 || pages.used < pages.page.len() {
            return Err(ImageError::Damaged("content goes on").into());
        }
        Ok((index, Span { from: position(13), upto: position(21) }))
    }

    /// Writes an image beside its place; [`NewImage::keep`] puts it there. `stop` is asked between pages.
    pub fn write(
        &self,
        key: &CollectionKey,
        content: &ImageContent,
        stop: &dyn Fn() -> bool,
    ) -> Result<NewImage, SealedImageError> {
        let &ImageContent { number, span, ref snapshot } = content;
        fs::create_dir_all(&self.folder)?;
        let space = SpaceId { collection: key.collection(), number };
        let new = NewImage { path: self.named(space, NEW_SUFFIX), place: self.path(space), kept: false };
        let mut file = BufWriter::with_capacity(SEALED_PAGE_LEN, File::create(&new.path)?);
        let header = Header { key_version: key.version(), file: rand::random() };
        header.write(&mut file)?;
        let sealer = PageSealer::new(key, header.file);
        let mut pages = SealedWriter { file, sealer, number: 0, page: Vec::with_capacity(PAGE_LEN), stop };
        pages.write_all(&key.collection().to_le_bytes())?;
        pages.write_all(&self.shard.to_le_bytes())?;
        pages.write_all(&[number])?;
        pages.write_all(&span.from.to_le_bytes())?;
        pages.write_all(&span.upto.to_le_bytes())?;
        snapshot.write(&mut pages)?;
        pages.finish()?.sync_all()?;
        Ok(new)
    }

    /// Deletes the image of a space, if there is one.
    pub fn delete(&self, space: SpaceId) -> io::Result<()> {
        match fs::remove_file(self.path(space)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes all images: the shard is not here any more.
    pub fn delete_all(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes everything but the images of these spaces: what a crash left half written, and what belongs to collections
    /// that are gone.
    pub fn retain(&self, spaces: &[SpaceId]) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let kept: Vec<_> = spaces.iter().map(|space| self.path(*space)).collect();
        for entry in entries {
            let path = entry?.path();
            if !kept.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// An image that is written and synced, but not in its place yet. Dropping it deletes it.
pub struct NewImage {
    path: PathBuf,
    place: PathBuf,
    kept: bool,
}

impl NewImage {
    /// Puts it into its place, durably, instead of what was there.
    pub fn keep(mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.place)?;
        self.kept = true;
        File::open(self.place.parent().expect("a file has a folder"))?.sync_all()
    }
}

impl Drop for NewImage {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be deleted now goes at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What stands before the pages, in clear.
struct Header {
    key_version: u32,
    file: u128,
}

impl Header {
    fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&MAGIC)?;
        writer.write_all(&VERSION.to_le_bytes())?;
        writer.write_all(&self.key_version.to_le_bytes())?;
        writer.write_all(&self.file.to_le_bytes())
    }

    fn read(reader: &mut impl Read) -> Result<Self, SealedImageError> {
        let mut bytes = [0; HEADER_LEN];
        reader.read_exact(&mut bytes)?;
        let (start, rest) = bytes.split_at(16);
        if start[..8] != MAGIC || start[8..12] != VERSION.to_le_bytes() {
            return Err(SealedImageError::Foreign);
        }
        let key_version = u32::from_le_bytes(start[12..].try_into().expect("four bytes"));
        Ok(Header { key_version, file: u128::from_le_bytes(rest.try_into().expect("sixteen bytes")) })
    }
}

/// Seals a stream page by page.
struct SealedWriter<'a, W: Write> {
    file: W,
    sealer: PageSealer,
    number: u64,
    /// What is not written yet: at most one page, which may be the last.
    page: Vec<u8>,
    stop: &'a dyn Fn() -> bool,
}

impl<W: Write> SealedWriter<'_, W> {
    fn seal(&mut self, last: bool) -> io::Result<()> {
        if (self.stop)() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped"));
        }
        let position = PagePosition { number: self.number, last };
        self.file.write_all(&self.sealer.seal(position, &self.page, &mut os_rng()))?;
        self.number += 1;
        self.page.clear();
        Ok(())
    }
}

impl SealedWriter<'_, BufWriter<File>> {
    fn finish(mut self) -> io::Result<File> {
        self.seal(true)?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl<W: Write> Write for SealedWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.page.len() == PAGE_LEN && !bytes.is_empty() {
            self.seal(false)?;
        }
        let taken = bytes.len().min(PAGE_LEN - self.page.len());
        self.page.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Nothing: a page goes out when it is known not to be the last, or with [`finish`](Self::finish).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a stream page by page.
struct SealedReader<R: Read> {
    file: R,
    sealer: PageSealer,
    /// Sealed bytes not read yet.
    left: u64,
    number: u64,
    page: Vec<u8>,
    used: usize,
}

impl<R: Read> SealedReader<R> {
    fn open(&mut self) -> io::Result<()> {
        let length = self.left.min(SEALED_PAGE_LEN as u64);
        let mut sealed = vec![0; length as usize];
        self.file.read_exact(&mut sealed)?;
        self.left -= length;
        let position = PagePosition { number: self.number, last: self.left == 0 };
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        self.page = self.sealer.open(position, &sealed).map_err(invalid)?;
        self.used = 0;
        self.number += 1;
        Ok(())
    }
}

impl<R: Read> Read for SealedReader<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.used == self.page.len() && self.left > 0 {
            self.open()?;
        }
        let taken = bytes.len().min(self.page.len() - self.used);
        bytes[..taken].copy_from_slice(&self.page[self.used..self.used + taken]);
        self.used += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of the layout needs a new version: an image of another one is deleted, and the index rebuilt.
    #[test]
    fn version_2_reads_as_it_was_written() {
        let file = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
        let mut written = Vec::new();
        Header { key_version: 3, file }.write(&mut written).unwrap();
        let sample = b"MIRASIMG\x02\0\0\0\x03\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";
        assert_eq!(written, sample);
        let read = Header::read(&mut &sample[..]).unwrap();
        assert_eq!((read.key_version, read.file), (3, file));
        let newer = [&sample[..8], &[3], &sample[9..]].concat();
        assert!(matches!(Header::read(&mut &newer[..]), Err(SealedImageError::Foreign)));
    }
}
