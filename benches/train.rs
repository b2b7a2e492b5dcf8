//! Times of the work that a pipeline is made of, on the sizes of DESIGN.md section 7: a supervised step,
//! sampling, a GRPO step. Prints medians, so that two builds can be compared on one machine.
//!
//! `cargo bench --bench train`; `-- sft` times only the lines whose name begins so.

use std::time::Instant;

use rand::Rng;
use triplay::grpo::{GrpoConfig, Sample, grpo_step, supervised_step};
use triplay::model::{Algorithm, Architecture, Checkpoint, Compute, Params, Tokenizer, TokenizerSpec};
use triplay::optim::{AdamW, AdamWConfig};
use triplay::rollout::{Sampling, sample};
use triplay::store::Seed;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCABULARY: usize = 640;

type Outcome = triplay::model::Result<usize>;

/// A fresh model with `hidden` wide, four-headed layers.
fn model(hidden: usize, layers: usize) -> triplay::model::Result<Checkpoint> {
    let words = (0..VOCABULARY).map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ");
    let spec =
        TokenizerSpec { algorithm: Algorithm::WordLevel, vocab_size: VOCABULARY, special_tokens: vec![] };
    let tokenizer = Tokenizer::train(&[&words], &spec)?;
    let architecture =
        Architecture { hidden, layers, heads: 4, kv_heads: None, intermediate: None, positions: 256 };
    let config = architecture.config(tokenizer.vocab_size(), tokenizer.eos, tokenizer.pad);
    let compute = Compute::default();
    let params = Params::init(&config, Seed::from_u64(1), &compute)?;
    Ok(Checkpoint { params, config, adapter: None, tokenizer, compute })
}

/// `count` rows of `length` random words.
fn rows(count: usize, length: usize) -> Vec<Vec<u32>> {
    let mut stream = Seed::from_u64(2).stream("rows");
    (0..count).map(|_| (0..length).map(|_| stream.random_range(3..VOCABULARY as u32)).collect()).collect()
}

/// Runs `work` until three seconds have gone by, at least five times, and prints the median time, the
/// tokens per second and the best time; `work` says how many tokens it went through.
fn time(name: &str, mut work: impl FnMut() -> Outcome) -> triplay::model::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if !wanted.is_empty() && !wanted.iter().any(|prefix| name.starts_with(prefix.as_str())) {
        return Ok(());
    }
    work()?;
    let start = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < 5 || start.elapsed().as_secs_f64() < 3.0 {
        let start = Instant::now();
        let tokens = work()?;
        runs.push((start.elapsed().as_secs_f64(), tokens));
    }
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (seconds, tokens) = runs[runs.len() / 2];
    let rate = tokens as f64 / seconds;
    let (best, count) = (runs[0].0 * 1e3, runs.len());
    println!("{name:<44} {:>9.2} ms {rate:>10.0} tokens/s {best:>9.2} ms at best of {count}", seconds * 1e3);
    Ok(())
}

fn supervised(
    name: &str,
    hidden: usize,
    layers: usize,
    count: usize,
    length: usize,
) -> triplay::model::Result<()> {
    let model = model(hidden, layers)?;
    let rows = rows(count, length);
    let examples: Vec<(&[u32], &[u32])> = rows.iter().map(|row| row.split_at(1)).collect();
    let mut optimizer = AdamW::new(&model.params, AdamWConfig::default())?;
    time(name, || {
        supervised_step(&model, &mut optimizer, &examples, 1e-5, 1.0)?;
        Ok(count * length)
    })
}

fn sampling(name: &str, hidden: usize, layers: usize, prompts: &[Vec<u32>]) -> triplay::model::Result<()> {
    let model = model(hidden, layers)?;
    let sampling = Sampling { max_new_tokens: 24, ..Sampling::default() };
    time(name, || {
        let completions = sample(&model, prompts, &sampling, Seed::from_u64(3), &mut |_, _| ())?;
        Ok(completions.iter().map(|completion| completion.ids.len()).sum())
    })
}

fn grpo(name: &str, hidden: usize, layers: usize, groups: usize, group: usize) -> triplay::model::Result<()> {
    let (model, reference) = (model(hidden, layers)?, model(hidden, layers)?);
    let prompts: Vec<Vec<u32>> = rows(groups, 16).into_iter().flat_map(|row| vec![row; group]).collect();
    let sampling = Sampling { max_new_tokens: 24, ..Sampling::default() };
    let config = GrpoConfig { kl: 0.05, ..GrpoConfig::default() };
    let mut optimizer = AdamW::new(&model.params, AdamWConfig::default())?;
    time(name, || {
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
        Ok(grpo_step(&model, Some(&reference), &mut optimizer, &samples, &config)?.tokens)
    })
}

fn main() -> triplay::model::Result<()> {
    supervised("sft 0.15 M (64 wide, 2 layers), 64 x 48", 64, 2, 64, 48)?;
    supervised("sft 0.72 M (128 wide, 3 layers), 64 x 48", 128, 3, 64, 48)?;
    supervised("sft 3.57 M (256 wide, 4 layers), 64 x 64", 256, 4, 64, 64)?;
    sampling("sample 0.72 M, 64 prompts of 16, 24 new", 128, 3, &rows(64, 16))?;
    sampling("sample 0.72 M, 16 prompts x 8, 24 new", 128, 3, &vec![rows(16, 16); 8].concat())?;
    grpo("grpo 0.72 M, 8 x 8 x 24, KL, sampling too", 128, 3, 8, 8)
}
