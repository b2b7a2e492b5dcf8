//! Training steps: samples to micro-batches to gradients to new parameters.

use candle_core::{Device, Result, Tensor, Var, bail};

use super::learn::{
    Pass, PolicyOutput, Reference, Sequence, StepGuard, StepReport, Steps, accumulate, ensure_finite,
    ensure_prompts, on_cpu, take_steps, training, unguarded,
};
use super::loss::{GrpoConfig, LossType, TokenBatch, token_loss};
use super::shards::Shards;
use model::{Checkpoint, Completions};
use optim::{AdamW, clip};

/// A sampled completion with its advantage.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Token ids of the prompt, which must not be empty.
    pub prompt: Vec<u32>,
    /// Token ids of the completion; nothing is learnt from an empty one.
    pub completion: Vec<u32>,
    /// Relative to the completions of its group.
    pub advantage: f64,
    /// Log-probability of each completion token under the policy that sampled it.
    pub old_logprobs: Vec<f32>,
    /// Whether it ended by itself, before its longest length.
    pub finished: bool,
}

/// Takes `num_iterations` GRPO steps of `policy` on the samples; returns the report of the last. The divergence from the
/// reference is measured if there is one.
pub fn grpo_step(
    policy: &Checkpoint,
    reference: Option<&Checkpoint>,
    optimizer: &mut AdamW,
    samples: &[Sample],
    grpo: &GrpoConfig,
) -> Result<StepReport> {
    unguarded(grpo.num_iterations, |passes| guarded_step(policy, reference, optimizer, samples, grpo, passes))
}

/// The same, but takes each step only if its report passes; the first report is of the model as given. Returns the last
/// report. If that did not pass, the policy must not be used as a result.
pub fn guarded_step(
    policy: &Checkpoint,
    reference: Option<&Checkpoint>,
    optimizer: &mut AdamW,
    samples: &[Sample],
    grpo: &GrpoConfig,
    passes: &mut StepGuard,
) -> Result<StepReport> {
    let samples: Vec<&Sample> = samples.iter().filter(|sample| !sample.completion.is_empty()).collect();
    if samples.is_empty() {
        bail!("there is no completion to learn from");
    }
    ensure_prompts(samples.iter().map(|sample| &sample.prompt[..]))?;
    let on_samples = |reference| Reference::of(reference, &sequences(&samples), grpo.micro_batch);
    let reference = reference.map(on_samples).transpose()?.unwrap_or_default();
    let steps = Steps { num_iterations: grpo.num_iterations, max_grad_norm: grpo.max_grad_norm, lr: grpo.lr };
    take_steps(policy, optimizer, &steps, || gradients(policy, &reference, &samples, grpo), passes)
}

fn sequences<'a>(samples: &[&'a Sample]) -> Vec<Sequence<'a>> {
    samples.iter().map(|sample| (&sample.prompt[..], &sample.completion[..])).collect()
}

/// The gradient of the loss for each parameter in name order, over all micro-batches.
pub fn gradients(
    policy: &Checkpoint,
    reference: &Reference,
    samples: &[&Sample],
    grpo: &GrpoConfig,
) -> Result<(Vec<Tensor>, StepReport)> {
    let normalizer = LossNormalizer::of(samples, grpo);
    let pass = Pass {
        temperature: grpo.temperature(),
        unit_size: 1,
        micro_batch: grpo.micro_batch,
        gradient_checkpointing: grpo.gradient_checkpointing,
    };
    let loss = |rows: &[usize], output: &PolicyOutput| {
        let micro: Vec<&Sample> = rows.iter().map(|&row| samples[row]).collect();
        let per_token = |value: &dyn Fn(&Sample) -> f64| -> Vec<f32> {
            let of = |sample: &&Sample| std::iter::repeat_n(value(sample) as f32, sample.completion.len());
            micro.iter().flat_map(of).collect()
        };
        let tokens = TokenBatch {
            old: micro.iter().flat_map(|sample| sample.old_logprobs.iter().copied()).collect(),
            reference: output.reference.clone(),
            advantages: per_token(&|sample| sample.advantage),
            weights: per_token(&|sample| normalizer.token_weight(sample, grpo)),
            lengths: micro.iter().map(|sample| sample.completion.len()).collect(),
        };
        // candle differentiates the loss by the log-probabilities; the decoder's own graph continues from there.
        let logprobs = Var::from_tensor(&output.logprobs)?;
        let loss = token_loss(logprobs.as_tensor(), &tokens, grpo)?;
        let entropies = &output.entropies;
        // The weight of each token's entropy in the loss: −coefficient / number of tokens that count.
        let bonus = per_token(&|sample| match left_out(sample, grpo) {
            true => 0.0,
            false => -grpo.entropy_coef / normalizer.tokens.max(1) as f64,
        });
        let rewarded: f64 = bonus.iter().zip(entropies).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let report = StepReport {
            loss: f64::from(loss.loss.to_scalar::<f32>()?) + rewarded,
            kl: output.kl.unwrap_or(loss.kl),
            entropy: entropies.iter().copied().map(f64::from).sum::<f64>(),
            clipped: loss.clipped as f64,
            tokens: tokens.old.len(),
            ..StepReport::default()
        };
        let Some(gradient) = loss.loss.backward()?.remove(&logprobs) else {
            bail!("the loss has no gradient: the micro-batch has no completion")
        };
        Ok((Tensor::stack(&[gradient, Tensor::new(bonus, &Device::Cpu)?], 0)?, report))
    };
    let (gradients, reports) = accumulate(policy, &sequences(samples), reference, &pass, loss)?;
    let total = |value: fn(&StepReport) -> f64| reports.iter().map(value).sum::<f64>();
    let tokens = reports.iter().map(|report| report.tokens).sum::<usize>();
    let mean = |value| total(value) / tokens.max(1) as f64;
    let report = StepReport {
        loss: total(|report| report.loss),
        kl: mean(|report| report.kl),
        entropy: mean(|report| report.entropy),
        clipped: mean(|report| report.clipped),
        tokens,
        ..StepReport::default()
    };
    Ok((gradients, report))
}

/// The divisors of averages over all micro-batches.
struct LossNormalizer {
    completions: usize,
    tokens: usize,
    longest: usize,
}

impl LossNormalizer {
    fn of(samples: &[&Sample], grpo: &GrpoConfig) -> LossNormalizer {
        let lengths = || samples.iter().map(|sample| sample.completion.len());
        let counted = samples.iter().filter(|sample| !left_out(sample, grpo));
        LossNormalizer {
            completions: samples.len(),
            tokens: counted.map(|sample| sample.completion.len()).sum(),
            longest: grpo.max_completion_length.unwrap_or_else(|| lengths().max().unwrap_or(1)),
        }
    }

    /// The weight of each token of a sample: the weighted sum over all tokens is the loss.
    fn token_weight(&self, sample: &Sample, grpo: &GrpoConfig) -> f64 {
        let divisor = match grpo.loss_type {
            LossType::Grpo => self.completions * sample.completion.len(),
            LossType::DrGrpo => self.completions * self.longest,
            LossType::Dapo | LossType::Bnpo | LossType::Cispo => self.tokens,
        };
        if left_out(sample, grpo) { 0.0 } else { 1.0 / divisor.max(1) as f64 }
    }
}

fn left_out(sample: &Sample, grpo: &GrpoConfig) -> bool {
    grpo.mask_truncated_completions && !sample.finished
}

/// Settings of a supervised step.
#[derive(Clone, Debug)]
pub struct SupervisedConfig {
    /// The learning rate of this step.
    pub lr: f64,
    /// Gradients with a greater norm are scaled down to this one.
    pub max_grad_norm: f64,
    /// Examples that are differentiated at the same time; bounds memory.
    pub micro_batch: usize,
    /// Keep only the hidden states between blocks and recompute the rest.
    pub gradient_checkpointing: bool,
}

impl Default for SupervisedConfig {
    fn default() -> Self {
        SupervisedConfig { lr: 1e-5, max_grad_norm: 1.0, micro_batch: 256, gradient_checkpointing: false }
    }
}

/// Takes one step on prompts and their target completions.
pub fn supervised_step(
    policy: &Checkpoint,
    optimizer: &mut AdamW,
    examples: &[(&[u32], &[u32])],
    config: &SupervisedConfig,
) -> Result<StepReport> {
    let (mut gradients, report) = supervised_gradients(policy, examples, config)?;
    let report = StepReport { grad_norm: clip(&mut gradients, config.max_grad_norm)?, ..report };
    ensure_finite(&report)?;
    optimizer.step(policy.trained(), &gradients, config.lr)?;
    Ok(report)
}

/// The gradient of the mean negative log-likelihood of all completion tokens, for each parameter in name
/// order.
pub fn supervised_gradients(
    policy: &Checkpoint,
    examples: &[(&[u32], &[u32])],
    config: &SupervisedConfig,
) -> Result<(Vec<Tensor>, StepReport)> {
    ensure_prompts(examples.iter().map(|(prompt, _)| *prompt))?;
    let tokens: usize = examples.iter().map(|(_, completion)| completion.len()).sum();
    let token_weight = -1.0 / tokens as f32;
    let decoder = training(policy, config.gradient_checkpointing, &Reference::None)?;
    let shards = Shards::new(&policy.compute, examples, 1, config.micro_batch, policy.trained().bytes());
    let (sum, totals) = shards.accumulate(|rows, sum| {
        let examples: Vec<Sequence> = rows.iter().map(|&row| examples[row]).collect();
        let scored = decoder.token_log_probabilities(&Completions::new(&examples)?, 1.0)?;
        let tokens = scored.tensor().dim(1)?;
        let totals = on_cpu(&scored.tensor().sum(1)?)?.to_vec1::<f32>()?;
        let gradient = (0..2 * tokens).map(|at| if at < tokens { token_weight } else { 0.0 }).collect();
        let like = scored.tensor();
        let gradient = Tensor::from_vec::<_, f32>(gradient, (2, tokens), &Device::Cpu)?;
        let gradient = gradient.to_device(like.device())?.to_dtype(like.dtype())?;
        scored.backward(gradient, sum)?;
        Ok((f64::from(totals[0]), f64::from(totals[1])))
    })?;
    let report = StepReport {
        loss: -totals.iter().map(|total| total.0).sum::<f64>() / tokens as f64,
        entropy: totals.iter().map(|total| total.1).sum::<f64>() / tokens as f64,
        tokens,
        ..StepReport::default()
    };
    Ok((decoder.gradients(sum)?, report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use model::{Compute, LoraConfig, Purpose};
    use optim::AdamWConfig;
    use rollout::{Sampling, sample};
    use store::Seed;

    fn model() -> Checkpoint {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/qwen3-tiny");
        Checkpoint::load(folder.as_ref(), &Compute::default()).unwrap()
    }

    /// Samples, trains on the samples and returns all completions and parameters, as bits.
    fn sampled_and_learnt(threads: usize) -> (Vec<Vec<u32>>, Vec<u32>) {
        let work = || {
            let (model, reference) = (model(), model());
            let prompts: Vec<Vec<u32>> = (0..48).map(|row| (3..7 + row / 4 % 5 * 7).collect()).collect();
            let sampling = Sampling { max_new_tokens: 16, ..Sampling::default() };
            let completions = sample(&model, &prompts, &sampling, Seed::from_u64(1), &mut |_, _| ()).unwrap();
            let samples: Vec<Sample> = prompts
                .into_iter()
                .zip(completions)
                .enumerate()
                .map(|(row, (prompt, completion))| Sample {
                    prompt,
                    completion: completion.ids,
                    advantage: (row % 4) as f64 - 1.5,
                    old_logprobs: completion.logprobs,
                    finished: completion.finished,
                })
                .collect();
            let config = GrpoConfig { kl: 0.1, num_iterations: 2, lr: 1e-3, ..GrpoConfig::default() };
            let mut optimizer = AdamW::new(&model.params, AdamWConfig::default()).unwrap();
            grpo_step(&model, Some(&reference), &mut optimizer, &samples, &config).unwrap();
            let numbers =
                model.params.iter().flat_map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            (
                samples.into_iter().map(|sample| sample.completion).collect(),
                numbers.map(f32::to_bits).collect(),
            )
        };
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
    }

    #[test]
    fn samples_and_trained_parameters_do_not_depend_on_the_number_of_threads() {
        let alone = sampled_and_learnt(1);
        assert_eq!(alone, sampled_and_learnt(2));
        assert_eq!(alone, sampled_and_learnt(3));
        let before: Vec<u32> = model()
            .params
            .iter()
            .flat_map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            .map(f32::to_bits)
            .collect();
        assert_ne!(alone.1, before);
    }

    #[test]
    fn the_divergence_that_is_reported_is_of_the_whole_distributions() {
        let (policy, other) = (model(), model());
        for (_, var) in other.params.iter().filter(|(name, _)| name.ends_with("norm.weight")) {
            let louder = (var.as_detached_tensor() * 1.3).unwrap();
            var.set(&louder).unwrap();
        }
        let samples: Vec<Sample> = (0..6usize)
            .map(|row| Sample {
                prompt: (3..9 + row as u32).collect(),
                completion: (40..43 + 2 * row as u32).collect(),
                advantage: row as f64 - 2.5,
                old_logprobs: vec![-1.0; 3 + 2 * row],
                finished: true,
            })
            .collect();
        let samples: Vec<&Sample> = samples.iter().collect();
        let kl = |reference: &Checkpoint, micro_batch| {
            let config = GrpoConfig { kl: 0.1, micro_batch, ..GrpoConfig::default() };
            let reference = Reference::of(reference, &sequences(&samples), micro_batch).unwrap();
            gradients(&policy, &reference, &samples, &config).unwrap().1.kl
        };
        assert!(kl(&policy, 256) < 1e-7);
        // Σ p (log p − log q) over the vocabulary, at each position that predicts a token of a completion.
        let log_softmax = |of: &Checkpoint, sample: &Sample| {
            let decoder = of.decoder(Purpose::Scoring).unwrap();
            let hidden = decoder.predicting(&Completions::new(&sequences(&[sample])).unwrap()).unwrap();
            let logits = decoder.logits(&hidden).unwrap().to_dtype(DType::F64).unwrap();
            let total = logits.exp().unwrap().sum_keepdim(1).unwrap().log().unwrap();
            logits.broadcast_sub(&total).unwrap()
        };
        let mut all: Vec<f64> = Vec::new();
        for sample in &samples {
            let (p, q) = (log_softmax(&policy, sample), log_softmax(&other, sample));
            let apart = (p.exp().unwrap() * (&p - &q).unwrap()).unwrap().sum(1).unwrap();
            all.extend(apart.to_vec1::<f64>().unwrap());
        }
        let expected = all.iter().sum::<f64>() / all.len() as f64;
        assert!(expected > 1e-3, "{expected}");
        for micro_batch in [256, 1] {
            let found = kl(&other, micro_batch);
            assert!((found - expected).abs() < 1e-5 * (1.0 + expected), "{found} {expected}");
        }
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    /// The largest difference of two lists of tensors, relative to the norm of all.
    fn deviation(a: &[Tensor], b: &[Tensor]) -> f64 {
        let [a, b] = [a, b].map(|all| all.iter().flat_map(numbers).collect::<Vec<f64>>());
        assert_eq!(a.len(), b.len());
        let largest = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        largest / b.iter().map(|b| b * b).sum::<f64>().sqrt()
    }

    #[test]
    fn a_prompt_that_is_computed_once_for_its_completions_gives_what_separate_rows_give() {
        // Groups whose completions come in turns, one without a partner, completions of one token; keys of fewer heads than
        // queries, all weights or an adapter.
        let prompts: [Vec<u32>; 3] = [(3..23).collect(), (30..35).collect(), vec![9]];
        let samples: Vec<Sample> = [0, 1, 0, 2, 1, 0, 0]
            .into_iter()
            .enumerate()
            .map(|(row, prompt)| Sample {
                prompt: prompts[prompt].clone(),
                completion: (40..41 + 5 * (row as u32 % 4)).collect(),
                advantage: row as f64 - 2.5,
                old_logprobs: vec![-4.0; 1 + 5 * (row % 4)],
                finished: true,
            })
            .collect();
        let samples: Vec<&Sample> = samples.iter().collect();
        let sequences = sequences(&samples);
        for (model, lora) in [("qwen3-tiny", false), ("llama-tiny", false), ("llama-tiny", true)] {
            let folder = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/{}"), model);
            let folder = std::path::Path::new(&folder);
            for dtype in [DType::F32, DType::F64] {
                let base = Checkpoint::load(folder, &Compute { dtype, ..Compute::default() }).unwrap();
                let target_modules = vec!["q_proj".into(), "v_proj".into(), "down_proj".into()];
                let lora = lora.then_some(LoraConfig { rank: 4, alpha: None, target_modules });
                let policy = base.to_train(lora.as_ref(), Seed::from_u64(1)).unwrap();
                for (_, var) in policy.trained().iter() {
                    // B of a new adapter is 0, and then the gradient of A too.
                    var.set(&(var.as_detached_tensor() + 0.01).unwrap()).unwrap();
                }
                let decoder = policy.decoder(Purpose::Scoring).unwrap();
                let scored = |rows: &[(&[u32], &[u32])]| {
                    let completions = Completions::new(rows).unwrap();
                    decoder.token_log_probabilities(&completions, 0.8).unwrap().tensor().clone()
                };
                let together = Completions::new(&sequences).unwrap();
                let prompt_tokens: usize = prompts.iter().map(Vec::len).sum();
                assert_eq!(together.tokens(), prompt_tokens + together.targets().len());
                let alone: Vec<Tensor> = sequences.iter().map(|sequence| scored(&[*sequence])).collect();
                let alone = Tensor::cat(&alone, 1).unwrap();
                assert!(deviation(&[scored(&sequences)], &[alone]) < 1e-6);
                for checkpointing in [false, true] {
                    let of = |micro_batch| {
                        let config = GrpoConfig {
                            kl: 0.1,
                            micro_batch,
                            gradient_checkpointing: checkpointing,
                            ..GrpoConfig::default()
                        };
                        let reference = Reference::of(&base, &sequences, micro_batch).unwrap();
                        gradients(&policy, &reference, &samples, &config).unwrap()
                    };
                    let (together, separate) = (of(256), of(1));
                    let found = deviation(&together.0, &separate.0);
                    assert!(found < 1e-6, "{model}: gradients differ by {found}");
                    assert!((together.1.loss - separate.1.loss).abs() < 1e-5);
                    assert!((together.1.kl - separate.1.kl).abs() < 1e-5);
                    let of = |micro_batch| {
                        let config = SupervisedConfig {
                            micro_batch,
                            gradient_checkpointing: checkpointing,
                            ..SupervisedConfig::default()
                        };
                        supervised_gradients(&policy, &sequences, &config).unwrap().0
                    };
                    let found = deviation(&of(256), &of(1));
                    assert!(found < 1e-6, "{model}: gradients of a supervised step differ by {found}");
                }
            }
        }
    }

    #[test]
    fn a_sample_without_a_prompt_is_an_error() {
        let model = model();
        let examples: [(&[u32], &[u32]); 2] = [(&[1, 2], &[3]), (&[], &[4, 5])];
        let error =
            supervised_gradients(&model, &examples, &SupervisedConfig::default()).err().unwrap().to_string();
        assert!(error.contains("row 1 has an empty prompt: a prediction needs a token before it"), "{error}");
    }
}
