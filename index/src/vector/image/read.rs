//! Reading an image back into a segment, which believes nothing that it reads.

use std::io::Read;

use crate::document::Times;
use crate::error::ImageError;
use crate::filter::field_types::{FieldTypes, MAX_NAME_BYTES, MAX_NAMED, TypeSet};
use crate::filter::postings::{MAX_FIELDS, MAX_PER_DOCUMENT, RestoredDocument, RestoredField, Term};
use crate::limits::{MAX_PASSAGES, MAX_SLOTS};
use crate::vector::arena::WRITTEN;
use crate::vector::config::Config;
use crate::vector::graph::{Graph, MAX_LAYER};
use crate::vector::labels::Label;
use crate::vector::rows::{RowStorage, Rows};
use crate::vector::segment::Segment;

use super::chunks::ChunkReader;
use super::{ABSENT, DEAD, EMPTY, LIVE, TWIN, metric_of, quantization_of, rows_code};

/// Reads a segment whose rows lie where `storage` says. Nothing is linked again, so it takes about as long as copying.
pub(crate) fn read(reader: impl Read, storage: &RowStorage) -> Result<Segment, ImageError> {
    let mut source = ChunkReader::open(reader)?;
    let (config, slots) = read_shape(&mut source)?;
    let centre = read_centre(&mut source, config.dim)?;
    let segment = Segment::new(config, storage, centre);
    if source.u8()? != rows_code(&segment.rows) {
        return Err(ImageError::Damaged("place of rows"));
    }
    let contents = read_slots(&mut source, &segment, slots)?;
    read_rows(&mut source, &segment, &contents)?;
    read_attributes(&mut source, &segment, &contents)?;
    read_graph(&mut source, &segment, &contents)?;
    source.finish()?;
    segment.restore(slots)?;
    Ok(segment)
}

fn read_shape(source: &mut ChunkReader<impl Read>) -> Result<(Config, u32), ImageError> {
    let dim = source.u32()? as usize;
    let metric = metric_of(source.u8()?).ok_or(ImageError::Damaged("metric"))?;
    let quantization = quantization_of(source.u8()?).ok_or(ImageError::Damaged("quantisation"))?;
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

fn read_centre(source: &mut ChunkReader<impl Read>, dim: usize) -> Result<Option<Box<[f32]>>, ImageError> {
    if source.u8()? == 0 {
        return Ok(None);
    }
    let mut centre = vec![0f32; dim].into_boxed_slice();
    source.take(bytemuck::cast_slice_mut(&mut centre))?;
    if centre.iter().all(|value| value.is_finite()) { Ok(Some(centre)) } else { Err(ImageError::Damaged("centre")) }
}

fn read_slots(source: &mut ChunkReader<impl Read>, segment: &Segment, slots: u32) -> Result<Vec<u8>, ImageError> {
    let mut contents = Vec::new();
    let mut codes = vec![0u32; segment.codes.payload_words()];
    for slot in 0..slots {
        let content = source.u8()?;
        contents.push(content);
        match content {
            EMPTY => continue,
            LIVE | DEAD => {}
            _ => return Err(ImageError::Damaged("content of a slot")),
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
        if content == LIVE {
            segment.codes.records().set_state(slot, WRITTEN + 1);
        }
    }
    Ok(contents)
}

fn read_rows(source: &mut ChunkReader<impl Read>, segment: &Segment, contents: &[u8]) -> Result<(), ImageError> {
    let Rows::Memory(_) = &segment.rows else { return Ok(()) };
    let mut row = vec![0f32; segment.config.dim];
    for (slot, _) in (0u32..).zip(contents).filter(|(_, content)| **content == LIVE) {
        source.take(bytemuck::cast_slice_mut(&mut row))?;
        segment.rows.push(slot, &row);
    }
    Ok(())
}

/// The first slots of live documents.
pub(super) fn first_slots<'a>(segment: &'a Segment, contents: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    let is_first = |slot: &u32| segment.labels.get(*slot).is_some_and(|label| label.first == *slot);
    (0u32..).zip(contents).filter(|(_, content)| **content == LIVE).map(|(slot, _)| slot).filter(is_first)
}

fn read_attributes(source: &mut ChunkReader<impl Read>, segment: &Segment, contents: &[u8]) -> Result<(), ImageError> {
    let count = source.u32()? as usize;
    if count > MAX_FIELDS {
        return Err(ImageError::Damaged("number of fields"));
    }
    let mut fields = Vec::with_capacity(count);
    for _ in 0..count {
        let (name, is_dropped) = (source.text(usize::MAX)?, source.u8()? != 0);
        let values = (0..source.u32()?).map(|_| source.value()).collect::<Result<Vec<_>, _>>()?;
        fields.push(RestoredField { name, is_dropped, values });
    }
    let field_types = read_field_types(source)?;
    let mut documents = Vec::new();
    for slot in first_slots(segment, contents) {
        let (is_partial, count) = (source.u8()? != 0, source.u8()?);
        if usize::from(count) > MAX_PER_DOCUMENT {
            return Err(ImageError::Damaged("number of attributes"));
        }
        let terms = (0..count).map(|_| source.u32().map(Term)).collect::<Result<Vec<_>, _>>()?;
        documents.push(RestoredDocument { slot, is_partial, terms });
    }
    segment.postings.restore(fields, documents, field_types).ok_or(ImageError::Damaged("attributes"))
}

fn read_field_types(source: &mut ChunkReader<impl Read>) -> Result<FieldTypes, ImageError> {
    let damaged = || ImageError::Damaged("types of fields");
    let is_full = source.u8()? != 0;
    let (mut types, count) = (FieldTypes::default(), source.u32()? as usize);
    let mut last = None;
    for _ in 0..count.min(MAX_NAMED + 1) {
        let (name, bits) = (source.text(MAX_NAME_BYTES)?, source.u8()?);
        if last.as_ref().is_some_and(|last| *last >= name) || bits == 0 || bits > TypeSet::ALL.bits() {
            return Err(damaged());
        }
        types.add(&name, TypeSet::from_bits(bits.into()));
        last = Some(name);
    }
    // Only now: what went beyond the bounds was not written by this version.
    if types.is_full() {
        return Err(damaged());
    }
    if is_full {
        types.fill();
    }
    Ok(types)
}

fn read_graph(source: &mut ChunkReader<impl Read>, segment: &Segment, contents: &[u8]) -> Result<(), ImageError> {
    match source.u8()? {
        0 => return Ok(()),
        1 => {}
        _ => return Err(ImageError::Damaged("graph")),
    }
    let unlinked = source.u32()?..source.u32()?;
    if unlinked.start > unlinked.end || unlinked.end as usize > contents.len() {
        return Err(ImageError::Damaged("backlog"));
    }
    let mut tops = vec![0; contents.len()];
    source.take(&mut tops)?;
    let graph = Graph::new(&segment.config);
    for ((slot, top), content) in (0u32..).zip(&tops).zip(contents) {
        match *top {
            ABSENT if *content == EMPTY || unlinked.contains(&slot) => {}
            top if *content == EMPTY || top == ABSENT => return Err(ImageError::Damaged("slot and graph disagree")),
            TWIN => {}
            top if top as usize <= MAX_LAYER => graph.restore_node(slot, top as usize),
            _ => return Err(ImageError::Damaged("layer")),
        }
    }
    let mut is_followed = vec![false; contents.len()];
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
