//! Which documents have which attributes: postings over the slots of a segment, within a budget of memory.
//!
//! A document is known by its first slot. Each field keeps its values sorted in blocks, each value the slots that have
//! it (a roaring bitmap once there are two), each block the slots of all its values. So an equality is two binary
//! searches, and a range or prefix is the union of the blocks within it and of single values at its ends. Postings only
//! grow: slots that died are told apart by their stamps, and a compaction copies what lives, document by document, from
//! the list of terms that each has.
//!
//! **Bounds.** Values of more than [`MAX_TEXT`] bytes, documents of more than [`MAX_PER_DOCUMENT`] attributes and fields
//! beyond [`MAX_FIELDS`] are not indexed: such a document is *partial*. When all takes more than the budget, the largest
//! field is dropped. What is not indexed is not guessed: an evaluation gives the slots that certainly match and those
//! that may, and the caller asks about the latter. Which types of values a field has is known of all of
//! them ([`crate::filter::field_types`]).

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use parking_lot::{RwLock, RwLockReadGuard};
use roaring::{MultiOps, RoaringBitmap};

use crate::document::Times;
use crate::filter::attributes::Attributes;
use crate::filter::condition::{Condition, Test};
use crate::filter::field_types::{FieldTypes, TypeSet};
use crate::filter::value::Value;

/// Longest text that is indexed, bytes: names and words, not prose.
pub(crate) const MAX_TEXT: usize = 256;
/// Most attributes of a document that is indexed.
pub(crate) const MAX_PER_DOCUMENT: usize = 64;
/// Most fields of an index.
pub(crate) const MAX_FIELDS: usize = 1 << FIELD_BITS;
/// Most values of a field.
const MAX_VALUES: usize = 1 << (32 - FIELD_BITS);
const FIELD_BITS: u32 = 10;
/// Values of a block; a full one is cut in half.
const BLOCK: usize = 256;
/// What an index may take at least, and what it may take for each document beside: a third of codes and graph.
const BUDGET_BASE: usize = 8 << 20;
const BUDGET_PER_DOCUMENT: usize = 128;
/// What a value takes beside its text: the value, its posting, its place in a block, an allocation.
const VALUE_BYTES: usize = 72;
/// What an attribute of a document takes: in its list of terms, in the posting, in the block.
const POSTING_BYTES: usize = 8;

/// A field and one of its values, packed: the field in the low bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term(pub(crate) u32);

impl Term {
    pub(crate) fn new(field: usize, value: usize) -> Self {
        Term((value as u32) << FIELD_BITS | field as u32)
    }

    pub(crate) fn field(self) -> usize {
        self.0 as usize & (MAX_FIELDS - 1)
    }

    pub(crate) fn value(self) -> usize {
        (self.0 >> FIELD_BITS) as usize
    }
}

/// The slots that have a value. Most values of an identifier have one.
enum Posting {
    One(u32),
    Many(Box<RoaringBitmap>),
}

impl Posting {
    fn insert(&mut self, slot: u32) {
        match self {
            Posting::One(only) if *only == slot => {}
            Posting::One(only) => *self = Posting::Many(Box::new(RoaringBitmap::from_iter([*only, slot]))),
            Posting::Many(slots) => {
                slots.insert(slot);
            }
        }
    }
}

/// Some values of a field, in order.
#[derive(Default)]
struct Block {
    values: Vec<u32>,
    slots: RoaringBitmap,
}

/// The values of one field, each with the documents that have it.
pub(crate) struct Field {
    pub(crate) name: String,
    /// Not indexed any more: it took too much.
    pub(crate) is_dropped: bool,
    pub(crate) values: Vec<Value>,
    postings: Vec<Posting>,
    blocks: Vec<Block>,
    bytes: usize,
}

impl Field {
    fn new(name: String, is_dropped: bool) -> Self {
        let (values, postings, blocks) = Default::default();
        Field { bytes: name.len(), name, is_dropped, values, postings, blocks }
    }

    /// Gives the value a slot; `None` if the field is full.
    fn insert(&mut self, value: &Value, slot: u32) -> Option<usize> {
        let known = |number: &u32| &self.values[*number as usize];
        let after =
            self.blocks.partition_point(|block| block.values.first().is_some_and(|first| known(first) <= value));
        let at = after.saturating_sub(1);
        let found = self.blocks.get(at).map(|block| block.values.binary_search_by(|number| known(number).cmp(value)));
        let number = match found {
            Some(Ok(place)) => {
                let number = self.blocks[at].values[place];
                self.postings[number as usize].insert(slot);
                number
            }
            _ if self.values.len() == MAX_VALUES => return None,
            found => {
                let number = self.values.len() as u32;
                self.values.push(value.clone());
                self.postings.push(Posting::One(slot));
                self.bytes += VALUE_BYTES + if let Value::Text(text) = value { text.len() } else { 0 };
                match found {
                    Some(Err(place)) => self.blocks[at].values.insert(place, number),
                    _ => self.blocks.push(Block { values: vec![number], slots: RoaringBitmap::new() }),
                }
                number
            }
        };
        self.blocks[at].slots.insert(slot);
        self.bytes += POSTING_BYTES;
        if self.blocks[at].values.len() > BLOCK {
            self.split(at);
        }
        Some(number as usize)
    }

    fn split(&mut self, at: usize) {
        let upper = self.blocks[at].values.split_off(BLOCK / 2);
        let lower = std::mem::take(&mut self.blocks[at].values);
        let [lower, upper] = [lower, upper].map(|values| {
            let slots = self.union(values.iter());
            Block { values, slots }
        });
        self.blocks[at] = lower;
        self.blocks.insert(at + 1, upper);
    }

    fn union<'a>(&self, values: impl Iterator<Item = &'a u32>) -> RoaringBitmap {
        let (mut single, mut several) = (Vec::new(), Vec::new());
        for number in values {
            match &self.postings[*number as usize] {
                Posting::One(slot) => single.push(*slot),
                Posting::Many(slots) => several.push(slots.as_ref()),
            }
        }
        let mut slots = several.union();
        slots.extend(single);
        slots
    }

    /// The slots that pass the test.
    fn select(&self, test: &Test) -> RoaringBitmap {
        if let Test::In(values) = test {
            let one = |value: &Value| self.select_run(&|known| known.cmp(value));
            return values.iter().map(one).collect::<Vec<_>>().union();
        }
        self.select_run(&|known| test.position(known))
    }

    /// The slots of the run of values for which `position` says `Equal`.
    fn select_run(&self, position: &dyn Fn(&Value) -> Ordering) -> RoaringBitmap {
        let of = |number: &u32| position(&self.values[*number as usize]);
        let last = |block: &Block| block.values.last().map_or(Ordering::Less, &of);
        let first = |block: &Block| block.values.first().map_or(Ordering::Greater, &of);
        let from = self.blocks.partition_point(|block| last(block) == Ordering::Less);
        let to = self.blocks.partition_point(|block| first(block) != Ordering::Greater);
        let Some(touched) = self.blocks.get(from..to) else { return RoaringBitmap::new() };
        let (whole, cut): (Vec<_>, Vec<_>) =
            touched.iter().partition(|block| first(block) == Ordering::Equal && last(block) == Ordering::Equal);
        let mut slots = whole.iter().map(|block| &block.slots).union();
        for block in cut {
            let start = block.values.partition_point(|number| of(number) == Ordering::Less);
            let end = block.values.partition_point(|number| of(number) != Ordering::Greater);
            slots |= self.union(block.values[start..end.max(start)].iter());
        }
        slots
    }

    /// Gives up its postings; what they took is free.
    fn drop_postings(&mut self) {
        *self = Field::new(std::mem::take(&mut self.name), true);
    }

    /// Puts all values into blocks, after their postings were read.
    fn restore_blocks(&mut self) {
        let mut order: Vec<u32> = (0..self.values.len() as u32).collect();
        order.sort_unstable_by(|a, b| self.values[*a as usize].cmp(&self.values[*b as usize]));
        let block = |values: &[u32]| Block { slots: self.union(values.iter()), values: values.to_vec() };
        self.blocks = order.chunks(BLOCK / 2).map(block).collect();
    }
}

/// The slots that meet a condition.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Matched {
    /// Of documents that certainly do.
    pub(crate) lower: RoaringBitmap,
    /// Of these and of documents that may, because not all of their attributes are indexed.
    pub(crate) upper: RoaringBitmap,
}

impl Matched {
    fn certain(slots: RoaringBitmap) -> Self {
        Matched { lower: slots.clone(), upper: slots }
    }
}

/// A field as an image has it.
pub(crate) struct RestoredField {
    pub(crate) name: String,
    /// It took too much: its values are not indexed.
    pub(crate) is_dropped: bool,
    pub(crate) values: Vec<Value>,
}

/// The attributes of a document as an image has them.
pub(crate) struct RestoredDocument {
    /// Its first slot.
    pub(crate) slot: u32,
    /// It has attributes that are not among its terms.
    pub(crate) is_partial: bool,
    pub(crate) terms: Vec<Term>,
}

/// What is behind the lock.
#[derive(Default)]
pub(crate) struct PostingLists {
    pub(crate) fields: Vec<Field>,
    by_name: HashMap<String, usize>,
    /// Of all values, indexed or not.
    pub(crate) field_types: FieldTypes,
    /// First slots of all documents, dead ones too.
    documents: RoaringBitmap,
    /// Of them, those that have attributes which are not indexed.
    partial: RoaringBitmap,
    /// By slot: where its terms begin in `terms`, 0 for none.
    starts: Vec<u32>,
    /// Runs of a count and so many terms.
    terms: Vec<u32>,
}

/// The documents of a segment by their attributes.
#[derive(Default)]
pub(crate) struct Postings(RwLock<PostingLists>);

impl Postings {
    /// Empty, without the fields that the index before had to drop.
    pub(crate) fn like(old: &Postings) -> Self {
        let fresh = Postings::default();
        fresh.drop_fields(old.dropped());
        fresh
    }

    fn dropped(&self) -> Vec<String> {
        self.0.read().fields.iter().filter(|field| field.is_dropped).map(|field| field.name.clone()).collect()
    }

    pub(crate) fn drop_fields(&self, names: Vec<String>) {
        let mut inner = self.0.write();
        for name in names {
            if let Some(field) = inner.field(&name) {
                inner.fields[field].drop_postings();
            }
        }
    }

    /// Sets the attributes of a document, once, before a search can see it.
    pub(crate) fn set(&self, slot: u32, attributes: &Attributes) {
        self.0.write().set(slot, attributes.pairs().iter().map(|(field, value)| (field.as_str(), value)), false);
    }

    /// Gives a document the attributes that another slot has in an older segment.
    pub(crate) fn copy_from(&self, slot: u32, old: &Postings, from: u32) {
        let old = old.0.read();
        let pairs = old.terms_of(from).into_iter().filter_map(|term| {
            let field = &old.fields[term.field()];
            Some((field.name.as_str(), field.values.get(term.value())?))
        });
        self.0.write().set(slot, pairs, old.partial.contains(from));
    }

    /// Takes over what an older segment knows and its terms do not say, once all its documents were copied.
    pub(crate) fn inherit(&self, old: &Postings) {
        // Those dropped meanwhile too: what was copied since lacks their terms.
        self.drop_fields(old.dropped());
        let old = old.0.read();
        let mut inner = self.0.write();
        let is_partial = !inner.partial.is_empty();
        let is_dropped = |name: &str| old.by_name.get(name).is_some_and(|field| old.fields[*field].is_dropped);
        inner.field_types.inherit(&old.field_types, |name| is_partial || is_dropped(name));
        if old.field_types.is_full() && (is_partial || old.fields.iter().any(|field| field.is_dropped)) {
            inner.field_types.fill();
        }
    }

    /// Which types of values a field has.
    pub(crate) fn field_types(&self, field: &str) -> TypeSet {
        self.0.read().field_types.of(field)
    }

    /// The slots that meet a condition. `times` gives the times of the document that begins at a slot.
    pub(crate) fn evaluate(&self, condition: &Condition, times: &impl Fn(u32) -> Option<Times>) -> Matched {
        self.0.read().evaluate(condition, times)
    }

    /// The first value of a document's field, in the order of values; `Some(None)` if it has none, `None` if that is not
    /// known here.
    pub(crate) fn first_value(&self, slot: u32, field: &str) -> Option<Option<Value>> {
        self.0.read().first_value(slot, field)
    }

    /// First slots of all documents that there were.
    pub(crate) fn count(&self) -> usize {
        self.0.read().documents.len() as usize
    }

    /// Bytes of it all, about.
    pub(crate) fn bytes(&self) -> usize {
        self.0.read().bytes()
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, PostingLists> {
        self.0.read()
    }

    /// Everything at once, from an image.
    pub(crate) fn restore(
        &self,
        fields: Vec<RestoredField>,
        documents: Vec<RestoredDocument>,
        field_types: FieldTypes,
    ) -> Option<()> {
        let mut inner = self.0.write();
        // A value whose type is not known would be refused to whoever asks for it.
        let are_known = |field: &RestoredField| {
            let known = field_types.of(&field.name);
            field.values.iter().all(|value| known.holds(TypeSet::of(value)))
        };
        if !fields.iter().all(are_known) {
            return None;
        }
        inner.field_types = field_types;
        for RestoredField { name, is_dropped, values } in fields {
            let number = inner.field(&name).filter(|number| *number + 1 == inner.fields.len())?;
            let field = &mut inner.fields[number];
            field.is_dropped = is_dropped;
            let is_text = |value: &Value| if let Value::Text(text) = value { text.len() } else { 0 };
            field.bytes += values.iter().map(|value| VALUE_BYTES + is_text(value)).sum::<usize>();
            field.postings = values.iter().map(|_| Posting::Many(Box::default())).collect();
            field.values = values;
        }
        for RestoredDocument { slot, is_partial, terms } in documents {
            for term in &terms {
                let field = inner.fields.get_mut(term.field())?;
                let posting = field.postings.get_mut(term.value())?;
                match posting {
                    Posting::Many(slots) if slots.is_empty() => *posting = Posting::One(slot),
                    _ => posting.insert(slot),
                }
                field.bytes += POSTING_BYTES;
            }
            inner.record(slot, &terms, is_partial);
        }
        inner.fields.iter_mut().for_each(Field::restore_blocks);
        // Values of one field must differ, or a search would find a part of what has one.
        let differ =
            |field: &Field| field.values.iter().collect::<std::collections::BTreeSet<_>>().len() == field.values.len();
        inner.fields.iter().all(differ).then_some(())
    }
}

impl PostingLists {
    /// The number of a field, new or not; `None` if there are too many.
    fn field(&mut self, name: &str) -> Option<usize> {
        if let Some(field) = self.by_name.get(name) {
            return Some(*field);
        }
        let number = self.fields.len();
        (number < MAX_FIELDS).then(|| {
            self.fields.push(Field::new(name.to_owned(), false));
            self.by_name.insert(name.to_owned(), number);
            number
        })
    }

    fn set<'a>(&mut self, slot: u32, pairs: impl Iterator<Item = (&'a str, &'a Value)>, mut is_partial: bool) {
        let is_indexable = |value: &Value| !matches!(value, Value::Text(text) if text.len() > MAX_TEXT);
        let mut terms = Vec::new();
        for (at, (name, value)) in pairs.enumerate() {
            self.field_types.add(name, TypeSet::of(value));
            // What is not indexed makes the document partial: by the rest it is found for certain, by all else perhaps.
            let number = if at < MAX_PER_DOCUMENT && is_indexable(value) { self.field(name) } else { None };
            let Some(number) = number else {
                is_partial = true;
                continue;
            };
            if self.fields[number].is_dropped {
                continue;
            }
            match self.fields[number].insert(value, slot) {
                Some(value) => terms.push(Term::new(number, value)),
                None => self.fields[number].drop_postings(),
            }
        }
        self.record(slot, &terms, is_partial);
        if self.bytes() > BUDGET_BASE + BUDGET_PER_DOCUMENT * self.documents.len() as usize
            && let Some(largest) = self.fields.iter_mut().max_by_key(|field| field.bytes)
        {
            largest.drop_postings();
        }
    }

    fn record(&mut self, slot: u32, terms: &[Term], is_partial: bool) {
        self.documents.insert(slot);
        if is_partial {
            self.partial.insert(slot);
        }
        if terms.is_empty() {
            return;
        }
        if self.starts.len() <= slot as usize {
            self.starts.resize(slot as usize + 1, 0);
        }
        if self.terms.is_empty() {
            self.terms.push(0);
        }
        self.starts[slot as usize] = self.terms.len() as u32;
        self.terms.push(terms.len() as u32);
        self.terms.extend(terms.iter().map(|term| term.0));
    }

    /// The terms of a document; some of them may be of fields that were dropped since.
    pub(crate) fn terms_of(&self, slot: u32) -> Vec<Term> {
        let start = self.starts.get(slot as usize).copied().unwrap_or(0) as usize;
        let Some(count) = self.terms.get(start).filter(|_| start > 0) else { return Vec::new() };
        self.terms[start + 1..start + 1 + *count as usize].iter().map(|term| Term(*term)).collect()
    }

    /// The first value of a document's field, `Some(None)` if it has none; `None` if the index cannot know.
    fn first_value(&self, slot: u32, name: &str) -> Option<Option<Value>> {
        let number = self.by_name.get(name);
        if self.partial.contains(slot) || number.is_some_and(|number| self.fields[*number].is_dropped) {
            return None;
        }
        let Some(number) = number else { return Some(None) };
        let terms = self.terms_of(slot).into_iter().filter(|term| term.field() == *number);
        let values = terms.filter_map(|term| self.fields[*number].values.get(term.value()));
        Some(values.min().cloned())
    }

    pub(crate) fn is_partial(&self, slot: u32) -> bool {
        self.partial.contains(slot)
    }

    fn bytes(&self) -> usize {
        let fields: usize = self.fields.iter().map(|field| field.bytes).sum();
        fields
            + self.field_types.bytes()
            + 4 * (self.starts.len() + self.terms.len())
            + self.documents.len() as usize / 4
    }

    fn evaluate(&self, condition: &Condition, times: &impl Fn(u32) -> Option<Times>) -> Matched {
        match condition {
            Condition::All(parts) => parts.iter().fold(Matched::certain(self.documents.clone()), |mut all, part| {
                if !all.upper.is_empty() {
                    let one = self.evaluate(part, times);
                    all.lower &= one.lower;
                    all.upper &= one.upper;
                }
                all
            }),
            Condition::Any(parts) => parts.iter().fold(Matched::default(), |mut any, part| {
                let one = self.evaluate(part, times);
                any.lower |= one.lower;
                any.upper |= one.upper;
                any
            }),
            Condition::Not(part) => {
                let Matched { lower, upper } = self.evaluate(part, times);
                Matched { lower: &self.documents - upper, upper: &self.documents - lower }
            }
            Condition::Created(range) => {
                let is_within = |slot: &u32| times(*slot).is_some_and(|times| range.contains(&times.created_ms));
                Matched::certain(self.documents.iter().filter(is_within).collect())
            }
            Condition::Field(name, test) => match self.by_name.get(name).map(|field| &self.fields[*field]) {
                Some(field) if field.is_dropped => {
                    Matched { lower: RoaringBitmap::new(), upper: self.documents.clone() }
                }
                field => {
                    let lower = field.map(|field| field.select(test)).unwrap_or_default();
                    Matched { upper: &lower | &self.partial, lower }
                }
            },
        }
    }

    /// The fields of a condition that no document ever had.
    pub(crate) fn unknown_fields(&self, condition: &Condition, unknown: &mut HashSet<String>) {
        match condition {
            Condition::All(parts) | Condition::Any(parts) => {
                parts.iter().for_each(|part| self.unknown_fields(part, unknown));
            }
            Condition::Not(part) => self.unknown_fields(part, unknown),
            Condition::Field(name, _) if self.field_types.of(name).is_none() => {
                unknown.insert(name.clone());
            }
            Condition::Field(..) | Condition::Created(_) => {}
        }
    }
}
