//! An index as bytes: written beside writers, read back without linking anything again.
//!
//! The layer above seals the bytes and keeps them with the log position they stand for; this one guards against
//! truncation, damage and versions it does not know.
//!
//! ```text
//! image   = "MIRAVIDX" version:u32 chunk* end
//! chunk   = length:u32 (1..=262,144) payload crc:u32      end = 0:u32 crc:u32
//! ```
//! `crc` is the CRC-32 of every byte before it, so chunks cannot be swapped or dropped. Integers are little-endian. The
//! payloads together are one stream:
//!
//! ```text
//! shape   = dim:u32 metric:u8 quantization:u8 m:u32 ef_construction:u32 exact_below:u64 seed:u64 slots:u32
//!           rows:u8 (0 the codes are the rows, 1 in the image, 2 elsewhere)
//! slot*   = 0:u8 (holds nothing) | (1:u8 (live) | 2:u8 (dead)) id:u128 first:u32 count:u32 created:u64 expires:u64 codes
//! row*    = scale:f32 f16*                                of live slots in order, if in the image
//! fields  = count:u32 (name:text dropped:u8 values:u32 value*)*
//! value   = 0:u8 bool:u8 | (1:u8 (whole) | 2:u8 (above i64) | 3:u8 (f64)) bits:u64 | 4:u8 text
//! text    = bytes:u32 UTF-8
//! kinds   = full:u8 count:u32 (name:text kinds:u8)*         by name; full: fields that are not named hold anything
//! terms*  = partial:u8 count:u8 (value:u22 field:u10)*      of the first slots of live documents in order
//! graph   = 0:u8 | 1:u8 unlinked_from:u32 unlinked_to:u32 top* links*
//! top*    = 0..=15 (a node's highest layer) | 254 (a twin) | 255 (not in the graph): u8   of every slot
//! links*  = (count:u8 slot:u32*) of every layer of a node from the bottom, then twin:u32 (slot + 1, 0 for none)
//!           of nodes and twins in order
//! ```
//!
//! Each value of a field stands once; the attributes of a document are terms, which name a field and one of its values.
//! Of a field that takes too much nothing is kept, and no term names it. Its kinds are kept, as those of values that are
//! too long or too many to be terms.
//!
//! Dead slots keep their codes, because the graph leads through them, but not their rows. An index can always be made
//! again from its documents, so images of other versions are refused, not converted.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use crc32fast::Hasher;

use crate::error::{ImageError, RowsError};
use crate::filter::condition::{Number, Value};
use crate::filter::field_types::{FieldKinds, Kinds, MAX_NAME_BYTES, MAX_NAMED};
use crate::filter::postings::{MAX_FIELDS, MAX_PER_DOCUMENT, MAX_TEXT, Term};
use crate::vector::arena::WRITTEN;
use crate::vector::config::{Config, MAX_PASSAGES, MAX_SLOTS, Metric, Quantization};
use crate::vector::graph::{Graph, MAX_LAYER};
use crate::vector::rows::{Row, RowStorage, Rows};
use crate::vector::segment::{Segment, View};
use crate::vector::table::{Label, Times};
use crate::vector::vector_index::VectorIndex;

const MAGIC: [u8; 8] = *b"MIRAVIDX";
const VERSION: u32 = 4;
const CHUNK: usize = 256 * 1024;
const TWIN: u8 = 254;
const ABSENT: u8 = 255;
/// Longest name of a field: metadata is bounded before it comes here.
const MAX_NAME: usize = 1 << 20;
/// Slots whose terms are copied at once: writers wait as long.
const TERM_BATCH: usize = 4_096;

/// The index at one point in time, while writers go on.
///
/// It keeps memory that a compaction meanwhile would have freed.
pub struct Snapshot {
    segment: Arc<Segment>,
    view: View,
}

impl VectorIndex {
    /// Takes the present state, to be written as an image later. Costs nothing; everything that `upsert` and `remove`
    /// have returned from is in it.
    pub fn snapshot(&self) -> Snapshot {
        let segment = self.segment();
        let view = segment.view();
        Snapshot { segment, view }
    }

    /// Writes the present state as an image.
    pub fn write_image(&self, writer: &mut impl Write) -> Result<(), ImageError> {
        self.snapshot().write(writer)
    }

    /// Reads an image back, whose rows lay where `storage` says. Nothing is linked again, so it takes about as long as
    /// copying.
    pub fn read_image(reader: impl Read, storage: &RowStorage) -> Result<VectorIndex, ImageError> {
        let mut source = ChunkReader::open(reader)?;
        let (config, slots) = read_shape(&mut source)?;
        let segment = Segment::new(config, storage);
        if source.u8()? != rows_code(&segment.rows) {
            return Err(ImageError::Damaged("place of rows"));
        }
        let kinds = read_slots(&mut source, &segment, slots)?;
        read_rows(&mut source, &segment, &kinds)?;
        read_attributes(&mut source, &segment, &kinds)?;
        read_graph(&mut source, &segment, &kinds)?;
        source.finish()?;
        segment.restore(slots)?;
        Ok(VectorIndex::from_segment(segment))
    }
}

impl Snapshot {
    /// Writes the image. The same index written twice gives the same bytes if nobody writes to it meanwhile.
    pub fn write(&self, writer: &mut impl Write) -> Result<(), ImageError> {
        self.segment.drain_backlog(usize::MAX);
        let mut sink = ChunkWriter::create(writer)?;
        self.write_shape(&mut sink)?;
        let kinds = self.write_slots(&mut sink)?;
        self.write_rows(&mut sink, &kinds)?;
        self.write_attributes(&mut sink, &kinds)?;
        self.write_graph(&mut sink, &kinds)?;
        sink.finish()
    }

    fn write_shape(&self, sink: &mut ChunkWriter<'_, impl Write>) -> Result<(), ImageError> {
        let config = &self.segment.config;
        sink.u32(config.dim as u32)?;
        sink.put(&[metric_code(config.metric), quantization_code(config.quantization)])?;
        sink.u32(config.m as u32)?;
        sink.u32(config.ef_construction as u32)?;
        sink.put(&(config.exact_below as u64).to_le_bytes())?;
        sink.put(&config.seed.to_le_bytes())?;
        sink.u32(self.view.slots)?;
        sink.put(&[rows_code(&self.segment.rows)])
    }

    /// Writes labels and codes, and returns what each slot holds.
    fn write_slots(&self, sink: &mut ChunkWriter<'_, impl Write>) -> Result<Vec<u8>, ImageError> {
        let mut kinds = Vec::with_capacity(self.view.slots as usize);
        for slot in 0..self.view.slots {
            let (label, codes) = (self.segment.labels.get(slot), self.segment.codes.payload(slot));
            let (Some(label), Some(codes)) = (label, codes) else {
                kinds.push(0);
                sink.put(&[0])?;
                continue;
            };
            let kind = if self.segment.is_visible(self.view, slot) { 1 } else { 2 };
            kinds.push(kind);
            sink.put(&[kind])?;
            sink.put(&label.id.to_le_bytes())?;
            sink.u32(label.first)?;
            sink.u32(label.count)?;
            sink.put(&label.times.created_ms.to_le_bytes())?;
            sink.put(&label.times.expires_ms.to_le_bytes())?;
            sink.put(bytemuck::cast_slice(codes))?;
        }
        Ok(kinds)
    }

    fn write_rows(&self, sink: &mut ChunkWriter<'_, impl Write>, kinds: &[u8]) -> Result<(), ImageError> {
        let Rows::Memory(rows) = &self.segment.rows else { return Ok(()) };
        for slot in (0..self.view.slots).filter(|slot| kinds[*slot as usize] == 1) {
            let Some(Row::Half { bits, scale }) = rows.row(slot) else { return Err(RowsError::Missing(slot).into()) };
            sink.put(&scale.to_le_bytes())?;
            sink.put(bytemuck::cast_slice(bits))?;
        }
        Ok(())
    }

    /// Writes attributes. Terms are never taken back, so that what is copied first names whatever is copied later.
    fn write_attributes(&self, sink: &mut ChunkWriter<'_, impl Write>, kinds: &[u8]) -> Result<(), ImageError> {
        let postings = &self.segment.postings;
        let count = postings.read().fields.len();
        let mut is_dropped = Vec::with_capacity(count);
        sink.u32(count as u32)?;
        for number in 0..count {
            let (name, dropped, values) = {
                let inner = postings.read();
                let field = &inner.fields[number];
                (field.name.clone(), field.is_dropped, field.values.clone())
            };
            sink.text(&name)?;
            sink.put(&[dropped.into()])?;
            sink.u32(values.len() as u32)?;
            values.iter().try_for_each(|value| sink.value(value))?;
            is_dropped.push(dropped);
        }
        // After the values, so that none is written whose kind is not.
        let field_kinds = postings.read().kinds.clone();
        sink.put(&[field_kinds.is_full().into()])?;
        let named = field_kinds.sorted();
        sink.u32(named.len() as u32)?;
        for (name, kinds) in named {
            sink.text(name)?;
            sink.put(&[kinds.bits()])?;
        }
        let firsts: Vec<u32> = firsts(&self.segment, kinds).collect();
        for slots in firsts.chunks(TERM_BATCH) {
            let lists: Vec<_> = {
                let inner = postings.read();
                slots.iter().map(|slot| (inner.is_partial(*slot), inner.terms_of(*slot))).collect()
            };
            for (is_partial, terms) in lists {
                let kept: Vec<_> = terms.into_iter().filter(|term| !is_dropped[term.field()]).collect();
                sink.put(&[is_partial.into(), kept.len() as u8])?;
                kept.iter().try_for_each(|term| sink.u32(term.0))?;
            }
        }
        Ok(())
    }

    /// Writes the graph without what joined it since the snapshot.
    fn write_graph(&self, sink: &mut ChunkWriter<'_, impl Write>, kinds: &[u8]) -> Result<(), ImageError> {
        let unlinked = self.segment.unlinked();
        let Some(graph) = self.segment.graph.get() else { return sink.put(&[0]) };
        sink.put(&[1])?;
        sink.u32(unlinked.start)?;
        sink.u32(unlinked.end.min(self.view.slots).max(unlinked.start))?;
        let held = |slot: &u32| kinds.get(*slot as usize).is_some_and(|kind| *kind != 0) && !unlinked.contains(slot);
        let next_twin = |slot: u32| graph.twins(slot).find(held);
        let mut tops: Vec<u8> =
            (0..self.view.slots).map(|slot| if held(&slot) { graph.top_of(slot) as u8 } else { ABSENT }).collect();
        for slot in (0..self.view.slots).filter(held) {
            if let Some(twin) = next_twin(slot) {
                tops[twin as usize] = TWIN;
            }
        }
        sink.put(&tops)?;
        for (slot, top) in (0u32..).zip(&tops).filter(|(_, top)| **top != ABSENT) {
            for layer in 0..if *top == TWIN { 0 } else { *top as usize + 1 } {
                let leads = |other: &u32| held(other) && tops[*other as usize] != TWIN;
                let links: Vec<u32> = graph.links(slot, layer).filter(leads).collect();
                sink.put(&[links.len() as u8])?;
                links.iter().try_for_each(|link| sink.u32(*link))?;
            }
            sink.u32(next_twin(slot).map_or(0, |twin| twin + 1))?;
        }
        Ok(())
    }
}

fn metric_code(metric: Metric) -> u8 {
    match metric {
        Metric::Cosine => 0,
        Metric::Dot => 1,
        Metric::L2 => 2,
    }
}

fn quantization_code(quantization: Quantization) -> u8 {
    match quantization {
        Quantization::None => 0,
        Quantization::Int8 => 1,
        Quantization::Binary => 2,
    }
}

fn rows_code(rows: &Rows) -> u8 {
    match rows {
        Rows::Codes => 0,
        Rows::Memory(_) => 1,
        Rows::Source(_) => 2,
    }
}

fn read_shape(source: &mut ChunkReader<impl Read>) -> Result<(Config, u32), ImageError> {
    let dim = source.u32()? as usize;
    let metric = match source.u8()? {
        0 => Metric::Cosine,
        1 => Metric::Dot,
        2 => Metric::L2,
        _ => return Err(ImageError::Damaged("metric")),
    };
    let quantization = match source.u8()? {
        0 => Quantization::None,
        1 => Quantization::Int8,
        2 => Quantization::Binary,
        _ => return Err(ImageError::Damaged("quantisation")),
    };
    let (m, ef_construction) = (source.u32()? as usize, source.u32()? as usize);
    let exact_below = usize::try_from(source.u64()?).map_err(|_| ImageError::Damaged("threshold"))?;
    let config = Config { dim, metric, quantization, m, ef_construction, exact_below, seed: source.u64()? };
    config.check().map_err(|_| ImageError::Damaged("shape"))?;
    let slots = source.u32()?;
    if slots > MAX_SLOTS {
        return Err(ImageError::Damaged("number of slots"));
    }
    Ok((config, slots))
}

fn read_slots(source: &mut ChunkReader<impl Read>, segment: &Segment, slots: u32) -> Result<Vec<u8>, ImageError> {
    let mut kinds = Vec::new();
    let mut codes = vec![0u32; segment.codes.payload_words()];
    for slot in 0..slots {
        let kind = source.u8()?;
        kinds.push(kind);
        match kind {
            0 => continue,
            1 | 2 => {}
            _ => return Err(ImageError::Damaged("kind of slot")),
        }
        let mut id = [0; 16];
        source.take(&mut id)?;
        let (first, count) = (source.u32()?, source.u32()?);
        let times = Times { created_ms: source.u64()?, expires_ms: source.u64()? };
        let label = Label { id: u128::from_le_bytes(id), first, count, times };
        let end = u64::from(label.first) + u64::from(label.count);
        if label.first > slot || u64::from(slot) >= end || end > u64::from(slots) || count > MAX_PASSAGES as u32 {
            return Err(ImageError::Damaged("passages"));
        }
        source.take(bytemuck::cast_slice_mut(&mut codes))?;
        segment.labels.write(slot, label);
        segment.codes.push_payload(slot, &codes);
        if kind == 1 {
            segment.codes.records().set_state(slot, WRITTEN + 1);
        }
    }
    Ok(kinds)
}

fn read_rows(source: &mut ChunkReader<impl Read>, segment: &Segment, kinds: &[u8]) -> Result<(), ImageError> {
    let Rows::Memory(_) = &segment.rows else { return Ok(()) };
    let mut half = vec![0u16; segment.config.dim];
    for (slot, _) in (0u32..).zip(kinds).filter(|(_, kind)| **kind == 1) {
        let scale = f32::from_bits(source.u32()?);
        source.take(bytemuck::cast_slice_mut(&mut half))?;
        segment.rows.push(slot, Row::Half { bits: &half, scale });
    }
    Ok(())
}

/// The first slots of live documents.
fn firsts<'a>(segment: &'a Segment, kinds: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    let is_first = |slot: &u32| segment.labels.get(*slot).is_some_and(|label| label.first == *slot);
    (0u32..).zip(kinds).filter(|(_, kind)| **kind == 1).map(|(slot, _)| slot).filter(is_first)
}

fn read_attributes(source: &mut ChunkReader<impl Read>, segment: &Segment, kinds: &[u8]) -> Result<(), ImageError> {
    let count = source.u32()? as usize;
    if count > MAX_FIELDS {
        return Err(ImageError::Damaged("number of fields"));
    }
    let mut fields = Vec::with_capacity(count);
    for _ in 0..count {
        let (name, is_dropped) = (source.text(usize::MAX)?, source.u8()? != 0);
        let values = (0..source.u32()?).map(|_| source.value()).collect::<Result<Vec<_>, _>>()?;
        fields.push((name, is_dropped, values));
    }
    let field_kinds = read_kinds(source)?;
    let mut documents = Vec::new();
    for slot in firsts(segment, kinds) {
        let (is_partial, count) = (source.u8()? != 0, source.u8()?);
        if usize::from(count) > MAX_PER_DOCUMENT {
            return Err(ImageError::Damaged("number of attributes"));
        }
        let terms = (0..count).map(|_| source.u32().map(Term)).collect::<Result<Vec<_>, _>>()?;
        documents.push((slot, is_partial, terms));
    }
    segment.postings.restore(fields, documents, field_kinds).ok_or(ImageError::Damaged("attributes"))
}

fn read_kinds(source: &mut ChunkReader<impl Read>) -> Result<FieldKinds, ImageError> {
    let damaged = || ImageError::Damaged("kinds of fields");
    let is_full = source.u8()? != 0;
    let (mut kinds, count) = (FieldKinds::default(), source.u32()? as usize);
    let mut last = None;
    for _ in 0..count.min(MAX_NAMED + 1) {
        let (name, bits) = (source.text(MAX_NAME_BYTES)?, source.u8()?);
        if last.as_ref().is_some_and(|last| *last >= name) || bits == 0 || bits > Kinds::ALL.bits() {
            return Err(damaged());
        }
        kinds.add(&name, Kinds::from_bits(bits.into()));
        last = Some(name);
    }
    // Only now: what went beyond the bounds was not written by this version.
    if kinds.is_full() {
        return Err(damaged());
    }
    if is_full {
        kinds.fill();
    }
    Ok(kinds)
}

fn read_graph(source: &mut ChunkReader<impl Read>, segment: &Segment, kinds: &[u8]) -> Result<(), ImageError> {
    match source.u8()? {
        0 => return Ok(()),
        1 => {}
        _ => return Err(ImageError::Damaged("graph")),
    }
    let unlinked = source.u32()?..source.u32()?;
    if unlinked.start > unlinked.end || unlinked.end as usize > kinds.len() {
        return Err(ImageError::Damaged("backlog"));
    }
    let mut tops = vec![0; kinds.len()];
    source.take(&mut tops)?;
    let graph = Graph::new(&segment.config);
    for ((slot, top), kind) in (0u32..).zip(&tops).zip(kinds) {
        match *top {
            ABSENT if *kind == 0 || unlinked.contains(&slot) => {}
            top if *kind == 0 || top == ABSENT => return Err(ImageError::Damaged("slot and graph disagree")),
            TWIN => {}
            top if top as usize <= MAX_LAYER => graph.restore_node(slot, top as usize),
            _ => return Err(ImageError::Damaged("layer")),
        }
    }
    let mut is_followed = vec![false; kinds.len()];
    for (slot, top) in (0u32..).zip(&tops).filter(|(_, top)| **top != ABSENT) {
        for layer in 0..if *top == TWIN { 0 } else { *top as usize + 1 } {
            let links = read_links(source, &tops, layer)?;
            graph.restore_links(slot, layer, &links).ok_or(ImageError::Damaged("too many links"))?;
        }
        if let Some(twin) = source.u32()?.checked_sub(1) {
            // A twin follows one slot and a node none, so that no chain is a ring.
            let is_twin = tops.get(twin as usize) == Some(&TWIN);
            if !is_twin || std::mem::replace(&mut is_followed[twin as usize], true) {
                return Err(ImageError::Damaged("twins"));
            }
            graph.restore_twin(slot, twin);
        }
    }
    segment.restore_graph(graph, unlinked);
    Ok(())
}

fn read_links(source: &mut ChunkReader<impl Read>, tops: &[u8], layer: usize) -> Result<Vec<u32>, ImageError> {
    let count = source.u8()?;
    let mut links = Vec::with_capacity(count.into());
    for _ in 0..count {
        let link = source.u32()?;
        let top = tops.get(link as usize).copied().unwrap_or(ABSENT);
        if top >= TWIN || (top as usize) < layer {
            return Err(ImageError::Damaged("link"));
        }
        links.push(link);
    }
    Ok(links)
}

/// Cuts a stream into chunks with checksums.
struct ChunkWriter<'a, W: Write> {
    writer: &'a mut W,
    crc: Hasher,
    chunk: Vec<u8>,
}

impl<'a, W: Write> ChunkWriter<'a, W> {
    fn create(writer: &'a mut W) -> Result<Self, ImageError> {
        let mut sink = ChunkWriter { writer, crc: Hasher::new(), chunk: Vec::with_capacity(CHUNK) };
        sink.write(&MAGIC)?;
        sink.write(&VERSION.to_le_bytes())?;
        Ok(sink)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.crc.update(bytes);
        Ok(self.writer.write_all(bytes)?)
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn u32(&mut self, value: u32) -> Result<(), ImageError> {
        self.put(&value.to_le_bytes())
    }

    fn text(&mut self, text: &str) -> Result<(), ImageError> {
        self.u32(text.len() as u32)?;
        self.put(text.as_bytes())
    }

    fn value(&mut self, value: &Value) -> Result<(), ImageError> {
        match value {
            Value::Bool(value) => self.put(&[0, u8::from(*value)]),
            Value::Number(number) => {
                let (kind, bits) = number.to_parts();
                self.put(&[1 + kind])?;
                self.put(&bits.to_le_bytes())
            }
            Value::Text(text) => {
                self.put(&[4])?;
                self.text(text)
            }
        }
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        let chunk = std::mem::take(&mut self.chunk);
        self.write(&(chunk.len() as u32).to_le_bytes())?;
        self.write(&chunk)?;
        let crc = self.crc.clone().finalize();
        self.write(&crc.to_le_bytes())?;
        self.chunk = chunk;
        self.chunk.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), ImageError> {
        if !self.chunk.is_empty() {
            self.flush()?;
        }
        self.flush()?; // The empty chunk is the end.
        Ok(self.writer.flush()?)
    }
}

/// Reads chunks and hands out only bytes whose checksum held.
struct ChunkReader<R: Read> {
    reader: R,
    crc: Hasher,
    chunk: Vec<u8>,
    used: usize,
}

impl<R: Read> ChunkReader<R> {
    fn open(reader: R) -> Result<Self, ImageError> {
        let mut source = ChunkReader { reader, crc: Hasher::new(), chunk: Vec::new(), used: 0 };
        let mut magic = [0; 8];
        source.read(&mut magic)?;
        if magic != MAGIC {
            return Err(ImageError::NotAnImage);
        }
        match source.read_u32()? {
            VERSION => Ok(source),
            other => Err(ImageError::UnsupportedVersion(other)),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), ImageError> {
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ImageError::Truncated,
            _ => ImageError::Io(error),
        })?;
        self.crc.update(bytes);
        Ok(())
    }

    fn read_u32(&mut self) -> Result<u32, ImageError> {
        let mut bytes = [0; 4];
        self.read(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn next_chunk(&mut self) -> Result<(), ImageError> {
        let length = self.read_u32()? as usize;
        if length > CHUNK {
            return Err(ImageError::Damaged("length of a chunk"));
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(length, 0);
        self.read(&mut chunk)?;
        let expected = self.crc.clone().finalize();
        if self.read_u32()? != expected {
            return Err(ImageError::Damaged("checksum"));
        }
        (self.chunk, self.used) = (chunk, 0);
        Ok(())
    }

    fn take(&mut self, mut bytes: &mut [u8]) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            if self.used == self.chunk.len() {
                self.next_chunk()?;
                if self.chunk.is_empty() {
                    return Err(ImageError::Damaged("content ends early"));
                }
            }
            let now = bytes.len().min(self.chunk.len() - self.used);
            bytes[..now].copy_from_slice(&self.chunk[self.used..self.used + now]);
            self.used += now;
            bytes = &mut bytes[now..];
        }
        Ok(())
    }

    fn u8(&mut self) -> Result<u8, ImageError> {
        let mut byte = [0];
        self.take(&mut byte)?;
        Ok(byte[0])
    }

    fn u32(&mut self) -> Result<u32, ImageError> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, ImageError> {
        let mut bytes = [0; 8];
        self.take(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self, most: usize) -> Result<String, ImageError> {
        let length = self.u32()? as usize;
        if length > most.min(MAX_NAME) {
            return Err(ImageError::Damaged("length of a text"));
        }
        let mut bytes = vec![0; length];
        self.take(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| ImageError::Damaged("text"))
    }

    fn value(&mut self) -> Result<Value, ImageError> {
        match self.u8()? {
            0 => Ok(Value::Bool(self.u8()? != 0)),
            kind @ 1..=3 => {
                let number = Number::from_parts(kind - 1, self.u64()?);
                number.map(Value::Number).ok_or(ImageError::Damaged("number"))
            }
            4 => Ok(Value::Text(self.text(MAX_TEXT)?.into())),
            _ => Err(ImageError::Damaged("kind of value")),
        }
    }

    /// Checks that the content ends here, properly.
    fn finish(&mut self) -> Result<(), ImageError> {
        if self.used < self.chunk.len() {
            return Err(ImageError::Damaged("content goes on"));
        }
        self.next_chunk()?;
        if self.chunk.is_empty() { Ok(()) } else { Err(ImageError::Damaged("content goes on")) }
    }
}

impl Segment {
    /// Sets counters and table after slots were read.
    fn restore(&self, slots: u32) -> Result<(), ImageError> {
        let damaged = Err(ImageError::Damaged("documents"));
        let mut clock = self.clock.lock();
        (clock.stamp, clock.next_slot) = (WRITTEN + 1, slots);
        self.show(&clock);
        let view = self.view();
        for slot in (0..slots).filter(|slot| self.is_visible(view, *slot)) {
            let label = self.labels.get(slot).ok_or(RowsError::Missing(slot))?;
            clock.live += 1;
            if slot != label.first {
                if !self.is_visible(view, label.first) {
                    return damaged;
                }
                continue;
            }
            let is_whole = |other| self.is_visible(view, other) && self.labels.get(other) == Some(label);
            if !label.slots().all(is_whole) || self.table.lock(&self.labels, label.id).replace(slot).is_some() {
                return damaged;
            }
            clock.documents += 1;
        }
        clock.dead = slots - clock.live;
        self.show(&clock);
        Ok(())
    }
}
