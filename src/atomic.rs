//! Files that appear whole or not at all: a temporary file in the same folder, fsync, rename, fsync of the folder.
//!
//! A run that is killed leaves at most files whose name begins with [`TEMPORARY_PREFIX`]; [`remove_leftovers`] clears them.
//! A disk that fills up is an [`Error::Io`] that names the file that was to appear, and the half file goes away with the
//! [`Pending`] that held it.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// What the names of unfinished files begin with. The leading dot keeps them out of globs and out of the readers.
pub const TEMPORARY_PREFIX: &str = ".clipsift-tmp-";

/// A file being written that is not there yet. Dropped without [`Pending::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Pending {
    temporary: NamedTempFile<File>,
    path: PathBuf,
}

impl Pending {
    /// Begins the file that is to stand at `path`. An earlier file there stays untouched until [`Pending::commit`].
    ///
    /// # Errors
    /// [`Error::Io`] where the folder of `path` is missing or not writable.
    pub fn create(path: impl AsRef<Path>) -> Result<Pending> {
        let path = path.as_ref();
        Pending::create_in(folder_of(path), path)
    }

    /// Like [`Pending::create`], with the temporary file in `folder`, which must lie on the same file system as `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where `folder` is missing or not writable.
    pub fn create_in(folder: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<Pending> {
        let path = path.as_ref().to_path_buf();
        // Opened like any other file: tempfile's own mode of 0600 suits secrets, and these are results. Its own errors
        // would name the temporary file, which nobody asked for.
        tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .make_in(folder, |temporary| {
                File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(temporary)
            })
            .map(|temporary| Pending {
                temporary,
                path: path.clone(),
            })
            .map_err(Error::io("write", &path))
    }

    /// Where the file will stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file as written so far.
    pub fn file_mut(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Flushes the bytes to the disk and moves the file to its place, over an earlier one.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left behind then, and an earlier file still stands.
    pub fn commit(self) -> Result<()> {
        let path = self.path;
        self.temporary
            .as_file()
            .sync_all()
            .map_err(Error::io("write", &path))?;
        self.temporary
            .persist(&path)
            .map_err(|e| Error::io("write", &path)(e.error))?;
        sync_folder(folder_of(&path))
    }

    /// Moves the file to `path` (instead of the place named at its creation) without waiting for the disk. For many small
    /// files, of which a later record is the proof; the caller flushes them together before it writes that record.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left behind then.
    pub fn commit_unsynced_at(self, path: &Path) -> Result<()> {
        match self.temporary.persist(path) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::io("write", path)(e.error)),
        }
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file_mut().flush()
    }
}

/// Writes the file at `path` through `fill`; whatever `fill` returns as an error leaves no file behind.
///
/// # Errors
/// [`Error::Io`] that names `path`.
pub fn write(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<()> {
    let mut pending = Pending::create(&path)?;
    let mut writer = BufWriter::new(pending.file_mut());
    fill(&mut writer)
        .and_then(|()| writer.flush())
        .map_err(Error::io("write", &path))?;
    drop(writer);
    pending.commit()
}

/// Writes `value` as indented JSON with a newline at the end.
///
/// # Errors
/// [`Error::Io`] that names `path`.
pub fn write_json<T: Serialize + ?Sized>(path: impl AsRef<Path>, value: &T) -> Result<()> {
    write(path, |writer| {
        serde_json::to_writer_pretty(&mut *writer, value)?;
        writer.write_all(b"\n")
    })
}

/// Reads a JSON file that [`write_json`] wrote.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Run`] where it is not what it should be.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|e| damaged(path, &e.to_string()))
}

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
        let properties = parquet_properties(&schema);
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
        pending.map_err(Error::io("write", &self.path))?.commit()
    }
}

/// How every table is written: zstd, a dictionary for strings only (numbers here are all but unique), one row group up to
/// 1,048,576 rows, and nothing that differs between two runs, so that the same rows give the same bytes.
pub fn parquet_properties(schema: &Schema) -> WriterProperties {
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
    properties.build()
}

/// Reads a whole parquet file as one batch.
///
/// # Errors
/// [`Error::Io`] where it cannot be opened, [`Error::Run`] with the remedy where its content is damaged.
pub fn read_parquet(path: impl AsRef<Path>) -> Result<RecordBatch> {
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::io("read", path))?;
    let damaged = |e: &dyn std::fmt::Display| damaged(path, &e.to_string());
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(&e))?;
    let schema = reader.schema().clone();
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
    let file = File::open(&path).map_err(Error::io("read", &path))?;
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(|e| damaged(&path, &e.to_string()))?;
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
        .map_err(|e| damaged(&path, &e.to_string()))?;
    let mut empty = Some(RecordBatch::new_empty(RecordBatchReader::schema(&reader)));
    let mut batches = reader.map(move |batch| batch.map_err(|e| damaged(&path, &e.to_string())));
    Ok(std::iter::from_fn(move || {
        let first = empty.take();
        batches.next().or(first.map(Ok))
    }))
}

/// Removes what a killed run left unfinished in `folder` (not in folders below it). A missing folder has none.
///
/// Only for a folder that no other process writes to; [`lock_folder`] makes sure of that.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be listed or a file in it not removed.
pub fn remove_leftovers(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("read", folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("read", folder))?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(TEMPORARY_PREFIX)
        {
            remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file; that it is not there is no error.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_file(path: impl AsRef<Path>) -> Result<()> {
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Holds a folder for one writer; dropping it lets the next one in. The end of the process does so too.
#[derive(Debug)]
pub struct FolderLock {
    _folder: Option<File>,
}

/// Takes the folder for this writer alone, so that two runs do not clear or overwrite each other's files.
///
/// The folder itself is locked, hence no lock file stays behind. Where the system or the file system has no such locks,
/// nothing is held.
///
/// # Errors
/// [`Error::Run`] while another writer holds it.
pub fn lock_folder(folder: impl AsRef<Path>) -> Result<FolderLock> {
    lock(folder.as_ref(), File::try_lock)
}

/// Takes the folder to read from it: other readers may have it too, a writer may not.
///
/// # Errors
/// [`Error::Run`] while a writer holds it.
pub fn share_folder(folder: impl AsRef<Path>) -> Result<FolderLock> {
    lock(folder.as_ref(), File::try_lock_shared)
}

fn lock(folder: &Path, take: fn(&File) -> Result<(), TryLockError>) -> Result<FolderLock> {
    let Ok(handle) = File::open(folder) else {
        return Ok(FolderLock { _folder: None });
    };
    // A process that is just being started elsewhere in this one holds copies of all files until it has begun; such a lock is
    // gone in a moment.
    let mut tried = take(&handle);
    for _ in 0..20 {
        if !matches!(tried, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        tried = take(&handle);
    }
    match tried {
        Err(TryLockError::WouldBlock) => Err(Error::run(
            folder,
            "another clipsift is writing here; wait until it is done, or name another folder",
        )),
        Err(TryLockError::Error(_)) => Ok(FolderLock { _folder: None }),
        Ok(()) => Ok(FolderLock {
            _folder: Some(handle),
        }),
    }
}

/// Makes the names in `folder` last: without it a rename may be undone by a power cut.
///
/// # Errors
/// [`Error::Io`]. File systems that cannot do it are passed over.
pub fn sync_folder(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    // Elsewhere a folder cannot be opened as a file, and the rename needs no help.
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(folder).and_then(|handle| handle.sync_all()) {
        Err(e)
            if !matches!(
                e.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Err(Error::io("write", folder)(e))
        }
        _ => Ok(()),
    }
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

fn damaged(path: &Path, reason: &str) -> Error {
    Error::run(
        path,
        format!(
            "the file is damaged or not what it should be ({reason}); \
             remove it and run the same command again, which makes it anew"
        ),
    )
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float32Array, StringArray};
    use arrow::datatypes::Field;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

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
    fn a_failed_write_leaves_the_earlier_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_json(&path, &[1]).unwrap();
        let error = write(&path, |writer| {
            writer.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.json"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "[\n  1\n]\n");
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), [1]);
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_json(folder.path().join("missing/a.json"), &1).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("missing/a.json"), "{message}");
        assert!(!message.contains(TEMPORARY_PREFIX), "{message}");
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
    fn leftovers_go_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kept"), "").unwrap();
        fs::write(folder.path().join(format!("{TEMPORARY_PREFIX}x1")), "").unwrap();
        remove_leftovers(folder.path()).unwrap();
        remove_leftovers(folder.path().join("missing")).unwrap();
        assert_eq!(names(folder.path()), ["kept"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_folder_has_one_writer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock_folder(folder.path()).unwrap();
        assert!(lock_folder(folder.path()).is_err());
        drop(lock);
        lock_folder(folder.path()).unwrap();
        let readers = [share_folder(folder.path()), share_folder(folder.path())];
        assert!(readers.iter().all(Result::is_ok));
        assert!(lock_folder(folder.path()).is_err());
        drop(readers);
        lock_folder(folder.path()).unwrap();
    }
}
