//! Named parameters, in name order.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::QMatMul;
use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;

use super::weights::Weights;
use super::{Compute, Config, Error, Result};
use store::Seed;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The parameters of a model by their Hugging Face names.
#[derive(Clone, Debug, Default)]
pub struct Params {
    vars: BTreeMap<String, Var>,
    /// Matrices that stay quantised.
    quantized: BTreeMap<String, Arc<QMatMul>>,
    /// Whether they come from a quantised file. Such parameters are neither trained nor written.
    pub(super) frozen: bool,
}

impl Params {
    /// New parameters: norms 1, biases 0, embeddings normal with standard deviation 0.05, matrices uniform in ±1/√inputs.
    pub fn init(config: &Config, seed: Seed, compute: &Compute) -> Result<Params> {
        let mut params = Params::default();
        for (name, shape) in config.parameters() {
            let mut stream = seed.stream(&name);
            let count = shape.iter().product();
            let values: Vec<f32> = match shape[..] {
                [_] if name.ends_with(".bias") => vec![0.0; count],
                [_] => vec![1.0; count],
                _ if name.contains("embed") || name.contains("lm_head") => {
                    // Box–Muller: two uniform numbers give a normal one.
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
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
            params.insert(name, &tensor.to_device(&compute.device)?.to_dtype(compute.trained())?)?;
        }
        Ok(params)
    }

    /// Whether these are the parameters of `other`, not only equal ones.
    pub(super) fn are_same(&self, other: &Params) -> bool {
        let ids = |params: &Params| -> Vec<_> { params.vars.values().map(|var| var.id()).collect() };
        ids(self) == ids(other) && self.quantized.len() == other.quantized.len()
    }

    /// Reads the weights of a folder, which must have every tensor of the configuration in its shape, and no other.
    pub fn load(folder: &Path, config: &Config, compute: &Compute) -> Result<Params> {
        let weights = Weights::of_folder(folder)?;
        let mut params = Params::default();
        let wanted = config.parameters();
        for (name, shape) in &wanted {
            // Trained weights are f32 on disk, and further training starts from exactly these numbers.
            let dtype = if weights.is_f32(name) { compute.trained() } else { compute.dtype };
            params.insert(name.clone(), &weights.tensor(name, shape, dtype, &compute.device)?)?;
        }
        for name in weights.names().filter(|name| !params.vars.contains_key(*name)) {
            let what_is_wrong = match name {
                HEAD if weights.are_same(HEAD, EMBEDDING) => continue,
                HEAD => format!(
                    "has a tensor `{HEAD}` that differs from `{EMBEDDING}`, but config.json sets `tie_word_embeddings`: \
                     if the model has its own output weight, set that to false, otherwise remove the tensor"
                ),
                _ if name.ends_with(".rotary_emb.inv_freq") => {
                    let table =
                        weights.any(name, DType::F64, &Device::Cpu)?.flatten_all()?.to_vec1::<f64>()?;
                    match config.has_frequencies(&table) {
                        true => continue,
                        false => {
                            format!("tensor `{name}` must have the frequencies of config.json, found others")
                        }
                    }
                }
                _ => format!("has the tensor `{name}`, which its config.json does not describe"),
            };
            return Err(Error::Invalid { path: weights.path(name).into(), reason: what_is_wrong });
        }
        Ok(params)
    }

    pub(super) fn insert(&mut self, name: String, tensor: &Tensor) -> Result<()> {
        self.vars.insert(name, Var::from_tensor(tensor)?);
        Ok(())
    }

    pub(super) fn insert_quantized(&mut self, name: String, matrix: QMatMul) {
        self.quantized.insert(name, Arc::new(matrix));
    }

    /// Writes the parameters as a safetensors file, without the quantised ones.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors = self.vars.iter().map(|(name, var)| (name.as_str(), var.as_tensor()));
        save(tensors, path)
    }

    /// An independent copy, in the number type of training.
    pub fn copy(&self, compute: &Compute) -> Result<Params> {
        let copy = |(name, var): (&String, &Var)| {
            let tensor = var.as_detached_tensor().to_dtype(compute.trained())?;
            Ok((name.clone(), Var::from_tensor(&tensor.copy()?)?))
        };
        let vars = self.vars.iter().map(copy).collect::<Result<_>>()?;
        Ok(Params { vars, quantized: self.quantized.clone(), frozen: self.frozen })
    }

    /// The parameters in name order, without the quantised ones.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// A parameter by name; `None` also for quantised ones.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.vars.get(name)
    }

    /// A quantised matrix by name.
    pub fn quantized(&self, name: &str) -> Option<&Arc<QMatMul>> {
        self.quantized.get(name)
    }

    /// Whether any matrix is quantised.
    pub fn is_quantized(&self) -> bool {
        !self.quantized.is_empty()
    }

    /// An error if the parameters are frozen.
    pub(super) fn ensure_trainable(&self) -> candle_core::Result<()> {
        if self.frozen {
            candle_core::bail!(
                "quantised weights cannot be trained, nor can an adapter on them: train the checkpoint that they were \
                 quantised from"
            );
        }
        Ok(())
    }

    /// Memory of the numbers, in bytes.
    pub fn bytes(&self) -> usize {
        let quantized = |matrix: &Arc<QMatMul>| match &**matrix {
            QMatMul::QTensor(tensor) => tensor.storage_size_in_bytes(),
            QMatMul::Tensor(tensor) | QMatMul::TensorF16(tensor) => {
                tensor.elem_count() * tensor.dtype().size_in_bytes()
            }
        };
        let full = |var: &Var| var.elem_count() * var.dtype().size_in_bytes();
        self.vars.values().map(full).sum::<usize>() + self.quantized.values().map(quantized).sum::<usize>()
    }
}

/// Writes tensors as safetensors, with the metadata that transformers expects.
pub fn save<'a>(tensors: impl Iterator<Item = (&'a str, &'a Tensor)>, path: &Path) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    // Files have f32 even if a pipeline computes in f64, which is for checks.
    let tensors = tensors
        .map(|(name, tensor)| match tensor.dtype() {
            DType::F64 => Ok((name, tensor.to_dtype(DType::F32)?)),
            _ => Ok((name, tensor.clone())),
        })
        .collect::<Result<Vec<_>>>()?;
    let views = tensors.iter().map(|(name, tensor)| (*name, tensor));
    safetensors::serialize_to_file(views, Some(metadata), path)
        .map_err(|error| Error::Write { path: path.into(), reason: error.to_string() })
}
