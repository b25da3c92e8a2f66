//! PyTorch files, as `torch.save` writes them since 1.6: a zip of stored entries, `NAME/data.pkl` with the names and shapes and
//! `NAME/data/KEY` with the values. TorchScript modules whose tensors stand in their state are read as well.
//!
//! A tensor is a view of a storage: offset, sizes and strides in elements. Nothing is allocated before it is known that the
//! storage holds as many elements, so that no file takes more memory than twice its length (half precision becomes f32).

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{At, Object, Objects};
use crate::error::Result;
use crate::mmap;

/// The most bytes of a pickle of names and shapes; those of large models have one or two million.
const MOST_PICKLE_BYTES: usize = 256 << 20;

/// The most bytes of a tensor's name: one long text could be the name of every tensor.
const LONGEST_NAME: usize = 1000;

/// The most dimensions of a tensor: one long list of sizes could be that of every tensor.
const MOST_DIMENSIONS: usize = 16;

/// The tensors of a file, read one at a time.
pub(super) struct TorchFile {
    map: Mmap,
    tensors: BTreeMap<String, View>,
}

struct View {
    /// None: of a type that is not read; its name.
    dtype: std::result::Result<DType, String>,
    shape: Vec<usize>,
    /// Elements from one to the next along each dimension.
    strides: Vec<usize>,
    /// The first element, as bytes of the file, and the end of the storage.
    bytes: Range<usize>,
}

impl TorchFile {
    /// Opens a file and reads what its tensors are. The values' checksums are compared.
    ///
    /// # Errors
    /// [`crate::Error::Io`] where the file cannot be read; inside, what is wrong with it.
    pub(super) fn open(path: &Path) -> Result<std::result::Result<TorchFile, String>> {
        let map = mmap::map(path)?;
        let tensors = tensors(&map);
        Ok(tensors.map(|tensors| TorchFile { map, tensors }))
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// The name of a tensor's type; of one that is not read that of its storage.
    pub(super) fn dtype(&self, name: &str) -> Option<&str> {
        Some(match &self.tensors.get(name)?.dtype {
            Ok(dtype) => dtype.as_str(),
            Err(storage) => storage,
        })
    }

    /// A tensor on the CPU, in its own type; none where there is none of that name.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn get(&self, name: &str) -> Option<std::result::Result<Tensor, String>> {
        let view = self.tensors.get(name)?;
        Some(view.tensor(&self.map))
    }
}

impl View {
    fn tensor(&self, file: &[u8]) -> std::result::Result<Tensor, String> {
        let dtype = self
            .dtype
            .clone()
            .map_err(|kind| format!("is of type {kind}, which is not read"))?;
        let width = dtype.size_in_bytes();
        let bytes = &file[self.bytes.clone()];
        let tensor = if self.is_contiguous() {
            let values: usize = self.shape.iter().product();
            Tensor::from_raw_buffer(&bytes[..values * width], dtype, &self.shape, &Device::Cpu)
        } else {
            let gathered = self.gather(bytes, width);
            Tensor::from_raw_buffer(&gathered, dtype, &self.shape, &Device::Cpu)
        };
        tensor.map_err(|e| e.to_string())
    }

    fn is_contiguous(&self) -> bool {
        let mut next = 1;
        self.shape
            .iter()
            .zip(&self.strides)
            .rev()
            .all(|(&n, &stride)| {
                let fits = n == 1 || stride == next;
                next = next.saturating_mul(n);
                fits
            })
    }

    /// The values in row-major order.
    fn gather(&self, bytes: &[u8], width: usize) -> Vec<u8> {
        let values: usize = self.shape.iter().product();
        let mut gathered = Vec::with_capacity(values * width);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..values {
            let element: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            gathered.extend_from_slice(&bytes[element * width..][..width]);
            for (i, n) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < *n {
                    break;
                }
                *i = 0;
            }
        }
        gathered
    }
}

/// A stored entry of the archive: its bytes in the file.
type Entries = BTreeMap<String, Range<usize>>;

fn tensors(file: &[u8]) -> std::result::Result<BTreeMap<String, View>, String> {
    let entries = entries(file)?;
    let mut found = BTreeMap::new();
    for (name, range) in &entries {
        let Some(folder) = name.strip_suffix(".pkl").filter(|f| f.ends_with("data")) else {
            continue;
        };
        if range.len() > MOST_PICKLE_BYTES {
            return Err(format!("{} bytes are too many for a pickle", range.len()));
        }
        let objects = Objects::read(&file[range.clone()])?;
        let Some(dict) = dict(&objects) else {
            continue;
        };
        for &(key, value) in dict {
            let Some(key) = objects.text(key).filter(|k| k.len() <= LONGEST_NAME) else {
                continue;
            };
            if let Some(view) = view(&objects, value, folder, &entries) {
                let view = view.map_err(|reason| format!("tensor {key} {reason}"))?;
                found.insert(key.to_string(), view);
            }
        }
    }
    Ok(found)
}

/// The entries, with their checksums compared.
fn entries(file: &[u8]) -> std::result::Result<Entries, String> {
    if !file.starts_with(b"PK") {
        return Err(
            "it is no zip archive; files from before PyTorch 1.6 are to be loaded and saved again"
                .to_string(),
        );
    }
    let damaged = |e: &dyn std::fmt::Display| format!("its archive is damaged: {e}");
    let mut archive = ZipArchive::new(Cursor::new(file)).map_err(|e| damaged(&e))?;
    let (mut entries, mut sum) = (Entries::new(), 0u64);
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| damaged(&e))?;
        let name = entry.name().map_err(|e| damaged(&e))?.into_owned();
        if entry.is_dir() {
            continue;
        }
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(format!(
                "{name} is compressed, which torch.save does not do"
            ));
        }
        let start = entry.data_start().and_then(|at| usize::try_from(at).ok());
        let range = start.and_then(|start| {
            let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
            (end <= file.len()).then_some(start..end)
        });
        let range = range.ok_or_else(|| format!("it is cut short: {name} is not all there"))?;
        sum = sum.saturating_add(entry.size());
        if sum > file.len() as u64 {
            return Err("its archive is damaged: entries overlap".to_string());
        }
        drop(entry);
        // Reading to the end compares the checksum.
        let mut entry = archive.by_index(index).map_err(|e| damaged(&e))?;
        std::io::copy(&mut entry, &mut std::io::sink())
            .map_err(|e| format!("{name} is damaged: {e}"))?;
        entries.insert(name, range);
    }
    Ok(entries)
}

/// The dict of tensors: the object itself, or the state of a TorchScript module.
fn dict(objects: &Objects) -> Option<&[(At, At)]> {
    let at = match objects.get(objects.root) {
        Object::Build { object, state } => {
            let (callable, _) = objects.call(*object)?;
            let (module, name) = objects.global(callable)?;
            (module == "__torch__" && name == "Module").then_some(*state)?
        }
        _ => objects.root,
    };
    match objects.get(at) {
        Object::Dict(entries) => Some(entries),
        _ => None,
    }
}

/// The tensor that an object is; none where it is something else.
///
/// Calls: <https://github.com/pytorch/pytorch/blob/main/torch/_utils.py>, `_rebuild_tensor_v2(storage, offset, size, stride, ..)`,
/// `_rebuild_parameter(tensor, ..)`; `torch._tensor._rebuild_from_type_v2(function, type, arguments, state)`.
fn view(
    objects: &Objects,
    at: At,
    folder: &str,
    entries: &Entries,
) -> Option<std::result::Result<View, String>> {
    let (mut callable, mut arguments) = objects.call(at)?;
    match objects.global(callable)? {
        ("torch._tensor", "_rebuild_from_type_v2") => {
            let parts = objects.tuple(arguments)?;
            (callable, arguments) = (*parts.first()?, *parts.get(2)?);
        }
        ("torch._utils", "_rebuild_parameter") => {
            (callable, arguments) = objects.call(*objects.tuple(arguments)?.first()?)?;
        }
        _ => {}
    }
    if objects.global(callable)? != ("torch._utils", "_rebuild_tensor_v2") {
        return None;
    }
    Some(rebuild(objects, arguments, folder, entries))
}

fn rebuild(
    objects: &Objects,
    arguments: At,
    folder: &str,
    entries: &Entries,
) -> std::result::Result<View, String> {
    let strange = || "is described in a way that is not known".to_string();
    let sizes = |at: At| -> Option<Vec<usize>> {
        let sizes = objects
            .tuple(at)
            .filter(|sizes| sizes.len() <= MOST_DIMENSIONS)?;
        let sizes = sizes.iter();
        sizes
            .map(|&at| usize::try_from(objects.int(at)?).ok())
            .collect()
    };
    let Some(&[storage, offset, shape, strides, ..]) = objects.tuple(arguments) else {
        return Err(strange());
    };
    let (shape, strides) = sizes(shape).zip(sizes(strides)).ok_or_else(strange)?;
    let offset = objects.int(offset).and_then(|n| usize::try_from(n).ok());
    let offset = offset.ok_or_else(strange)?;
    // ("storage", type, key, location, number of elements)
    let id = match objects.get(storage) {
        Object::Persistent(id) => objects.tuple(*id),
        _ => None,
    };
    let Some(&[_, kind, key, ..]) = id else {
        return Err(strange());
    };
    let (_, kind) = objects.global(kind).ok_or_else(strange)?;
    let key = objects.text(key).ok_or_else(strange)?;
    let entry = entries.get(&format!("{folder}/{key}"));
    let entry = entry.ok_or_else(|| format!("has no values: {folder}/{key} is missing"))?;
    if shape.len() != strides.len() {
        return Err(strange());
    }
    let dtype = match kind {
        "FloatStorage" => Ok(DType::F32),
        "DoubleStorage" => Ok(DType::F64),
        "HalfStorage" => Ok(DType::F16),
        "BFloat16Storage" => Ok(DType::BF16),
        "ByteStorage" => Ok(DType::U8),
        "LongStorage" => Ok(DType::I64),
        other => Err(other.to_string()),
    };
    let width = dtype.as_ref().map_or(1, |dtype| dtype.size_in_bytes());
    let there = (entry.len() / width).checked_sub(offset);
    // As if no size were 0, so that no product of some of them is too large.
    let product = |n: usize, &size: &usize| n.checked_mul(size.max(1));
    let values = match shape.contains(&0) {
        true => shape.iter().try_fold(1, product).map(|_| 0),
        false => shape.iter().try_fold(1, product),
    };
    let last = shape.iter().zip(&strides).try_fold(0usize, |at, (&n, &s)| {
        at.checked_add(n.saturating_sub(1).checked_mul(s)?)
    });
    let fits = match (there, values, last) {
        (Some(_), Some(0), _) => true,
        // A view may repeat elements (a stride of 0), but nobody saves weights that way, and a few bytes could claim all memory.
        (Some(there), Some(values), Some(last)) => values <= there && last < there,
        _ => false,
    };
    // Of a type that is not read, the width is not known either.
    if !fits && dtype.is_ok() {
        return Err(format!(
            "claims {shape:?} values from {offset} on, and {folder}/{key} has {} bytes",
            entry.len()
        ));
    }
    Ok(View {
        dtype,
        shape,
        strides,
        bytes: (entry.start + offset.saturating_mul(width).min(entry.len()))..entry.end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_view_is_gathered_in_the_order_of_its_rows() {
        let values: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view = |shape: [usize; 2], strides: [usize; 2]| View {
            dtype: Ok(DType::F32),
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            bytes: 0..values.len(),
        };
        let read =
            |view: View| -> Vec<Vec<f32>> { view.tensor(&values).unwrap().to_vec2().unwrap() };
        let plain = read(view([2, 3], [3, 1]));
        assert_eq!(plain, [[0., 1., 2.], [3., 4., 5.]]);
        let transposed = read(view([3, 2], [1, 3]));
        assert_eq!(transposed, [[0., 3.], [1., 4.], [2., 5.]]);
        // The stride of a dimension of 1 says nothing.
        let column = read(view([3, 1], [1, 77]));
        assert_eq!(column, [[0.], [1.], [2.]]);
    }
}
