//! Which column of a parquet holds the images, and values of columns whatever their type.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{self, DataType, Field, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

/// Names of binary columns that hold images, the likeliest first.
const BINARY: &[&str] = &[
    "image",
    "bytes",
    "image_bytes",
    "img",
    "img_bytes",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "image_data",
    "data",
    "content",
];

/// Names of text columns that hold paths of images.
const PATHS: &[&str] = &[
    "path",
    "image_path",
    "file_path",
    "filepath",
    "file_name",
    "filename",
    "image",
    "image_file",
    "img",
    "file",
];

/// Names of text columns that hold what is not fetched.
const URLS: &[&str] = &["url", "image_url", "img_url", "link", "uri"];

/// How a column holds images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    /// `struct<bytes, path>`, as Hugging Face writes it; whether it has the one and the other.
    Struct { bytes: bool, path: bool },
    /// Files.
    Bytes,
    /// Paths, relative to the parquet's folder.
    Path,
}

/// The columns that are read, by their place in the table.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub(super) image: usize,
    pub(super) form: Form,
    pub(super) id: Option<usize>,
    /// What goes into the sidecar.
    pub(super) facts: Vec<usize>,
}

impl Columns {
    /// # Errors
    /// Why there is no column to read images from, with the columns that there are.
    pub(super) fn choose(
        schema: &Schema,
        image: Option<&str>,
        id: Option<&str>,
    ) -> Result<Columns, String> {
        let place = |name: &str| {
            let found = schema.fields().iter().position(|f| f.name() == name);
            found.ok_or_else(|| format!("has no column `{name}`: {}", listed(schema)))
        };
        let (image, form) = match image {
            Some(name) => {
                let at = place(name)?;
                let form = form(schema.field(at).data_type());
                (
                    at,
                    form.ok_or_else(|| {
                        format!("the column `{name}` holds no images: {}", listed(schema))
                    })?,
                )
            }
            None => likeliest(schema)?,
        };
        let id = id.map(place).transpose()?;
        if let Some(at) = id {
            let field = schema.field(at);
            let kind = value_type(field.data_type());
            if !kind.is_integer() && !is_text(kind) {
                return Err(format!(
                    "the id column `{}` is {kind}: ids are texts or whole numbers",
                    field.name()
                ));
            }
        }
        let facts = schema.fields().iter().enumerate();
        let facts =
            facts.filter(|(at, field)| *at != image && is_fact(value_type(field.data_type())));
        Ok(Columns {
            image,
            form,
            id,
            facts: facts.map(|(at, _)| at).collect(),
        })
    }

    /// All places, in order, each once.
    pub(super) fn all(&self) -> Vec<usize> {
        let mut all: Vec<_> = self
            .facts
            .iter()
            .copied()
            .chain(self.id)
            .chain([self.image])
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The column that holds the images: bytes before paths, the usual names before the only one there is.
fn likeliest(schema: &Schema) -> Result<(usize, Form), String> {
    let of = |wanted: fn(Form) -> bool| -> Vec<(usize, Form)> {
        let forms = schema
            .fields()
            .iter()
            .map(|field| form(field.data_type()))
            .enumerate();
        forms
            .filter_map(|(at, form)| form.filter(|f| wanted(*f)).map(|f| (at, f)))
            .collect()
    };
    let named = |columns: &[(usize, Form)], names: &[&str]| {
        let name = |at: usize| schema.field(at).name().to_lowercase();
        names
            .iter()
            .find_map(|wanted| columns.iter().copied().find(|(at, _)| name(*at) == *wanted))
    };
    let bytes: [fn(Form) -> bool; 3] = [
        |form| matches!(form, Form::Struct { bytes: true, .. }),
        |form| form == Form::Bytes,
        |form| matches!(form, Form::Struct { .. }),
    ];
    for wanted in bytes {
        let columns = of(wanted);
        if let Some(found) = named(&columns, BINARY) {
            return Ok(found);
        }
        match columns[..] {
            [] => {}
            [only] => return Ok(only),
            _ => {
                let names: Vec<_> = columns
                    .iter()
                    .map(|(at, _)| schema.field(*at).name().as_str())
                    .collect();
                return Err(format!(
                    "several columns could hold the images ({}), and none is called `image`",
                    names.join(", ")
                ));
            }
        }
    }
    let texts = of(|form| form == Form::Path);
    if let Some(found) = named(&texts, PATHS) {
        return Ok(found);
    }
    if let Some((at, _)) = named(&texts, URLS) {
        return Err(format!(
            "holds URLs (`{}`), which are not fetched: download the images first",
            schema.field(at).name()
        ));
    }
    Err(format!(
        "no column holds images or their paths: {}",
        listed(schema)
    ))
}

pub(super) fn listed(schema: &Schema) -> String {
    let one = |field: &Field| format!("{} ({})", field.name(), field.data_type());
    let all: Vec<_> = schema.fields().iter().map(|field| one(field)).collect();
    format!("its columns are {}", all.join(", "))
}

/// The type of the values, also where they are stored as keys into a dictionary.
fn value_type(kind: &DataType) -> &DataType {
    match kind {
        DataType::Dictionary(_, values) => values,
        kind => kind,
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

fn is_binary(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
    )
}

fn is_fact(kind: &DataType) -> bool {
    let other = matches!(
        kind,
        DataType::Boolean | DataType::Decimal128(..) | DataType::Decimal256(..)
    );
    is_text(kind) || kind.is_integer() || kind.is_floating() || kind.is_temporal() || other
}

fn form(kind: &DataType) -> Option<Form> {
    match value_type(kind) {
        DataType::Struct(fields) => {
            let has = |name: &str, fits: fn(&DataType) -> bool| {
                fields
                    .iter()
                    .any(|f| f.name() == name && fits(value_type(f.data_type())))
            };
            let (bytes, path) = (has("bytes", is_binary), has("path", is_text));
            (bytes || path).then_some(Form::Struct { bytes, path })
        }
        kind if is_binary(kind) => Some(Form::Bytes),
        kind if is_text(kind) => Some(Form::Path),
        _ => None,
    }
}

/// A column without a dictionary, texts and bytes in their plainest types.
///
/// # Errors
/// What the conversion says.
pub(super) fn plain(column: &ArrayRef) -> Result<ArrayRef, String> {
    let kind = value_type(column.data_type());
    let wanted = match kind {
        DataType::LargeUtf8 | DataType::Utf8View => &DataType::Utf8,
        kind => kind,
    };
    if wanted == column.data_type() {
        return Ok(column.clone());
    }
    cast(column, wanted).map_err(|e| e.to_string())
}

/// The value of a [`plain`] binary column; `None` for null.
pub(super) fn bytes(column: &dyn Array, row: usize) -> Option<&[u8]> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Binary => Some(column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Some(column.as_binary::<i64>().value(row)),
        DataType::BinaryView => Some(column.as_binary_view().value(row)),
        _ => None,
    }
}

/// The value of a [`plain`] text column; `None` for null.
pub(super) fn text(column: &dyn Array, row: usize) -> Option<&str> {
    let column = column.as_string_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row))
}

/// The value of a [`plain`] text or whole-number column as text; `None` for null.
pub(super) fn rendered(column: &dyn Array, row: usize) -> Option<String> {
    match fact(column, row) {
        Value::Null => None,
        Value::String(text) => Some(text),
        value => Some(value.to_string()),
    }
}

/// The value of a [`plain`] column as JSON. Times and decimals are texts; what JSON has no number for is null.
pub(super) fn fact(column: &dyn Array, row: usize) -> Value {
    use datatypes as t;
    if column.is_null(row) {
        return Value::Null;
    }
    // The shortest decimal that gives the same value back: 0.1, not 0.10000000149011612.
    let short = |value: f32| {
        value
            .to_string()
            .parse::<f64>()
            .map_or(Value::Null, Value::from)
    };
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int8 => column.as_primitive::<t::Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<t::Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<t::Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<t::Int64Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<t::UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<t::UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<t::UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<t::UInt64Type>().value(row).into(),
        DataType::Float16 => short(column.as_primitive::<t::Float16Type>().value(row).to_f32()),
        DataType::Float32 => short(column.as_primitive::<t::Float32Type>().value(row)),
        DataType::Float64 => column.as_primitive::<t::Float64Type>().value(row).into(),
        _ => {
            let shown = ArrayFormatter::try_new(column, &FormatOptions::default())
                .and_then(|formatter| formatter.value(row).try_to_string());
            shown.map_or(Value::Null, Value::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(fields: &[(&str, DataType)]) -> Result<(String, Form), String> {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, kind)| Field::new(*name, kind.clone(), true))
            .collect();
        let schema = Schema::new(fields);
        let columns = Columns::choose(&schema, None, None)?;
        Ok((schema.field(columns.image).name().clone(), columns.form))
    }

    fn image() -> DataType {
        let fields = vec![
            Field::new("bytes", DataType::Binary, true),
            Field::new("path", DataType::Utf8, true),
        ];
        DataType::Struct(fields.into())
    }

    #[test]
    fn bytes_come_before_paths_and_usual_names_before_others() {
        use DataType::{Binary, Int64, LargeBinary, Utf8};
        let both = Form::Struct {
            bytes: true,
            path: true,
        };
        for (fields, name, form) in [
            (&[("mask", image()), ("image", image())][..], "image", both),
            (&[("photo", image()), ("jpg", Binary)], "photo", both),
            (
                &[("blob", Binary), ("jpg", LargeBinary)],
                "jpg",
                Form::Bytes,
            ),
            (&[("blob", Binary), ("path", Utf8)], "blob", Form::Bytes),
            (
                &[("url", Utf8), ("caption", Utf8), ("File_Name", Utf8)],
                "File_Name",
                Form::Path,
            ),
            (&[("id", Int64), ("image", Utf8)], "image", Form::Path),
        ] {
            assert_eq!(chosen(fields), Ok((name.to_string(), form)));
        }
    }

    #[test]
    fn what_holds_no_images_is_refused_with_its_columns() {
        use DataType::{Binary, Int64, Utf8};
        for (fields, part) in [
            (
                &[("a", Int64), ("b", Utf8)][..],
                "its columns are a (Int64), b (Utf8)",
            ),
            (&[("url", Utf8), ("text", Utf8)], "not fetched"),
            (&[("a", Binary), ("b", Binary)], "(a, b)"),
            (
                &[("hash", DataType::FixedSizeBinary(16))],
                "no column holds images",
            ),
        ] {
            let reason = chosen(fields).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        }
    }
}
