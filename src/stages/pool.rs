//! `pool`: keeps successful attacks (the paper's ASP), with which diversity terms compare and from which `replay` draws.

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, AskedModel, Rewards, SuccessPool, Verdicts};
use super::asking;
use super::reward::{Reward, TURN};
use data::{self, PoolRow, RewardRow, VerdictRow};
use engine::{CheckError, Context, Input, Kind, Output, Stage, Upstream};
use game::{self, Class, Eviction, PoolSimilarity, Posterior};

/// Keeps successful attacks (the paper's ASP), and tracks how well they still work. Terms of the reward compare attacks with the
/// pool, and `replay` draws from it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pool {
    /// The attacker's rewards, from which successful attacks are taken.
    #[serde(default)]
    data: Option<Input<Rewards>>,
    /// Verdicts on responses to attacks of the pool. They update the Beta posterior of each attack's success: α and β decay, then
    /// α grows by the number of negative verdicts and β by that of the others. Undetermined verdicts do not count.
    #[serde(default)]
    verdicts: Option<Input<Verdicts>>,
    /// The factor for α − 1 and β − 1 when an attack gets new responses, since old responses are those of weaker defenders.
    #[serde(default = "default_decay")]
    decay: f64,
    /// The pool so far.
    into: Input<SuccessPool>,
    /// The name of the term of the rewards that says how well an attack succeeded.
    #[serde(default = "default_success")]
    success: String,
    /// Take attacks whose success is at least this.
    #[serde(default = "default_threshold")]
    threshold: f64,
    /// The largest number of attacks in the pool.
    #[serde(default = "default_capacity")]
    capacity: usize,
    /// Which attacks leave a full pool.
    #[serde(default)]
    eviction: Eviction,
    /// Embeds the attacks that are taken, for terms that compare embeddings. Without it, the pool has no embeddings.
    #[serde(default)]
    embedder: Option<Input<AskedModel>>,
}

fn default_success() -> String {
    "success".into()
}

fn default_threshold() -> f64 {
    0.5
}

fn default_capacity() -> usize {
    400
}

/// The error for rewards of episodes.
const SINGLE: &str =
    "`data` must be rewards of single attacks, found those of episodes: the pool keeps no conversations";

fn default_decay() -> f64 {
    0.95
}

impl Stage for Pool {
    const KIND: Kind = Kind {
        name: "pool",
        version: 5,
        outputs: &[Output::new("pool", "pool")],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    fn check(&self) -> Result<(), CheckError> {
        if self.capacity == 0 {
            return Err("`capacity` must be at least 1, found 0".into());
        }
        if !(0.0..=1.0).contains(&self.decay) {
            let message = format!("`decay` must be between 0 and 1, found {}", self.decay);
            return Err(CheckError::at("decay", message));
        }
        if self.data.is_none() && self.verdicts.is_none() {
            return Err(
                "`data` (rewards to take attacks from) or `verdicts` must be given, found neither".into()
            );
        }
        Ok(())
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let Some(rewards) = self.data.as_ref().and_then(|data| upstream.stage::<Reward, _>(data)) else {
            return Ok(Vec::new());
        };
        if rewards.stage.has_episodes() {
            return Err(CheckError::at("data", format!("{SINGLE}: see {}", rewards.place("earlier"))));
        }
        if !rewards.stage.terms().any(|(_, name, _)| name == self.success) {
            let names: Vec<&str> = rewards.stage.terms().map(|(_, name, _)| name).collect();
            let message = format!(
                "`success` must be the name of a term of the rewards, found `{}`; their terms are {}: see {}",
                self.success,
                names.join(", "),
                rewards.place("terms")
            );
            return Err(CheckError::at("success", message));
        }
        let mut warnings = Vec::new();
        for (place, name, term) in rewards.stage.terms() {
            if let Some(embedder) = term.embedder() {
                let is_same = |own| upstream.is_same(own, rewards.upstream(), embedder) != Some(false);
                if !self.embedder.as_ref().is_some_and(is_same) {
                    let message = format!(
                        "`embedder` must be that of the term `{name}`, `{}`, found {}: see {}",
                        embedder.text(),
                        self.embedder.as_ref().map_or("none".into(), |own| format!("`{}`", own.text())),
                        rewards.place(&format!("{place}.embedder"))
                    );
                    return Err(message.into());
                }
            }
            if let Some(threshold) = term.threshold().filter(|threshold| *threshold != self.threshold) {
                let message = format!(
                    "`threshold` should be that of the term `{name}`, {threshold:?}, found {:?}: the term counts other \
                     successes than the pool takes; see {}",
                    self.threshold,
                    rewards.place(&format!("{place}.threshold"))
                );
                warnings.push(CheckError::at("threshold", message));
            }
        }
        Ok(warnings)
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let mut pool = artifact::rows::<PoolRow, _>(context, &self.into)?.to_vec();
        let answered = match &self.verdicts {
            Some(verdicts) => {
                observe(&mut pool, &artifact::rows::<VerdictRow, _>(context, verdicts)?, self.decay)
            }
            None => 0,
        };
        let rewards = match &self.data {
            Some(data) => artifact::rows::<RewardRow, _>(context, data)?,
            None => Arc::default(),
        };
        anyhow::ensure!(rewards.iter().all(|row| row.note(TURN).is_none()), SINGLE);
        let at = artifact::position(context);
        let success = |row: &RewardRow| row.component(&self.success)?.score;
        if let Some(row) = rewards.iter().find(|row| row.component(&self.success).is_none()) {
            anyhow::bail!("the reward of attack {} has no term `{}`", row.sample_id, self.success);
        }
        let taken: Vec<(&RewardRow, f64)> = rewards
            .iter()
            .filter_map(|row| Some((row, success(row).filter(|success| *success >= self.threshold)?)))
            .collect();
        let texts: Vec<&str> = taken.iter().map(|(row, _)| row.text.as_str()).collect();
        let embeddings = asking::embed(context, self.embedder.as_ref(), &texts)?;
        let mut similarity = PoolSimilarity::clone(&*artifact::pool(context, &self.into)?);
        for ((row, success), embedding) in taken.into_iter().zip(embeddings) {
            similarity.add(&row.text, &embedding)?;
            let Posterior { alpha, beta } = Posterior::of(success);
            pool.push(PoolRow {
                text: row.text.clone(),
                seed_id: row.origin.seed_id.clone(),
                category: row.origin.category.clone(),
                seed: row.origin.seed.clone(),
                technique: row.note("technique").map(str::to_owned),
                success,
                alpha,
                beta,
                embedding,
                at: at.clone(),
            });
        }
        let grown = pool.len();
        game::evict(&mut pool, self.capacity, self.eviction, context.seed());
        if pool.len() == grown {
            let bytes = similarity.bytes();
            context.remember("pool", similarity, bytes);
        }
        let learnt = if answered == 0 { String::new() } else { format!(", {answered} with new responses") };
        context.progress(1, 1, format!("{} attacks{learnt}", pool.len()));
        Ok(data::write(&context.output("pool"), &pool)?)
    }
}

/// Updates the posteriors of attacks that got new verdicts, and returns how many did.
fn observe(pool: &mut [PoolRow], verdicts: &[VerdictRow], decay: f64) -> usize {
    let mut counts: HashMap<&str, (f64, f64)> = HashMap::new();
    for verdict in verdicts {
        let (successes, failures) = counts.entry(&verdict.attack).or_default();
        match Class::parse(&verdict.class) {
            Some(Class::Negative) => *successes += 1.0,
            Some(_) => *failures += 1.0,
            None => {}
        }
    }
    let mut answered = 0;
    for row in pool {
        let Some(&(successes, failures)) = counts.get(row.text.as_str()) else { continue };
        if successes + failures > 0.0 {
            let known = Posterior { alpha: row.alpha, beta: row.beta };
            let Posterior { alpha, beta } = known.observe(decay, successes, failures);
            (row.alpha, row.beta) = (alpha, beta);
            answered += 1;
        }
    }
    answered
}
