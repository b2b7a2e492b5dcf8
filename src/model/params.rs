//! Named trainable parameters, in name order.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;

use super::{Config, Error, Result};
use crate::store::Seed;

/// The parameters of a model by their Hugging Face names.
#[derive(Clone, Debug)]
pub struct Params {
    vars: BTreeMap<String, Var>,
}

impl Params {
    /// New parameters: norms 1, embeddings normal with deviation 0.05, matrices uniform in ±1/√inputs.
    pub fn init(config: &Config, seed: Seed) -> Result<Params> {
        let mut vars = BTreeMap::new();
        for (name, shape) in config.parameters() {
            let mut stream = seed.stream(&name);
            let count = shape.iter().product();
            let values: Vec<f32> = match shape[..] {
                [_] => vec![1.0; count],
                _ if name.contains("embed") || name.contains("lm_head") => {
                    // Box and Muller: two uniform numbers make a normal one.
                    let mut normal = || {
                        let (a, b): (f64, f64) = (1.0 - stream.random::<f64>(), stream.random());
                        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
                    };
                    (0..count).map(|_| (0.05 * normal()) as f32).collect()
                }
                _ => {
                    let bound = 1.0 / (shape[1] as f32).sqrt();
                    (0..count).map(|_| stream.random_range(-bound..bound)).collect()
                }
            };
            vars.insert(name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?);
        }
        Ok(Params { vars })
    }

    /// Reads model.safetensors; every tensor that the configuration asks for must be there in its shape.
    pub fn load(path: &Path, config: &Config) -> Result<Params> {
        let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
        let bytes = std::fs::read(path).map_err(|cause| Error::Read { path: path.into(), cause })?;
        let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| {
            invalid(format!("not a complete safetensors file ({error}); it may be cut short"))
        })?;
        let mut vars = BTreeMap::new();
        for (name, shape) in config.parameters() {
            let tensor = tensors.remove(&name).ok_or_else(|| invalid(format!("has no tensor `{name}`")))?;
            if tensor.dims() != shape {
                let found = tensor.dims();
                return Err(invalid(format!(
                    "tensor `{name}` should have shape {shape:?}, but has {found:?}"
                )));
            }
            vars.insert(name, Var::from_tensor(&tensor.to_dtype(DType::F32)?)?);
        }
        tensors.remove("lm_head.weight");
        if let Some(name) = tensors.keys().min() {
            return Err(invalid(format!("has the tensor `{name}`, which its config.json does not call for")));
        }
        Ok(Params { vars })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors = self.vars.iter().map(|(name, var)| (name.as_str(), var.as_tensor()));
        save(tensors, path)
    }

    /// A copy that can be trained without touching this one.
    pub fn copy(&self) -> Result<Params> {
        let copy =
            |(name, var): (&String, &Var)| Ok((name.clone(), Var::from_tensor(&var.as_tensor().copy()?)?));
        Ok(Params { vars: self.vars.iter().map(copy).collect::<Result<_>>()? })
    }

    /// In name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Bytes that the numbers take.
    pub fn bytes(&self) -> usize {
        self.vars.values().map(|var| var.elem_count() * 4).sum()
    }
}

/// Writes tensors as safetensors, with the metadata that transformers asks for.
pub fn save<'a>(tensors: impl Iterator<Item = (&'a str, &'a Tensor)>, path: &Path) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path)
        .map_err(|error| Error::Write { path: path.into(), reason: error.to_string() })
}
