//! `generate`: the attacker wraps seed prompts. Draws seeds, samples a group of attacks for each.

use std::collections::BTreeMap;

use super::artifact::{self, Model, Responses, Seeds};
use super::asking::{Asking, Longest, Missing, Reply, Text, asking};
use super::rollouts::{Sampler, other_than_trained};
use data::{self, AttackRow, ResponseRow, SeedRow};
use engine::{CheckError, Context, Fed, Input, Kind, Output, Part, Stage, Upstream};
use game::{Question, Turn};
use rollout::Sampling;

asking! {
    /// The attacker wraps seed prompts: draws seeds and samples a group of attacks for each.
    pub struct Generate: Attacker {
        /// The attacker.
        model: Input<Model>,
        /// The seeds to draw from.
        data: Input<Seeds>,
        /// How many seeds to draw; 0 makes no attacks.
        prompts: usize,
        /// Attacks for each seed; they are one group of GRPO.
        #[serde(default = "one")]
        group: usize,
        /// Draw only from seeds of this split, such as `train` or `heldout`.
        #[serde(default = "default_split")]
        split: String,
        /// Draw only from seeds of this task: `hazard`, `benign` or `arithmetic` in the sandbox.
        #[serde(default = "default_task")]
        task: String,
        /// How attacks are drawn.
        #[serde(default)]
        sampling: Sampling,
        /// Ways of wrapping that the attacker is told of, as `techniques` in its prompt or system prompt.
        #[serde(default)]
        techniques: Vec<String>,
        /// Responses to earlier attacks. Only seeds with such attempts are drawn, and prompts know them, oldest first, as
        /// `conversation`: a list of `attack`, `response` and `defender`, so that the attacker can do better.
        #[serde(default)]
        history: Option<Input<Responses>>,
        /// The template of the attacker's prompt; knows `seed`, `techniques` and `conversation`. By default the seed between the
        /// sandbox's marks.
        #[serde(default)]
        prompt: Option<Text>,
    }
}

fn one() -> usize {
    1
}

fn default_split() -> String {
    "train".into()
}

fn default_task() -> String {
    "hazard".into()
}

impl Stage for Generate {
    const KIND: Kind = Kind {
        name: "generate",
        version: 6,
        outputs: &[Output::new("attacks", "attacks")],
        numerics: true,
        draws: true,
        uncounted: &[],
    };

    const PARTS: &'static [(&'static str, Part)] =
        &[("model", Part::Subject), ("history", Part::Subject), ("data", Part::Prompts)];

    fn check(&self) -> Result<(), CheckError> {
        if self.group == 0 {
            return Err("`group` must be at least 1".into());
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        let asking = self.asking(&self.sampling);
        asking.check()?;
        for (key, given, variable) in [
            ("techniques", !self.techniques.is_empty(), "techniques"),
            ("history", self.history.is_some(), "conversation"),
        ] {
            if given && !asking.uses(variable) {
                let message =
                    format!("neither `prompt` nor `system` uses `{variable}`, which `{key}` gives them");
                return Err(CheckError::at(key, message));
            }
        }
        Ok(())
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let asking = self.asking(&self.sampling);
        let room = asking.room(upstream, self.sampling.max_new_tokens, &[])?;
        Ok(room.into_iter().chain(other_than_trained(upstream, &asking)).collect())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let seeds = artifact::seeds(context, &self.data)?;
        let history = match &self.history {
            Some(history) => Some(artifact::rows::<ResponseRow, _>(context, history)?),
            None => None,
        };
        let mut attempts: BTreeMap<&str, Vec<Turn>> = BTreeMap::new();
        for row in history.iter().flat_map(|rows| rows.iter()) {
            let turn = Turn { attack: &row.attack, response: &row.text, defender: &row.defender };
            attempts.entry(&row.origin.seed_id).or_default().push(turn);
        }
        let wanted = |row: &&SeedRow| {
            let tried = history.is_none() || attempts.contains_key(&*row.seed_id);
            row.split == self.split && row.task == self.task && tried
        };
        let eligible: Vec<&SeedRow> = seeds.iter().filter(wanted).collect();
        anyhow::ensure!(
            !eligible.is_empty(),
            "`{}` has no seeds of split `{}` and task `{}`{}",
            self.data.text(),
            self.split,
            self.task,
            if history.is_some() { " that `history` has attempts at" } else { "" }
        );
        let drawn = artifact::draw(eligible.len(), self.prompts, context.seed());
        let chosen: Vec<&SeedRow> =
            drawn.iter().flat_map(|&index| std::iter::repeat_n(eligible[index], self.group)).collect();
        let questions: Vec<Option<Question>> = chosen
            .iter()
            .map(|seed| {
                let conversation = attempts.get(&*seed.seed_id).map_or(&[][..], Vec::as_slice);
                let techniques = &self.techniques;
                Some(Question { seed: &seed.text, techniques, conversation, ..Question::default() })
            })
            .collect();
        let replies = self.asking(&self.sampling).ask(context, &questions, "attacks")?;
        let note = format!("{} attacks{}", replies.len(), Missing::of(&replies));
        context.progress(1, 1, note);
        let at = artifact::position(context);
        let rows: Vec<AttackRow> = chosen
            .iter()
            .zip(replies)
            .enumerate()
            .map(|(index, (seed, reply))| attack(index, self.group, seed, reply, &at))
            .collect();
        Ok(data::write(&context.output("attacks"), &rows)?)
    }
}

impl Generate {
    /// The longest attack.
    pub(super) fn longest(fed: Fed<Generate>) -> Longest {
        Longest { tokens: fed.stage.sampling.max_new_tokens, place: fed.place("sampling.max_new_tokens") }
    }
}

impl Sampler for Generate {
    fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    fn group(&self) -> usize {
        self.group
    }

    fn askings(&self) -> Vec<(String, Asking<'_>)> {
        vec![("model".into(), self.asking(&self.sampling))]
    }
}

fn attack(index: usize, group: usize, seed: &SeedRow, reply: Reply, at: &data::Position) -> AttackRow {
    AttackRow {
        attack_id: index as u32,
        origin: artifact::origin(seed),
        technique: None,
        group: (index / group) as u32,
        text: reply.text,
        answer: seed.answer.clone(),
        sample: reply.sample,
        at: at.clone(),
    }
}
