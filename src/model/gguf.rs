//! Quantised models as GGUF files hold them: sizes, tokenizer, chat template and weights in one. The weights
//! stay quantised; the decoder is the same.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use tokenizers::AddedToken;

use super::chat::ChatTemplate;
use super::config::{Config, Family, Module, RopeScaling};
use super::{Checkpoint, Compute, Error, Params, Result, Tokenizer};
use store::read;

/// Where the alignment is looked for, in bytes from the file's start.
const METADATA: u64 = 32 << 20;

/// Numbers of a tensor at the most.
const MOST_NUMBERS: usize = 1 << 40;

/// Kinds of tokens, as llama.cpp numbers them.
const TOKEN_KINDS: &str = "tokenizer.ggml.token_type";
const NORMAL: i32 = 1;
const USER_DEFINED: i32 = 4;

/// The GGUF file that a path means: itself, or the only one of a folder without config.json.
pub fn file_of(path: &Path) -> Option<PathBuf> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|extension| extension == "gguf");
    if path.is_file() {
        return is_gguf(path).then(|| path.to_owned());
    }
    if path.join("config.json").exists() {
        return None;
    }
    let files = std::fs::read_dir(path).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = files.filter(|path| is_gguf(path)).collect();
    if files.len() == 1 { files.pop() } else { None }
}

/// Reads a GGUF file of the Qwen3, Qwen2 or Llama family. `folder` is where a tokenizer.json may lie that is to
/// be taken instead of the file's own tokenizer: nothing beside a file that was named alone counts.
pub fn load(path: &Path, folder: Option<&Path>, compute: &Compute) -> Result<Checkpoint> {
    let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
    let file = read::open(path).map_err(|cause| Error::Read { path: path.into(), cause })?;
    let mut reader = BufReader::new(file);
    ensure_alignment(&mut reader).map_err(invalid)?;
    let mut content =
        Content::read(&mut reader).map_err(|error| invalid(format!("not a complete GGUF file: {error}")))?;
    let mut config = config(&content).map_err(invalid)?;
    config.check().map_err(invalid)?;
    let mut source = Source { path, content: &content, reader, compute };
    if let Some(factors) = source.rope_factors(&config)? {
        config.rope_scaling = RopeScaling::Factors(factors);
    }
    let beyond = format!("blk.{}.", config.layers);
    if let Some(name) = source.content.tensor_infos.keys().find(|name| name.starts_with(&beyond)) {
        let layers = config.layers;
        return Err(invalid(format!("has the tensor `{name}`, but its metadata asks for {layers} blocks")));
    }
    let params = source.params(&config)?;
    let tokenizer = match folder.filter(|folder| folder.join("tokenizer.json").exists()) {
        Some(folder) => Tokenizer::load(folder, config.eos.first().copied())?,
        None => tokenizer(path, &mut content, &config).map_err(|error| {
            invalid(format!(
                "its tokenizer cannot be used ({error}): name a folder with the file and the model's tokenizer.json"
            ))
        })?,
    };
    Checkpoint::of(config, params, None, tokenizer, compute.clone(), path)
}

/// candle divides by the alignment that the file asks for.
fn ensure_alignment(reader: &mut BufReader<File>) -> std::result::Result<(), String> {
    const KEY: &[u8] = b"general.alignment";
    let io = |error: std::io::Error| format!("cannot be read: {error}");
    let mut start = Vec::new();
    reader.by_ref().take(METADATA).read_to_end(&mut start).map_err(io)?;
    reader.rewind().map_err(io)?;
    // The key, the number of its value's type, the value.
    let value = start
        .windows(KEY.len() + 8)
        .find(|bytes| bytes.starts_with(KEY))
        .map(|bytes| &bytes[KEY.len() + 4..]);
    if value.is_some_and(|value| value.iter().all(|byte| *byte == 0)) {
        return Err("its general.alignment is 0".into());
    }
    Ok(())
}

fn number(content: &Content, key: &str) -> Option<f64> {
    let value = content.metadata.get(key)?;
    let whole = value.to_u64().ok().map(|number| number as f64);
    whole.or_else(|| value.to_f32().ok().map(f64::from)).or_else(|| value.to_f64().ok())
}

fn text<'a>(content: &'a Content, key: &str) -> Option<&'a str> {
    content.metadata.get(key).and_then(|value| value.to_string().ok()).map(String::as_str)
}

fn config(content: &Content) -> std::result::Result<Config, String> {
    let name = text(content, "general.architecture").unwrap_or_default();
    let family = match name {
        "qwen3" => Family::Qwen3,
        "qwen2" => Family::Qwen2,
        "llama" => Family::Llama,
        _ => return Err(format!("architecture `{name}` is not supported; there are: qwen3, qwen2, llama")),
    };
    let optional = |key: &str| number(content, &format!("{name}.{key}"));
    let required = |key: &str| optional(key).ok_or_else(|| format!("has no `{name}.{key}`"));
    let size = |key: &str| required(key).map(|number| number as usize);
    let scaling = text(content, &format!("{name}.rope.scaling.type")).unwrap_or("none");
    let rope_scaling = match scaling {
        "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: required("rope.scaling.factor")? },
        _ => return Err(format!("rope scaling `{scaling}` is not supported; there are: none, linear")),
    };
    let (heads, hidden_size) = (size("attention.head_count")?, size("embedding_length")?);
    let vocab_size = content.tensor_infos.get("token_embd.weight").and_then(|info| info.shape.dims().first());
    let id = |key: &str| number(content, &format!("tokenizer.ggml.{key}_token_id")).map(|id| id as u32);
    Ok(Config {
        family,
        vocab_size: *vocab_size.ok_or("has no tensor `token_embd.weight`")?,
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        layers: size("block_count")?,
        heads,
        kv_heads: optional("attention.head_count_kv").map_or(heads, |number| number as usize),
        head_size: optional("attention.key_length")
            .map_or(hidden_size / heads.max(1), |number| number as usize),
        rms_norm_epsilon: required("attention.layer_norm_rms_epsilon")?,
        rope_theta: optional("rope.freq_base").unwrap_or(10_000.0),
        rope_scaling,
        positions: size("context_length")?,
        qkv_bias: content.tensor_infos.contains_key("blk.0.attn_q.bias"),
        o_bias: content.tensor_infos.contains_key("blk.0.attn_output.bias"),
        mlp_bias: content.tensor_infos.contains_key("blk.0.ffn_gate.bias"),
        tied: !content.tensor_infos.contains_key("output.weight"),
        eos: id("eos").into_iter().chain(id("eot")).collect(),
        pad: id("padding"),
    })
}

/// The tokenizer that the file holds, where it is byte-level and cuts words in a way that is known: llama.cpp
/// knows the rules by name, candle those of other names.
fn tokenizer(path: &Path, content: &mut Content, config: &Config) -> Result<Tokenizer> {
    let refuse = |reason: String| Error::Tokenizer { action: "be made of the file's", reason };
    let kind = text(content, "tokenizer.ggml.model").unwrap_or("not named");
    if kind != "gpt2" {
        return Err(refuse(format!("its kind is {kind}, not byte-level pairs (gpt2)")));
    }
    let rule = text(content, "tokenizer.ggml.pre").unwrap_or("not named").to_owned();
    let metadata = &mut content.metadata;
    let rule = match rule.as_str() {
        "qwen2" | "deepseek-r1-qwen" => "qwen2",
        "llama-bpe" | "llama3" | "llama-v3" => {
            metadata.insert("tokenizer.ggml.ignore_merges".into(), Value::Bool(true));
            metadata.entry("tokenizer.ggml.add_bos_token".into()).or_insert(Value::Bool(true));
            "llama3"
        }
        rule => return Err(refuse(format!("its rule for words is {rule}"))),
    };
    metadata.insert("tokenizer.ggml.pre".into(), Value::String(rule.into()));
    // Tokens of the users, such as <think>, are in texts; candle takes them for special ones, which are not.
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
    let bos = number(content, "tokenizer.ggml.bos_token_id").map(|id| id as u32);
    let json = serde_json::json!({
        "bos_token": token(bos),
        "eos_token": token(eos),
    });
    let template = text(content, "tokenizer.chat_template");
    let chat = template.map(|source| ChatTemplate::of(path.into(), source.into(), &json)).transpose()?;
    let Some(eos) = eos else {
        return Err(Error::Tokenizer { action: "find the end of text", reason: "no eos_token_id".into() });
    };
    Tokenizer::of(inner, &json, chat, eos, config.pad.unwrap_or(eos))
}

/// A GGUF file that weights are read from.
struct Source<'a> {
    path: &'a Path,
    content: &'a Content,
    reader: BufReader<File>,
    compute: &'a Compute,
}

impl Source<'_> {
    /// What Llama 3 divides its rotary frequencies by.
    fn rope_factors(&mut self, config: &Config) -> Result<Option<Vec<f64>>> {
        const NAME: &str = "rope_freqs.weight";
        if !self.content.tensor_infos.contains_key(NAME) {
            return Ok(None);
        }
        let factors = self.tensor(NAME, &[config.head_size / 2], &Device::Cpu)?;
        let factors = factors.dequantize(&Device::Cpu)?.to_vec1::<f32>()?;
        Ok(Some(factors.into_iter().map(f64::from).collect()))
    }

    fn params(&mut self, config: &Config) -> Result<Params> {
        let mut params = Params::default();
        for (name, shape) in config.parameters() {
            let theirs = gguf_name(&name);
            let tensor = self.tensor(&theirs, &shape, &self.compute.device)?;
            let matrix = shape.len() > 1;
            let tensor = match (config.family, heads(&name, config)) {
                (Family::Llama, Some(heads)) => untwist(&tensor, heads, &self.compute.device)?,
                _ => tensor,
            };
            if matrix && !matches!(tensor.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) {
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
            return Err(invalid(format!("tensor `{name}` should have shape {shape:?}, but has {found:?}")));
        }
        let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
        if count.is_none_or(|count| count > MOST_NUMBERS) {
            return Err(invalid(format!("tensor `{name}` of shape {shape:?} is larger than any model's")));
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

/// The heads whose rows a parameter has, where they are to be turned.
fn heads(name: &str, config: &Config) -> Option<usize> {
    let is = |module: Module| name.contains(module.path());
    if is(Module::Q) { Some(config.heads) } else { is(Module::K).then_some(config.kv_heads) }
}

/// Llama files have the two halves of each head interleaved, because llama.cpp turns neighbours together; here
/// dimension i turns with i + size / 2. Rows are quantised each on its own, so they can be put in order as they are.
fn untwist(tensor: &QTensor, heads: usize, device: &Device) -> Result<QTensor> {
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
