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
use super::keys::{self, ConfigResult, Keys, is_there};
use super::params::Params;
use super::weights::{self, Weights};
use super::{Compute, Config, Error, Result};
use store::Seed;

pub(crate) const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// Settings of a new LoRA adapter. There is no dropout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// r, the rank of the update of each layer.
    pub rank: usize,
    /// The update is scaled by `alpha` / `rank`; 2 × `rank` by default.
    #[serde(default)]
    pub alpha: Option<f64>,
    /// Names of the linear layers to adapt; all of a block by default.
    #[serde(default = "all_modules")]
    pub target_modules: Vec<String>,
}

fn all_modules() -> Vec<String> {
    Module::ALL.map(|module| module.name().to_owned()).into()
}

impl LoraConfig {
    /// Checks ranges. The error names the key, the rule and what was found.
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.rank == 0 {
            return Err("`rank` must be at least 1, found 0".into());
        }
        if let Some(alpha) = self.alpha.filter(|alpha| !(*alpha > 0.0 && alpha.is_finite())) {
            return Err(format!("`alpha` must be above 0, found {alpha}"));
        }
        if self.target_modules.is_empty() {
            return Err("`target_modules` must name at least one linear layer, found none".into());
        }
        self.modules().map(|_| ())
    }

    fn modules(&self) -> std::result::Result<Vec<Module>, String> {
        let find = |name: &String| {
            Module::ALL.into_iter().find(|module| module.name() == name).ok_or_else(|| {
                format!("`target_modules` must be among {}, found `{name}`", all_modules().join(", "))
            })
        };
        self.target_modules.iter().map(find).collect()
    }

    fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }

    /// Whether both describe the same adapter.
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
    /// Rank, scale and the adapted matrices.
    pub config: LoraConfig,
    /// The two matrices of each adapted weight.
    pub params: Params,
}

/// The prefix of PEFT's names, before the model's own.
pub(super) const PEFT_PREFIX: &str = "base_model.model.";

/// PEFT's name of A or B of a linear layer.
fn name(layer: usize, module: Module, part: char) -> String {
    format!("{PEFT_PREFIX}model.layers.{layer}.{}.lora_{part}.weight", module.path())
}

/// Initialisations that set only A and B, which are read from the file. Others, such as `pissa`, also changed the base's
/// weights: on the original base, such an adapter is a different model.
const PLAIN_INITIALISATIONS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// Rank, scale and adapted layers as adapter_config.json states them.
struct AdapterSettings {
    rank: usize,
    alpha: f64,
    targets: Targets,
}

/// Reads the fields of PEFT's LoraConfig.
fn read_settings(json: &Value) -> ConfigResult<AdapterSettings> {
    let mut keys = Keys::of(json, "")?;
    keys.only("peft_type", "LORA", |kind| kind == "LORA")?;
    keys.need::<String>("peft_type")?;
    keys.only("task_type", "CAUSAL_LM", |task| task == "CAUSAL_LM")?;
    let (rank, alpha) = (keys.need("r")?, keys.need::<f64>("lora_alpha")?);
    if rank == 0 || !alpha.is_finite() {
        return Err(format!("`r` must be at least 1 and `lora_alpha` finite, found {rank} and {alpha}"));
    }
    let initial = "true, false, \"gaussian\", \"orthogonal\" or \"eva\" (others change the base's weights: convert \
                   such an adapter with path_initial_model_for_weight_conversion of PEFT's save_pretrained)";
    keys.only("init_lora_weights", initial, |how| {
        how.is_boolean() || how.as_str().is_some_and(|how| PLAIN_INITIALISATIONS.contains(&how))
    })?;
    keys.only("bias", "\"none\"", |bias| bias == "none")?;
    // With one of these on, a linear layer is not x·Wᵀ + (α/r)·x·Aᵀ·Bᵀ, or other weights change too.
    keys.off(&[
        "use_dora",
        "use_rslora",
        "lora_bias",
        "fan_in_fan_out",
        "modules_to_save",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "rank_pattern",
        "alpha_pattern",
        "target_parameters",
        "layer_replication",
        "use_qalora",
        "loftq_config",
        "corda_config",
        "lora_ga_config",
        "megatron_config",
        "velora_config",
        "monteclora_config",
        "use_bdlora",
        "arrow_config",
        "kasa_config",
        "enable_lora",
    ])?;
    // Bookkeeping, settings of the training, and settings of features that are off.
    keys.harmless(&[
        "base_model_name_or_path",
        "revision",
        "auto_mapping",
        "inference_mode",
        "peft_version",
        "lora_dropout",
        "eva_config",
        "runtime_config",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
        "merge_weights",
        "unsloth_fixed",
    ]);
    let targets = Targets {
        modules: keys.take("target_modules")?,
        excluded: keys.take("exclude_modules")?,
        layers: keys.take("layers_to_transform")?,
    };
    keys.only("layers_pattern", "\"layers\"", |name| *name == json!("layers") || *name == json!(["layers"]))?;
    keys.finish()?;
    Ok(AdapterSettings { rank, alpha, targets })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    /// A regular expression, or `all-linear`.
    Pattern(String),
    /// Modules, or the ends of their names.
    Some(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(usize),
    Some(Vec<usize>),
}

/// The linear layers that an adapter changes.
struct Targets {
    modules: Option<Names>,
    excluded: Option<Names>,
    layers: Option<Layers>,
}

impl Targets {
    /// Whether a linear layer is one of them; `None` if only Python's regular expressions could tell.
    fn contain(&self, layer: usize, module: Module) -> Option<bool> {
        let path = format!("model.layers.{layer}.{}", module.path());
        let named = |names: &[String]| names.iter().any(|name| is_named(&path, name));
        let wanted = match &self.modules {
            Some(Names::Some(names)) => named(names),
            Some(Names::Pattern(pattern)) if pattern == "all-linear" => true,
            _ => return None,
        };
        let excluded = match &self.excluded {
            None => false,
            Some(Names::Some(names)) => named(names),
            Some(Names::Pattern(_)) => return None,
        };
        let within = match &self.layers {
            None => true,
            Some(Layers::One(one)) => *one == layer,
            // PEFT takes an empty list for no list.
            Some(Layers::Some(some)) => some.is_empty() || some.contains(&layer),
        };
        Some(wanted && !excluded && within)
    }

    /// A target outside the blocks, for which adapters are not supported.
    fn outside_blocks(&self) -> Option<&'static str> {
        let names = |names: &Option<Names>, path: &str| match names {
            Some(Names::Some(names)) => names.iter().any(|name| is_named(path, name)),
            _ => false,
        };
        let outside_blocks = |path: &&'static str| names(&self.modules, path) && !names(&self.excluded, path);
        ["lm_head", "model.embed_tokens"].into_iter().find(outside_blocks)
    }
}

/// Whether a name means a module to PEFT: its path, or the end of the path.
fn is_named(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
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
        let unsupported = |reason| invalid(format!("{reason} (only plain LoRA is supported)"));
        let AdapterSettings { rank, alpha, targets } =
            read_settings(&keys::read_json(&path)?).map_err(unsupported)?;
        if !is_there(&folder.join(WEIGHTS))? && is_there(&folder.join("adapter_model.bin"))? {
            let reason = format!("has adapter_model.bin but no {WEIGHTS}: {}", weights::PICKLE);
            return Err(Error::Invalid { path: folder.into(), reason });
        }
        if let Some(path) = targets.outside_blocks() {
            return Err(unsupported(format!(
                "`target_modules` must name linear layers within the blocks, found `{path}`"
            )));
        }
        let weights = Weights::open(vec![folder.join(WEIGHTS)])?;
        let mut params = Params::default();
        let mut adapted = Vec::new();
        for (layer, module) in (0..model.layers).flat_map(|layer| Module::ALL.map(|module| (layer, module))) {
            let [outputs, inputs] = module.shape(model);
            let (a, b) = (name(layer, module, 'A'), name(layer, module, 'B'));
            let is_adapted = weights.has(&a) || weights.has(&b);
            if let Some(said) = targets.contain(layer, module)
                && said != is_adapted
            {
                let (says, has) =
                    if said { ("include", "has no tensors") } else { ("do not include", "has tensors") };
                let layer = format!("model.layers.{layer}.{}", module.path());
                return Err(invalid(format!(
                    "its target modules {says} `{layer}`, but {WEIGHTS} {has} for it: the two files do not match"
                )));
            }
            if is_adapted {
                for (name, shape) in [(a, [rank, inputs]), (b, [outputs, rank])] {
                    let tensor = weights.tensor(&name, &shape, compute.trained(), &compute.device)?;
                    params.insert(name, &tensor)?;
                }
                adapted.push(module);
            }
        }
        if let Some(name) = weights.names().find(|name| params.get(name).is_none()) {
            return Err(Error::Invalid {
                path: weights.path(name).into(),
                reason: format!("has the tensor `{name}`, but the model has no linear layer for it"),
            });
        }
        adapted.sort();
        adapted.dedup();
        let target_modules = adapted.into_iter().map(|module| module.name().to_owned()).collect();
        let config = LoraConfig { rank, alpha: Some(alpha), target_modules };
        Ok(Adapter { config, params })
    }

    /// Writes adapter_config.json and adapter_model.safetensors for a model of `layers` layers, in PEFT's format.
    pub fn save(&self, folder: &Path, layers: usize) -> Result<()> {
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
            "target_modules": self.targets(layers),
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": false,
        });
        let path = folder.join(CONFIG);
        std::fs::write(&path, format!("{config:#}\n"))
            .map_err(|error| Error::Write { path, reason: error.to_string() })?;
        self.params.save(&folder.join(WEIGHTS))
    }

    /// The adapted modules: by name if all `layers` have the same ones, otherwise by path.
    fn targets(&self, layers: usize) -> Vec<String> {
        let paths = self
            .params
            .iter()
            .filter_map(|(name, _)| name.strip_prefix(PEFT_PREFIX)?.strip_suffix(".lora_A.weight"));
        let paths: Vec<String> = paths.map(str::to_owned).collect();
        match paths.len() == layers * self.config.target_modules.len() {
            true => self.config.target_modules.clone(),
            false => paths,
        }
    }

    /// α/r.
    pub fn scale(&self) -> f64 {
        self.config.alpha() / self.config.rank as f64
    }

    /// Names of A \[r, inputs\] and B \[outputs, r\] of a linear layer; `None` if it is not adapted.
    pub fn names(&self, layer: usize, module: Module) -> Option<[String; 2]> {
        let a = name(layer, module, 'A');
        self.params.get(&a).is_some().then(|| [a, name(layer, module, 'B')])
    }

    /// W + (α/r)·B·A in place of W, for every linear layer that is adapted.
    pub fn merge(&self, model: &Config, base: &Params, compute: &Compute) -> Result<Params> {
        if base.frozen {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixture with another adapter_config.json.
    fn load(change: impl FnOnce(&mut Value)) -> Result<Adapter> {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/lora-tiny");
        let folder = tempfile::tempdir().unwrap();
        let mut json = keys::read_json(&fixture.join(CONFIG)).unwrap();
        change(&mut json);
        std::fs::write(folder.path().join(CONFIG), json.to_string()).unwrap();
        std::fs::copy(fixture.join(WEIGHTS), folder.path().join(WEIGHTS)).unwrap();
        let config = Config::load(&fixture.join("config.json")).unwrap();
        Adapter::load(folder.path(), &config, &Compute::default())
    }

    #[test]
    fn an_adapter_that_means_something_else_than_plain_lora_is_refused_by_the_key_that_says_so() {
        let converts =
            "`init_lora_weights` must be true, false, \"gaussian\", \"orthogonal\" or \"eva\" (others change";
        let off = "must be off (false, 0, null or empty), found";
        let cases = [
            ("peft_type", json!("IA3"), "`peft_type` must be LORA, found \"IA3\""),
            ("task_type", json!("SEQ_CLS"), "`task_type` must be CAUSAL_LM, found \"SEQ_CLS\""),
            ("init_lora_weights", json!("pissa"), converts),
            ("init_lora_weights", json!("pissa_niter_16"), converts),
            ("init_lora_weights", json!("olora"), converts),
            ("init_lora_weights", json!("corda"), converts),
            ("init_lora_weights", json!("loftq"), converts),
            ("init_lora_weights", json!("lora_ga"), converts),
            ("init_lora_weights", json!("mica"), converts),
            ("bias", json!("lora_only"), "`bias` must be \"none\", found \"lora_only\""),
            ("use_rslora", json!(true), off),
            ("use_dora", json!(true), off),
            ("lora_bias", json!(true), off),
            ("fan_in_fan_out", json!(true), off),
            ("modules_to_save", json!(["lm_head"]), off),
            ("trainable_token_indices", json!([0, 1]), off),
            ("alora_invocation_tokens", json!([5, 6]), off),
            ("rank_pattern", json!({"q_proj": 8}), off),
            ("alpha_pattern", json!({"q_proj": 8}), off),
            ("target_parameters", json!(["mlp.experts.gate_up_proj"]), off),
            ("layer_replication", json!([[0, 2], [1, 3]]), off),
            ("use_qalora", json!(true), off),
            ("use_bdlora", json!({"nblocks": 2}), off),
            ("megatron_config", json!({"x": 1}), off),
            ("kasa_config", json!({"beta": 1e-4}), off),
            ("velora_config", json!({"num_groups": 64}), off),
            ("arrow_config", json!({"top_k": 3}), off),
            ("corda_config", json!({"corda_method": "ipm"}), off),
            ("loftq_config", json!({"loftq_bits": 4}), off),
            ("use_newlora", json!(true), "unknown key `use_newlora` (true): it might change"),
            ("r", json!(0), "`r` must be at least 1 and `lora_alpha` finite, found 0 and 6"),
            (
                "target_modules",
                json!(["q_proj", "v_proj", "o_proj", "down_proj", "k_proj"]),
                "its target modules include `model.layers.0.self_attn.k_proj`, but adapter_model.safetensors has no tensors",
            ),
            (
                "target_modules",
                json!(["q_proj", "v_proj", "o_proj"]),
                "its target modules do not include `model.layers.0.mlp.down_proj`, but adapter_model.safetensors has tensors",
            ),
            (
                "target_modules",
                json!(["q_proj", "v_proj", "o_proj", "down_proj", "lm_head"]),
                "`target_modules` must name linear layers within the blocks, found `lm_head`",
            ),
            (
                "target_modules",
                json!(["q_proj", "v_proj", "o_proj", "down_proj", "embed_tokens"]),
                "found `model.embed_tokens` (only plain LoRA is supported)",
            ),
            ("layers_to_transform", json!([0, 2]), "do not include `model.layers.1.self_attn.q_proj`, but"),
            (
                "exclude_modules",
                json!(["layers.2.mlp.down_proj"]),
                "do not include `model.layers.2.mlp.down_proj`, but",
            ),
        ];
        for (key, value, expected) in cases {
            let error = load(|json| json[key] = value.clone()).unwrap_err().to_string();
            assert!(error.contains(expected), "{key}: {value}: {error}");
            assert!(error.contains("adapter_config.json: "), "{error}");
        }
    }

    #[test]
    fn what_changes_nothing_of_an_adapter_is_read() {
        let plain = load(|_| ()).unwrap();
        for (key, value) in [
            ("init_lora_weights", json!(false)),
            ("init_lora_weights", json!("gaussian")),
            ("init_lora_weights", json!("eva")),
            ("lora_dropout", json!(0.1)),
            ("target_modules", json!(".*\\.(q_proj|v_proj|o_proj|down_proj)")),
            ("layers_to_transform", json!([0, 1, 2])),
            ("exclude_modules", json!(["lm_head"])),
            ("rank_pattern", json!(null)),
            ("auto_mapping", json!({"base_model_class": "Qwen3ForCausalLM"})),
            ("unheard_of", json!(null)),
        ] {
            let adapter =
                load(|json| json[key] = value.clone()).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(adapter.config, plain.config, "{key}");
        }
    }

    #[test]
    fn adapter_configurations_as_versions_of_peft_write_them_are_read() {
        let oldest = json!({
            "base_model_name_or_path": "meta-llama/Llama-2-7b-hf", "bias": "none", "enable_lora": null,
            "fan_in_fan_out": false, "inference_mode": true, "lora_alpha": 16, "lora_dropout": 0.05,
            "merge_weights": false, "modules_to_save": null, "peft_type": "LORA", "r": 8,
            "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
        });
        let mut all = vec![oldest.clone()];
        // What later versions added, each beside all before.
        for more in [
            json!({ "auto_mapping": null, "init_lora_weights": true, "layers_pattern": null, "layers_to_transform": null,
                "revision": null }),
            json!({ "alpha_pattern": {}, "rank_pattern": {}, "loftq_config": {}, "megatron_config": null,
                "megatron_core": "megatron.core", "use_rslora": false }),
            json!({ "layer_replication": null, "use_dora": false, "revision": "unsloth" }),
            json!({ "eva_config": null, "exclude_modules": null, "lora_bias": false }),
            json!({ "corda_config": null, "trainable_token_indices": null, "target_modules": "all-linear" }),
            json!({ "qalora_group_size": 16, "target_parameters": null, "use_qalora": false }),
            json!({ "alora_invocation_tokens": null, "arrow_config": null, "ensure_weight_tying": false,
                "lora_ga_config": null, "peft_version": "0.19.1", "use_bdlora": null }),
        ] {
            let mut next = all[all.len() - 1].clone();
            more.as_object().unwrap().iter().for_each(|(key, value)| next[key] = value.clone());
            all.push(next);
        }
        for json in all {
            let read = read_settings(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
            assert_eq!((read.rank, read.alpha), (8, 16.0));
            assert_eq!(read.targets.contain(3, Module::V), Some(true));
        }
    }

    #[test]
    fn an_adapter_on_some_layers_alone_is_written_so_that_it_is_read_again() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/lora-tiny");
        let config = Config::load(&fixture.join("config.json")).unwrap();
        let mut adapter = load(|_| ()).unwrap();
        let mut some = Params::default();
        for (name, var) in adapter.params.iter().filter(|(name, _)| !name.contains("layers.1.mlp")) {
            some.insert(name.to_owned(), var).unwrap();
        }
        adapter.params = some;
        let folder = tempfile::tempdir().unwrap();
        adapter.save(folder.path(), config.layers).unwrap();
        let again = Adapter::load(folder.path(), &config, &Compute::default()).unwrap();
        assert_eq!(again.params.iter().count(), adapter.params.iter().count());
        assert!(again.names(1, Module::Down).is_none() && again.names(0, Module::Down).is_some());
    }
}
