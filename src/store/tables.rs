//! Rows of what was read and computed, to and from Arrow: samples, embeddings, scores.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float16Array, Float32Array, RecordBatch,
    StringArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Float16Type, Float32Type, Schema, UInt32Type, UInt64Type};
use candle_core::DType;
use half::f16;

use super::ids::{IdType, as_texts};
use crate::error::{Error, Result};

/// A row of `samples/`: one sample read, good or bad.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleRow {
    /// Unique in the run.
    pub id: String,
    /// File or folder it came from.
    pub source: String,
    /// Original key.
    pub key: String,
    /// Name inside the source.
    pub member: String,
    /// First byte in the source; row number in a parquet.
    pub offset: u64,
    /// Bytes in the source.
    pub length: u64,
    /// Why it is bad; none where it is good.
    pub error: Option<String>,
    /// `jpeg`, `png`, ...; empty where it was not recognised.
    pub format: String,
    /// Pixels in a row, upright; 0 where it was not decoded.
    pub width: u32,
    /// Rows, upright.
    pub height: u32,
    /// Bytes of the image file as read; 0 where it could not be.
    pub bytes: u64,
    /// sha256 of the image file in hexadecimal; empty where it could not be read.
    pub sha256: String,
}

impl SampleRow {
    /// Whether it has an embedding.
    pub fn good(&self) -> bool {
        self.error.is_none()
    }
}

pub(super) fn strings<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// A column of ids in the run's type of ids.
pub(super) fn ids<'a>(kind: IdType, ids: impl Iterator<Item = &'a str>) -> Result<ArrayRef> {
    kind.column(ids.map(Some))
}

pub(super) fn optional_strings<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

/// A table from its columns; a column is nullable where `true` stands.
pub(super) fn batch(columns: Vec<(&str, bool, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, null, array)| Field::new(*name, array.data_type().clone(), *null))
        .collect();
    let arrays = columns.into_iter().map(|(_, _, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|e| Error::shape("table", "columns of one length", e.to_string()))
}

/// `samples/`.
///
/// # Errors
/// [`Error::Shape`] for an id that the type cannot hold.
pub fn samples_to_batch(rows: &[SampleRow], kind: IdType) -> Result<RecordBatch> {
    let u64s = |f: fn(&SampleRow) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(f)))
    };
    let u32s = |f: fn(&SampleRow) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(f)))
    };
    let texts = |f: fn(&SampleRow) -> &str| strings(rows.iter().map(f));
    batch(vec![
        ("id", false, ids(kind, rows.iter().map(|r| r.id.as_str()))?),
        ("source", false, texts(|r| &r.source)),
        ("key", false, texts(|r| &r.key)),
        ("member", false, texts(|r| &r.member)),
        ("offset", false, u64s(|r| r.offset)),
        ("length", false, u64s(|r| r.length)),
        (
            "status",
            false,
            texts(|r| if r.good() { "good" } else { "bad" }),
        ),
        (
            "error",
            true,
            optional_strings(rows.iter().map(|r| r.error.as_deref())),
        ),
        ("format", false, texts(|r| &r.format)),
        ("width", false, u32s(|r| r.width)),
        ("height", false, u32s(|r| r.height)),
        ("bytes", false, u64s(|r| r.bytes)),
        ("sha256", false, texts(|r| &r.sha256)),
    ])
}

/// Reads `samples/` back.
///
/// # Errors
/// The column that is missing or of another type.
pub fn samples_from_batch(table: &RecordBatch) -> Result<Vec<SampleRow>, String> {
    let ids = id_column(table, "id")?;
    let [sources, keys, members, errors, formats, sums] =
        ["source", "key", "member", "error", "format", "sha256"]
            .map(|name| text_column(table, name));
    let (sources, keys, members) = (sources?, keys?, members?);
    let (errors, formats, sums) = (errors?, formats?, sums?);
    let [offsets, lengths, bytes] =
        ["offset", "length", "bytes"].map(|name| column::<UInt64Type>(table, name));
    let (offsets, lengths, bytes) = (offsets?, lengths?, bytes?);
    let (widths, heights) = (
        column::<UInt32Type>(table, "width")?,
        column::<UInt32Type>(table, "height")?,
    );
    let rows = (0..table.num_rows()).map(|i| SampleRow {
        id: ids.value(i).into(),
        source: sources.value(i).into(),
        key: keys.value(i).into(),
        member: members.value(i).into(),
        offset: offsets.value(i),
        length: lengths.value(i),
        error: errors.is_valid(i).then(|| errors.value(i).into()),
        format: formats.value(i).into(),
        width: widths.value(i),
        height: heights.value(i),
        bytes: bytes.value(i),
        sha256: sums.value(i).into(),
    });
    Ok(rows.collect())
}

/// Calls `each` with the id of each row of `samples/`, and whether it is good.
///
/// # Errors
/// The column that is missing or of another type.
pub(super) fn for_each_id(
    table: &RecordBatch,
    mut each: impl FnMut(&str, bool),
) -> Result<(), String> {
    let (ids, errors) = (id_column(table, "id")?, text_column(table, "error")?);
    (0..table.num_rows()).for_each(|row| each(ids.value(row), errors.is_null(row)));
    Ok(())
}

/// Calls `each` with the sha256 of each good row of `samples/`.
///
/// # Errors
/// The column that is missing or of another type.
pub(super) fn for_each_sha256(
    table: &RecordBatch,
    mut each: impl FnMut(&str),
) -> Result<(), String> {
    let (sums, errors) = (text_column(table, "sha256")?, text_column(table, "error")?);
    let good = (0..table.num_rows()).filter(|row| errors.is_null(*row));
    good.for_each(|row| each(sums.value(row)));
    Ok(())
}

/// Embeddings of a part's good samples, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// n ids.
    pub ids: Vec<String>,
    /// Their type in the table.
    pub id_type: IdType,
    /// d
    pub dims: usize,
    /// Stored as: f32 or f16.
    pub dtype: DType,
    /// `[n, d]`, values of `dtype`.
    pub rows: Vec<f32>,
}

impl Embeddings {
    /// The table: id, embedding.
    ///
    /// # Errors
    /// [`Error::Shape`] where the rows are not n x d.
    pub fn to_batch(&self) -> Result<RecordBatch> {
        let values: ArrayRef = match self.dtype {
            DType::F16 => Arc::new(Float16Array::from_iter_values(
                self.rows.iter().map(|x| f16::from_f32(*x)),
            )),
            _ => Arc::new(Float32Array::from_iter_values(self.rows.iter().copied())),
        };
        let item = Arc::new(Field::new("item", values.data_type().clone(), false));
        let list =
            FixedSizeListArray::try_new(item, self.dims as i32, values, None).map_err(|e| {
                Error::shape(
                    "embeddings",
                    format!("rows of {}", self.dims),
                    e.to_string(),
                )
            })?;
        batch(vec![
            (
                "id",
                false,
                ids(self.id_type, self.ids.iter().map(String::as_str))?,
            ),
            ("embedding", false, Arc::new(list)),
        ])
    }

    /// Reads the table back.
    ///
    /// # Errors
    /// What is missing or of another type.
    pub fn from_batch(table: &RecordBatch) -> Result<Embeddings, String> {
        let texts = id_column(table, "id")?;
        let ids = texts.iter().map(|id| id.unwrap_or_default().to_string());
        let ids = ids.collect();
        let id_type = table.column_by_name("id").map(|column| column.data_type());
        let id_type = id_type.and_then(IdType::of).unwrap_or_default();
        let column = table
            .column_by_name("embedding")
            .ok_or("has no column embedding")?;
        let DataType::FixedSizeList(_, dims) = column.data_type() else {
            return Err(format!(
                "column embedding is {}, not a list of a fixed size",
                column.data_type()
            ));
        };
        let values = column.as_fixed_size_list().values();
        let (dtype, rows) = match values.data_type() {
            DataType::Float32 => (
                DType::F32,
                values.as_primitive::<Float32Type>().values().to_vec(),
            ),
            DataType::Float16 => (
                DType::F16,
                values
                    .as_primitive::<Float16Type>()
                    .values()
                    .iter()
                    .map(|x| x.to_f32())
                    .collect(),
            ),
            other => return Err(format!("column embedding holds {other}, not f32 or f16")),
        };
        Ok(Embeddings {
            ids,
            id_type,
            dims: *dims as usize,
            dtype,
            rows,
        })
    }
}

/// `scores/NAME/`: id, score.
///
/// # Errors
/// [`Error::Shape`] where lengths differ, or for an id that the type cannot hold.
pub fn scores_to_batch(kind: IdType, names: &[String], scores: &[f32]) -> Result<RecordBatch> {
    batch(vec![
        ("id", false, ids(kind, names.iter().map(String::as_str))?),
        (
            "score",
            false,
            Arc::new(Float32Array::from(scores.to_vec())),
        ),
    ])
}

/// Reads `scores/NAME/` back.
///
/// # Errors
/// What is missing or of another type.
pub fn scores_from_batch(table: &RecordBatch) -> Result<Vec<f32>, String> {
    Ok(column::<Float32Type>(table, "score")?.values().to_vec())
}

/// A column of ids as texts, whatever their type.
pub(super) fn id_column(table: &RecordBatch, name: &str) -> Result<StringArray, String> {
    let column = table
        .column_by_name(name)
        .ok_or_else(|| format!("has no column {name}"))?;
    as_texts(column).map_err(|kind| format!("column {name} is {kind}"))
}

pub(super) fn text_column<'a>(
    table: &'a RecordBatch,
    name: &str,
) -> Result<&'a StringArray, String> {
    table
        .column_by_name(name)
        .and_then(|c| c.as_string_opt::<i32>())
        .ok_or_else(|| format!("has no text column {name}"))
}

pub(super) fn column<'a, T: arrow::array::ArrowPrimitiveType>(
    table: &'a RecordBatch,
    name: &str,
) -> Result<&'a arrow::array::PrimitiveArray<T>, String> {
    let found = table
        .column_by_name(name)
        .ok_or_else(|| format!("has no column {name}"))?;
    found.as_primitive_opt::<T>().ok_or_else(|| {
        format!(
            "column {name} is {}, not {}",
            found.data_type(),
            T::DATA_TYPE
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_back_as_they_were_written() {
        let good = SampleRow {
            id: "a".into(),
            width: 3,
            height: 5,
            bytes: 7,
            sha256: "00".into(),
            ..SampleRow::default()
        };
        let bad = SampleRow {
            id: "b".into(),
            error: Some("the file is empty".into()),
            ..SampleRow::default()
        };
        let rows = vec![good, bad];
        assert_eq!(
            samples_from_batch(&samples_to_batch(&rows, IdType::String).unwrap()).unwrap(),
            rows
        );
    }

    #[test]
    fn embeddings_come_back_in_both_precisions_and_when_empty() {
        for dtype in [DType::F32, DType::F16] {
            for (id_type, ids) in [
                (IdType::String, vec![]),
                (IdType::LargeString, vec!["a".to_string(), "b".to_string()]),
                (IdType::Int64, vec!["-7".to_string(), "12".to_string()]),
            ] {
                let rows = (0..ids.len() * 3).map(|i| i as f32 / 4.0).collect();
                let embeddings = Embeddings {
                    ids,
                    id_type,
                    dims: 3,
                    dtype,
                    rows,
                };
                assert_eq!(
                    Embeddings::from_batch(&embeddings.to_batch().unwrap()).unwrap(),
                    embeddings
                );
            }
        }
    }
}
