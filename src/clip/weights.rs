//! Named tensors of a weights file: safetensors (one file or an index over several) or a PyTorch pickle.

mod pickle;
mod torch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use sha2::{Digest, Sha256};

use self::torch::TorchFile;
use crate::digest::{hex, sha256_hex};
use crate::error::{Error, Result};
use crate::mmap;

/// Tensors by name, read one at a time.
pub struct Weights {
    name: String,
    parts: Vec<Part>,
    torch: Option<TorchFile>,
    held: HashMap<String, Tensor>,
    fingerprint: String,
}

/// One safetensors file.
struct Part {
    bytes: Bytes,
    header: usize,
    metadata: Metadata,
}

enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

impl Weights {
    /// Opens the weights in a folder of Hugging Face's layout: `model.safetensors`, else `model.safetensors.index.json` with
    /// its parts, else `pytorch_model.bin`.
    ///
    /// # Errors
    /// [`Error::Model`] where there are none or they are damaged.
    pub fn open_dir(dir: &Path) -> Result<Weights> {
        let name = dir.display().to_string();
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if single.is_file() {
            Weights::open_safetensors(&name, &[single])
        } else if index.is_file() {
            Weights::open_safetensors(&name, &parts_of(&name, &index)?)
        } else {
            let pickle = dir.join("pytorch_model.bin");
            if pickle.is_file() {
                return Weights::open_pickle(&name, &pickle);
            }
            Err(Error::model(
                name,
                "no model.safetensors, model.safetensors.index.json or pytorch_model.bin in the folder",
            ))
        }
    }

    /// Opens one file, by its suffix a `.safetensors` or a PyTorch pickle (`.pth`, `.pt`, `.bin`).
    ///
    /// # Errors
    /// [`Error::Model`] where it is neither or damaged.
    pub fn open_file(path: &Path) -> Result<Weights> {
        let name = path.display().to_string();
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => Weights::open_safetensors(&name, &[path.to_path_buf()]),
            Some("pth" | "pt" | "bin") => Weights::open_pickle(&name, path),
            _ => Err(Error::model(
                name,
                "weights are read from .safetensors, .pth, .pt or .bin files",
            )),
        }
    }

    /// Weights that are compiled in.
    ///
    /// # Errors
    /// [`Error::Model`] where they are damaged.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Weights> {
        Weights::from_parts(name, vec![Bytes::Static(bytes)])
    }

    /// Weights that are in memory already. The fingerprint is the name's: two sets of other numbers should have other names.
    pub fn from_tensors(name: &str, tensors: HashMap<String, Tensor>) -> Weights {
        Weights {
            name: name.into(),
            parts: Vec::new(),
            torch: None,
            held: tensors,
            fingerprint: sha256_hex(name),
        }
    }

    fn open_safetensors(name: &str, paths: &[PathBuf]) -> Result<Weights> {
        let maps = paths
            .iter()
            .map(|path| mmap::map(path).map(Bytes::Mapped))
            .collect::<Result<Vec<_>>>()?;
        Weights::from_parts(name, maps)
    }

    fn from_parts(name: &str, files: Vec<Bytes>) -> Result<Weights> {
        let mut hash = Sha256::new();
        let mut parts = Vec::new();
        for bytes in files {
            hash.update(bytes.as_ref());
            let (header, metadata) = SafeTensors::read_metadata(bytes.as_ref())
                .map_err(|e| Error::model(name, format!("not a whole safetensors file: {e}")))?;
            parts.push(Part {
                bytes,
                header: header + 8,
                metadata,
            });
        }
        Ok(Weights {
            name: name.into(),
            parts,
            torch: None,
            held: HashMap::new(),
            fingerprint: hex(&hash.finalize()),
        })
    }

    fn open_pickle(name: &str, path: &Path) -> Result<Weights> {
        let torch = TorchFile::open(path)?.map_err(|reason| {
            Error::model(
                name,
                format!("not a PyTorch file with tensors by name: {reason}"),
            )
        })?;
        Ok(Weights {
            name: name.into(),
            parts: Vec::new(),
            fingerprint: sha256_hex(torch.bytes()),
            torch: Some(torch),
            held: HashMap::new(),
        })
    }

    /// sha256 of the files, in hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What the weights are called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a safetensors file says of itself under a key.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        let mut parts = self.parts.iter();
        parts.find_map(|part| Some(part.metadata.metadata().as_ref()?.get(key)?.as_str()))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> BTreeSet<String> {
        let mapped = self
            .parts
            .iter()
            .flat_map(|p| p.metadata.tensors().into_keys().collect::<Vec<_>>());
        let pickled = self.torch.iter().flat_map(|torch| torch.names().cloned());
        mapped
            .chain(pickled)
            .chain(self.held.keys().cloned())
            .collect()
    }

    /// A tensor's shape.
    pub fn shape(&self, key: &str) -> Option<Vec<usize>> {
        let mapped = self
            .parts
            .iter()
            .find_map(|p| p.metadata.info(key).map(|i| i.shape.clone()));
        let pickled = || Some(self.torch.as_ref()?.shape(key)?.to_vec());
        mapped
            .or_else(pickled)
            .or_else(|| self.held.get(key).map(|t| t.dims().to_vec()))
    }

    /// The type of a tensor's elements as safetensors name it, in lower case: f32, f16, bf16, i64.
    pub fn dtype(&self, key: &str) -> Option<String> {
        let mapped = self
            .parts
            .iter()
            .find_map(|p| p.metadata.info(key).map(|i| format!("{:?}", i.dtype)));
        let held = || self.held.get(key).map(|t| t.dtype().as_str().to_string());
        let pickled = || Some(self.torch.as_ref()?.dtype(key)?.to_string());
        mapped
            .or_else(pickled)
            .or_else(held)
            .map(|name| name.to_lowercase())
    }

    /// A tensor of the shape asked for, in f32 on the CPU.
    ///
    /// # Errors
    /// [`Error::Model`] where it is missing, of another shape, or not of floats.
    pub fn get(&self, key: &str, shape: &[usize]) -> Result<Tensor> {
        let found = self
            .shape(key)
            .ok_or_else(|| Error::model(&self.name, format!("has no tensor {key}")))?;
        if found != shape {
            return Err(Error::model(
                &self.name,
                format!("tensor {key} is {found:?}, the config asks for {shape:?}"),
            ));
        }
        let pickled = || self.torch.as_ref()?.get(key);
        let tensor = match (self.held.get(key), pickled()) {
            (Some(tensor), _) => tensor.to_device(&Device::Cpu)?,
            (None, Some(tensor)) => tensor
                .map_err(|reason| Error::model(&self.name, format!("tensor {key} {reason}")))?,
            (None, None) => self.mapped(key)?,
        };
        if !tensor.dtype().is_float() {
            return Err(Error::model(
                &self.name,
                format!("tensor {key} holds {:?}, not floats", tensor.dtype()),
            ));
        }
        Ok(tensor.to_dtype(DType::F32)?.contiguous()?)
    }

    fn mapped(&self, key: &str) -> Result<Tensor> {
        let missing = || Error::model(&self.name, format!("has no tensor {key}"));
        let part = self
            .parts
            .iter()
            .find(|p| p.metadata.info(key).is_some())
            .ok_or_else(missing)?;
        let info = part.metadata.info(key).ok_or_else(missing)?;
        let dtype = DType::try_from(info.dtype).map_err(|_| {
            Error::model(
                &self.name,
                format!(
                    "tensor {key} is of type {:?}, which is not read",
                    info.dtype
                ),
            )
        })?;
        let (start, end) = info.data_offsets;
        let data = part
            .bytes
            .as_ref()
            .get(part.header + start..part.header + end)
            .ok_or_else(|| {
                Error::model(
                    &self.name,
                    format!("tensor {key} lies outside the file; it is cut short"),
                )
            })?;
        Ok(Tensor::from_raw_buffer(
            data,
            dtype,
            &info.shape,
            &Device::Cpu,
        )?)
    }
}

/// The files that a sharded index names, each once.
pub(crate) fn parts_of(name: &str, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(Error::io("read", index))?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|e| Error::model(name, format!("{}: {e}", index.display())))?;
    let files: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if files.is_empty() {
        return Err(Error::model(
            name,
            format!("{} names no file", index.display()),
        ));
    }
    let dir = index.parent().unwrap_or(Path::new("."));
    files
        .into_iter()
        .map(|file| {
            if Path::new(&file).file_name().and_then(|f| f.to_str()) != Some(&file) {
                return Err(Error::model(
                    name,
                    format!(
                        "{} names {file:?}, which is not a file beside it",
                        index.display()
                    ),
                ));
            }
            Ok(dir.join(file))
        })
        .collect()
}
