//! Times of the work that a pipeline is made of: a supervised step, sampling, a GRPO step, beside what the
//! processor can do at the most. Prints medians, so that two builds can be compared on one machine;
//! `benches/peers/train.py` does the same work in PyTorch, transformers and TRL.
//!
//! `cargo bench --bench train`; `-- sft` times only the lines whose name begins so.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rayon::prelude::*;
use triplay::grpo::{GrpoConfig, Sample, SupervisedConfig, grpo_step, supervised_step};
use triplay::model::{
    Algorithm, Architecture, Checkpoint, Compute, LoraConfig, Params, Tokenizer, TokenizerSpec,
};
use triplay::ops::{Value, configure_candle, linear};
use triplay::optim::{AdamW, AdamWConfig};
use triplay::rollout::{Sampling, sample};
use triplay::store::Seed;

/// As in the program.
#[path = "../src/allocator.rs"]
mod allocator;

const VOCABULARY: usize = 640;

/// A fresh model with `hidden` wide, four-headed layers.
fn model(hidden: usize, layers: usize) -> triplay::model::Result<Checkpoint> {
    let architecture =
        Architecture { hidden, layers, heads: 4, kv_heads: None, intermediate: None, positions: 256 };
    fresh(&architecture, VOCABULARY)
}

/// A fresh model whose embedding has `vocabulary` rows.
fn fresh(architecture: &Architecture, vocabulary: usize) -> triplay::model::Result<Checkpoint> {
    let words = (0..VOCABULARY).map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ");
    let spec =
        TokenizerSpec { algorithm: Algorithm::WordLevel, vocab_size: VOCABULARY, special_tokens: vec![] };
    let tokenizer = Tokenizer::train(&[&words], &spec)?;
    let config = architecture.config(vocabulary, tokenizer.eos, tokenizer.pad);
    let compute = Compute::default();
    let params = Params::init(&config, Seed::from_u64(1), &compute)?;
    Ok(Checkpoint { params, config, adapter: None, tokenizer, compute })
}

/// `count` rows of `length` random words.
fn rows(count: usize, length: usize) -> Vec<Vec<u32>> {
    let mut stream = Seed::from_u64(2).stream("rows");
    (0..count).map(|_| (0..length).map(|_| stream.random_range(3..VOCABULARY as u32)).collect()).collect()
}

/// A model of the bench, by its width and depth.
#[derive(Clone, Copy)]
struct Size {
    hidden: usize,
    layers: usize,
}

impl Size {
    /// Operations that its matrix products and attention need at the least, forward: `rows` rows of which `from`
    /// tokens are there already and those up to `to` are read, with logits after the last `logits` of them.
    fn forward(self, rows: usize, from: usize, to: usize, logits: usize) -> f64 {
        let (hidden, all) = (self.hidden as f64, (to - from) as f64);
        // Of the last layer only keys and values count where no logits are wanted.
        let (keys, rest) = (2.0 * hidden * hidden, 11.0 * hidden * hidden);
        let layers = self.layers as f64;
        let products = all * layers * keys + (all * (layers - 1.0) + logits as f64) * rest;
        let attention = layers * hidden * (to * to - from * from) as f64;
        2.0 * rows as f64 * (products + attention + (logits * VOCABULARY) as f64 * hidden)
    }

    /// And for its gradient, twice as many again.
    fn training(self, rows: usize, from: usize, to: usize) -> f64 {
        3.0 * self.forward(rows, 0, to, to - from)
    }

    /// Prompts of 16 tokens, each read once, and `rows` completions of 24.
    fn sampling(self, prompts: usize, rows: usize) -> f64 {
        self.forward(prompts, 0, PROMPT, 1) + self.forward(rows, PROMPT, PROMPT + NEW - 1, NEW - 1)
    }
}

const PROMPT: usize = 16;
const NEW: usize = 24;

/// Whether the command line asks for a line of this name.
fn wanted(name: &str) -> bool {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    wanted.is_empty() || wanted.iter().any(|prefix| name.starts_with(prefix.as_str()))
}

/// Seconds of `work`, sorted: for three seconds, at least five times, or three times where that takes half a minute.
fn seconds<T>(mut work: impl FnMut() -> triplay::model::Result<T>) -> triplay::model::Result<Vec<f64>> {
    work()?;
    let (start, mut runs) = (Instant::now(), Vec::new());
    while runs.len() < 5 || start.elapsed().as_secs_f64() < 3.0 {
        if runs.len() >= 3 && start.elapsed().as_secs_f64() > 30.0 {
            break;
        }
        let start = Instant::now();
        work()?;
        runs.push(start.elapsed().as_secs_f64());
    }
    runs.sort_by(f64::total_cmp);
    Ok(runs)
}

/// Prints the median time of `work`, tokens and operations per second, and the best time.
fn time<T>(
    name: &str,
    tokens: usize,
    operations: f64,
    work: impl FnMut() -> triplay::model::Result<T>,
) -> triplay::model::Result<()> {
    if !wanted(name) {
        return Ok(());
    }
    let runs = seconds(work)?;
    let median = runs[runs.len() / 2];
    println!(
        "{name:<42} {:>8.2} ms {:>9.0} tokens/s {:>5.0} GFLOP/s {:>9.2} ms at best of {}",
        median * 1e3,
        tokens as f64 / median,
        operations / median / 1e9,
        runs[0] * 1e3,
        runs.len()
    );
    Ok(())
}

/// What the processor can do: the largest of what candle's and our products reach, and how fast memory is
/// copied.
fn ceilings() -> triplay::model::Result<()> {
    if !wanted("ceilings") {
        return Ok(());
    }
    const WIDE: usize = 1024;
    let ones = Tensor::ones((WIDE, WIDE), DType::F32, &Device::Cpu)?;
    let operations = 2.0 * (WIDE as f64).powi(3);
    let theirs = seconds(|| Ok(ones.matmul(&ones)?))?;
    let value = Value::constant(ones);
    let ours = seconds(|| Ok(linear(&value, &value)?))?;
    let [theirs, ours] =
        [theirs, ours].map(|runs| (operations / runs[runs.len() / 2] / 1e9, operations / runs[0] / 1e9));
    println!(
        "{:<42} {:>35.0} GFLOP/s {:>9.0} at best",
        "product of 1024 x 1024, candle (gemm)", theirs.0, theirs.1
    );
    println!("{:<42} {:>35.0} GFLOP/s {:>9.0} at best", "the same, ours", ours.0, ours.1);
    let show = |name: &str, bytes: usize, runs: Vec<f64>| {
        let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
        let (median, best) = (rate(runs[runs.len() / 2]), rate(runs[0]));
        println!("{name:<42} {median:>35.1} GB/s    {best:>9.1} at best");
    };
    let (from, mut to) = (vec![1u32; 64 << 20], vec![0u32; 64 << 20]);
    let copies = seconds(|| {
        let blocks = to.par_chunks_mut(1 << 20).zip(from.par_chunks(1 << 20));
        blocks.for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    })?;
    show("copying 256 MiB, read and written", 8 * from.len(), copies);
    // Beyond the second-level cache of a core, within the third.
    let (near, times) = (4 << 18, 64);
    let reads = seconds(|| {
        let sum = |block: &[u32]| block.iter().fold(0, |sum: u32, number| sum.wrapping_add(*number));
        let of_thread = |block: &[u32]| (0..times).map(|_| sum(std::hint::black_box(block))).max();
        Ok(from.par_chunks(near).take(rayon::current_num_threads()).map(of_thread).max())
    })?;
    show("reading 4 MiB a thread, again and again", 4 * near * times * rayon::current_num_threads(), reads);
    Ok(())
}

fn supervised(name: &str, size: Size, count: usize, length: usize) -> triplay::model::Result<()> {
    let model = model(size.hidden, size.layers)?;
    let rows = rows(count, length);
    let examples: Vec<(&[u32], &[u32])> = rows.iter().map(|row| row.split_at(1)).collect();
    let mut optimizer = AdamW::new(&model.params, AdamWConfig::default())?;
    let config = SupervisedConfig::default();
    time(name, count * length, size.training(count, 1, length), || {
        Ok(supervised_step(&model, &mut optimizer, &examples, &config)?)
    })
}

fn sampling(name: &str, size: Size, groups: usize, group: usize) -> triplay::model::Result<()> {
    let model = model(size.hidden, size.layers)?;
    let prompts = vec![rows(groups, PROMPT); group].concat();
    let sampling = Sampling { max_new_tokens: NEW, ..Sampling::default() };
    time(name, groups * group * NEW, size.sampling(groups, groups * group), || {
        sample(&model, &prompts, &sampling, Seed::from_u64(3), &mut |_, _| ())
    })
}

fn grpo(name: &str, size: Size, groups: usize, group: usize) -> triplay::model::Result<()> {
    let (model, reference) = (model(size.hidden, size.layers)?, model(size.hidden, size.layers)?);
    let prompts: Vec<Vec<u32>> = rows(groups, PROMPT).into_iter().flat_map(|row| vec![row; group]).collect();
    let sampling = Sampling { max_new_tokens: NEW, ..Sampling::default() };
    let config = GrpoConfig { kl: 0.05, ..GrpoConfig::default() };
    let mut optimizer = AdamW::new(&model.params, AdamWConfig::default())?;
    let (count, whole) = (groups * group, PROMPT + NEW);
    let operations = size.sampling(groups, count)
        + size.forward(count, 0, whole, NEW)
        + size.training(count, PROMPT, whole);
    time(name, count * NEW, operations, || {
        let completions = sample(&model, &prompts, &sampling, Seed::from_u64(3), &mut |_, _| ())?;
        let samples: Vec<Sample> = prompts
            .iter()
            .zip(completions)
            .enumerate()
            .map(|(index, (prompt, completion))| Sample {
                prompt: prompt.clone(),
                completion: completion.ids,
                advantage: if index % 2 == 0 { 1.0 } else { -1.0 },
                old_logprobs: completion.logprobs,
                finished: completion.finished,
            })
            .collect();
        Ok(grpo_step(&model, Some(&reference), &mut optimizer, &samples, &config)?)
    })
}

/// One update of an adapter on all modules of a model with the shape of SmolLM2-135M: prompts of 200 tokens, completions of 48,
/// and a KL penalty.
fn update(name: &str, groups: usize, group: usize) -> triplay::model::Result<()> {
    if !wanted(name) {
        return Ok(());
    }
    const VOCABULARY: usize = 49_152;
    let (hidden, layers, heads, kv_heads, intermediate) = (576, 30, 9, 3, 1536);
    let architecture = Architecture {
        hidden,
        layers,
        heads,
        kv_heads: Some(kv_heads),
        intermediate: Some(intermediate),
        positions: 8192,
    };
    let modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let lora = LoraConfig { rank: 16, alpha: None, target_modules: modules.map(str::to_owned).into() };
    let reference = fresh(&architecture, VOCABULARY)?;
    let policy = reference.to_train(Some(&lora), Seed::from_u64(4))?;
    let (prompts, completions) = (rows(groups, 200), rows(groups * group, 48));
    let samples: Vec<Sample> = completions
        .into_iter()
        .enumerate()
        .map(|(index, completion)| Sample {
            prompt: prompts[index / group].clone(),
            old_logprobs: vec![-(VOCABULARY as f32).ln(); completion.len()],
            completion,
            advantage: if index % 2 == 0 { 1.0 } else { -1.0 },
            finished: true,
        })
        .collect();
    let (scored, read) = (groups * group * 48, groups * (200 + group * 48));
    // Products with the weights, forward for both models and backward to the states; and those of the adapter, thrice.
    let of_layer = 2 * hidden * (hidden + hidden * kv_heads / heads) + 3 * hidden * intermediate;
    let weights = read * layers * of_layer + scored * VOCABULARY * hidden;
    let operations = 6.0 * (weights + read * policy.trained().bytes() / 4) as f64;
    let config = GrpoConfig { kl: 0.05, ..GrpoConfig::default() };
    let mut optimizer = AdamW::new(policy.trained(), AdamWConfig::default())?;
    time(name, scored, operations, || {
        Ok(grpo_step(&policy, Some(&reference), &mut optimizer, &samples, &config)?)
    })
}

fn main() -> triplay::model::Result<()> {
    configure_candle();
    let [small, middle, large] =
        [(64, 2), (128, 3), (256, 4)].map(|(hidden, layers)| Size { hidden, layers });
    ceilings()?;
    supervised("sft 0.15 M (64 wide, 2 layers), 64 x 48", small, 64, 48)?;
    supervised("sft 0.72 M (128 wide, 3 layers), 64 x 48", middle, 64, 48)?;
    supervised("sft 3.57 M (256 wide, 4 layers), 64 x 64", large, 64, 64)?;
    sampling("sample 0.72 M, 64 prompts of 16, 24 new", middle, 64, 1)?;
    sampling("sample 0.72 M, 16 prompts x 8, 24 new", middle, 16, 8)?;
    grpo("grpo 0.72 M, 8 x 8 x 24, KL, sampling too", middle, 8, 8)?;
    update("update 135 M, LoRA, 8 x 4 x 48, KL", 8, 4)
}
