//! Tensors of a checkpoint on disk: one safetensors file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

use super::keys::{Keys, is_there, read_json_if_there};
use super::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Why pickle files are refused.
pub(crate) const PICKLE: &str = "pickle files are refused, because reading one can run any code; write safetensors with \
                          save_pretrained";

/// Tensors by name, read on demand.
pub(crate) struct Weights {
    files: Vec<(PathBuf, MmapedSafetensors)>,
    /// The file that holds each tensor.
    places: BTreeMap<String, usize>,
}

/// The file of each tensor according to an index; `None` if there is no index.
fn index_of(path: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let Some(json) = read_json_if_there(path)? else { return Ok(None) };
    let read = || {
        let mut keys = Keys::of(&json, "")?;
        let map = keys.need("weight_map")?;
        keys.harmless(&["metadata"]);
        keys.finish()?;
        Ok(map)
    };
    read().map(Some).map_err(|reason: String| Error::Invalid { path: path.into(), reason })
}

impl Weights {
    /// The files of a model's folder: model.safetensors, or the shards that model.safetensors.index.json names.
    pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        let shards: BTreeSet<String> =
            index_of(&index)?.into_iter().flatten().map(|(_, file)| file).collect();
        let invalid = |path: &Path, reason: String| Error::Invalid { path: path.into(), reason };
        if is_there(&single)? {
            if let Some(other) = shards.iter().find(|name| *name != SINGLE) {
                let reason = format!("has {SINGLE}, but its {INDEX} names `{other}`: remove one of the two");
                return Err(invalid(folder, reason));
            }
            return Ok(vec![single]);
        }
        if !is_there(&index)? {
            let reason = match pickle(folder) {
                Some(name) => format!("has `{name}` but no {SINGLE}: {PICKLE}"),
                None => format!("has neither {SINGLE} nor {INDEX}"),
            };
            return Err(invalid(folder, reason));
        }
        if shards.is_empty() {
            return Err(invalid(&index, "`weight_map` must name a file, found none".into()));
        }
        if let Some(name) = shards.iter().find(|name| Path::new(name).components().count() != 1) {
            return Err(invalid(
                &index,
                format!("`weight_map` must name files in the same folder, found `{name}`"),
            ));
        }
        Ok(shards.into_iter().map(|name| folder.join(name)).collect())
    }

    /// Opens the weights of a model's folder. If there is an index, it must agree with the files.
    pub(crate) fn of_folder(folder: &Path) -> Result<Weights> {
        let weights = Weights::open(Weights::files(folder)?)?;
        let index = folder.join(INDEX);
        let Some(said) = index_of(&index)? else { return Ok(weights) };
        let invalid = |reason: String| Err(Error::Invalid { path: index.clone(), reason });
        let file_of =
            |name: &str| weights.path(name).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some((name, file)) =
            said.iter().find(|(name, file)| !weights.has(name) || file_of(name) != **file)
        {
            return invalid(format!("places tensor `{name}` in {file}, which does not have it"));
        }
        if let Some(name) = weights.names().find(|name| !said.contains_key(*name)) {
            return invalid(format!("does not name tensor `{name}`, which is in {}", file_of(name)));
        }
        Ok(weights)
    }

    /// Opens safetensors files. Their headers are checked against their lengths before anything is read.
    // A memory map has no safe form.
    #[allow(unsafe_code)]
    pub(crate) fn open(paths: Vec<PathBuf>) -> Result<Weights> {
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        for path in paths {
            // A missing or unreadable file gives another error than a damaged one.
            store::read::open(&path).map_err(|cause| Error::Read { path: path.clone(), cause })?;
            // SAFETY: the map is read only while the process holds it. Checkpoints in the cache are never changed. If a
            // checkpoint of the user is overwritten meanwhile, its numbers change and nothing else; if it is cut short,
            // the process ends, as with every memory map.
            let file = unsafe { MmapedSafetensors::new(&path) }.map_err(|error| Error::Invalid {
                path: path.clone(),
                reason: format!("not a complete safetensors file ({error}); it may be cut short"),
            })?;
            for (name, _) in file.tensors() {
                if places.insert(name.clone(), files.len()).is_some() {
                    let reason = format!("has the tensor `{name}`, which another file also has");
                    return Err(Error::Invalid { path, reason });
                }
            }
            files.push((path, file));
        }
        Ok(Weights { files, places })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Whether two tensors are equal in shape, type and bytes.
    pub(crate) fn are_same(&self, one: &str, other: &str) -> bool {
        let view = |name: &str| self.file(name).and_then(|file| file.get(name).ok());
        match (view(one), view(other)) {
            (Some(one), Some(other)) => {
                one.dtype() == other.dtype() && one.shape() == other.shape() && one.data() == other.data()
            }
            _ => false,
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Whether a tensor's numbers are f32 on disk.
    pub(crate) fn is_f32(&self, name: &str) -> bool {
        let view = self.file(name).and_then(|file| file.get(name).ok());
        view.is_some_and(|view| view.dtype() == Dtype::F32)
    }

    fn file(&self, name: &str) -> Option<&MmapedSafetensors> {
        self.files.get(*self.places.get(name)?).map(|(_, file)| file)
    }

    /// The file that holds, or should hold, a tensor.
    pub(crate) fn path(&self, name: &str) -> &Path {
        let index = self.places.get(name).copied().unwrap_or(0);
        self.files.get(index).map_or(Path::new(SINGLE), |(path, _)| path)
    }

    /// Reads a tensor that must have this shape, as numbers of type `dtype`.
    pub(crate) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let invalid = |reason: String| Error::Invalid { path: self.path(name).into(), reason };
        let Some(file) = self.file(name) else {
            return Err(invalid(format!("has no tensor `{name}`, which config.json requires")));
        };
        let found = file.get(name).map_err(|error| invalid(format!("tensor `{name}`: {error}")))?;
        if found.shape() != shape {
            return Err(invalid(format!(
                "tensor `{name}` must have shape {shape:?}, found {:?}",
                found.shape()
            )));
        }
        self.any(name, dtype, device)
    }

    /// Reads a tensor of any shape, as numbers of type `dtype`.
    pub(crate) fn any(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let invalid = |reason: String| Error::Invalid { path: self.path(name).into(), reason };
        let Some(file) = self.file(name) else {
            return Err(invalid(format!("has no tensor `{name}`")));
        };
        let found = file.get(name).map_err(|error| invalid(format!("tensor `{name}`: {error}")))?;
        let number_type = found.dtype();
        if !matches!(number_type, Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F64) {
            return Err(invalid(format!(
                "tensor `{name}` must have numbers of type F32, BF16, F16 or F64, found {number_type:?}"
            )));
        }
        Ok(file.load(name, device)?.to_dtype(dtype)?)
    }
}

/// The name of a folder's pickle file, if it has one.
fn pickle(folder: &Path) -> Option<String> {
    let names =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let endings = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json"];
    names.filter(|name| endings.iter().any(|ending| name.ends_with(ending))).min()
}
