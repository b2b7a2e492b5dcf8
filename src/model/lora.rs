//! Low-rank adapters (Hu et al. 2022) in PEFT's layout: y = x·Wᵀ + (α/r)·x·Aᵀ·Bᵀ, W frozen.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use candle_core::{Device, Tensor};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::Module;
use super::params::Params;
use super::weights::{self, Weights};
use super::{Compute, Config, Error, Result};
use store::Seed;

pub const CONFIG: &str = "adapter_config.json";
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// What a pipeline says of a new adapter. There is no dropout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// r, the rank of the update of each layer.
    pub rank: usize,
    /// The update is scaled by alpha / rank; twice the rank by default.
    #[serde(default)]
    pub alpha: Option<f64>,
    /// Linear layers that are adapted; all of a block by default.
    #[serde(default = "all_modules")]
    pub target_modules: Vec<String>,
}

fn all_modules() -> Vec<String> {
    Module::ALL.map(|module| module.name().to_owned()).into()
}

impl LoraConfig {
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.rank == 0 {
            return Err("`rank` is at least 1".into());
        }
        if self.alpha.is_some_and(|alpha| !(alpha > 0.0 && alpha.is_finite())) {
            return Err("`alpha` is above 0".into());
        }
        if self.target_modules.is_empty() {
            return Err("`target_modules` names at least one linear layer".into());
        }
        self.modules().map(|_| ())
    }

    fn modules(&self) -> std::result::Result<Vec<Module>, String> {
        let find = |name: &String| {
            Module::ALL.into_iter().find(|module| module.name() == name).ok_or_else(|| {
                format!("there is no target module `{name}`; there are: {}", all_modules().join(", "))
            })
        };
        self.target_modules.iter().map(find).collect()
    }

    fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }

    /// Whether both make the same adapter.
    pub(super) fn is_like(&self, other: &LoraConfig) -> bool {
        let modules = |config: &LoraConfig| config.target_modules.iter().cloned().collect::<BTreeSet<_>>();
        self.rank == other.rank && self.alpha() == other.alpha() && modules(self) == modules(other)
    }
}

impl fmt::Display for LoraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modules = self.target_modules.join(", ");
        write!(f, "rank {}, alpha {}, on {modules}", self.rank, self.alpha())
    }
}

/// An adapter: its configuration and its parameters by PEFT's names.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub config: LoraConfig,
    pub params: Params,
}

/// PEFT's name of A or B of a linear layer.
fn name(layer: usize, module: Module, part: char) -> String {
    format!("base_model.model.model.layers.{layer}.{}.lora_{part}.weight", module.path())
}

/// The keys of adapter_config.json that matter here.
#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    use_rslora: bool,
    bias: Option<String>,
    modules_to_save: Option<Value>,
    rank_pattern: Option<serde_json::Map<String, Value>>,
    alpha_pattern: Option<serde_json::Map<String, Value>>,
}

impl Adapter {
    /// A new adapter, which changes nothing yet: A uniform in ±1/√inputs as in PEFT, B zero.
    pub fn init(model: &Config, config: &LoraConfig, seed: Seed, compute: &Compute) -> Result<Adapter> {
        let mut params = Params::default();
        let modules = config.modules().map_err(candle_core::Error::Msg)?;
        for (layer, module) in (0..model.layers).flat_map(|layer| modules.iter().map(move |m| (layer, *m))) {
            let [outputs, inputs] = module.shape(model);
            let mut stream = seed.stream(name(layer, module, 'A'));
            let bound = 1.0 / (inputs as f32).sqrt();
            let a: Vec<f32> = (0..config.rank * inputs).map(|_| stream.random_range(-bound..bound)).collect();
            let on_device = |tensor: Tensor| tensor.to_device(&compute.device)?.to_dtype(compute.trained());
            let a = Tensor::from_vec(a, (config.rank, inputs), &Device::Cpu)?;
            params.insert(name(layer, module, 'A'), &on_device(a)?)?;
            let b = Tensor::zeros((outputs, config.rank), compute.trained(), &Device::Cpu)?;
            params.insert(name(layer, module, 'B'), &on_device(b)?)?;
        }
        Ok(Adapter { config: config.clone(), params })
    }

    /// Reads adapter_config.json and adapter_model.safetensors for a model.
    pub fn load(folder: &Path, model: &Config, compute: &Compute) -> Result<Adapter> {
        let path = folder.join(CONFIG);
        let invalid = |reason: String| Error::Invalid { path: path.clone(), reason };
        let text = std::fs::read(&path).map_err(|cause| Error::Read { path: path.clone(), cause })?;
        let raw: Raw = serde_json::from_slice(&text)
            .map_err(|error| invalid(format!("not an adapter's configuration: {error}")))?;
        let patterns = [&raw.rank_pattern, &raw.alpha_pattern];
        let unknown = [
            (raw.peft_type != "LORA", format!("peft_type `{}`", raw.peft_type)),
            (raw.use_dora, "use_dora".into()),
            (raw.use_rslora, "use_rslora".into()),
            (raw.bias.as_deref().is_some_and(|bias| bias != "none"), "a bias that is trained".into()),
            (
                raw.modules_to_save.as_ref().is_some_and(|m| !m.is_null() && m != &json!([])),
                "modules_to_save".into(),
            ),
            (
                patterns.iter().any(|p| p.as_ref().is_some_and(|p| !p.is_empty())),
                "rank_pattern or alpha_pattern".into(),
            ),
        ];
        if let Some((_, what)) = unknown.iter().find(|(asked, _)| *asked) {
            return Err(invalid(format!("{what} is not supported: plain LoRA is")));
        }
        if raw.r == 0 || !raw.lora_alpha.is_finite() {
            return Err(invalid("r is at least 1 and lora_alpha a number".into()));
        }
        if !folder.join(WEIGHTS).exists() && folder.join("adapter_model.bin").exists() {
            let reason = format!("has adapter_model.bin but no {WEIGHTS}: {}", weights::PICKLE);
            return Err(Error::Invalid { path: folder.into(), reason });
        }
        // What is adapted is what there are tensors for, however target_modules says it.
        let weights = Weights::open(vec![folder.join(WEIGHTS)])?;
        let mut params = Params::default();
        let mut adapted = Vec::new();
        for (layer, module) in (0..model.layers).flat_map(|layer| Module::ALL.map(|module| (layer, module))) {
            let [outputs, inputs] = module.shape(model);
            let (a, b) = (name(layer, module, 'A'), name(layer, module, 'B'));
            if weights.names().any(|name| name == a || name == b) {
                for (name, shape) in [(a, [raw.r, inputs]), (b, [outputs, raw.r])] {
                    let tensor = weights.tensor(&name, &shape, compute.trained(), &compute.device)?;
                    params.insert(name, &tensor)?;
                }
                adapted.push(module);
            }
        }
        if let Some(name) = weights.names().find(|name| params.get(name).is_none()) {
            return Err(Error::Invalid {
                path: weights.path(name).into(),
                reason: format!("has the tensor `{name}`, for which the model has no linear layer"),
            });
        }
        adapted.sort();
        adapted.dedup();
        let target_modules = adapted.into_iter().map(|module| module.name().to_owned()).collect();
        let config = LoraConfig { rank: raw.r, alpha: Some(raw.lora_alpha), target_modules };
        Ok(Adapter { config, params })
    }

    /// Writes adapter_config.json and adapter_model.safetensors, as PEFT reads them.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let config = json!({
            "alpha_pattern": {},
            "base_model_name_or_path": null,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": self.config.alpha(),
            "lora_dropout": 0.0,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.config.rank,
            "rank_pattern": {},
            "target_modules": self.config.target_modules,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": false,
        });
        let path = folder.join(CONFIG);
        std::fs::write(&path, format!("{config:#}\n"))
            .map_err(|error| Error::Write { path, reason: error.to_string() })?;
        self.params.save(&folder.join(WEIGHTS))
    }

    /// α/r.
    pub fn scale(&self) -> f64 {
        self.config.alpha() / self.config.rank as f64
    }

    /// Names of A \[r, inputs\] and B \[outputs, r\] of a linear layer, where it is adapted.
    pub fn names(&self, layer: usize, module: Module) -> Option<[String; 2]> {
        let a = name(layer, module, 'A');
        self.params.get(&a).is_some().then(|| [a, name(layer, module, 'B')])
    }

    /// W + (α/r)·B·A in place of W, for every linear layer that is adapted.
    pub fn merge(&self, model: &Config, base: &Params, compute: &Compute) -> Result<Params> {
        if base.is_quantized() {
            return Err(
                candle_core::Error::Msg("an adapter cannot be merged into quantised weights".into()).into()
            );
        }
        let mut merged = base.copy(compute)?;
        for (layer, module) in (0..model.layers).flat_map(|layer| Module::ALL.map(|module| (layer, module))) {
            let weight = format!("model.layers.{layer}.{}.weight", module.path());
            if let Some([a, b]) = self.names(layer, module)
                && let (Some(a), Some(b), Some(w)) =
                    (self.params.get(&a), self.params.get(&b), merged.get(&weight))
            {
                let update = (b.as_detached_tensor().matmul(&a.as_detached_tensor())? * self.scale())?;
                let sum = (w.as_detached_tensor() + update)?;
                merged.insert(weight, &sum)?;
            }
        }
        Ok(merged)
    }
}
