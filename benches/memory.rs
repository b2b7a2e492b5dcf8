//! Peak memory of a GRPO step where a tensor of [tokens, vocabulary] would be the largest by far: Qwen3's
//! vocabulary of 151,936, a policy of 2 layers 256 wide, its reference, 16 completions of 256 tokens.
//!
//! `cargo bench --bench memory`

use std::time::Instant;

use rand::Rng;
use triplay::grpo::{GrpoConfig, Sample, grpo_step};
use triplay::model::{Architecture, Checkpoint, Compute, Params, Tokenizer};
use triplay::optim::{AdamW, AdamWConfig};
use triplay::store::Seed;

/// As in the program.
#[path = "../src/allocator.rs"]
mod allocator;

const VOCABULARY: usize = 151_936;
const ROWS: usize = 16;
const PROMPT: usize = 16;
const COMPLETION: usize = 256;

/// Mebibytes that the process has held at the most, or holds now.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kibibytes.unwrap_or(f64::NAN) / 1024.0
}

fn main() -> triplay::model::Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen3-tiny");
    let tokenizer = Tokenizer::load(folder.as_ref(), None)?;
    let architecture =
        Architecture { hidden: 256, layers: 2, heads: 4, kv_heads: None, intermediate: None, positions: 512 };
    let config = architecture.config(VOCABULARY, tokenizer.eos, tokenizer.pad);
    let compute = Compute::default();
    let model = |seed| -> triplay::model::Result<Checkpoint> {
        let params = Params::init(&config, Seed::from_u64(seed), &compute)?;
        Ok(Checkpoint {
            params,
            config: config.clone(),
            adapter: None,
            tokenizer: tokenizer.clone(),
            compute: compute.clone(),
        })
    };
    let (policy, reference) = (model(1)?, model(2)?);
    let mut optimizer = AdamW::new(&policy.params, AdamWConfig::default())?;
    let mut stream = Seed::from_u64(3).stream("tokens");
    let mut tokens = |count: usize| (0..count).map(|_| stream.random_range(0..VOCABULARY as u32)).collect();
    let samples: Vec<Sample> = (0..ROWS)
        .map(|row| Sample {
            prompt: tokens(PROMPT),
            completion: tokens(COMPLETION),
            advantage: if row % 2 == 0 { 1.0 } else { -1.0 },
            old_logprobs: vec![-12.0; COMPLETION],
            finished: true,
        })
        .collect();
    let mebibytes = |count: usize| count as f64 * 4.0 / 1_048_576.0;
    let count: usize = policy.params.iter().map(|(_, var)| var.elem_count()).sum();
    println!("{:<58} {:>7.0} MiB", "weights of the policy", mebibytes(count));
    println!(
        "{:<58} {:>7.0} MiB",
        "policy, reference, gradients, two moments: five times that",
        mebibytes(5 * count)
    );
    println!(
        "{:<58} {:>7.0} MiB",
        "one [tokens, vocabulary] tensor would be",
        mebibytes(ROWS * COMPLETION * VOCABULARY)
    );
    println!("{:<58} {:>7.0} MiB", "held before the step", memory("VmRSS"));
    let start = Instant::now();
    let grpo = GrpoConfig { kl: 0.05, ..GrpoConfig::default() };
    grpo_step(&policy, Some(&reference), &mut optimizer, &samples, &grpo)?;
    println!("{:<58} {:>7.0} MiB", "held at the most", memory("VmHWM"));
    println!("{:<58} {:>7.2} s", "the step took", start.elapsed().as_secs_f64());
    Ok(())
}
