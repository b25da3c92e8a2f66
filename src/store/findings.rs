//! Rows of what was found and decided: pairs, matches, clusters, decisions.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, RecordBatch, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{Float32Type, Float64Type, UInt32Type};

use super::ids::IdType;
use super::tables::{batch, column, id_column, ids, strings, text_column};
use crate::error::Result;

/// `duplicates/pairs-*.parquet`: a, b, cosine, identical (b's row equals a's to the bit, and b's other pairs are a's).
///
/// # Errors
/// [`Error::Shape`] where lengths differ, or for an id that the type cannot hold.
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

/// Calls `each(a, b, cosine, identical)` for the rows of a pairs table.
///
/// # Errors
/// What is missing or of another type, and what `each` refuses.
pub fn for_each_pair(
    table: &RecordBatch,
    mut each: impl FnMut(&str, &str, f64, bool) -> Result<(), String>,
) -> Result<(), String> {
    let (a, b) = (id_column(table, "a")?, id_column(table, "b")?);
    let cosine = column::<Float64Type>(table, "cosine")?;
    let identical = table
        .column_by_name("identical")
        .and_then(|c| c.as_boolean_opt())
        .ok_or("has no column identical")?;
    (0..table.num_rows())
        .try_for_each(|i| each(a.value(i), b.value(i), cosine.value(i), identical.value(i)))
}

/// A table of an id, another id and a number, such as `removed.parquet`.
///
/// # Errors
/// [`Error::Shape`] for an id that the type cannot hold.
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
/// [`Error::Shape`] where lengths differ, or for an id that the type cannot hold.
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
/// [`Error::Shape`] for an id that the type cannot hold.
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
}

/// `decisions.parquet`: id, keep, reason, duplicate_of, and a column a score (null where the sample is bad).
///
/// # Errors
/// [`Error::Shape`] where lengths differ, or for an id that the type cannot hold.
pub fn decisions_to_batch(
    kind: IdType,
    rows: &[DecisionRow],
    scores: &[(String, Vec<Option<f32>>)],
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
    let row = |i: usize| DecisionRow {
        id: ids.value(i).into(),
        reason: reasons.value(i).into(),
        duplicate_of: others.is_valid(i).then(|| others.value(i).into()),
    };
    Ok((0..table.num_rows()).map(row).collect())
}
