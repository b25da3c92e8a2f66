//! Rows of what was found and decided: pairs, matches, clusters, decisions.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, RecordBatch, StringArray,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{Float32Type, Float64Type, UInt32Type, UInt64Type};

use super::ids::IdType;
use super::tables::{
    SampleRow, batch, column, id_column, ids, optional_strings, samples_from_batch,
    samples_to_batch, strings, text_column,
};
use crate::error::Result;

/// `duplicates/pairs-*.parquet`: a, b, cosine, identical (b's row equals a's to the bit, and b's other pairs are a's).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where lengths differ, or for an id that the type cannot hold.
pub fn pairs_to_batch(
    kind: IdType,
    a: &[&str],
    b: &[&str],
    cosine: &[f64],
    identical: &[bool],
) -> Result<RecordBatch> {
    batch(vec![
        ("a", false, ids(kind, a.iter().copied())?),
        ("b", false, ids(kind, b.iter().copied())?),
        (
            "cosine",
            false,
            Arc::new(Float64Array::from(cosine.to_vec())),
        ),
        (
            "identical",
            false,
            Arc::new(BooleanArray::from(identical.to_vec())),
        ),
    ])
}

/// A table with one more column: for each row the earlier run that an id of it is of, null for the table's own.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where lengths differ.
pub fn with_runs<'a>(
    table: RecordBatch,
    name: &str,
    runs: impl Iterator<Item = Option<&'a str>>,
) -> Result<RecordBatch> {
    let schema = table.schema();
    let mut columns: Vec<(&str, bool, ArrayRef)> = schema
        .fields()
        .iter()
        .zip(table.columns())
        .map(|(field, column)| (field.name().as_str(), field.is_nullable(), column.clone()))
        .collect();
    columns.push((name, true, optional_strings(runs)));
    batch(columns)
}

/// `removed.parquet` with its last column, `match`: `bytes` where the two files are the same, else `embedding`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where lengths differ.
pub fn with_matches(table: RecordBatch, bytes: impl Iterator<Item = bool>) -> Result<RecordBatch> {
    let schema = table.schema();
    let mut columns: Vec<(&str, bool, ArrayRef)> = schema
        .fields()
        .iter()
        .zip(table.columns())
        .map(|(field, column)| (field.name().as_str(), field.is_nullable(), column.clone()))
        .collect();
    let words = bytes.map(|bytes| if bytes { "bytes" } else { "embedding" });
    columns.push(("match", false, strings(words)));
    batch(columns)
}

/// `duplicates/against.parquet`: the rows of earlier sets that pairs name, as they stand in `samples/` there, with their run and
/// their place among its samples.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for an id that the type cannot hold.
pub fn earlier_to_batch(kind: IdType, rows: &[(&str, u64, SampleRow)]) -> Result<RecordBatch> {
    let samples: Vec<SampleRow> = rows.iter().map(|row| row.2.clone()).collect();
    let table = samples_to_batch(&samples, kind)?;
    let schema = table.schema();
    let mut columns: Vec<(&str, bool, ArrayRef)> = vec![
        ("run", false, strings(rows.iter().map(|row| row.0))),
        (
            "place",
            false,
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.1))),
        ),
    ];
    let fields = schema.fields().iter().zip(table.columns());
    columns.extend(
        fields.map(|(field, column)| (field.name().as_str(), field.is_nullable(), column.clone())),
    );
    batch(columns)
}

/// Calls `each(run, id)` for the rows of earlier sets.
///
/// # Errors
/// What is missing or of another type.
pub fn for_each_earlier(
    table: &RecordBatch,
    mut each: impl FnMut(&str, &str),
) -> Result<(), String> {
    let (runs, ids) = (text_column(table, "run")?, id_column(table, "id")?);
    (0..table.num_rows()).for_each(|row| each(runs.value(row), ids.value(row)));
    Ok(())
}

/// Reads `duplicates/against.parquet` with all that it says.
///
/// # Errors
/// What is missing or of another type.
pub fn earlier_from_batch(table: &RecordBatch) -> Result<Vec<(String, u64, SampleRow)>, String> {
    let (runs, places) = (
        text_column(table, "run")?,
        column::<UInt64Type>(table, "place")?,
    );
    let rows = samples_from_batch(table)?.into_iter().enumerate();
    Ok(rows
        .map(|(at, row)| (runs.value(at).to_string(), places.value(at), row))
        .collect())
}

/// Calls `each((a, b, b's earlier run), cosine, identical)` for the rows of a pairs table.
///
/// # Errors
/// What is missing or of another type, and what `each` refuses.
pub fn for_each_pair(
    table: &RecordBatch,
    mut each: impl FnMut((&str, &str, Option<&str>), f64, bool) -> Result<(), String>,
) -> Result<(), String> {
    let (a, b) = (id_column(table, "a")?, id_column(table, "b")?);
    let cosine = column::<Float64Type>(table, "cosine")?;
    let identical = table
        .column_by_name("identical")
        .and_then(|c| c.as_boolean_opt())
        .ok_or("has no column identical")?;
    let runs = run_column(table, "b_run")?;
    (0..table.num_rows()).try_for_each(|i| {
        let run = runs
            .filter(|runs| runs.is_valid(i))
            .map(|runs| runs.value(i));
        each(
            (a.value(i), b.value(i), run),
            cosine.value(i),
            identical.value(i),
        )
    })
}

/// A column of [`with_runs`], where the table has it.
fn run_column<'a>(table: &'a RecordBatch, name: &str) -> Result<Option<&'a StringArray>, String> {
    match table.column_by_name(name) {
        None => Ok(None),
        Some(_) => text_column(table, name).map(Some),
    }
}

/// A table of an id, another id and a number, such as `removed.parquet`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for an id that the type cannot hold.
pub fn matched_to_batch(
    kind: IdType,
    names: [&str; 3],
    rows: &[(&str, &str, f64)],
) -> Result<RecordBatch> {
    batch(vec![
        (names[0], false, ids(kind, rows.iter().map(|r| r.0))?),
        (names[1], false, ids(kind, rows.iter().map(|r| r.1))?),
        (
            names[2],
            false,
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.2))),
        ),
    ])
}

/// `clusters/part-*.parquet`: id, centroid, cosine_dist_to_cent, l2_dist_to_cent.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where lengths differ, or for an id that the type cannot hold.
pub fn clusters_to_batch(
    kind: IdType,
    names: &[&str],
    centroid: &[u32],
    cosine: &[f32],
    l2: &[f32],
) -> Result<RecordBatch> {
    batch(vec![
        ("id", false, ids(kind, names.iter().copied())?),
        (
            "centroid",
            false,
            Arc::new(UInt32Array::from(centroid.to_vec())),
        ),
        (
            "cosine_dist_to_cent",
            false,
            Arc::new(Float32Array::from(cosine.to_vec())),
        ),
        (
            "l2_dist_to_cent",
            false,
            Arc::new(Float32Array::from(l2.to_vec())),
        ),
    ])
}

/// Reads centroid numbers and cosine distances of a clusters part.
///
/// # Errors
/// What is missing or of another type.
pub fn clusters_from_batch(table: &RecordBatch) -> Result<(Vec<u32>, Vec<f32>), String> {
    let labels = column::<UInt32Type>(table, "centroid")?.values().to_vec();
    Ok((
        labels,
        column::<Float32Type>(table, "cosine_dist_to_cent")?
            .values()
            .to_vec(),
    ))
}

/// `duplicates/audit.parquet`: id, centroid, neighbours, found; see [`crate::store::run_file::AuditResult`].
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for an id that the type cannot hold.
pub fn audit_to_batch(kind: IdType, rows: &[(&str, u32, u64, u64)]) -> Result<RecordBatch> {
    let counts = |of: fn(&(&str, u32, u64, u64)) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(of)))
    };
    batch(vec![
        ("id", false, ids(kind, rows.iter().map(|r| r.0))?),
        (
            "centroid",
            false,
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.1))),
        ),
        ("neighbours", false, counts(|r| r.2)),
        ("found", false, counts(|r| r.3)),
    ])
}

/// A row of `decisions.parquet` without its scores.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionRow {
    /// The sample.
    pub id: String,
    /// kept, corrupt, a score's name, or duplicate.
    pub reason: String,
    /// The kept sample that stands for a duplicate.
    pub duplicate_of: Option<String>,
    /// The earlier run that it is of, where it is not of this one.
    pub duplicate_of_run: Option<String>,
}

/// `decisions.parquet`: id, keep, reason, duplicate_of, with earlier sets duplicate_of_run, and a column a score (null where the
/// sample is bad).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where lengths differ, or for an id that the type cannot hold.
pub fn decisions_to_batch(
    kind: IdType,
    rows: &[DecisionRow],
    scores: &[(String, Vec<Option<f32>>)],
    against: bool,
) -> Result<RecordBatch> {
    let mut columns: Vec<(&str, bool, ArrayRef)> = vec![
        ("id", false, ids(kind, rows.iter().map(|r| r.id.as_str()))?),
        (
            "keep",
            false,
            Arc::new(BooleanArray::from_iter(
                rows.iter().map(|r| Some(r.reason == "kept")),
            )),
        ),
        (
            "reason",
            false,
            strings(rows.iter().map(|r| r.reason.as_str())),
        ),
        (
            "duplicate_of",
            true,
            kind.column(rows.iter().map(|r| r.duplicate_of.as_deref()))?,
        ),
    ];
    if against {
        let runs = rows.iter().map(|r| r.duplicate_of_run.as_deref());
        columns.push(("duplicate_of_run", true, optional_strings(runs)));
    }
    for (name, values) in scores {
        columns.push((name, true, Arc::new(Float32Array::from(values.clone()))));
    }
    batch(columns)
}

/// Reads `decisions.parquet` back, without its scores.
///
/// # Errors
/// What is missing or of another type.
pub fn decisions_from_batch(table: &RecordBatch) -> Result<Vec<DecisionRow>, String> {
    let (ids, reasons, others) = (
        id_column(table, "id")?,
        text_column(table, "reason")?,
        id_column(table, "duplicate_of")?,
    );
    let runs = run_column(table, "duplicate_of_run")?;
    let run = |i: usize| Some(runs.filter(|runs| runs.is_valid(i))?.value(i).to_string());
    let row = |i: usize| DecisionRow {
        id: ids.value(i).into(),
        reason: reasons.value(i).into(),
        duplicate_of: others.is_valid(i).then(|| others.value(i).into()),
        duplicate_of_run: run(i),
    };
    Ok((0..table.num_rows()).map(row).collect())
}
