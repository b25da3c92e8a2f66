//! The table beside the curated files: a row a sample.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::Kept;
use crate::digest::hex;

/// The columns that every table has, in this order; the scores follow.
const COLUMNS: [(&str, DataType); 11] = [
    ("id", DataType::Utf8),
    // Where the sample stands in the curated set.
    ("key", DataType::Utf8),
    ("member", DataType::Utf8),
    // Where it came from.
    ("original_key", DataType::Utf8),
    ("source", DataType::Utf8),
    ("original_member", DataType::Utf8),
    ("width", DataType::UInt32),
    ("height", DataType::UInt32),
    ("format", DataType::Utf8),
    ("bytes", DataType::UInt64),
    ("sha256", DataType::Utf8),
];

/// Rows that are not written yet.
#[derive(Debug)]
pub(super) struct Rows {
    schema: SchemaRef,
    /// One vector for each string column, in the order of the schema.
    strings: [Vec<String>; 8],
    widths: Vec<u32>,
    heights: Vec<u32>,
    bytes: Vec<u64>,
    scores: Vec<Vec<f32>>,
}

impl Rows {
    /// No rows yet; `scores` names the score columns.
    pub(super) fn new(scores: &[String]) -> Rows {
        Rows {
            schema: schema(scores),
            strings: Default::default(),
            widths: Vec::new(),
            heights: Vec::new(),
            bytes: Vec::new(),
            scores: vec![Vec::new(); scores.len()],
        }
    }

    /// Adds the row of a sample that stands as `key` with its image at `member`.
    pub(super) fn push(&mut self, kept: &Kept, key: String, member: String, bytes: u64) {
        let sample = kept.sample;
        let strings = [
            sample.id.clone(),
            key,
            member,
            sample.key.clone(),
            sample.source.to_string(),
            sample.member.clone(),
            kept.format.to_string(),
            hex(&kept.sha256),
        ];
        for (column, value) in self.strings.iter_mut().zip(strings) {
            column.push(value);
        }
        self.widths.push(kept.width);
        self.heights.push(kept.height);
        self.bytes.push(bytes);
        for (column, &score) in self.scores.iter_mut().zip(kept.scores) {
            column.push(score);
        }
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.widths.len()
    }

    /// The columns, whether or not there are rows.
    pub(super) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The rows as a batch; none are left behind.
    pub(super) fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut strings = self
            .strings
            .each_mut()
            .map(|column| Arc::new(StringArray::from(std::mem::take(column))) as ArrayRef)
            .into_iter();
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (name, _) in &COLUMNS {
            let column: ArrayRef = match *name {
                "width" => Arc::new(UInt32Array::from(std::mem::take(&mut self.widths))),
                "height" => Arc::new(UInt32Array::from(std::mem::take(&mut self.heights))),
                "bytes" => Arc::new(UInt64Array::from(std::mem::take(&mut self.bytes))),
                _ => strings.next().expect("a vector for each string column"),
            };
            columns.push(column);
        }
        for column in &mut self.scores {
            columns.push(Arc::new(Float32Array::from(std::mem::take(column))));
        }
        RecordBatch::try_new(self.schema(), columns)
    }
}

fn schema(scores: &[String]) -> SchemaRef {
    let mut fields: Vec<Field> = COLUMNS
        .iter()
        .map(|(name, kind)| Field::new(*name, kind.clone(), false))
        .collect();
    for score in scores {
        let mut name = score.clone();
        while fields.iter().any(|field| *field.name() == name) {
            name = format!("score_{name}");
        }
        fields.push(Field::new(name, DataType::Float32, false));
    }
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_columns_do_not_take_the_name_of_another_column() {
        let scores = ["aesthetic", "width", "width"].map(String::from);
        let schema = schema(&scores);
        let names: Vec<_> = schema.fields().iter().map(|field| field.name()).collect();
        assert_eq!(
            names[11..],
            ["aesthetic", "score_width", "score_score_width"]
        );
    }

    #[test]
    fn no_rows_are_a_table_too() {
        let batch = Rows::new(&["a".to_string()]).take().unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (0, 12));
    }
}
