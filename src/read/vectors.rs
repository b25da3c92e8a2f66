//! Embeddings in a parquet by others: a column of ids, and one of lists of f16, f32 or f64, of a fixed size or not.

use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::columns::listed;
use super::npy::MOST_DIMS;
use super::parquet::{builder, guarded};
use crate::store::ids::{IdType, as_texts};

/// A parquet with ids and embeddings.
pub(super) struct Vectors {
    path: PathBuf,
    id: usize,
    embedding: usize,
    pub(super) id_type: IdType,
    /// Bytes of a value: 2, 4 or 8.
    pub(super) width: usize,
    /// d; none where the lists have no fixed size and there is no row to ask.
    pub(super) dims: Option<usize>,
    pub(super) rows: u64,
}

/// Rows of a block.
pub(super) struct Lists {
    pub(super) ids: Vec<String>,
    /// `[n, d]`; zeros where there is a problem.
    pub(super) values: Vec<f32>,
    pub(super) problems: Vec<Option<String>>,
}

impl Vectors {
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn open(
        path: &Path,
        id: Option<&str>,
        embedding: Option<&str>,
    ) -> Result<Vectors, String> {
        let builder = builder(path)?;
        let schema = builder.schema().clone();
        let groups = builder.metadata().row_groups();
        let rows = groups.iter().map(|g| g.num_rows().max(0) as u64).sum();
        let id = place(&schema, id.unwrap_or("id"), "--id-column")?;
        let kind = schema.field(id).data_type();
        let id_type = IdType::of(kind).ok_or_else(|| {
            let name = schema.field(id).name();
            format!("the id column `{name}` is {kind}: ids are texts or whole numbers")
        })?;
        let embedding = match embedding {
            Some(name) => place(&schema, name, "--embedding-column")?,
            None => likeliest(&schema)?,
        };
        let field = schema.field(embedding);
        let Some((width, size)) = form(field.data_type()) else {
            return Err(format!(
                "the column `{}` is {}: lists of f16, f32 or f64 are read as embeddings",
                field.name(),
                field.data_type()
            ));
        };
        let mut vectors = Vectors {
            path: path.to_path_buf(),
            id,
            embedding,
            id_type,
            width,
            dims: size,
            rows,
        };
        if size.is_none() {
            vectors.dims = vectors.first_length()?;
        }
        match vectors.dims {
            Some(d) if d == 0 || d as u64 > MOST_DIMS => Err(format!(
                "holds rows of {d} values: 1 to {MOST_DIMS} are expected"
            )),
            _ => Ok(vectors),
        }
    }

    /// The length of the first list that has any.
    fn first_length(&self) -> Result<Option<usize>, String> {
        let mut reader = self.reader(&[self.embedding], 64)?;
        while let Some(batch) = guarded(|| reader.next().transpose())? {
            let column = batch.column(0);
            let lengths = (0..column.len()).filter_map(|row| Some(list(column, row)?.len()));
            if let Some(length) = lengths.into_iter().find(|length| *length > 0) {
                return Ok(Some(length));
            }
        }
        Ok(None)
    }

    fn reader(&self, columns: &[usize], batch: usize) -> Result<ParquetRecordBatchReader, String> {
        let builder = builder(&self.path)?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
        guarded(|| builder.with_projection(mask).with_batch_size(batch).build())
    }

    fn damaged(&self, row: u64, reason: &str) -> crate::Error {
        crate::Error::input(
            self.path.display().to_string(),
            format!("rows from {row} of {} cannot be read: {reason}", self.rows),
        )
    }

    /// Hands all ids to `visit`, with their row numbers. Reads nothing else.
    ///
    /// # Errors
    /// [`crate::Error::Input`] where the file is damaged or a row has no id; what `visit` refuses.
    pub(super) fn for_each_id(
        &self,
        mut visit: impl FnMut(u64, &str) -> crate::Result<()>,
    ) -> crate::Result<()> {
        let mut row = 0;
        let mut reader = self
            .reader(&[self.id], 8192)
            .map_err(|reason| self.damaged(row, &reason))?;
        while let Some(batch) =
            guarded(|| reader.next().transpose()).map_err(|reason| self.damaged(row, &reason))?
        {
            let ids = as_texts(batch.column(0)).map_err(|reason| self.damaged(row, &reason))?;
            for id in &ids {
                let id = id.ok_or_else(|| {
                    let reason = format!("row {row} has no id, it is null; give every row one");
                    crate::Error::input(self.path.display().to_string(), reason)
                })?;
                visit(row, id)?;
                row += 1;
            }
        }
        self.check_rows(row)
    }

    /// A damaged footer may promise rows that no page has.
    fn check_rows(&self, row: u64) -> crate::Result<()> {
        match row == self.rows {
            true => Ok(()),
            false => Err(self.damaged(row, "the file ends before them")),
        }
    }

    /// Hands blocks of at most `block` rows to `visit`, with the number of their first row.
    ///
    /// # Errors
    /// [`crate::Error::Input`] where the file is damaged; what `visit` refuses.
    pub(super) fn for_each(
        &self,
        block: usize,
        dims: usize,
        mut visit: impl FnMut(u64, Lists) -> crate::Result<()>,
    ) -> crate::Result<()> {
        let mut row = 0;
        let mut reader = self
            .reader(&[self.id, self.embedding], block)
            .map_err(|reason| self.damaged(row, &reason))?;
        // Columns of a batch stand in the order of the file.
        let (id, embedding) = if self.id < self.embedding {
            (0, 1)
        } else {
            (1, 0)
        };
        while let Some(batch) =
            guarded(|| reader.next().transpose()).map_err(|reason| self.damaged(row, &reason))?
        {
            let ids = as_texts(batch.column(id)).map_err(|reason| self.damaged(row, &reason))?;
            let lists = lists(
                &ids.iter().collect::<Vec<_>>(),
                batch.column(embedding),
                dims,
            );
            visit(row, lists)?;
            row += batch.num_rows() as u64;
        }
        self.check_rows(row)
    }
}

fn place(schema: &Schema, name: &str, flag: &str) -> Result<usize, String> {
    let found = schema.fields().iter().position(|f| f.name() == name);
    found.ok_or_else(|| {
        format!(
            "has no column `{name}`; name one with {flag}: {}",
            listed(schema)
        )
    })
}

/// The column `embedding`, else the only one of lists of floats.
fn likeliest(schema: &Schema) -> Result<usize, String> {
    if let Some(at) = schema.fields().iter().position(|f| f.name() == "embedding") {
        return Ok(at);
    }
    let fits = schema.fields().iter().enumerate();
    let fits: Vec<usize> = fits
        .filter(|(_, field)| form(field.data_type()).is_some())
        .map(|(at, _)| at)
        .collect();
    match fits[..] {
        [only] => Ok(only),
        _ => place(schema, "embedding", "--embedding-column"),
    }
}

/// Bytes of a value, and the fixed size where there is one; none where a column holds no embeddings.
fn form(kind: &DataType) -> Option<(usize, Option<usize>)> {
    let (item, size) = match kind {
        DataType::List(item) | DataType::LargeList(item) => (item, None),
        DataType::FixedSizeList(item, size) => (item, Some(*size as usize)),
        _ => return None,
    };
    let width = match item.data_type() {
        DataType::Float16 => 2,
        DataType::Float32 => 4,
        DataType::Float64 => 8,
        _ => return None,
    };
    Some((width, size))
}

/// The list of a row; none for null.
fn list(column: &ArrayRef, row: usize) -> Option<ArrayRef> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::List(_) => Some(column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => Some(column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => Some(column.as_fixed_size_list().value(row)),
        _ => None,
    }
}

fn lists(ids: &[Option<&str>], column: &ArrayRef, dims: usize) -> Lists {
    let mut lists = Lists {
        ids: Vec::with_capacity(ids.len()),
        values: Vec::with_capacity(ids.len() * dims),
        problems: Vec::with_capacity(ids.len()),
    };
    for (row, id) in ids.iter().enumerate() {
        lists.ids.push(id.unwrap_or_default().to_string());
        let end = lists.values.len() + dims;
        let problem = match list(column, row) {
            None => Some("its embedding is null".to_string()),
            Some(list) if list.len() != dims => Some(format!(
                "its embedding has {} values, others have {dims}",
                list.len()
            )),
            Some(list) if list.null_count() > 0 => Some("its embedding holds a null".to_string()),
            Some(list) => {
                append(&mut lists.values, &list);
                None
            }
        };
        lists.values.resize(end, 0.0);
        lists.problems.push(problem);
    }
    lists
}

fn append(values: &mut Vec<f32>, list: &ArrayRef) {
    if let Some(list) = list.as_primitive_opt::<Float32Type>() {
        values.extend_from_slice(list.values());
    } else if let Some(list) = list.as_primitive_opt::<Float16Type>() {
        values.extend(list.values().iter().map(|x| x.to_f32()));
    } else if let Some(list) = list.as_primitive_opt::<Float64Type>() {
        values.extend(list.values().iter().map(|x| *x as f32));
    }
}
