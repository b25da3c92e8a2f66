//! Tables: parquet files that appear at once, with a checksum that every reading compares.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::chunks::Chunks;
use super::{Pending, checksum};
use crate::error::{Error, Result};

/// Writes `batch` as a parquet file of [`parquet_properties`].
///
/// # Errors
/// [`Error::Io`] that names `path`.
pub fn write_parquet(path: impl AsRef<Path>, batch: &RecordBatch) -> Result<()> {
    let mut table = PendingTable::create(&path, batch.schema())?;
    table.write(batch)?;
    table.commit()
}

/// A parquet file of [`parquet_properties`] that is written batch by batch and not there before [`PendingTable::commit`].
/// Memory: the encoded pages of the row group at hand, at most 1,048,576 rows.
pub struct PendingTable {
    table: ArrowWriter<Pending>,
    path: PathBuf,
}

impl PendingTable {
    /// Begins the file that is to stand at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder of `path` is missing or not writable.
    pub fn create(path: impl AsRef<Path>, schema: SchemaRef) -> Result<PendingTable> {
        let path = path.as_ref().to_path_buf();
        let blank = KeyValue::new(checksum::KEY.to_string(), checksum::blank());
        let properties = properties(&schema).set_key_value_metadata(Some(vec![blank]));
        let properties = properties.build();
        let table = ArrowWriter::try_new(Pending::create(&path)?, schema, Some(properties))
            .map_err(|e| Error::io("write", &path)(io_of_parquet(e)))?;
        Ok(PendingTable { table, path })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// [`Error::Io`] that names the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let written = self.table.write(batch).map_err(io_of_parquet);
        written.map_err(Error::io("write", &self.path))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left behind then, and an earlier file still stands.
    pub fn commit(self) -> Result<()> {
        let pending = self.table.into_inner().map_err(io_of_parquet);
        let pending = pending.and_then(|mut pending| {
            checksum::seal(pending.file_mut())?;
            Ok(pending)
        });
        pending.map_err(Error::io("write", &self.path))?.commit()
    }
}

/// How every table is written: zstd, a dictionary for strings only (numbers here are all but unique), one row group up to
/// 1,048,576 rows, and nothing that differs between two runs, so that the same rows give the same bytes.
pub fn parquet_properties(schema: &Schema) -> WriterProperties {
    properties(schema).build()
}

fn properties(schema: &Schema) -> WriterPropertiesBuilder {
    let mut properties = WriterProperties::builder()
        .set_created_by("clipsift".to_string())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false);
    for field in schema.fields() {
        if matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8) {
            let column = ColumnPath::from(field.name().as_str());
            properties = properties.set_column_dictionary_enabled(column, true);
        }
    }
    properties
}

/// What is wrong with a table, in a few words; none where it is there and its checksum holds. Of one that carries no checksum,
/// from before there were any, the footer is looked at.
///
/// # Errors
/// [`Error::Io`] where it is there and cannot be read.
pub fn trouble(path: impl AsRef<Path>) -> Result<Option<String>> {
    let path = path.as_ref();
    match checksum::holds(path) {
        Ok(Some(true)) => Ok(None),
        Ok(Some(false)) => Ok(Some(DIFFERS.to_string())),
        Ok(None) => match open(path) {
            Err(Error::Damaged { reason, .. }) => Ok(Some(reason)),
            other => other.map(|_| None),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Some("it is missing".to_string())),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

const DIFFERS: &str = "its checksum differs";

/// Opens a table whose checksum holds.
fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<Chunks>> {
    if checksum::holds(path).map_err(Error::io("read", path))? == Some(false) {
        return Err(Error::damaged(path, DIFFERS));
    }
    let file = File::open(path).map_err(Error::io("read", path))?;
    ParquetRecordBatchReaderBuilder::try_new(Chunks(file))
        .map_err(|e| Error::damaged(path, e.to_string()))
}

/// Reads a whole parquet file as one batch.
///
/// # Errors
/// [`Error::Io`] where it cannot be opened, [`Error::Damaged`] where its checksum differs or its content is none.
pub fn read_parquet(path: impl AsRef<Path>) -> Result<RecordBatch> {
    let path = path.as_ref();
    let damaged = |e: &dyn std::fmt::Display| Error::damaged(path, e.to_string());
    let reader = open(path)?;
    // The checksum is the file's, not the table's.
    let mut schema = Schema::clone(reader.schema());
    schema.metadata.remove(checksum::KEY);
    let schema = SchemaRef::new(schema);
    let batches = reader
        .with_batch_size(65_536)
        .build()
        .map_err(|e| damaged(&e))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| damaged(&e))?;
    let whole = match <[RecordBatch; 1]>::try_from(batches) {
        // The reader leaves the schema's metadata out of the batches.
        Ok([batch]) => batch.with_schema(schema),
        Err(batches) => concat_batches(&schema, &batches),
    };
    whole.map_err(|e| damaged(&e))
}

/// Rows of a batch of [`read_parquet_batches`].
const BATCH: usize = 65_536;

/// Reads a parquet file batch by batch, at most 65,536 rows at a time; of a file without rows one empty batch. `columns` says
/// which columns, all where it is empty; one that is not there is left out.
///
/// # Errors
/// As [`read_parquet`], for each batch.
pub fn read_parquet_batches(
    path: &Path,
    columns: &[&str],
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let path = path.to_path_buf();
    let mut builder = open(&path)?;
    if !columns.is_empty() {
        let roots = builder.schema().fields().iter().enumerate();
        let wanted = roots.filter(|(_, field)| columns.contains(&field.name().as_str()));
        let wanted: Vec<usize> = wanted.map(|(at, _)| at).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        builder = builder.with_projection(mask);
    }
    let reader = builder
        .with_batch_size(BATCH)
        .build()
        .map_err(|e| Error::damaged(&path, e.to_string()))?;
    let mut empty = Some(RecordBatch::new_empty(RecordBatchReader::schema(&reader)));
    let mut batches =
        reader.map(move |batch| batch.map_err(|e| Error::damaged(&path, e.to_string())));
    Ok(std::iter::from_fn(move || {
        let first = empty.take();
        batches.next().or(first.map(Ok))
    }))
}

/// The operating system's error inside a parquet one, where there is one: "disk full" must not become "external".
pub(crate) fn io_of_parquet(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(io) => *io,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use arrow::array::{Float32Array, StringArray};
    use arrow::datatypes::Field;

    use super::*;

    fn table(rows: usize) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("score", DataType::Float32, false),
        ]);
        let ids: Vec<_> = (0..rows).map(|row| format!("photo-{row}")).collect();
        let scores: Vec<_> = (0..rows).map(|row| row as f32 / 7.0).collect();
        let metadata = [("rows".to_string(), rows.to_string())];
        RecordBatch::try_new(
            Arc::new(schema.with_metadata(metadata)),
            vec![
                Arc::new(StringArray::from(ids)),
                Arc::new(Float32Array::from(scores)),
            ],
        )
        .unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error_of_the_system() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let batch = table(10);
        let mut table = ArrowWriter::try_new(full, batch.schema(), None).unwrap();
        table.write(&batch).unwrap();
        let error = io_of_parquet(table.close().unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_table_comes_back_and_the_same_rows_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for rows in [0, 1, 70_000] {
            let (a, b) = (folder.path().join("a"), folder.path().join("b"));
            write_parquet(&a, &table(rows)).unwrap();
            write_parquet(&b, &table(rows)).unwrap();
            assert_eq!(read_parquet(&a).unwrap(), table(rows));
            assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap());
        }
    }

    #[test]
    fn a_table_written_and_read_in_batches_is_the_same_as_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, pieces) = (folder.path().join("whole"), folder.path().join("pieces"));
        let all = table(150_000);
        write_parquet(&whole, &all).unwrap();
        let mut pending = PendingTable::create(&pieces, all.schema()).unwrap();
        for start in (0..150_000).step_by(BATCH) {
            pending
                .write(&all.slice(start, BATCH.min(150_000 - start)))
                .unwrap();
        }
        assert!(!pieces.exists());
        pending.commit().unwrap();
        assert!(fs::read(&whole).unwrap() == fs::read(&pieces).unwrap());

        let batches = |path: &Path, columns: &[&str]| -> Vec<RecordBatch> {
            let batches = read_parquet_batches(path, columns).unwrap();
            batches.collect::<Result<_>>().unwrap()
        };
        let sizes = |batches: &[RecordBatch]| -> Vec<usize> {
            batches.iter().map(RecordBatch::num_rows).collect()
        };
        let ids = batches(&pieces, &["id", "of another table"]);
        assert_eq!(
            (sizes(&ids), ids[0].num_columns()),
            (vec![BATCH, BATCH, 18_928], 1)
        );
        write_parquet(&whole, &table(0)).unwrap();
        let none = batches(&whole, &[]);
        assert_eq!((sizes(&none), none[0].num_columns()), (vec![0], 2));
    }

    #[test]
    fn a_damaged_table_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part-00000.parquet");
        write_parquet(&path, &table(100)).unwrap();
        let whole = fs::read(&path).unwrap();
        for damage in [&whole[..whole.len() / 2], &b""[..], &b"PAR1PAR1"[..]] {
            fs::write(&path, damage).unwrap();
            let message = read_parquet(&path).unwrap_err().to_string();
            assert!(message.contains("part-00000.parquet"), "{message}");
            assert!(message.contains("remove it and run"), "{message}");
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed_by_every_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part-00000.parquet");
        write_parquet(&path, &table(40)).unwrap();
        assert_eq!(trouble(&path).unwrap(), None);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            let (found, read) = (trouble(&path).unwrap(), read_parquet(&path));
            // Where the checksum's own key is hit, the file is one without; what it holds is whole.
            match read {
                Ok(read) => assert_eq!(read.columns(), table(40).columns(), "byte {at}"),
                Err(error) => assert!(matches!(error, Error::Damaged { .. }), "{error}"),
            }
            let key = whole.windows(checksum::KEY.len());
            let key = key.into_iter().position(|w| w == checksum::KEY.as_bytes());
            let in_key = (key.unwrap()..key.unwrap() + checksum::KEY.len() + 2).contains(&at);
            assert!(found.is_some() || in_key, "byte {at}");
            let batches = read_parquet_batches(&path, &["id"]);
            assert!(batches.is_err() || in_key, "byte {at}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(trouble(&path).unwrap().unwrap(), "it is missing");
    }

    #[test]
    fn a_table_without_a_checksum_is_read_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.parquet");
        let properties = parquet_properties(&table(9).schema());
        let file = File::create(&path).unwrap();
        let mut old = ArrowWriter::try_new(file, table(9).schema(), Some(properties)).unwrap();
        old.write(&table(9)).unwrap();
        old.close().unwrap();
        assert_eq!(trouble(&path).unwrap(), None);
        assert_eq!(read_parquet(&path).unwrap(), table(9));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(trouble(&path).unwrap().is_some());
    }
}
