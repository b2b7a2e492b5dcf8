//! AdamW (Loshchilov and Hutter 2019). Its moments and step are part of a checkpoint, so that interrupted training continues
//! as if it had not been interrupted.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use kernels::kernel;
use model::{self, Params};
use ops::{on_cpu_f32, read, write};

/// Numbers of one task.
const BLOCK: usize = 1 << 14;

/// Settings of AdamW.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// β₁ and β₂, the decay rates of the means of gradients and of their squares.
    pub betas: (f64, f64),
    /// ε, added to the denominator.
    pub epsilon: f64,
    /// Decoupled weight decay: each step shrinks matrices by `lr` × `weight_decay`; norms and biases do not decay.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.999), epsilon: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamWConfig {
    /// Checks ranges. The error names the key, the rule and what was found.
    pub fn check(&self) -> std::result::Result<(), String> {
        let share = |beta: f64| (0.0..1.0).contains(&beta);
        if !share(self.betas.0) || !share(self.betas.1) {
            let (first, second) = self.betas;
            return Err(format!(
                "`optimizer`: `betas` must be at least 0 and below 1, found {first} and {second}"
            ));
        }
        if !(f64::MIN_POSITIVE..1.0).contains(&self.epsilon)
            || !(0.0..f64::INFINITY).contains(&self.weight_decay)
        {
            return Err(format!(
                "`optimizer`: `epsilon` must be above 0 and below 1, and `weight_decay` at least 0, found {} and {}",
                self.epsilon, self.weight_decay
            ));
        }
        Ok(())
    }
}

/// The optimizer's state for a model's parameters.
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    moments: BTreeMap<String, Moments>,
}

/// First and second moment of one parameter, flat, on the parameter's device.
struct Moments {
    mean: Tensor,
    square: Tensor,
}

impl AdamW {
    /// Fresh state: zero moments.
    pub fn new(params: &Params, config: AdamWConfig) -> Result<AdamW> {
        let zeros = |var: &Var| Tensor::zeros(var.elem_count(), var.dtype(), var.device());
        let fresh = |(name, var): (&str, &Var)| {
            Ok((name.to_owned(), Moments { mean: zeros(var)?, square: zeros(var)? }))
        };
        Ok(AdamW { config, step: 0, moments: params.iter().map(fresh).collect::<Result<_>>()? })
    }

    /// One step at learning rate `lr`, with one gradient for each parameter in name order.
    pub fn step(&mut self, params: &Params, gradients: &[Tensor], lr: f64) -> Result<()> {
        if gradients.len() != self.moments.len() {
            bail!("{} gradients for {} parameters", gradients.len(), self.moments.len());
        }
        self.step += 1;
        let (beta1, beta2) = self.config.betas;
        let correction = |beta: f64| 1.0 - beta.powi(self.step.min(i32::MAX as u64) as i32);
        for ((moments, (_, var)), gradient) in self.moments.values_mut().zip(params.iter()).zip(gradients) {
            let (count, kept) = (gradient.elem_count(), moments.mean.elem_count());
            if count != kept || var.elem_count() != count {
                bail!("a gradient must have {kept} numbers as its parameter, found {count}");
            }
            let decay = if var.rank() > 1 { lr * self.config.weight_decay } else { 0.0 };
            let rates = Rates {
                keep: 1.0 - decay,
                beta1,
                beta2,
                rate: lr / correction(beta1),
                scale: 1.0 / correction(beta2).sqrt(),
                epsilon: self.config.epsilon,
            };
            if on_cpu_f32(var.as_tensor()) && on_cpu_f32(gradient) {
                fused_step(var, gradient, moments, rates)?;
            } else {
                tensor_step(var, gradient, moments, rates)?;
            }
        }
        Ok(())
    }

    /// Writes the state: `NAME.mean`, `NAME.square` and `step`.
    pub fn save(&self, path: &Path) -> model::Result<()> {
        let mut tensors = BTreeMap::new();
        for (name, moments) in &self.moments {
            tensors.insert(format!("{name}.mean"), moments.mean.clone());
            tensors.insert(format!("{name}.square"), moments.square.clone());
        }
        tensors.insert("step".to_owned(), Tensor::new(&[self.step as i64], &Device::Cpu)?);
        model::save(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), path)
    }

    /// Reads the state that [`AdamW::save`] wrote for these parameters.
    pub fn load(path: &Path, params: &Params, config: AdamWConfig) -> model::Result<AdamW> {
        let invalid = |reason: String| model::Error::Invalid { path: path.into(), reason };
        let mut optimizer = AdamW::new(params, config)?;
        let numbers: usize = optimizer.moments.values().map(|moments| moments.mean.elem_count()).sum();
        // Two moments of each number, of at most eight bytes each.
        let most = store::read::MAX_TEXT_BYTES + 16 * numbers as u64;
        let bytes = store::read::bytes(path, most)
            .map_err(|cause| model::Error::Read { path: path.into(), cause })?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| {
            invalid(format!("not a complete safetensors file ({error}); it may be cut short"))
        })?;
        let find = |name: &str| tensors.get(name).ok_or_else(|| invalid(format!("has no tensor `{name}`")));
        let step = find("step")?.to_vec1::<i64>()?;
        optimizer.step = step.first().copied().unwrap_or_default().unsigned_abs();
        for (name, moments) in &mut optimizer.moments {
            for (part, tensor) in [("mean", &mut moments.mean), ("square", &mut moments.square)] {
                let found = find(&format!("{name}.{part}"))?;
                let (count, wanted) = (found.elem_count(), tensor.elem_count());
                if count != wanted {
                    return Err(invalid(format!(
                        "`{name}.{part}` must have {wanted} numbers, found {count}"
                    )));
                }
                *tensor = found.flatten_all()?.to_dtype(tensor.dtype())?.to_device(tensor.device())?;
            }
        }
        Ok(optimizer)
    }
}

/// The coefficients of a step.
#[derive(Clone, Copy)]
struct Rates {
    /// 1 − lr · weight decay.
    keep: f64,
    beta1: f64,
    beta2: f64,
    /// lr / (1 − β1^t)
    rate: f64,
    /// 1 / √(1 − β2^t)
    scale: f64,
    epsilon: f64,
}

fn fused_step(var: &Var, gradient: &Tensor, moments: &Moments, rates: Rates) -> Result<()> {
    let gradient = read(gradient)?;
    let mut outcome = Ok(());
    write(var.as_tensor(), |values| {
        let mut inner = Ok(());
        let outer = write(&moments.mean, |mean| {
            inner = write(&moments.square, |square| {
                let state = mean.par_chunks_mut(BLOCK).zip(square.par_chunks_mut(BLOCK));
                let values = values.par_chunks_mut(BLOCK).zip(gradient.par_chunks(BLOCK));
                values.zip(state).for_each(|((values, gradient), (mean, square))| {
                    update(values, gradient, mean, square, rates);
                });
            });
        });
        outcome = outer.and(inner);
    })?;
    outcome
}

/// The same by candle's operations, on any device.
fn tensor_step(var: &Var, gradient: &Tensor, moments: &mut Moments, rates: Rates) -> Result<()> {
    let Rates { keep, beta1, beta2, rate, scale, epsilon } = rates;
    let gradient = gradient.flatten_all()?.to_dtype(moments.mean.dtype())?;
    moments.mean = ((&moments.mean * beta1)? + (&gradient * (1.0 - beta1))?)?;
    moments.square = ((&moments.square * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
    let step = (&moments.mean * rate)?.div(&((moments.square.sqrt()? * scale)? + epsilon)?)?;
    var.set(&((var.as_detached_tensor() * keep)? - step.reshape(var.shape())?)?)
}

kernel! {
    fn update(values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32], rates: Rates) {
        let [keep, beta1, beta2] = [rates.keep, rates.beta1, rates.beta2].map(|x| x as f32);
        let [rate, scale, epsilon] = [rates.rate, rates.scale, rates.epsilon].map(|x| x as f32);
        for (((x, g), m), v) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *x = *x * keep - rate * *m / (v.sqrt() * scale + epsilon);
        }
    }
}

/// Scales gradients down in place to a global norm of at most `limit`; returns the norm before. It is NaN if a gradient has a
/// NaN, which the caller must check.
pub fn clip(gradients: &mut [Tensor], limit: f64) -> Result<f64> {
    let mut total = 0.0;
    for gradient in gradients.iter() {
        total += if on_cpu_f32(gradient) {
            let values = read(gradient)?;
            // Blocks are summed in parallel, their sums in order.
            let parts: Vec<f64> = values
                .par_chunks(BLOCK)
                .map(|block| block.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>())
                .collect();
            parts.iter().sum::<f64>()
        } else {
            gradient.sqr()?.sum_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?
        };
    }
    let norm = total.sqrt();
    if norm > limit {
        let share = limit / (norm + 1e-6);
        for gradient in gradients.iter_mut() {
            if on_cpu_f32(gradient) {
                write(gradient, |values| {
                    let blocks = values.par_chunks_mut(BLOCK);
                    blocks.for_each(|block| block.iter_mut().for_each(|x| *x *= share as f32));
                })?;
            } else {
                *gradient = (&*gradient * share)?;
            }
        }
    }
    Ok(norm)
}

/// The norm of the difference between the weights of two models with the same parameters: 0 only if all weights are the same.
pub fn distance(a: &Params, b: &Params) -> Result<f64> {
    let mut total = 0.0;
    for ((name, a), (other, b)) in a.iter().zip(b.iter()) {
        if name != other || a.shape() != b.shape() {
            bail!("the models must have the same parameters, found `{name}` and `{other}`");
        }
        total += if on_cpu_f32(a.as_tensor()) && on_cpu_f32(b.as_tensor()) {
            let (a, b) = (read(a.as_tensor())?, read(b.as_tensor())?);
            let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
            let parts = a.par_chunks(BLOCK).zip(b.par_chunks(BLOCK));
            let parts: Vec<f64> = parts.map(|(a, b)| a.iter().zip(b).map(square).sum::<f64>()).collect();
            parts.iter().sum::<f64>()
        } else {
            let difference = (a.as_detached_tensor() - b.as_detached_tensor())?.to_dtype(DType::F32)?;
            f64::from(difference.sqr()?.sum_all()?.to_scalar::<f32>()?)
        };
    }
    Ok(total.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Architecture, Compute};
    use store::Seed;

    fn params() -> Params {
        let architecture: Architecture =
            serde_json::from_str(r#"{"hidden": 8, "layers": 1, "heads": 2}"#).unwrap();
        Params::init(&architecture.config(16, 1, 0), Seed::from_u64(1), &Compute::default()).unwrap()
    }

    fn gradients(params: &Params, round: u64) -> Vec<Tensor> {
        let gradient = |(i, (_, var)): (usize, (&str, &candle_core::Var))| {
            let values =
                (0..var.elem_count()).map(|j| ((i + j) as f32 * 0.37 + round as f32).sin()).collect();
            Tensor::from_vec::<_, f32>(values, var.shape(), &Device::Cpu).unwrap()
        };
        params.iter().enumerate().map(gradient).collect()
    }

    fn values(params: &Params) -> Vec<f32> {
        params.iter().flat_map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    }

    #[test]
    fn the_first_step_moves_each_parameter_by_the_learning_rate() {
        let params = params();
        let before = values(&params);
        let mut optimizer = AdamW::new(&params, AdamWConfig::default()).unwrap();
        let gradients = gradients(&params, 1);
        optimizer.step(&params, &gradients, 0.01).unwrap();
        let signs = gradients.iter().flat_map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        for ((before, after), g) in before.iter().zip(values(&params)).zip(signs) {
            assert!((before - after - 0.01 * g.signum()).abs() < 1e-5);
        }
    }

    #[test]
    fn other_number_types_take_the_same_steps() {
        let params = params();
        let wide = params.copy(&Compute { dtype: DType::F64, ..Compute::default() }).unwrap();
        let config = || AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
        let mut fused = AdamW::new(&params, config()).unwrap();
        let mut composed = AdamW::new(&wide, config()).unwrap();
        for round in 0..4 {
            let gradients = gradients(&params, round);
            fused.step(&params, &gradients, 0.01).unwrap();
            let gradients: Vec<Tensor> =
                gradients.iter().map(|gradient| gradient.to_dtype(DType::F64).unwrap()).collect();
            composed.step(&wide, &gradients, 0.01).unwrap();
        }
        let composed = wide.iter().flat_map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f64>().unwrap());
        for (a, b) in values(&params).into_iter().zip(composed) {
            assert!((f64::from(a) - b).abs() < 1e-6, "{a} {b}");
        }
    }

    #[test]
    fn saved_and_loaded_in_between_gives_the_same_bits() {
        let (through, broken) = (params(), params());
        let config = || AdamWConfig { weight_decay: 0.01, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(&through, config()).unwrap();
        for round in 0..6 {
            optimizer.step(&through, &gradients(&through, round), 0.01).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        let mut optimizer = AdamW::new(&broken, config()).unwrap();
        for round in 0..6 {
            optimizer.step(&broken, &gradients(&broken, round), 0.01).unwrap();
            optimizer.save(&path).unwrap();
            optimizer = AdamW::load(&path, &broken, config()).unwrap();
        }
        assert_eq!(values(&through), values(&broken));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = AdamW::load(&path, &broken, config()).err().unwrap().to_string();
        assert!(error.contains("optimizer.safetensors") && error.contains("cut short"), "{error}");
    }

    #[test]
    fn clipping_bounds_the_norm_and_reports_it() {
        let mut gradients =
            [Tensor::new(&[3f32, 0.0], &Device::Cpu).unwrap(), Tensor::new(&[4f32], &Device::Cpu).unwrap()];
        assert_eq!(clip(&mut gradients, 10.0).unwrap(), 5.0);
        assert_eq!(clip(&mut gradients, 1.0).unwrap(), 5.0);
        assert!((clip(&mut gradients, 10.0).unwrap() - 1.0).abs() < 1e-5);
    }
}
