//! Memories as a table: Parquet files, in and out.
//!
//! What an export writes is [`SCHEMA`]: the fields of `mira store`, so that a way through a file loses nothing. Any other
//! table with a column `content` (or `text`) is read too; a column `embedding` means `vector`, and columns that a memory has
//! not become metadata with `--lenient`, as fields of JSON Lines do. Rows are kept in memory a group at a time.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use mira_proto::model::StoreItem;
use mira_proto::numbers;
use mira_proto::time::{self, Moment};
use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value};

use super::files::FileRef;
use super::foreign::Records;
use super::jsonl::{self, Parsed};
use super::record::{Place, Position, Record, RecordError};
use super::source::Source;

/// Columns of an export.
const SCHEMA: &str = "
message memory {
  optional binary id (STRING);
  optional binary content (STRING);
  optional binary bytes;
  optional binary type (STRING);
  optional binary session (STRING);
  optional binary role (STRING);
  optional binary metadata (JSON);
  optional int64 created_at (TIMESTAMP(MILLIS, true));
  optional int64 expires_at (TIMESTAMP(MILLIS, true));
  required boolean private;
  optional group vector (LIST) { repeated group list { required float element; } }
  optional group attachment {
    required binary path (STRING);
    optional binary content_type (STRING);
    optional int64 size;
    optional binary blake3 (STRING);
  }
  optional binary vectors (JSON);
  optional int64 position;
}";

/// A row group is written when it has so many rows or bytes.
const GROUP_ROWS: usize = 10_000;
const GROUP_BYTES: usize = 32 << 20;

/// Writes memories as a table.
pub struct TableWriter<W: Write + Send> {
    out: SerializedFileWriter<W>,
    rows: Vec<StoreItem>,
    /// The files of these rows.
    files: Vec<Option<FileRef>>,
    bytes: usize,
}

impl<W: Write + Send> TableWriter<W> {
    /// A table without rows.
    pub fn new(out: W) -> Result<Self, ParquetError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let properties = WriterProperties::builder().set_compression(Compression::LZ4_RAW).build();
        let out = SerializedFileWriter::new(out, schema, Arc::new(properties))?;
        Ok(TableWriter { out, rows: Vec::new(), files: Vec::new(), bytes: 0 })
    }

    /// Adds a row, and the file that goes with it.
    pub fn put(&mut self, item: StoreItem, file: Option<FileRef>) -> Result<(), ParquetError> {
        let text = item.content.as_ref().or(item.bytes.as_ref()).map_or(0, String::len);
        let components: usize = item.vector.iter().chain(item.vectors.values()).map(Vec::len).sum();
        self.bytes += text + 4 * components;
        self.rows.push(item);
        self.files.push(file);
        if self.rows.len() >= GROUP_ROWS || self.bytes >= GROUP_BYTES { self.write_group() } else { Ok(()) }
    }

    /// Bytes of the rows that wait for their group, and of those written.
    pub fn bytes(&self) -> u64 {
        (self.out.bytes_written() + self.bytes) as u64
    }

    /// Writes what is left, and the end that makes it a file.
    pub fn finish(mut self) -> Result<W, ParquetError> {
        if !self.rows.is_empty() {
            self.write_group()?;
        }
        self.out.into_inner()
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let (rows, files) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.files));
        self.bytes = 0;
        let mut group = self.out.next_row_group()?;
        for column in 0.. {
            let Some(mut out) = group.next_column()? else { break };
            match column {
                0 => texts(&mut out, &rows, |row| row.id.map(|id| id.to_string().into_bytes())),
                1 => texts(&mut out, &rows, |row| row.content.clone().map(String::into_bytes)),
                2 => texts(&mut out, &rows, |row| STANDARD.decode(row.bytes.as_ref()?).ok()),
                3 => texts(&mut out, &rows, |row| row.kind.clone().map(String::into_bytes)),
                4 => texts(&mut out, &rows, |row| row.session.clone().map(String::into_bytes)),
                5 => texts(&mut out, &rows, |row| row.role.clone().map(String::into_bytes)),
                6 => texts(&mut out, &rows, |row| row.metadata.as_ref().map(json_text)),
                7 => times(&mut out, &rows, |row| row.created_at.as_deref()),
                8 => times(&mut out, &rows, |row| row.expires_at.as_deref()),
                9 => {
                    let private: Vec<bool> = rows.iter().map(|row| row.private).collect();
                    out.typed::<BoolType>().write_batch(&private, None, None).map(drop)
                }
                10 => vectors(&mut out, &rows),
                11 => of_files(&mut out, &files, |file| Some(file.path.as_str())),
                12 => of_files(&mut out, &files, |file| file.content_type.as_deref()),
                13 => {
                    let levels = levels(&files, |file| file.size.is_some());
                    let sizes: Vec<i64> =
                        files.iter().flatten().filter_map(|file| i64::try_from(file.size?).ok()).collect();
                    out.typed::<Int64Type>().write_batch(&sizes, Some(&levels), None).map(drop)
                }
                14 => of_files(&mut out, &files, |file| file.blake3.as_deref()),
                15 => texts(&mut out, &rows, |row| (!row.vectors.is_empty()).then(|| json_text(&row.vectors))),
                _ => {
                    let positions =
                        rows.iter().map(|row| row.position.and_then(|position| i64::try_from(position).ok()));
                    numbers(&mut out, positions.collect())
                }
            }?;
            out.close()?;
        }
        group.close().map(drop)
    }
}

fn json_text(fields: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(fields).expect("plain data, keys are text")
}

fn texts(
    out: &mut SerializedColumnWriter<'_>,
    rows: &[StoreItem],
    field: impl Fn(&StoreItem) -> Option<Vec<u8>>,
) -> Result<(), ParquetError> {
    let fields: Vec<Option<Vec<u8>>> = rows.iter().map(field).collect();
    let present: Vec<i16> = fields.iter().map(|field| i16::from(field.is_some())).collect();
    let values: Vec<ByteArray> = fields.into_iter().flatten().map(ByteArray::from).collect();
    out.typed::<ByteArrayType>().write_batch(&values, Some(&present), None).map(drop)
}

fn times(
    out: &mut SerializedColumnWriter<'_>,
    rows: &[StoreItem],
    field: impl Fn(&StoreItem) -> Option<&str>,
) -> Result<(), ParquetError> {
    let parse = |text: &str| {
        let moment = Moment::parse(text).ok_or_else(|| ParquetError::General(format!("{text} is no time")));
        moment.map(|moment| moment.millisecond())
    };
    let times: Vec<Option<i64>> = rows.iter().map(|row| field(row).map(parse).transpose()).collect::<Result<_, _>>()?;
    numbers(out, times)
}

fn numbers(out: &mut SerializedColumnWriter<'_>, values: Vec<Option<i64>>) -> Result<(), ParquetError> {
    let present: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<i64> = values.into_iter().flatten().collect();
    out.typed::<Int64Type>().write_batch(&values, Some(&present), None).map(drop)
}

/// Levels of fields of files: 0 = there is no file, 1 = it has no such field, 2 = it has.
fn levels(files: &[Option<FileRef>], has: impl Fn(&FileRef) -> bool) -> Vec<i16> {
    files.iter().map(|file| file.as_ref().map_or(0, |file| 1 + i16::from(has(file)))).collect()
}

fn of_files(
    out: &mut SerializedColumnWriter<'_>,
    files: &[Option<FileRef>],
    field: impl Fn(&FileRef) -> Option<&str>,
) -> Result<(), ParquetError> {
    // A path is always there, and then one level says that there is a file.
    let deepest = out.typed::<ByteArrayType>().get_descriptor().max_def_level();
    let levels: Vec<i16> =
        levels(files, |file| field(file).is_some()).into_iter().map(|level| level.min(deepest)).collect();
    let values: Vec<ByteArray> =
        files.iter().flatten().filter_map(|file| Some(ByteArray::from(field(file)?))).collect();
    out.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).map(drop)
}

/// Levels of a list: 0 = there is none, 1 = it is empty, 2 = a component; each row begins anew at repetition 0.
fn vectors(out: &mut SerializedColumnWriter<'_>, rows: &[StoreItem]) -> Result<(), ParquetError> {
    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        match row.vector.as_deref() {
            None | Some([]) => {
                definitions.push(i16::from(row.vector.is_some()));
                repetitions.push(0);
            }
            Some(vector) => {
                values.extend_from_slice(vector);
                definitions.extend(vector.iter().map(|_| 2));
                repetitions.extend((0..vector.len()).map(|at| i16::from(at > 0)));
            }
        }
    }
    out.typed::<FloatType>().write_batch(&values, Some(&definitions), Some(&repetitions)).map(drop)
}

/// The rows of a table.
pub fn read(file: File, source: Arc<Source>, lenient: bool) -> Records {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let opened = guarded(|| {
        let reader = SerializedFileReader::new(file)?;
        let count = reader.metadata().file_metadata().num_rows().max(1) as u64;
        Ok((count, RowIter::from_file_into(Box::new(reader))))
    });
    let (count, mut rows) = match opened {
        Ok((count, rows)) => (count, Ok(Some(rows))),
        Err(error) => (1, Err(Some(error))),
    };
    let next = move || match &mut rows {
        Ok(None) => None,
        Err(error) => error.take().map(Err),
        Ok(found) => {
            let row = guarded(|| found.as_mut().and_then(Iterator::next).transpose());
            // Behind an error nothing is to be had.
            if row.is_err() {
                *found = None;
            }
            row.transpose()
        }
    };
    Box::new(std::iter::from_fn(next).zip(1..).map(move |(row, number)| {
        let (item, file) = jsonl::parted(row.and_then(|row| item_of(row, lenient)));
        let bytes = (u128::from(length) * u128::from(number) / u128::from(count)) as u64;
        let place = Place { source: source.clone(), line: number };
        Record { place, next: Position { bytes, lines: number }, item, file }
    }))
}

/// The reader trusts lengths and offsets in a file: some damage makes it panic.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, RecordError> {
    let damaged = |_| Err(ParquetError::General("the table is damaged".to_owned()));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or_else(damaged);
    outcome.map_err(|error| RecordError::Json(error.to_string()))
}

fn item_of(row: Row, lenient: bool) -> Result<Parsed, RecordError> {
    let mut fields = Map::new();
    for (name, field) in row.into_columns() {
        let value = json(&field).map_err(|what| RecordError::Json(format!("column `{name}`: {what}")))?;
        if !value.is_null() {
            fields.insert(name, value);
        }
    }
    for (theirs, ours) in [("text", "content"), ("embedding", "vector")] {
        if !fields.contains_key(ours)
            && let Some(value) = fields.remove(theirs)
        {
            fields.insert(ours.to_owned(), value);
        }
    }
    for name in ["metadata", "vectors"] {
        if let Some(Value::String(text)) = fields.get(name) {
            let wrong = |what: String| RecordError::Json(format!("column `{name}`: {what}"));
            if let Some(number) = numbers::unkept(text) {
                return Err(wrong(numbers::refusal(number)));
            }
            let parsed = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
            fields.insert(name.to_owned(), parsed);
        }
    }
    jsonl::of_fields(fields, lenient)
}

/// A cell as JSON: times as RFC 3339, bytes as base64.
fn json(field: &Field) -> Result<Value, String> {
    let number =
        |number: f64| serde_json::Number::from_f64(number).map(Value::Number).ok_or(format!("{number} is no number"));
    let millis = |at: i64| match u64::try_from(at) {
        Ok(at @ 0..=time::MAX_MS) => Ok(time::format(at)),
        _ => Timestamp::from_millisecond(at).map(|at| format!("{at:.3}")).map_err(|error| error.to_string()),
    };
    let micros = |at: i64| Timestamp::from_microsecond(at).map(|at| format!("{at:.6}"));
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float(value) => number(f64::from(*value))?,
        Field::Double(value) => number(*value)?,
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => STANDARD.encode(bytes.data()).into(),
        Field::TimestampMillis(at) => millis(*at)?.into(),
        Field::TimestampMicros(at) => micros(*at).map_err(|error| error.to_string())?.into(),
        Field::ListInternal(list) => list.elements().iter().map(json).collect::<Result<Value, _>>()?,
        Field::Group(row) => {
            let fields = row.get_column_iter().map(|(name, field)| Ok((name.clone(), json(field)?)));
            Value::Object(fields.collect::<Result<_, String>>()?)
        }
        // Dates, decimals, times of day, maps: as they are written for people.
        other => other.to_string().into(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use proptest::prelude::*;

    use super::*;
    use crate::import::source::Format;

    fn written(items: &[StoreItem]) -> File {
        let mut writer = TableWriter::new(tempfile::tempfile().unwrap()).unwrap();
        items.iter().for_each(|item| writer.put(item.clone(), None).unwrap());
        let mut file = writer.finish().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    fn records(file: File) -> Vec<Record> {
        let source =
            Source { name: "in.parquet".into(), path: None, format: Format::Parquet, length: 0, full_path: None };
        read(file, Arc::new(source), false).collect()
    }

    fn items(file: File) -> Vec<Result<StoreItem, String>> {
        records(file).into_iter().map(|record| record.item.map_err(|error| error.to_string())).collect()
    }

    prop_compose! {
        fn item()(
            text in proptest::option::of("\\PC{0,40}"),
            bytes in proptest::collection::vec(any::<u8>(), 0..20),
            vector in proptest::option::of(proptest::collection::vec(-1e9f32..1e9, 1..8)),
            vectors in proptest::collection::btree_map("[a-zäß ]{1,9}", proptest::collection::vec(-1e9f32..1e9, 1..8), 0..3),
            names in proptest::collection::vec(proptest::option::of("[a-zäß ]{1,9}"), 3),
            number in any::<i64>(),
            position in proptest::option::of(0..i64::MAX as u64),
            id in any::<u128>(),
            at in proptest::option::of(0u64..=time::MAX_MS),
            double in any::<f64>().prop_filter("a number", |double| double.is_finite()),
            private in any::<bool>(),
        ) -> StoreItem {
            let fields = serde_json::json!({ "n": number, "deep": { "list": [double, null, "x"] } });
            StoreItem {
                bytes: text.is_none().then(|| STANDARD.encode(&bytes)),
                content: text,
                kind: names[0].clone(),
                session: names[1].clone(),
                role: names[2].clone(),
                metadata: (number % 3 != 0).then(|| fields.as_object().unwrap().clone()),
                vector,
                vectors,
                id: Some(uuid::Uuid::from_u128(id)),
                created_at: at.map(time::format),
                expires_at: at.filter(|at| at % 2 == 0).map(time::format),
                private,
                position,
                ..StoreItem::default()
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(items_in in proptest::collection::vec(item(), 0..30)) {
            let back: Vec<StoreItem> = items(written(&items_in)).into_iter().map(Result::unwrap).collect();
            prop_assert_eq!(back, items_in);
        }
    }

    #[test]
    fn files_of_rows_are_read_back() {
        let file = |path: &str| FileRef { path: path.into(), content_type: None, size: None, blake3: None };
        let full = FileRef { content_type: Some("video/webm".into()), size: Some(1 << 40), ..file("ef/x.v1") };
        let files =
            [None, Some(FileRef { blake3: Some("ab".into()), ..full.clone() }), Some(file("a")), Some(full), None];
        let mut writer = TableWriter::new(tempfile::tempfile().unwrap()).unwrap();
        let id = Some(uuid::Uuid::from_u128(7));
        for file in files.clone() {
            writer.put(StoreItem { id, ..StoreItem::default() }, file).unwrap();
        }
        let mut out = writer.finish().unwrap();
        out.seek(SeekFrom::Start(0)).unwrap();
        let records = records(out);
        assert!(records.iter().all(|record| record.item.is_ok()), "{records:?}");
        assert_eq!(records.into_iter().map(|record| record.file).collect::<Vec<_>>(), files);
    }

    fn plain(count: usize) -> Vec<StoreItem> {
        let item =
            |n| StoreItem { content: Some(format!("text {n}")), vector: Some(vec![n as f32]), ..Default::default() };
        (0..count).map(item).collect()
    }

    #[test]
    fn large_tables_have_several_groups() {
        let all = plain(GROUP_ROWS + 50);
        let rows = records(written(&all));
        assert_eq!(rows.len(), all.len());
        let row = &rows[GROUP_ROWS + 10];
        assert_eq!(row.place.line, GROUP_ROWS as u64 + 11);
        assert_eq!(row.item.as_ref().unwrap().content, all[GROUP_ROWS + 10].content);
    }

    #[test]
    fn other_tables_are_read_by_their_columns() {
        let schema = "message t { required binary text (STRING); optional double score; optional group embedding (LIST) { repeated group list { optional double item; } } }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = tempfile::tempfile().unwrap();
        let mut out = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
        let mut group = out.next_row_group().unwrap();
        let mut text = group.next_column().unwrap().unwrap();
        text.typed::<ByteArrayType>().write_batch(&["a".into(), "b".into()], None, None).unwrap();
        text.close().unwrap();
        let mut score = group.next_column().unwrap().unwrap();
        score.typed::<parquet::data_type::DoubleType>().write_batch(&[0.5], Some(&[1, 0]), None).unwrap();
        score.close().unwrap();
        let mut embedding = group.next_column().unwrap().unwrap();
        let values = [1.0, 2.0, f64::NAN];
        embedding
            .typed::<parquet::data_type::DoubleType>()
            .write_batch(&values, Some(&[3, 3, 3]), Some(&[0, 1, 0]))
            .unwrap();
        embedding.close().unwrap();
        group.close().unwrap();
        let file = out.into_inner().unwrap();
        let source =
            Source { name: "t.parquet".into(), path: None, format: Format::Parquet, length: 0, full_path: None };
        let open = |lenient| {
            let records = read(file.try_clone().unwrap(), Arc::new(source.clone()), lenient);
            records.map(|record| record.item.map_err(|error| error.to_string())).collect::<Vec<_>>()
        };
        let found = open(true);
        let first = found[0].as_ref().unwrap();
        assert_eq!((first.content.as_deref(), first.vector.as_deref()), (Some("a"), Some(&[1.0, 2.0][..])));
        assert_eq!(first.metadata.as_ref().unwrap()["score"], 0.5);
        assert_eq!(found[1].as_ref().unwrap_err(), "column `embedding`: NaN is no number");
        assert!(open(false)[0].as_ref().unwrap_err().contains("unknown field `score`"));
    }

    #[test]
    fn a_number_that_would_change_refuses_its_row_alone() {
        let schema = "message t { required binary content (STRING); required binary metadata (JSON); }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut out = SerializedFileWriter::new(tempfile::tempfile().unwrap(), schema, Arc::default()).unwrap();
        let mut group = out.next_row_group().unwrap();
        let columns = [["a", "b"], [r#"{"n": 18446744073709551616}"#, r#"{"n": 0.1}"#]];
        for cells in columns {
            let mut column = group.next_column().unwrap().unwrap();
            let cells = cells.map(ByteArray::from);
            column.typed::<ByteArrayType>().write_batch(&cells, None, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        let found = items(out.into_inner().unwrap());
        assert!(found[0].as_ref().unwrap_err().contains("18446744073709551616"), "{found:?}");
        assert_eq!(found[1].as_ref().unwrap().metadata.as_ref().unwrap()["n"], 0.1);
    }

    #[test]
    fn a_damaged_table_is_an_error_and_no_panic() {
        let mut whole = Vec::new();
        std::io::Read::read_to_end(&mut written(&plain(300)), &mut whole).unwrap();
        let rows_of = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            items(file)
        };
        assert_eq!(rows_of(&whole).len(), 300);
        for length in [0, 3, 8, whole.len() / 2, whole.len() - 1] {
            let rows = rows_of(&whole[..length]);
            assert!(rows.len() == 1 && rows[0].is_err(), "{length} bytes: {rows:?}");
        }
        for at in (0..whole.len()).step_by(7) {
            let mut altered = whole.clone();
            altered[at] ^= 0x55;
            // Checksums are no part of the format: what is altered may be read as something else, but it ends.
            let _ = rows_of(&altered);
        }
    }
}
