//! A source of rows: documents in a map, as a node has them on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mira_index::{Passage, RowSource, RowsError};
use parking_lot::Mutex;

/// The documents, with how many rows were read of them.
pub(crate) struct Shelf {
    dim: usize,
    pub(crate) documents: Mutex<BTreeMap<u128, Vec<f32>>>,
    pub(crate) reads: AtomicUsize,
}

impl Shelf {
    pub(crate) fn new(dim: usize) -> Arc<Self> {
        Arc::new(Shelf { dim, documents: Mutex::default(), reads: AtomicUsize::new(0) })
    }
}

impl RowSource for Shelf {
    fn read(&self, wanted: &[Passage], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), RowsError> {
        let documents = self.documents.lock();
        for (position, wanted) in wanted.iter().enumerate() {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let vectors = documents.get(&wanted.id);
            if let Some(vector) = vectors.and_then(|all| all.chunks_exact(self.dim).nth(wanted.passage as usize)) {
                visit(position, vector);
            }
        }
        Ok(())
    }
}
