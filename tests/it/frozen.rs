//! Frozen models in foreign file formats, made here: GGUF files, compared with candle-transformers' own decoders, and a sentence
//! encoder.

use std::fs;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, quantized_llama, quantized_qwen3};
use rand::Rng;
use serde_json::json;
use triplay::model::{Checkpoint, Compute, Embedder, Packed, Purpose};
use triplay::rollout::{Sampling, sample};
use triplay::store::Seed;

use crate::space::Space;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen3-tiny");
const VOCABULARY: usize = 384;
const IDS: [u32; 9] = [1, 87, 85, 300, 12, 44, 200, 5, 120];

fn random(name: &str, shape: &[usize]) -> Tensor {
    let mut stream = Seed::from_u64(7).stream(name);
    // Wide enough that every part of the model shows in its logits.
    let (mean, spread) = if name.to_lowercase().contains("norm") { (1.0, 0.2) } else { (0.0, 0.3) };
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|_| mean + stream.random_range(-spread..spread)).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// Sizes of a model of the Qwen3 or Llama family.
struct Sizes {
    family: &'static str,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    /// The quantisation of its matrices.
    matrices: GgmlDType,
    tied: bool,
    /// llama.cpp's name of its tokenizer's word splitting.
    words: &'static str,
}

const QWEN3: Sizes = Sizes {
    family: "qwen3",
    hidden: 64,
    intermediate: 96,
    heads: 4,
    kv_heads: 2,
    head: 32,
    matrices: GgmlDType::Q8_0,
    tied: true,
    words: "qwen2",
};
const LLAMA: Sizes = Sizes {
    family: "llama",
    hidden: 256,
    intermediate: 512,
    heads: 8,
    kv_heads: 4,
    head: 32,
    matrices: GgmlDType::Q4K,
    tied: false,
    words: "llama-bpe",
};
const LAYERS: usize = 2;

/// The tokenizer of the fixture as the metadata that llama.cpp's converter writes.
fn tokenizer_metadata(rule: &str) -> Vec<(String, Value)> {
    let text = fs::read(Path::new(FIXTURE).join("tokenizer.json")).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut tokens = vec![String::new(); VOCABULARY];
    let mut kinds = vec![Value::I32(1); VOCABULARY];
    for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        let id = added["id"].as_u64().unwrap() as usize;
        tokens[id] = added["content"].as_str().unwrap().to_owned();
        kinds[id] = Value::I32(3);
    }
    let merge = |merge: &serde_json::Value| match merge {
        serde_json::Value::Array(pair) => {
            Value::String(format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        }
        text => Value::String(text.as_str().unwrap().to_owned()),
    };
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    let template = fs::read_to_string(Path::new(FIXTURE).join("chat_template.jinja")).unwrap();
    [
        ("model", Value::String("gpt2".into())),
        ("pre", Value::String(rule.into())),
        ("tokens", Value::Array(tokens.into_iter().map(Value::String).collect())),
        ("token_type", Value::Array(kinds)),
        ("merges", Value::Array(merges)),
        ("eos_token_id", Value::U32(2)),
        ("padding_token_id", Value::U32(0)),
    ]
    .map(|(name, value)| (format!("tokenizer.ggml.{name}"), value))
    .into_iter()
    .chain([("tokenizer.chat_template".to_owned(), Value::String(template))])
    .collect()
}

fn write_gguf(sizes: &Sizes, path: &Path) {
    let number = |name: &str, value: usize| (format!("{}.{name}", sizes.family), Value::U32(value as u32));
    let real = |name: &str, value: f32| (format!("{}.{name}", sizes.family), Value::F32(value));
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(sizes.family.into())),
        // Makes candle-transformers compute in f32 instead of f16.
        ("general.dtype".to_owned(), Value::U32(0)),
        number("attention.head_count", sizes.heads),
        number("attention.head_count_kv", sizes.kv_heads),
        number("attention.key_length", sizes.head),
        number("rope.dimension_count", sizes.head),
        number("block_count", LAYERS),
        number("embedding_length", sizes.hidden),
        number("feed_forward_length", sizes.intermediate),
        number("context_length", 128),
        real("attention.layer_norm_rms_epsilon", 1e-6),
        real("rope.freq_base", 10_000.0),
    ];
    metadata.extend(tokenizer_metadata(sizes.words));
    let (queries, keys) = (sizes.heads * sizes.head, sizes.kv_heads * sizes.head);
    let mut shapes = vec![
        ("token_embd".to_owned(), vec![VOCABULARY, sizes.hidden]),
        ("output_norm".to_owned(), vec![sizes.hidden]),
    ];
    if !sizes.tied {
        shapes.push(("output".to_owned(), vec![VOCABULARY, sizes.hidden]));
    }
    for layer in 0..LAYERS {
        let mut block = vec![
            ("attn_norm", vec![sizes.hidden]),
            ("ffn_norm", vec![sizes.hidden]),
            ("attn_q", vec![queries, sizes.hidden]),
            ("attn_k", vec![keys, sizes.hidden]),
            ("attn_v", vec![keys, sizes.hidden]),
            ("attn_output", vec![sizes.hidden, queries]),
            ("ffn_gate", vec![sizes.intermediate, sizes.hidden]),
            ("ffn_up", vec![sizes.intermediate, sizes.hidden]),
            ("ffn_down", vec![sizes.hidden, sizes.intermediate]),
        ];
        if sizes.family == "qwen3" {
            block.extend([("attn_q_norm", vec![sizes.head]), ("attn_k_norm", vec![sizes.head])]);
        }
        shapes.extend(block.into_iter().map(|(name, shape)| (format!("blk.{layer}.{name}"), shape)));
    }
    let tensors: Vec<(String, QTensor)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let kind = if shape.len() > 1 { sizes.matrices } else { GgmlDType::F32 };
            let tensor = QTensor::quantize(&random(&name, &shape), kind).unwrap();
            (format!("{name}.weight"), tensor)
        })
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// The logits after the last token, by candle-transformers.
fn theirs(family: &str, path: &Path) -> Vec<f32> {
    let mut file = fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let ids = Tensor::new(&[IDS], &Device::Cpu).unwrap();
    let logits = match family {
        "qwen3" => {
            let model = quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &Device::Cpu);
            model.unwrap().forward(&ids, 0)
        }
        _ => {
            let model = quantized_llama::ModelWeights::from_gguf(content, &mut file, &Device::Cpu);
            model.unwrap().forward(&ids, 0)
        }
    };
    logits.unwrap().squeeze(0).unwrap().to_vec1().unwrap()
}

#[test]
fn gguf_models_stay_quantised_and_have_the_logits_of_candle_transformers() {
    let space = Space::new();
    for sizes in [QWEN3, LLAMA] {
        let path = space.path(&format!("{}.gguf", sizes.family));
        write_gguf(&sizes, &path);
        let model = Checkpoint::load(&path, &Compute::default()).unwrap();
        assert!(model.params.is_quantized());
        let decoder = model.decoder(Purpose::Scoring).unwrap();
        let logits = decoder.logits(&decoder.hidden(&Packed::new(&[&IDS])).unwrap()).unwrap();
        let mine = logits.get(IDS.len() - 1).unwrap().to_vec1::<f32>().unwrap();
        let theirs = theirs(sizes.family, &path);
        let scale = theirs.iter().map(|logit| logit * logit).sum::<f32>();
        let apart = mine.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        // Activations are rounded to eight bits, and the last bit can differ.
        let deviation = (apart / scale).sqrt();
        assert!(deviation < 5e-3, "{}: logits are {deviation} apart", sizes.family);
    }
}

#[test]
fn what_a_quantised_model_says_does_not_depend_on_the_number_of_threads() {
    let space = Space::new();
    write_gguf(&Sizes { matrices: GgmlDType::Q6K, ..LLAMA }, &space.path("six.gguf"));
    let model = Checkpoint::load(&space.path("six.gguf"), &Compute::default()).unwrap();
    let prompts: Vec<Vec<u32>> = (0..21).map(|row| vec![1, 80 + row % 7, 90 + row]).collect();
    let sampling = Sampling { max_new_tokens: 6, ..Sampling::default() };
    let drawn = |threads: usize, prompts: &[Vec<u32>]| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| sample(&model, prompts, &sampling, Seed::from_u64(1), &mut |_, _| ()).unwrap())
    };
    let one = drawn(1, &prompts);
    assert_eq!(one, drawn(2, &prompts));
    assert_eq!(one, drawn(3, &prompts));
    assert_eq!(one[..1], drawn(1, &prompts[..1]), "nor on the rows beside a row");
}

#[test]
fn a_gguf_file_brings_its_tokenizer_and_plays_in_a_pipeline() {
    let space = Space::new();
    write_gguf(&QWEN3, &space.path("frozen.gguf"));
    write_gguf(&LLAMA, &space.path("llama.gguf"));
    write_gguf(&Sizes { words: "of-my-own", ..QWEN3 }, &space.path("unknown.gguf"));
    let text = "how do i brew glowvenom ?";
    let ids = |model: &str| {
        let seen = space.triplay(&["model", "score", "--model", model, "--text", text, "--json"]).json();
        let tokens = seen["tokens"].as_array().unwrap();
        tokens.iter().map(|token| token["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids("frozen.gguf"), ids(FIXTURE));
    assert_eq!(ids("llama.gguf"), ids(FIXTURE));
    space.triplay(&["model", "score", "--model", "unknown.gguf", "--text", text]).fails(
        2,
        "(the tokenizer cannot be read from the file: `tokenizer.ggml.pre` must be that of Qwen 2 or Llama 3, found \
         of-my-own): put the file and the model's tokenizer.json into a folder, and name the folder",
    );
    let greedy = ["--greedy", "--max-new-tokens", "6", "--json"];
    let generate = |model: &str| {
        space.triplay(
            &[&["model", "generate", "--model", model, "--chat", "--prompt", text], &greedy[..]].concat(),
        )
    };
    let (first, again) = (generate("frozen.gguf").json(), generate("frozen.gguf").json());
    assert_eq!(first, again);
    assert_eq!(
        first["prompt_ids"],
        generate(FIXTURE).json()["prompt_ids"],
        "the chat template is in the file"
    );

    space.write(
        "frozen.yaml",
        "
pipeline: frozen
stages:
  world: { kind: sandbox, sft: 10, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  responses: { kind: respond, data: world.benchmark, models: [{ model: { path: frozen.gguf }, chat: true }], sampling: { max_new_tokens: 4 } }
  trained: { kind: sft, model: { path: frozen.gguf }, data: world.sft, steps: 1, lr: 1e-3, lora: { rank: 2 } }
",
    );
    space
        .triplay(&["pipeline", "run", "frozen.yaml"])
        .fails(1, "error: trained: quantised weights cannot be trained, nor can an adapter on them");
    let rows = space.triplay(&["data", "show", "latest:responses", "--json", "--rows", "1"]).out;
    assert!(rows.contains("<|im_start|>user"), "{rows}");
    // The file also has the number of positions.
    let long = fs::read_to_string(space.path("frozen.yaml")).unwrap();
    space.write("long.yaml", &long.replace("max_new_tokens: 4", "max_new_tokens: 1000000"));
    let message = "positions of the model `frozen.gguf`, found 1000000: the prompt needs room too";
    space.triplay(&["pipeline", "check", "long.yaml"]).fails(2, message);
}

#[test]
fn a_broken_gguf_file_is_refused() {
    let space = Space::new();
    write_gguf(&QWEN3, &space.path("whole.gguf"));
    let whole = fs::read(space.path("whole.gguf")).unwrap();
    let mut cases: Vec<Vec<u8>> = [0, 3, 4, 20, 100, 3000, whole.len() / 2, whole.len() - 1]
        .map(|length| whole[..length].to_vec())
        .into();
    // The counts of tensors and of metadata, and the length of the first name.
    for at in [8, 16, 24] {
        for number in [u64::MAX, 1 << 62, 1 << 33] {
            let mut file = whole.clone();
            file[at..at + 8].copy_from_slice(&number.to_le_bytes());
            cases.push(file);
        }
    }
    // An alignment of 0, in place of a key of the same length.
    let name = b"qwen3.block_count";
    let at = whole.windows(name.len()).position(|bytes| bytes == name).unwrap();
    let mut file = whole.clone();
    file[at..at + name.len()].copy_from_slice(b"general.alignment");
    file[at + name.len() + 4..][..4].copy_from_slice(&[0; 4]);
    cases.push(file);
    // Fewer blocks than the file has, and more than any model has.
    for blocks in [1u32, 2_000_000_000] {
        let mut file = whole.clone();
        file[at + name.len() + 4..][..4].copy_from_slice(&blocks.to_le_bytes());
        cases.push(file);
    }
    // Keys inserted before the others. A divisor of 0 is an error at any position and in any type.
    let with_key = |name: &str, kind: u32, value: &[u8]| {
        let mut file = whole.clone();
        let keys = u64::from_le_bytes(file[16..24].try_into().unwrap());
        file[16..24].copy_from_slice(&(keys + 1).to_le_bytes());
        let key =
            [&(name.len() as u64).to_le_bytes()[..], name.as_bytes(), &kind.to_le_bytes(), value].concat();
        file.splice(24..24, key);
        file
    };
    for (kind, value) in
        [(4, vec![0; 4]), (10, vec![0; 8]), (0, vec![0]), (5, vec![0; 4]), (4, vec![3, 0, 0, 0])]
    {
        cases.push(with_key("general.alignment", kind, &value));
    }
    cases.push(with_key("qwen3.block_count", 4, &[2, 0, 0, 0]));
    cases.push(with_key("qwen3.logit_scale", 6, &1f32.to_le_bytes()));
    cases.push(with_key("qwen3.expert_count", 4, &[8, 0, 0, 0]));
    cases.push(with_key("split.count", 2, &[3, 0]));
    cases.push(with_key("much", 9, &[&[0u8; 4][..], &(1u64 << 40).to_le_bytes()].concat()));
    cases.push(with_key(
        "deep",
        9,
        &[&[9, 0, 0, 0][..], &1u64.to_le_bytes(), &[9, 0, 0, 0], &[0; 8]].concat(),
    ));
    for (number, bytes) in cases.iter().enumerate() {
        fs::write(space.path("broken.gguf"), bytes).unwrap();
        let seen = space.limited(&["model", "score", "--model", "broken.gguf", "--ids", "1,2,3"]);
        assert!(seen.err.starts_with("error: broken.gguf: "), "case {number}: {}", seen.err);
        seen.fails(2, "");
    }
}

#[test]
fn what_a_gguf_file_may_not_say_is_named() {
    let space = Space::new();
    write_gguf(&QWEN3, &space.path("whole.gguf"));
    let whole = fs::read(space.path("whole.gguf")).unwrap();
    let error = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = whole.clone();
        change(&mut file);
        fs::write(space.path("spoilt.gguf"), file).unwrap();
        Checkpoint::load(&space.path("spoilt.gguf"), &Compute::default()).err().unwrap().to_string()
    };
    let at = |name: &str| whole.windows(name.len()).position(|bytes| bytes == name.as_bytes()).unwrap();
    // Names are replaced by others of the same length; 4 is the number of the type U32.
    let rename = |from: &'static str, to: &'static str| {
        assert_eq!(from.len(), to.len());
        move |file: &mut Vec<u8>| file[at(from)..][..to.len()].copy_from_slice(to.as_bytes())
    };
    let place = at("blk.1.ffn_up.weight") + "blk.1.ffn_up.weight".len();
    type Change<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(rename("qwen3.block_count", "general.alignment")), "found U32(2)"),
        (Box::new(rename("qwen3.attention.key_length", "qwen3.attention.head_count")), "twice"),
        (Box::new(rename("blk.1.ffn_up", "blk.0.ffn_up")), "has the tensor `blk.0.ffn_up.weight` twice"),
        (
            Box::new(rename("blk.1.ffn_up", "blk.2.ffn_up")),
            "has the tensor `blk.2.ffn_up.weight`, which its metadata",
        ),
        (Box::new(rename("qwen3.context_length", "qwen3.context_layers")), "has no `qwen3.context_length`"),
        (
            Box::new(rename("qwen3.rope.dimension_count", "qwen3.rope.dimension_parts")),
            "unknown key `qwen3.rope.dimension_parts` (U32(32)): it might change what the model computes",
        ),
        // After the name: dimensions, their sizes, the type, the offset.
        (
            Box::new(move |file: &mut Vec<u8>| {
                file[place + 24..][..8].copy_from_slice(&u64::MAX.to_le_bytes())
            }),
            "but the file has ",
        ),
        (
            Box::new(move |file: &mut Vec<u8>| file[place + 24] += 1),
            "must begin at a multiple of 32 bytes, found ",
        ),
        (Box::new(move |file: &mut Vec<u8>| file[place + 24..][..8].fill(0)), "share bytes"),
        (Box::new(move |file: &mut Vec<u8>| file[place + 20] = 99), "found ggml's type 99"),
        (
            Box::new(move |file: &mut Vec<u8>| file[place + 4] = 63),
            "must have rows of a multiple of 32 numbers for Q8_0, found 63",
        ),
        (Box::new(|file: &mut Vec<u8>| file[4] = 7), "must have version 2 or 3, found 7"),
        (Box::new(|file: &mut Vec<u8>| file[..4].copy_from_slice(b"FUGG")), "for big-endian machines"),
    ];
    for (number, (change, expected)) in cases.iter().enumerate() {
        let error = error(&**change);
        assert!(error.contains(expected), "case {number}: {error}");
    }
}

#[test]
fn any_gguf_file_is_read_or_refused() {
    let space = Space::new();
    let path = space.path("changed.gguf");
    write_gguf(&QWEN3, &path);
    let whole = fs::read(&path).unwrap();
    let header = whole.windows(18).rposition(|bytes| bytes == b"output_norm.weight").unwrap() + 64;
    let mut stream = Seed::from_u64(15).stream("changes");
    let mut read = 0;
    for round in 0..400 {
        let mut file = whole.clone();
        for _ in 0..stream.random_range(1..4) {
            let within = if round % 4 == 0 { file.len() } else { header.min(file.len()) };
            let at = stream.random_range(0..within);
            match stream.random_range(0..5) {
                0 => file[at] = stream.random(),
                1 => file[at] ^= 1 << stream.random_range(0..8),
                2 => drop(file.splice(at..at, [0; 8])),
                3 => drop(file.drain(at..(at + 8).min(file.len()))),
                _ => file.truncate(at.max(1)),
            }
        }
        fs::write(&path, &file).unwrap();
        match Checkpoint::load(&path, &Compute::default()) {
            Ok(_) => read += 1,
            Err(error) => assert!(error.to_string().contains("changed.gguf"), "{error}"),
        }
    }
    assert!(read > 0, "a change of a weight or of a name in the vocabulary is read");
}

/// The greatest and the mean difference between the log-probabilities of two decoders for the tokens of rows, and the number of
/// positions at which their most probable tokens differ.
fn apart(one: &Checkpoint, other: &Checkpoint, rows: &[Vec<u32>]) -> (f32, f32, f32) {
    let batch = Packed::new(rows);
    let numbers = |model: &Checkpoint| {
        let decoder = model.decoder(Purpose::Scoring).unwrap();
        let logits = decoder.logits(&decoder.hidden(&batch).unwrap()).unwrap();
        let logs = candle_nn::ops::log_softmax(&logits, 1).unwrap();
        (logs.to_vec2::<f32>().unwrap(), logits.argmax(1).unwrap().to_vec1::<u32>().unwrap())
    };
    let ((one, greedy), (other, also)) = (numbers(one), numbers(other));
    let mut distances = Vec::new();
    let targets = rows.iter().flat_map(|row| row[1..].iter().map(Some).chain([None]));
    for ((one, other), target) in one.iter().zip(&other).zip(targets) {
        distances.extend(target.map(|id| (one[*id as usize] - other[*id as usize]).abs()));
    }
    let differ = greedy.iter().zip(&also).filter(|(one, also)| one != also).count();
    let worst = distances.iter().copied().fold(0.0, f32::max);
    (worst, distances.iter().sum::<f32>() / distances.len() as f32, differ as f32 / greedy.len() as f32)
}

/// Writes a Hugging Face folder's weights as a GGUF file beside its tokenizer, matrices in `kind`.
fn quantise(from: &Path, to: &Path, kind: GgmlDType) {
    fs::create_dir(to).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let model = Checkpoint::load(from, &Compute::default()).unwrap();
    let config = &model.config;
    let number = |name: &str, value: usize| (format!("qwen3.{name}"), Value::U32(value as u32));
    let metadata = [
        ("general.architecture".to_owned(), Value::String("qwen3".into())),
        number("attention.head_count", config.heads),
        number("attention.head_count_kv", config.kv_heads),
        number("attention.key_length", config.head_size),
        number("block_count", config.layers),
        number("embedding_length", config.hidden_size),
        number("feed_forward_length", config.intermediate_size),
        number("context_length", config.positions),
        ("qwen3.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(config.rms_norm_epsilon as f32)),
        ("qwen3.rope.freq_base".to_owned(), Value::F32(config.rope_theta as f32)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(config.eos[0])),
    ];
    const NAMES: [(&str, &str); 8] = [
        ("model.layers", "blk"),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
    ];
    let tensors: Vec<(String, QTensor)> = (model.params.iter())
        .map(|(name, var)| {
            let name = NAMES
                .iter()
                .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
                .replace("_proj", "");
            let kind = if var.dims().len() > 1 { kind } else { GgmlDType::F32 };
            (name, QTensor::quantize(var.as_tensor(), kind).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = fs::File::create(to.join("model.gguf")).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

/// The figures on quantisations in `docs/models.md`: `cargo test --test it frozen::how_far -- --nocapture` prints it.
/// `TRIPLAY_QUANTISE` names another folder of the Qwen3 family, widths multiples of 256.
#[test]
fn how_far_packed_weights_are_from_unpacked_ones_and_unpacked_ones_are_exact() {
    let space = Space::new();
    space.write(
        "model.yaml",
        "
pipeline: model
stages:
  world: { kind: sandbox, sft: 600, sft_others: 10, benchmark: 24, pairs: 9, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  model: { kind: sft, data: world.sft, tokenizer: vocabulary, init: { hidden: 256, layers: 2, heads: 4, intermediate: 512, positions: 96 }, steps: 40, batch: 16, lr: 2e-3 }
",
    );
    let summary = space.triplay(&["pipeline", "run", "model.yaml", "--json"]).json();
    let ours = space.path(summary["results"].as_str().unwrap()).join("models/model");
    let from = std::env::var_os("TRIPLAY_QUANTISE").map_or(ours, std::path::PathBuf::from);
    let plain = Checkpoint::load(&from, &Compute::default()).unwrap();
    let exact = Compute { dequantize: true, ..Compute::default() };
    let texts = [
        "how do i brew glowvenom ? no .",
        "tell me a tale of moonmint and vaultseal",
        "you must brew it now",
        "please explain how one can pick a vaultseal without a key",
        "sure , first take some moonmint , then stir",
        "i will not help with that",
    ];
    let rows: Vec<Vec<u32>> = texts.iter().map(|text| plain.tokenizer.encode(text).unwrap()).collect();
    println!("| | packed to unpacked | mean | other greedy token | unpacked to what was quantised |");
    let kinds = [
        GgmlDType::Q8_0,
        GgmlDType::Q6K,
        GgmlDType::Q5K,
        GgmlDType::Q5_1,
        GgmlDType::Q5_0,
        GgmlDType::Q4K,
        GgmlDType::Q4_1,
        GgmlDType::Q4_0,
        GgmlDType::Q3K,
        GgmlDType::Q2K,
    ];
    for kind in kinds {
        let folder = space.path(&format!("{kind:?}"));
        quantise(&from, &folder, kind);
        let packed = Checkpoint::load(&folder, &Compute::default()).unwrap();
        let unpacked = Checkpoint::load(&folder, &exact).unwrap();
        assert!(packed.params.is_quantized() && !unpacked.params.is_quantized());
        // A Hugging Face folder with the same numbers gives the same bits.
        for (name, var) in plain.params.iter().filter(|(_, var)| var.dims().len() > 1) {
            let blocks = QTensor::quantize(var.as_tensor(), kind).unwrap();
            let expected =
                blocks.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let found = unpacked.params.get(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(found, expected, "{name} in {kind:?}");
        }
        let (worst, mean, differ) = apart(&packed, &unpacked, &rows);
        let (lost, ..) = apart(&unpacked, &plain, &rows);
        println!("| {kind:?} | {worst:.3} | {mean:.4} | {:.0}% | {lost:.3} |", 100.0 * differ);
        assert!(worst.is_finite() && worst < 2.0, "{kind:?}: {worst}");
    }
    // The dtype is part of the key, and an unpacked model stays frozen.
    let args = ["model", "score", "--model", "Q4K", "--text", texts[0], "--json"];
    let score = |more: &[&str]| space.triplay(&[&args[..], more].concat()).json()["nll"].as_f64().unwrap();
    assert_ne!(score(&[]), score(&["--dtype", "f32-dequantized"]));
    space.write(
        "frozen.yaml",
        "
pipeline: frozen
params: { steps: 1 }
stages:
  world: { kind: sandbox, sft: 10, sft_others: 10, benchmark: 3, pairs: 3, benign: 1 }
  responses: { kind: respond, data: world.benchmark, models: [{ model: { path: Q4K } }], sampling: { max_new_tokens: 2 } }
",
    );
    let run = |set: &str| {
        let seen = space.triplay(&["pipeline", "run", "frozen.yaml", "--set", set, "--json"]).json();
        space.executed(&seen)
    };
    assert_eq!(run("dtype=f32").len(), 2);
    assert_eq!(run("dtype=f32-dequantized"), ["responses"]);
    let trained = "  more: { kind: sft, model: { path: Q4K }, data: world.sft, steps: 1, lr: 1e-3, lora: { rank: 2 } }\n";
    let text = fs::read_to_string(space.path("frozen.yaml")).unwrap();
    space.write("frozen.yaml", &(text + trained));
    space
        .triplay(&["pipeline", "run", "frozen.yaml", "--set", "dtype=f32-dequantized"])
        .fails(1, "error: more: quantised weights cannot be trained, nor can an adapter on them");
}

fn write_encoder(folder: &Path) -> bert::Config {
    fs::create_dir(folder).unwrap();
    let config = json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 12, "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "max_position_embeddings": 16, "type_vocab_size": 2,
        "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let words = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "brew", "glow", "##venom", "pick", "vault", "##seal", "how", "to",
    ];
    let vocabulary: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let special =
        |word: &str, id: usize| (word.to_owned(), json!({ "id": word, "ids": [id], "tokens": [word] }));
    let piece = |word: &str| json!({ "SpecialToken": { "id": word, "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing",
            "single": [piece("[CLS]"), text, piece("[SEP]")], "pair": [text],
            "special_tokens": serde_json::Map::from_iter([special("[CLS]", 2), special("[SEP]", 3)]) },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary },
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![12, 32]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![16, 32]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, 32]),
    ];
    let mut add = |name: &str, outputs: usize, inputs: Option<usize>| {
        let shape = inputs.map_or(vec![outputs], |inputs| vec![outputs, inputs]);
        shapes.extend([(format!("{name}.weight"), shape), (format!("{name}.bias"), vec![outputs])]);
    };
    add("embeddings.LayerNorm", 32, None);
    for layer in ["encoder.layer.0", "encoder.layer.1"] {
        for part in
            ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
        {
            add(&format!("{layer}.{part}"), 32, Some(32));
        }
        add(&format!("{layer}.attention.output.LayerNorm"), 32, None);
        add(&format!("{layer}.intermediate.dense"), 64, Some(32));
        add(&format!("{layer}.output.dense"), 32, Some(64));
        add(&format!("{layer}.output.LayerNorm"), 32, None);
    }
    let tensors: std::collections::HashMap<String, Tensor> =
        shapes.into_iter().map(|(name, shape)| (name.clone(), random(&name, &shape))).collect();
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    serde_json::from_value(config).unwrap()
}

#[test]
fn a_sentence_encoder_pools_the_mean_of_real_tokens_and_normalises() {
    let space = Space::new();
    let folder = space.path("encoder");
    let config = write_encoder(&folder);
    let encoder = Embedder::load(&folder, &Compute::default()).unwrap();
    let vectors = encoder.embed(&["brew glowvenom", "how to pick vaultseal", "Brew  GLOWVENOM"]).unwrap();
    // The mean over [CLS] brew glow ##venom [SEP], without the padding that the longer text brings.
    let weights = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    let plain =
        bert::BertModel::load(VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu), &config).unwrap();
    let ids = Tensor::new(&[[2u32, 4, 5, 6, 3]], &Device::Cpu).unwrap();
    let hidden = plain.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
    let mean = hidden.mean(1).unwrap().squeeze(0).unwrap().to_vec1::<f32>().unwrap();
    let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
    for (mine, theirs) in vectors[0].iter().zip(&mean) {
        assert!((mine - theirs / length).abs() < 1e-5, "{mine} instead of {}", theirs / length);
    }
    assert_eq!(vectors[0], vectors[2], "case and spaces do not count");
    let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
    assert!(cosine < 0.999, "another text is another vector");
    let long = "brew ".repeat(400);
    assert_eq!(encoder.embed(&[&long]).unwrap()[0].len(), 32, "a text beyond the positions is cut");

    // As the embedder of the diversity penalty.
    let small = include_str!("small.yaml").replace("embedder: warmup.model", "embedder: { path: encoder }");
    space.write("small.yaml", &small);
    space.run(&[]);
    let rows = space.triplay(&["data", "show", "latest:play[2]/red[2]/rewards", "--json", "--rows", "1"]).out;
    let row: serde_json::Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    let cosine = row["components"].as_array().unwrap().iter().find(|term| term["name"] == "cosine").unwrap();
    assert!(cosine["score"].as_f64().unwrap() < 0.0, "{row}");

    // Further files of sentence-transformers are understood or refused.
    let refused = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let before = fs::read(&path).ok();
        fs::write(&path, text).unwrap();
        let error = Embedder::load(&folder, &Compute::default()).err().map(|error| error.to_string());
        match before {
            Some(before) => fs::write(&path, before).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        error.unwrap_or_default()
    };
    let module = |kind: &str| format!("[{{ \"type\": \"sentence_transformers.models.{kind}\" }}]");
    assert_eq!(refused("modules.json", &module("Normalize")), "");
    assert!(refused("modules.json", &module("Dense")).contains(
        "modules.json: its modules must be among Transformer, Pooling, Normalize, found `sentence_transformers.models.Dense`"
    ));
    assert_eq!(
        refused("1_Pooling/config.json", "{\"pooling_mode_mean_tokens\": true, \"include_prompt\": true}"),
        ""
    );
    let two = "{\"pooling_mode_mean_tokens\": true, \"pooling_mode_cls_token\": true}";
    assert!(
        refused("1_Pooling/config.json", two).contains("config.json: `pooling_mode_cls_token` must be off")
    );
    assert_eq!(refused("sentence_bert_config.json", "{\"max_seq_length\": 8, \"do_lower_case\": false}"), "");
    assert!(refused("sentence_bert_config.json", "{\"max_seq_length\": ").contains("not JSON: "));
    let plain = fs::read_to_string(folder.join("config.json")).unwrap();
    let relative = plain.replacen('{', "{\"position_embedding_type\": \"relative_key\",", 1);
    assert!(
        refused("config.json", &relative)
            .contains("`position_embedding_type` must be absolute, found \"relative_key\"")
    );
    let fewer = plain.replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":1");
    assert!(refused("config.json", &fewer).contains("has the tensor `encoder.layer.1."));

    let mut tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    tensors.remove("encoder.layer.1.output.dense.weight");
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    let error = Embedder::load(&folder, &Compute::default()).err().unwrap().to_string();
    assert!(error.contains("encoder/model.safetensors: does not match its config.json: "), "{error}");
    assert!(error.contains("encoder.layer.1.output.dense.weight"), "{error}");
}
