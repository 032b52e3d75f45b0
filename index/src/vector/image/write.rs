//! Writing an image of an index at one point in time.

use std::io::Write;
use std::sync::Arc;

use crate::error::{ImageError, RowsError};
use crate::vector::rows::Rows;
use crate::vector::segment::{Segment, View};

use super::chunks::ChunkWriter;
use super::read::first_slots;
use super::{ABSENT, DEAD, EMPTY, LIVE, TWIN, metric_code, quantization_code, rows_code};

/// Slots whose terms are copied at once: writers wait as long.
const TERM_BATCH: usize = 4_096;

/// The index at one point in time, while writers go on.
///
/// It keeps memory that a compaction meanwhile would have freed.
pub struct Snapshot {
    segment: Arc<Segment>,
    view: View,
}

impl Snapshot {
    /// The present state of a segment, which costs nothing.
    pub(crate) fn of(segment: Arc<Segment>) -> Self {
        let view = segment.view();
        Snapshot { segment, view }
    }

    /// Writes the image. The same index written twice gives the same bytes if nobody writes to it meanwhile.
    pub fn write(&self, writer: &mut impl Write) -> Result<(), ImageError> {
        self.segment.drain_backlog(usize::MAX);
        let mut sink = ChunkWriter::create(writer)?;
        self.write_shape(&mut sink)?;
        let contents = self.write_slots(&mut sink)?;
        self.write_rows(&mut sink, &contents)?;
        self.write_attributes(&mut sink, &contents)?;
        self.write_graph(&mut sink, &contents)?;
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
        sink.put(&[self.segment.centre.is_some().into()])?;
        if let Some(centre) = &self.segment.centre {
            sink.put(bytemuck::cast_slice(centre))?;
        }
        sink.put(&[rows_code(&self.segment.rows)])
    }

    /// Writes labels and codes, and returns what each slot holds.
    fn write_slots(&self, sink: &mut ChunkWriter<'_, impl Write>) -> Result<Vec<u8>, ImageError> {
        let mut contents = Vec::with_capacity(self.view.slots as usize);
        for slot in 0..self.view.slots {
            let (label, codes) = (self.segment.labels.get(slot), self.segment.codes.payload(slot));
            let (Some(label), Some(codes)) = (label, codes) else {
                contents.push(EMPTY);
                sink.put(&[EMPTY])?;
                continue;
            };
            let content = if self.segment.is_visible(self.view, slot) { LIVE } else { DEAD };
            contents.push(content);
            sink.put(&[content])?;
            sink.put(&label.id.to_le_bytes())?;
            sink.u32(label.first)?;
            sink.u32(label.count)?;
            sink.put(&label.times.created_ms.to_le_bytes())?;
            sink.put(&label.times.expires_ms.to_le_bytes())?;
            sink.put(bytemuck::cast_slice(codes))?;
        }
        Ok(contents)
    }

    fn write_rows(&self, sink: &mut ChunkWriter<'_, impl Write>, contents: &[u8]) -> Result<(), ImageError> {
        let Rows::Memory(rows) = &self.segment.rows else { return Ok(()) };
        for slot in (0..self.view.slots).filter(|slot| contents[*slot as usize] == LIVE) {
            sink.put(bytemuck::cast_slice(rows.row(slot).ok_or(RowsError::Missing(slot))?))?;
        }
        Ok(())
    }

    /// Writes attributes. Terms are never taken back, so that what is copied first names whatever is copied later.
    fn write_attributes(&self, sink: &mut ChunkWriter<'_, impl Write>, contents: &[u8]) -> Result<(), ImageError> {
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
        // After the values, so that none is written whose type is not.
        let field_types = postings.read().field_types.clone();
        sink.put(&[field_types.is_full().into()])?;
        let named = field_types.sorted();
        sink.u32(named.len() as u32)?;
        for (name, types) in named {
            sink.text(name)?;
            sink.put(&[types.bits()])?;
        }
        let firsts: Vec<u32> = first_slots(&self.segment, contents).collect();
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
    fn write_graph(&self, sink: &mut ChunkWriter<'_, impl Write>, contents: &[u8]) -> Result<(), ImageError> {
        let unlinked = self.segment.unlinked();
        let Some(graph) = self.segment.graph.get() else { return sink.put(&[0]) };
        sink.put(&[1])?;
        sink.u32(unlinked.start)?;
        sink.u32(unlinked.end.min(self.view.slots).max(unlinked.start))?;
        let held = |slot: &u32| {
            contents.get(*slot as usize).is_some_and(|content| *content != EMPTY) && !unlinked.contains(slot)
        };
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
