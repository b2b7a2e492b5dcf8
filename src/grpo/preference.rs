//! The losses on pairs, DPO and IPO, as TRL 1.16 computes them, and their step.

use candle_core::{Device, Result, Tensor, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::learn::{
    PairReport, Pass, PolicyOutput, Reference, Sequence, StepGuard, StepReport, Steps, accumulate,
    ensure_prompts, take_steps,
};
use model::Checkpoint;
use optim::{AdamW, AdamWConfig};

/// Two completions of one prompt, as token ids.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Token ids of the prompt, which must not be empty.
    pub prompt: Vec<u32>,
    /// The better one.
    pub chosen: Vec<u32>,
    /// The worse one.
    pub rejected: Vec<u32>,
}

/// The loss of a pair, a function of how much more the policy prefers the chosen completion than its reference does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairLoss {
    /// Direct preference optimization (Rafailov et al. 2023).
    Dpo,
    /// Identity preference optimization (Azar et al. 2023).
    Ipo,
}

/// How DPO treats labels that may be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// −(1 − ε) log σ(z) − ε log σ(−z), with `label_smoothing` as ε: conservative DPO (Mitchell 2023).
    #[default]
    Sigmoid,
    /// (−(1 − ε) log σ(z) + ε log σ(−z)) / (1 − 2ε): an unbiased estimate of the loss on correct labels if a share ε of them is
    /// wrong (Ray Chowdhury et al. 2024).
    Robust,
}

/// Parameters of a step on pairs; defaults as in TRL where TRL has them. Log-probabilities are taken at temperature 1.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceConfig {
    /// The learning rate.
    pub lr: f64,
    /// β of DPO, τ of IPO: the greater, the closer the policy stays to the reference.
    pub beta: f64,
    /// For `dpo`: how labels that may be wrong are treated.
    pub loss_type: DpoLoss,
    /// For `dpo`: ε, the probability that the label of a pair is wrong, at least 0 and below 0.5.
    pub label_smoothing: f64,
    /// Steps over the same pairs.
    pub num_iterations: usize,
    /// Gradients with a greater norm are scaled down to this one.
    pub max_grad_norm: f64,
    /// Pairs that are differentiated at the same time; bounds memory.
    pub micro_batch: usize,
    /// Keep only the hidden states between blocks and recompute the rest: less memory for a third more time.
    pub gradient_checkpointing: bool,
    /// Settings of AdamW.
    pub optimizer: AdamWConfig,
}

impl Default for PreferenceConfig {
    fn default() -> Self {
        PreferenceConfig {
            lr: 1e-6,
            beta: 0.1,
            loss_type: DpoLoss::default(),
            label_smoothing: 0.0,
            num_iterations: 1,
            max_grad_norm: 1.0,
            micro_batch: 128,
            gradient_checkpointing: false,
            optimizer: AdamWConfig::default(),
        }
    }
}

impl PreferenceConfig {
    /// Checks ranges for this loss. The error names the key, the rule and what was found.
    pub fn check(&self, loss: PairLoss) -> std::result::Result<(), String> {
        // NaN is not above 0.
        let is_above_0 = |value: f64| value > 0.0 && value.is_finite();
        let positive = [("lr", self.lr), ("beta", self.beta), ("max_grad_norm", self.max_grad_norm)];
        if let Some((name, value)) = positive.into_iter().find(|(_, value)| !is_above_0(*value)) {
            return Err(format!("`{name}` must be above 0, found {value}"));
        }
        let counts = [("num_iterations", self.num_iterations), ("micro_batch", self.micro_batch)];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(format!("`{name}` must be at least 1, found 0"));
        }
        if !(0.0..0.5).contains(&self.label_smoothing) {
            let found = self.label_smoothing;
            return Err(format!("`label_smoothing` must be at least 0 and below 0.5, found {found}"));
        }
        match loss {
            PairLoss::Ipo if self.label_smoothing != 0.0 => {
                Err("`label_smoothing` must be 0 for `ipo`, which does not smooth labels: use `dpo`".into())
            }
            PairLoss::Ipo if self.loss_type != DpoLoss::default() => {
                Err("`loss_type` must not be given for `ipo`, which has one loss: use `dpo`".into())
            }
            _ => self.optimizer.check(),
        }
    }

    /// The loss of a pair and its derivative by `advantage`, Δ: how much greater log π − log π_ref is of the chosen
    /// completion than of the rejected one. With z = βΔ, DPO is −log σ(z) where no label is wrong (Rafailov et al. 2023,
    /// equation 7); IPO is (Δ − 1/(2τ))² (Azar et al. 2023, equation 17).
    fn loss(&self, loss: PairLoss, advantage: f64) -> (f64, f64) {
        let z = self.beta * advantage;
        // −log σ(z) and −log σ(−z); their derivatives are σ(z) − 1 and σ(z).
        let (right, wrong) = (softplus(-z), softplus(z));
        let sigmoid = 1.0 / (1.0 + (-z).exp());
        let e = self.label_smoothing;
        match (loss, self.loss_type) {
            (PairLoss::Ipo, _) => {
                let short = advantage - 1.0 / (2.0 * self.beta);
                (short * short, 2.0 * short)
            }
            (PairLoss::Dpo, DpoLoss::Sigmoid) => {
                ((1.0 - e) * right + e * wrong, self.beta * (sigmoid - (1.0 - e)))
            }
            (PairLoss::Dpo, DpoLoss::Robust) => {
                let slope = (1.0 - e) * (sigmoid - 1.0) - e * sigmoid;
                let share = 1.0 - 2.0 * e;
                (((1.0 - e) * right - e * wrong) / share, self.beta * slope / share)
            }
        }
    }
}

/// log(1 + exp(x)), without overflow for any x.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Takes `num_iterations` steps of `policy` on the pairs, each only if its report passes; the first report is of the model as
/// given. Returns the last report. If that did not pass, the policy must not be used as a result.
pub fn preference_step(
    policy: &Checkpoint,
    reference: &Checkpoint,
    optimizer: &mut AdamW,
    pairs: &[Pair],
    loss: PairLoss,
    config: &PreferenceConfig,
    passes: &mut StepGuard,
) -> Result<StepReport> {
    ensure_tokens(pairs)?;
    let reference = Reference::of_pairs(reference, pairs, config)?;
    let steps =
        Steps { num_iterations: config.num_iterations, max_grad_norm: config.max_grad_norm, lr: config.lr };
    let gradients = || preference_gradients(policy, &reference, pairs, loss, config);
    take_steps(policy, optimizer, &steps, gradients, passes)
}

impl Reference {
    /// A model's log-probabilities and distributions on pairs.
    pub fn of_pairs(checkpoint: &Checkpoint, pairs: &[Pair], config: &PreferenceConfig) -> Result<Reference> {
        Reference::of(checkpoint, &sequences(pairs), config.micro_batch.saturating_mul(2))
    }
}

/// The gradient of the mean loss of the pairs for each parameter in name order.
pub fn preference_gradients(
    policy: &Checkpoint,
    reference: &Reference,
    pairs: &[Pair],
    loss: PairLoss,
    config: &PreferenceConfig,
) -> Result<(Vec<Tensor>, StepReport)> {
    let pass = Pass {
        temperature: 1.0,
        unit_size: 2,
        micro_batch: config.micro_batch,
        gradient_checkpointing: config.gradient_checkpointing,
    };
    let of_micro_batch = |rows: &[usize], output: &PolicyOutput| {
        let logprobs = output.logprobs.to_vec1::<f32>()?;
        let (mut rest, mut rest_of_reference) = (&logprobs[..], &output.reference[..]);
        let (mut gradient, mut sums) = (Vec::new(), Sums::default());
        for &row in rows {
            let pair = &pairs[row];
            let sides = [&pair.chosen, &pair.rejected].map(|side| side.len());
            let mut log_ratios = [0.0; 2];
            for (side, length) in sides.into_iter().enumerate() {
                let (own, of_reference);
                (own, rest) = rest.split_at(length);
                (of_reference, rest_of_reference) = rest_of_reference.split_at(length);
                log_ratios[side] = total(own) - total(of_reference);
            }
            let counts = counts(loss, sides);
            let advantage = log_ratios[0] * counts[0] + log_ratios[1] * counts[1];
            let (value, slope) = config.loss(loss, advantage);
            for (count, length) in counts.into_iter().zip(sides) {
                let of_token = (slope * count / pairs.len() as f64) as f32;
                gradient.extend(std::iter::repeat_n(of_token, length));
            }
            sums.add(value, log_ratios.map(|log_ratio| config.beta * log_ratio));
        }
        sums.tokens = gradient.len();
        sums.kl = output.kl.unwrap_or(0.0);
        sums.entropy = output.entropies.iter().copied().map(f64::from).sum();
        // The loss has no entropies.
        gradient.resize(2 * sums.tokens, 0.0);
        Ok((Tensor::from_vec(gradient, (2, sums.tokens), &Device::Cpu)?, sums))
    };
    let (gradients, sums) = accumulate(policy, &sequences(pairs), reference, &pass, of_micro_batch)?;
    Ok((gradients, Sums::report(&sums, pairs.len())))
}

/// The weight in Δ of each token of the chosen and of the rejected completion. With IPO, log-ratios are means over tokens, as in
/// TRL, which follows the authors.
fn counts(loss: PairLoss, [chosen, rejected]: [usize; 2]) -> [f64; 2] {
    match loss {
        PairLoss::Dpo => [1.0, -1.0],
        PairLoss::Ipo => [1.0 / chosen.max(1) as f64, -1.0 / rejected.max(1) as f64],
    }
}

fn total(logprobs: &[f32]) -> f64 {
    logprobs.iter().copied().map(f64::from).sum()
}

/// Sums over the pairs of a micro-batch.
#[derive(Default)]
struct Sums {
    loss: f64,
    kl: f64,
    entropy: f64,
    tokens: usize,
    /// Of the chosen and of the rejected completions.
    rewards: [f64; 2],
    /// Pairs whose chosen completion has the greater reward.
    right: usize,
}

impl Sums {
    fn add(&mut self, loss: f64, [chosen, rejected]: [f64; 2]) {
        self.loss += loss;
        self.rewards[0] += chosen;
        self.rewards[1] += rejected;
        self.right += usize::from(chosen > rejected);
    }

    /// Means over all micro-batches.
    fn report(sums: &[Sums], pairs: usize) -> StepReport {
        let total = |value: &dyn Fn(&Sums) -> f64| sums.iter().map(value).sum::<f64>();
        let tokens: usize = sums.iter().map(|sums| sums.tokens).sum();
        let [of_tokens, of_pairs] = [tokens, pairs].map(|count| count.max(1) as f64);
        let chosen_reward = total(&|sums| sums.rewards[0]) / of_pairs;
        let rejected_reward = total(&|sums| sums.rewards[1]) / of_pairs;
        StepReport {
            loss: total(&|sums| sums.loss) / of_pairs,
            kl: total(&|sums| sums.kl) / of_tokens,
            entropy: total(&|sums| sums.entropy) / of_tokens,
            tokens,
            pairs: Some(PairReport {
                chosen_reward,
                rejected_reward,
                accuracy: total(&|sums| sums.right as f64) / of_pairs,
                margin: chosen_reward - rejected_reward,
            }),
            ..StepReport::default()
        }
    }
}

/// The chosen and the rejected completion of each pair, one after the other.
fn sequences(pairs: &[Pair]) -> Vec<Sequence<'_>> {
    let both = pairs.iter().flat_map(|pair| [(pair, &pair.chosen), (pair, &pair.rejected)]);
    both.map(|(pair, completion)| (&pair.prompt[..], &completion[..])).collect()
}

fn ensure_tokens(pairs: &[Pair]) -> Result<()> {
    if pairs.is_empty() {
        bail!("there is no pair to learn from");
    }
    if let Some(row) = pairs.iter().position(|pair| pair.chosen.is_empty() || pair.rejected.is_empty()) {
        bail!("pair {row} must have two completions, found one without tokens");
    }
    ensure_prompts(pairs.iter().map(|pair| &pair.prompt[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSSES: [(PairLoss, DpoLoss, f64); 4] = [
        (PairLoss::Dpo, DpoLoss::Sigmoid, 0.0),
        (PairLoss::Dpo, DpoLoss::Sigmoid, 0.2),
        (PairLoss::Dpo, DpoLoss::Robust, 0.2),
        (PairLoss::Ipo, DpoLoss::Sigmoid, 0.0),
    ];

    #[test]
    fn the_slope_of_a_loss_is_its_derivative_and_no_advantage_is_too_large() {
        for (loss, loss_type, label_smoothing) in LOSSES {
            let config =
                PreferenceConfig { beta: 0.3, loss_type, label_smoothing, ..PreferenceConfig::default() };
            assert_eq!(config.check(loss), Ok(()));
            for advantage in [-30.0, -2.5, 0.0, 0.7, 12.0] {
                let around = |step: f64| config.loss(loss, advantage + step).0;
                let measured = (around(1e-5) - around(-1e-5)) / 2e-5;
                let slope = config.loss(loss, advantage).1;
                assert!((slope - measured).abs() < 1e-6 * (1.0 + slope.abs()), "{loss:?} at {advantage}");
            }
            for advantage in [-1e5, 1e5] {
                let (value, slope) = config.loss(loss, advantage);
                assert!(value.is_finite() && slope.is_finite(), "{loss:?} at {advantage}");
            }
        }
    }

    #[test]
    fn without_an_advantage_the_losses_are_those_of_a_coin() {
        let of = |loss| PreferenceConfig::default().loss(loss, 0.0);
        assert_eq!(of(PairLoss::Dpo), (2f64.ln(), -0.05));
        assert_eq!(of(PairLoss::Ipo), (25.0, -10.0));
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let fails = |change: fn(&mut PreferenceConfig), loss, expected: &str| {
            let mut config = PreferenceConfig::default();
            change(&mut config);
            assert_eq!(config.check(loss), Err(expected.to_owned()));
        };
        fails(|config| config.beta = 0.0, PairLoss::Ipo, "`beta` must be above 0, found 0");
        fails(|config| config.lr = f64::NAN, PairLoss::Dpo, "`lr` must be above 0, found NaN");
        fails(
            |config| config.label_smoothing = 0.5,
            PairLoss::Dpo,
            "`label_smoothing` must be at least 0 and below 0.5, found 0.5",
        );
        fails(
            |config| config.label_smoothing = 0.1,
            PairLoss::Ipo,
            "`label_smoothing` must be 0 for `ipo`, which does not smooth labels: use `dpo`",
        );
        fails(|config| config.micro_batch = 0, PairLoss::Dpo, "`micro_batch` must be at least 1, found 0");
    }
}
