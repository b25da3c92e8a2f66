//! Ids and their Arrow types.
//!
//! In memory every id is a text. Tables made by others may call their rows by numbers or by texts of another layout; their type
//! stands in `run.json` ([`super::run_file::EmbedRequest::id_type`]), and every table of the run has its ids in it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, LargeStringArray, PrimitiveArray, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The type of a run's ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdType {
    /// Text with offsets of 32 bits: of all runs over images.
    #[default]
    String,
    /// Text with offsets of 64 bits.
    LargeString,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Unsigned, 8 bits.
    UInt8,
    /// Unsigned, 16 bits.
    UInt16,
    /// Unsigned, 32 bits.
    UInt32,
    /// Unsigned, 64 bits.
    UInt64,
}

impl fmt::Display for IdType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            IdType::String => "string",
            IdType::LargeString => "large_string",
            IdType::Int8 => "int8",
            IdType::Int16 => "int16",
            IdType::Int32 => "int32",
            IdType::Int64 => "int64",
            IdType::UInt8 => "uint8",
            IdType::UInt16 => "uint16",
            IdType::UInt32 => "uint32",
            IdType::UInt64 => "uint64",
        })
    }
}

impl IdType {
    /// The type of a column of ids; of a dictionary's values. None where it can hold no ids.
    pub fn of(column: &DataType) -> Option<IdType> {
        Some(match column {
            DataType::Utf8 | DataType::Utf8View => IdType::String,
            DataType::LargeUtf8 => IdType::LargeString,
            DataType::Int8 => IdType::Int8,
            DataType::Int16 => IdType::Int16,
            DataType::Int32 => IdType::Int32,
            DataType::Int64 => IdType::Int64,
            DataType::UInt8 => IdType::UInt8,
            DataType::UInt16 => IdType::UInt16,
            DataType::UInt32 => IdType::UInt32,
            DataType::UInt64 => IdType::UInt64,
            DataType::Dictionary(_, values) => return IdType::of(values),
            _ => return None,
        })
    }

    /// Whether ids are texts.
    pub fn is_text(self) -> bool {
        matches!(self, IdType::String | IdType::LargeString)
    }

    /// A column of ids; null where there is none.
    ///
    /// # Errors
    /// [`Error::Shape`] for an id that the type cannot hold.
    pub fn column<'a>(self, ids: impl Iterator<Item = Option<&'a str>>) -> Result<ArrayRef> {
        Ok(match self {
            IdType::String => Arc::new(StringArray::from_iter(ids)),
            IdType::LargeString => Arc::new(LargeStringArray::from_iter(ids)),
            IdType::Int8 => self.numbers::<Int8Type>(ids)?,
            IdType::Int16 => self.numbers::<Int16Type>(ids)?,
            IdType::Int32 => self.numbers::<Int32Type>(ids)?,
            IdType::Int64 => self.numbers::<Int64Type>(ids)?,
            IdType::UInt8 => self.numbers::<UInt8Type>(ids)?,
            IdType::UInt16 => self.numbers::<UInt16Type>(ids)?,
            IdType::UInt32 => self.numbers::<UInt32Type>(ids)?,
            IdType::UInt64 => self.numbers::<UInt64Type>(ids)?,
        })
    }

    fn numbers<'a, T>(self, ids: impl Iterator<Item = Option<&'a str>>) -> Result<ArrayRef>
    where
        T: ArrowPrimitiveType,
        T::Native: FromStr,
    {
        let number = |id: &str| {
            id.parse::<T::Native>()
                .map_err(|_| Error::shape("ids", format!("ids of type {self}"), id.to_string()))
        };
        let numbers = ids
            .map(|id| id.map(number).transpose())
            .collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(PrimitiveArray::<T>::from_iter(numbers)))
    }

    /// What ids are ordered by: numbers by value, texts by their bytes.
    pub fn sort_key(self, id: &str) -> (i128, &str) {
        let number = if self.is_text() {
            None
        } else {
            id.parse().ok()
        };
        (number.unwrap_or(0), id)
    }
}

/// Many ids, one after another in one text: 8 bytes an id and its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids {
    text: String,
    ends: Vec<usize>,
}

impl Ids {
    /// Adds one at the end.
    pub(crate) fn push(&mut self, id: &str) {
        self.text.push_str(id);
        self.ends.push(self.text.len());
    }

    /// The number of ids.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The id at a place.
    pub(crate) fn get(&self, at: usize) -> &str {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[at]]
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|at| self.get(at))
    }
}

/// A column of ids as texts, whatever their type.
///
/// # Errors
/// That it can hold no ids.
pub(crate) fn as_texts(column: &ArrayRef) -> Result<StringArray, String> {
    if let Some(texts) = column.as_string_opt::<i32>() {
        return Ok(texts.clone());
    }
    let kind = column.data_type();
    if IdType::of(kind).is_none() {
        return Err(format!("{kind}, not text or whole numbers"));
    }
    let texts = cast(column, &DataType::Utf8).map_err(|e| e.to_string())?;
    Ok(texts.as_string::<i32>().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [IdType; 10] = [
        IdType::String,
        IdType::LargeString,
        IdType::Int8,
        IdType::Int16,
        IdType::Int32,
        IdType::Int64,
        IdType::UInt8,
        IdType::UInt16,
        IdType::UInt32,
        IdType::UInt64,
    ];

    #[test]
    fn ids_come_back_in_every_type() {
        for kind in ALL {
            let ids = [Some("7"), None, Some("100")];
            let column = kind.column(ids.into_iter()).unwrap();
            assert_eq!(IdType::of(column.data_type()), Some(kind));
            let texts = as_texts(&column).unwrap();
            assert_eq!(texts.iter().collect::<Vec<_>>(), ids, "{kind}");
        }
        let ends = [i64::MIN.to_string(), i64::MAX.to_string()];
        let column = IdType::Int64.column(ends.iter().map(|id| Some(&**id)));
        let texts = as_texts(&column.unwrap()).unwrap();
        assert_eq!((texts.value(0), texts.value(1)), (&*ends[0], &*ends[1]));
    }

    #[test]
    fn numbers_are_ordered_by_value_and_texts_by_bytes() {
        let sorted = |kind: IdType| {
            let mut ids = ["10", "-3", "9"];
            ids.sort_by_key(|id| kind.sort_key(id));
            ids
        };
        assert_eq!(sorted(IdType::Int32), ["-3", "9", "10"]);
        assert_eq!(sorted(IdType::String), ["-3", "10", "9"]);
    }

    #[test]
    fn many_ids_in_one_text_stay_apart() {
        let mut ids = Ids::default();
        let texts = ["a/b", "", "", "é", "a/b"];
        texts.iter().for_each(|id| ids.push(id));
        assert_eq!(ids.iter().collect::<Vec<_>>(), texts);
        assert_eq!((ids.len(), ids.get(0), ids.get(4)), (5, "a/b", "a/b"));
    }

    #[test]
    fn an_id_that_the_type_cannot_hold_is_named() {
        let message = IdType::UInt8.column([Some("256")].into_iter()).unwrap_err();
        assert!(message.to_string().contains("256"), "{message}");
    }
}
