//! Quantised models in GGUF files, which contain sizes, tokenizer, chat template and weights. The weights stay quantised
//! unless `Compute::dequantize` is set. The decoder is that of all models.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use tokenizers::AddedToken;

use super::chat::ChatTemplate;
use super::config::{Config, Family, Module, RopeScaling};
use super::gguf_header;
use super::keys::{ConfigResult, is_there};
use super::{Checkpoint, Compute, Error, Params, Result, Tokenizer};
use store::read;

/// The tensor with the divisors of the rotary frequencies (Llama 3).
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Kinds of tokens, as llama.cpp numbers them.
const TOKEN_KINDS: &str = "tokenizer.ggml.token_type";
const NORMAL: i32 = 1;
const USER_DEFINED: i32 = 4;

/// The GGUF file at a path: the file itself, or the only one in a folder without config.json.
pub(crate) fn file_of(path: &Path) -> Option<PathBuf> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|extension| extension == "gguf");
    if path.is_file() {
        return is_gguf(path).then(|| path.to_owned());
    }
    if !is_there(&path.join("config.json")).is_ok_and(|there| !there) {
        return None;
    }
    let files = std::fs::read_dir(path).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = files.filter(|path| is_gguf(path)).collect();
    if files.len() == 1 { files.pop() } else { None }
}

/// The positions of a GGUF file's model, if its metadata has them.
pub(crate) fn positions(path: &Path) -> Option<usize> {
    let file = read::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let found = gguf_header::first_number(&mut BufReader::new(file), length, ".context_length");
    usize::try_from(found.ok()??).ok()
}

/// Reads a GGUF file of the Qwen3, Qwen2 or Llama family. A tokenizer.json in `folder` takes precedence over the file's own
/// tokenizer. `folder` is `None` if the file was named alone: then nothing beside it counts.
pub(crate) fn load(path: &Path, folder: Option<&Path>, compute: &Compute) -> Result<Checkpoint> {
    let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
    let cannot = |cause| Error::Read { path: path.into(), cause };
    let file = read::open(path).map_err(cannot)?;
    let length = file.metadata().map_err(cannot)?.len();
    let mut reader = BufReader::new(file);
    let mut content = gguf_header::read(&mut reader, length).map_err(invalid)?;
    let mut config = config(&content).map_err(invalid)?;
    let mut source = Source { path, content: &content, reader, compute };
    if let Some(factors) = source.rope_factors(&config)? {
        config.rope_scaling = RopeScaling::Factors(factors);
    }
    let known: BTreeSet<String> = config
        .parameters()
        .iter()
        .map(|(name, _)| gguf_name(name))
        .chain([ROPE_FACTORS.to_owned()])
        .collect();
    if let Some(name) = source.content.tensor_infos.keys().filter(|name| !known.contains(*name)).min() {
        return Err(invalid(format!("has the tensor `{name}`, which its metadata does not describe")));
    }
    let params = source.params(&config)?;
    let beside = match folder {
        Some(folder) if is_there(&folder.join("tokenizer.json"))? => Some(folder),
        _ => None,
    };
    let tokenizer = match beside {
        Some(folder) => Tokenizer::load(folder, config.eos.first().copied())?,
        None => tokenizer(path, &mut content, &config).map_err(|error| {
            invalid(format!(
                "its tokenizer is not supported ({error}): put the file and the model's tokenizer.json into a folder, and name \
                 the folder"
            ))
        })?,
    };
    Checkpoint::of(config, params, None, tokenizer, compute.clone(), path)
}

/// The metadata, and which of its keys have been read, like [`super::keys::Keys`] for JSON.
struct Metadata<'a> {
    values: &'a HashMap<String, Value>,
    known: BTreeSet<String>,
}

impl Metadata<'_> {
    fn get(&mut self, key: &str) -> Option<&Value> {
        self.known.insert(key.to_owned());
        self.values.get(key)
    }

    fn text(&mut self, key: &str) -> ConfigResult<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(format!("`{key}` must be a text, found {}", brief(other))),
        }
    }

    fn size(&mut self, key: &str) -> ConfigResult<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = match value {
            Value::U8(number) => Some(u64::from(*number)),
            Value::U16(number) => Some(u64::from(*number)),
            Value::U32(number) => Some(u64::from(*number)),
            Value::U64(number) => Some(*number),
            Value::I32(number) => u64::try_from(*number).ok(),
            Value::I64(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let number = number.and_then(|number| usize::try_from(number).ok());
        number
            .map(Some)
            .ok_or_else(|| format!("`{key}` must be a whole number of at least 0, found {}", brief(value)))
    }

    fn real(&mut self, key: &str) -> ConfigResult<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(number)) => Ok(Some(f64::from(*number))),
            Some(Value::F64(number)) => Ok(Some(*number)),
            Some(other) => Err(format!("`{key}` must be a real number, found {}", brief(other))),
        }
    }

    /// Requires a key that follows from others to be missing or to have this value.
    fn must_be(&mut self, key: &str, expected: usize) -> ConfigResult<()> {
        match self.size(key)? {
            Some(found) if found != expected => Err(format!("`{key}` must be {expected}, found {found}")),
            _ => Ok(()),
        }
    }

    /// Refuses keys that have not been read, of the architecture, of split files and of adapters. Other namespaces are
    /// bookkeeping of the program that made the file.
    fn finish(self, architecture: &str) -> ConfigResult<()> {
        let counts = [architecture, "split", "adapter"].map(|name| format!("{name}."));
        let unknown =
            |key: &&String| !self.known.contains(*key) && counts.iter().any(|start| key.starts_with(start));
        match self.values.keys().filter(unknown).min() {
            None => Ok(()),
            Some(key) => Err(format!(
                "unknown key `{key}` ({}): it might change what the model computes",
                brief(&self.values[key])
            )),
        }
    }
}

/// A value as errors show it.
fn brief(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("an array of {} values", items.len()),
        other => format!("{other:?}").chars().take(60).collect(),
    }
}

fn config(content: &Content) -> ConfigResult<Config> {
    let mut keys = Metadata { values: &content.metadata, known: BTreeSet::new() };
    let name = keys.text("general.architecture")?.unwrap_or_default();
    let family = match name.as_str() {
        "qwen3" => Family::Qwen3,
        "qwen2" => Family::Qwen2,
        "llama" => Family::Llama,
        _ => return Err(format!("`general.architecture` must be qwen3, qwen2 or llama, found `{name}`")),
    };
    if let Some(kind) = keys.text("general.type")?.filter(|kind| kind != "model") {
        return Err(format!("`general.type` must be model, found `{kind}`"));
    }
    let of = |key: &str| format!("{name}.{key}");
    let required =
        |value: ConfigResult<Option<usize>>, key: &str| value?.ok_or_else(|| format!("has no `{}`", of(key)));
    let mut size = |key: &str| required(keys.size(&of(key)), key);
    let (heads, hidden_size) = (size("attention.head_count")?, size("embedding_length")?);
    let (intermediate_size, layers) = (size("feed_forward_length")?, size("block_count")?);
    let positions = size("context_length")?;
    let vocab_size = content.tensor_infos.get("token_embd.weight").and_then(|info| info.shape.dims().first());
    let vocab_size = *vocab_size.ok_or("has no tensor `token_embd.weight`")?;
    let factor = keys.real(&of("rope.scaling.factor"))?;
    let rope_scaling = match keys.text(&of("rope.scaling.type"))?.as_deref() {
        None | Some("none") => match factor {
            None | Some(1.0) => RopeScaling::None,
            Some(factor) => {
                return Err(format!(
                    "`{}` must be 1 without a `rope.scaling.type`, found {factor}",
                    of("rope.scaling.factor")
                ));
            }
        },
        Some("linear") => {
            let factor = factor.filter(|factor| *factor > 0.0 && factor.is_finite());
            RopeScaling::Linear {
                factor: factor.ok_or("`rope.scaling.factor` must be above 0 for linear scaling")?,
            }
        }
        Some(kind) => return Err(format!("`rope.scaling.type` must be none or linear, found `{kind}`")),
    };
    let head_size = match keys.size(&of("attention.key_length"))? {
        Some(size) => size,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(format!(
                "`{}` must be a multiple of `attention.head_count` = {heads}, found {hidden_size}",
                of("embedding_length")
            ));
        }
    };
    let mut id = |key: &str| -> ConfigResult<Option<u32>> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let id = keys.size(&key)?;
        id.map(|id| u32::try_from(id).map_err(|_| format!("`{key}` must be a token id, found {id}")))
            .transpose()
    };
    let eos = [id("eos")?, id("eot")?].into_iter().flatten().collect();
    let pad = id("padding")?;
    let config = Config {
        family,
        vocab_size,
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads: keys.size(&of("attention.head_count_kv"))?.unwrap_or(heads),
        head_size,
        rms_norm_epsilon: keys
            .real(&of("attention.layer_norm_rms_epsilon"))?
            .ok_or_else(|| format!("has no `{}`", of("attention.layer_norm_rms_epsilon")))?,
        rope_theta: keys.real(&of("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_scaling,
        positions,
        qkv_bias: content.tensor_infos.contains_key("blk.0.attn_q.bias"),
        o_bias: content.tensor_infos.contains_key("blk.0.attn_output.bias"),
        mlp_bias: content.tensor_infos.contains_key("blk.0.ffn_gate.bias"),
        tied: !content.tensor_infos.contains_key("output.weight"),
        eos,
        pad,
    };
    keys.must_be(&of("vocab_size"), vocab_size)?;
    keys.must_be(&of("rope.dimension_count"), head_size)?;
    keys.must_be(&of("attention.value_length"), head_size)?;
    for key in ["expert_count", "expert_used_count", "attention.sliding_window"] {
        keys.must_be(&of(key), 0)?;
    }
    if let Some(layout) =
        keys.text(&of("tensor_data_layout"))?.filter(|layout| layout != "Meta AI original pth")
    {
        return Err(format!("`tensor_data_layout` must be `Meta AI original pth`, found `{layout}`"));
    }
    // A file that llama.cpp has merged again has a `split.count` of 0.
    if let Some(parts) = keys.size("split.count")?.filter(|parts| *parts > 1) {
        return Err(format!(
            "`split.count` must be 0 or 1, found {parts}: merge the parts with `llama-gguf-split --merge`"
        ));
    }
    // No effect: the history of the scaling, and further keys of split files.
    for key in ["rope.scaling.original_context_length", "rope.scaling.finetuned"].map(of) {
        keys.get(&key);
    }
    keys.get("split.no");
    keys.get("split.tensors.count");
    keys.finish(&name)?;
    config.check()?;
    Ok(config)
}

/// The file's tokenizer, if it is byte-level BPE with a known rule for splitting words. The file has llama.cpp's name of the
/// rule, candle expects another.
fn tokenizer(path: &Path, content: &mut Content, config: &Config) -> Result<Tokenizer> {
    let refuse = |reason: String| Error::Tokenizer { action: "be read from the file", reason };
    let mut keys = Metadata { values: &content.metadata, known: BTreeSet::new() };
    let mut text = |key: &str| keys.text(key).map_err(refuse);
    let kind = text("tokenizer.ggml.model")?.unwrap_or("none".into());
    let rule = text("tokenizer.ggml.pre")?.unwrap_or("none".into());
    let template = text("tokenizer.chat_template")?;
    let bos = keys.size("tokenizer.ggml.bos_token_id").map_err(refuse)?;
    if let Some(Value::Array(tokens)) = keys.get("tokenizer.ggml.tokens") {
        let mut known = HashSet::new();
        let twice =
            tokens.iter().filter_map(|token| token.to_string().ok()).find(|token| !known.insert(*token));
        if let Some(token) = twice {
            return Err(refuse(format!("it has the token `{token}` twice")));
        }
    }
    if kind != "gpt2" {
        return Err(refuse(format!("`tokenizer.ggml.model` must be gpt2 (byte-level BPE), found {kind}")));
    }
    let metadata = &mut content.metadata;
    let rule = match rule.as_str() {
        "qwen2" | "deepseek-r1-qwen" => "qwen2",
        "llama-bpe" | "llama3" | "llama-v3" => {
            metadata.insert("tokenizer.ggml.ignore_merges".into(), Value::Bool(true));
            metadata.entry("tokenizer.ggml.add_bos_token".into()).or_insert(Value::Bool(true));
            "llama3"
        }
        rule => {
            return Err(refuse(format!(
                "`tokenizer.ggml.pre` must be that of Qwen 2 or Llama 3, found {rule}"
            )));
        }
    };
    metadata.insert("tokenizer.ggml.pre".into(), Value::String(rule.into()));
    // User-defined tokens, such as <think>, occur in texts. candle would make them special tokens, which do not.
    let mut added = Vec::new();
    if let Some(Value::Array(mut kinds)) = metadata.remove(TOKEN_KINDS) {
        if let Some(Value::Array(tokens)) = metadata.get("tokenizer.ggml.tokens") {
            for (kind, token) in kinds.iter_mut().zip(tokens) {
                if kind.to_i32().is_ok_and(|kind| kind == USER_DEFINED)
                    && let Ok(token) = token.to_string()
                {
                    added.push(AddedToken::from(token.clone(), false));
                    *kind = Value::I32(NORMAL);
                }
            }
        }
        metadata.insert(TOKEN_KINDS.into(), Value::Array(kinds));
    }
    let mut inner = tokenizers::Tokenizer::from_gguf(content)?;
    inner.add_tokens(added).map_err(|error| refuse(error.to_string()))?;
    let token = |id: Option<u32>| id.and_then(|id| inner.id_to_token(id));
    let eos = config.eos.first().copied();
    let bos = bos.and_then(|id| u32::try_from(id).ok());
    let json = serde_json::json!({
        "bos_token": token(bos),
        "eos_token": token(eos),
    });
    let chat = template.map(|source| ChatTemplate::of(path.into(), source, &json)).transpose()?;
    let Some(eos) = eos else {
        return Err(Error::Tokenizer { action: "find the end of text", reason: "no eos_token_id".into() });
    };
    Tokenizer::of(inner, &json, chat, eos, config.pad.unwrap_or(eos))
}

/// A GGUF file from which weights are read.
struct Source<'a> {
    path: &'a Path,
    content: &'a Content,
    reader: BufReader<File>,
    compute: &'a Compute,
}

impl Source<'_> {
    /// The divisors of Llama 3's rotary frequencies, if the file has them.
    fn rope_factors(&mut self, config: &Config) -> Result<Option<Vec<f64>>> {
        if !self.content.tensor_infos.contains_key(ROPE_FACTORS) {
            return Ok(None);
        }
        let factors = self.tensor(ROPE_FACTORS, &[config.head_size / 2], &Device::Cpu)?;
        let factors = factors.dequantize(&Device::Cpu)?.to_vec1::<f32>()?;
        if config.rope_scaling != RopeScaling::None
            || !factors.iter().all(|factor| *factor > 0.0 && factor.is_finite())
        {
            let reason = format!("`{ROPE_FACTORS}` must be numbers above 0, without another rope scaling");
            return Err(Error::Invalid { path: self.path.into(), reason });
        }
        Ok(Some(factors.into_iter().map(f64::from).collect()))
    }

    fn params(&mut self, config: &Config) -> Result<Params> {
        let mut params = Params::default();
        params.frozen = true;
        for (name, shape) in config.parameters() {
            let theirs = gguf_name(&name);
            let tensor = self.tensor(&theirs, &shape, &self.compute.device)?;
            // Unpacking gives exactly the numbers of the file's blocks, in f32.
            let packed = shape.len() > 1 && !self.compute.dequantize;
            let tensor = match (config.family, heads(&name, config)) {
                (Family::Llama, Some(heads)) => unpermute_rotary(&tensor, heads, &self.compute.device)?,
                _ => tensor,
            };
            if packed && !matches!(tensor.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) {
                params.insert_quantized(name, QMatMul::from_qtensor(tensor)?);
            } else {
                params
                    .insert(name, &tensor.dequantize(&self.compute.device)?.to_dtype(self.compute.dtype)?)?;
            }
        }
        Ok(params)
    }

    fn tensor(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<QTensor> {
        let invalid = |reason: String| Error::Invalid { path: self.path.into(), reason };
        let Some(info) = self.content.tensor_infos.get(name) else {
            return Err(invalid(format!("has no tensor `{name}`")));
        };
        if info.shape.dims() != shape {
            let found = info.shape.dims();
            return Err(invalid(format!("tensor `{name}` must have shape {shape:?}, found {found:?}")));
        }
        let tensor = self.content.tensor(&mut self.reader, name, device);
        tensor.map_err(|error| Error::Invalid {
            path: self.path.into(),
            reason: format!("tensor `{name}` ({error}); the file may be cut short"),
        })
    }
}

/// llama.cpp's name of a parameter.
fn gguf_name(name: &str) -> String {
    const NAMES: [(&str, &str); 14] = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    NAMES.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours))
}

/// The number of heads in a parameter's rows, if llama.cpp reorders these (queries and keys).
fn heads(name: &str, config: &Config) -> Option<usize> {
    let is = |module: Module| name.contains(module.path());
    if is(Module::Q) { Some(config.heads) } else { is(Module::K).then_some(config.kv_heads) }
}

/// Undoes llama.cpp's order of rotary dimensions. Llama files interleave the two halves of each head, because llama.cpp
/// rotates neighbours together; here dimension i rotates with i + size / 2. Each row is quantised on its own, so rows can be
/// reordered without unpacking.
fn unpermute_rotary(tensor: &QTensor, heads: usize, device: &Device) -> Result<QTensor> {
    let shape = tensor.shape().clone();
    let rows = shape.dims()[0];
    let data = tensor.data()?;
    let (row_bytes, size) = (data.len() / rows, rows / heads);
    let mut ordered = Vec::with_capacity(data.len());
    for row in 0..rows {
        let (head, at) = (row / size, row % size);
        let from = head * size + 2 * (at % (size / 2)) + at / (size / 2);
        ordered.extend_from_slice(&data[from * row_bytes..(from + 1) * row_bytes]);
    }
    let storage = QStorage::from_data(Cow::Owned(ordered), device, tensor.dtype())?;
    Ok(QTensor::new(storage, shape)?)
}
