//! `generate`: has the attacker wrap seed prompts, or continue conversations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::artifact::{self, AskedModel, Responses, Seeds};
use super::asking::{Chat, ModelQuery, Reply, SkippedCounts, Text, TokenLimit, TooLong};
use super::rollouts::{Rollouts, SamplingStage, prompt_mismatch};
use super::rows::{self, Asked};
use super::turns;
use data::{self, AttackRow, ResponseRow, SeedRow, Sparse, TurnRow};
use engine::{CheckError, Context, Input, Kind, Output, Part, Stage, Upstream, Views};
use game::{Answer, Question, Role, Turn};
use rollout::Sampling;

/// Has the attacker wrap seed prompts: draws seed prompts and samples a group of attacks for each. With `continue`, samples
/// the next turn of conversations instead.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Generate {
    /// The attacker.
    model: Input<AskedModel>,
    /// The seed prompts to draw from. Required unless `continue` is given.
    #[serde(default)]
    data: Option<Input<Seeds>>,
    /// How many seed prompts to draw; 0 makes no attacks. Required with `data`.
    #[serde(default)]
    prompts: Option<usize>,
    /// Attacks for each seed prompt; together they are one group of GRPO.
    #[serde(default = "one")]
    group: usize,
    /// Draw only seed prompts of this split, such as `train` or `heldout`.
    #[serde(default = "default_split")]
    split: String,
    /// Draw only seed prompts of this task: `hazard`, `benign` or `arithmetic` in the sandbox.
    #[serde(default = "default_task")]
    task: String,
    /// How attacks are sampled.
    #[serde(default)]
    sampling: Sampling,
    /// Ways of wrapping, available as `techniques` in the templates of `prompt` and `system`.
    #[serde(default)]
    techniques: Vec<String>,
    /// Responses to earlier attacks. Only seed prompts with such attempts are drawn. The templates get the attempts as
    /// `conversation`, oldest first: a list of `attack`, `response` and `defender`.
    #[serde(default)]
    history: Option<Input<Responses>>,
    /// Responses whose episodes continue, instead of `data`. Each response gets one attack, the next turn. The templates get
    /// the earlier turns of its episode as `conversation`, oldest first. Attacks on one seed prompt are one group, as in the
    /// first turn.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    continues: Option<Input<Responses>>,
    /// The template of the attacker's prompt, with the variables `seed`, `techniques` and `conversation`. By default the seed
    /// prompt between the sandbox's markers, then earlier turns.
    #[serde(default)]
    prompt: Option<Text>,
    /// The template of the chat's system prompt. It may use the same variables as `prompt`, or none.
    #[serde(default)]
    system: Option<Text>,
    /// Whether the prompt is the user's message in the model's chat template. A map means `true` and passes arguments to
    /// that template, such as { enable_thinking: false }.
    #[serde(default)]
    chat: Chat,
    /// The part of a completion that counts as its text. By default (`final`) what follows the thinking at its beginning,
    /// `<think> … </think>`; `all` shows the thinking to the other side too. A completion without this part has an empty text.
    #[serde(default)]
    answer: Option<Answer>,
    /// What to do if a prompt and the longest completion together exceed the model's context.
    #[serde(default)]
    too_long: TooLong,
}

impl Generate {
    fn query(&self) -> ModelQuery<'_> {
        let Generate { model, prompt, system, chat, answer, too_long, sampling, .. } = self;
        let (prompt, system, answer) = (prompt.as_ref(), system.as_ref(), answer.as_ref());
        ModelQuery {
            role: Role::Attacker,
            model,
            prompt,
            system,
            chat,
            answer,
            too_long: *too_long,
            sampling,
        }
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
        version: 8,
        outputs: &[Output::new("attacks", "attacks")],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const ROLES: &'static [(&'static str, &'static str)] = &[("", "attacker")];
    const PARTS: &'static [(&'static str, Part)] = &[
        ("model", Part::Subject),
        ("history", Part::Subject),
        ("continue", Part::Source),
        ("data", Part::Prompts),
    ];

    fn views() -> Views {
        Views::default().with(|stage: &Generate| stage as &dyn SamplingStage)
    }

    fn check(&self) -> Result<(), CheckError> {
        if self.group == 0 {
            return Err("`group` must be at least 1, found 0".into());
        }
        self.check_turn()?;
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        let query = self.query();
        query.check()?;
        for (key, given, variable) in [
            ("techniques", !self.techniques.is_empty(), "techniques"),
            ("history", self.history.is_some(), "conversation"),
            // The sandbox's own prompt uses it.
            ("continue", self.continues.is_some() && self.prompt.is_some(), "conversation"),
        ] {
            if given && !query.uses(variable) {
                let message = format!(
                    "`prompt` or `system` must use `{variable}` where `{key}` is given, found neither"
                );
                return Err(CheckError::at(key, message));
            }
        }
        Ok(())
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let query = self.query();
        let room = query.check_context(upstream, self.sampling.max_new_tokens, &self.asked(upstream))?;
        Ok(room.into_iter().chain(prompt_mismatch(upstream, &query)).collect())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        if let Some(responses) = &self.continues {
            return self.continue_episodes(context, responses);
        }
        let (Some(data), Some(prompts)) = (&self.data, self.prompts) else {
            anyhow::bail!("`data` and `prompts` must be given: a defect of triplay")
        };
        let seeds = artifact::seeds(context, data)?;
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
            "`{}` has no seed prompts of split `{}` and task `{}`{}",
            data.text(),
            self.split,
            self.task,
            if history.is_some() { " with attempts in `history`" } else { "" }
        );
        let drawn = artifact::draw(eligible.len(), prompts, context.seed());
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
        let replies = self.query().ask(context, &questions, "attacks")?;
        let note = format!("{} attacks{}", replies.len(), SkippedCounts::of(&replies));
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
    /// Checks that the keys belong to first turns or, with `continue`, to later ones.
    fn check_turn(&self) -> Result<(), CheckError> {
        if self.continues.is_none() {
            let missing = match (&self.data, self.prompts) {
                (None, _) => "`data` (seed prompts) or `continue` (responses) must be given, found neither",
                (_, None) => {
                    "`prompts`, the number of seed prompts to draw, must be given with `data`; found none"
                }
                _ => return Ok(()),
            };
            return Err(missing.into());
        }
        let of_first = [
            ("data", self.data.is_some()),
            ("prompts", self.prompts.is_some()),
            ("history", self.history.is_some()),
            ("group", self.group != one()),
            ("split", self.split != default_split()),
            ("task", self.task != default_task()),
        ];
        match of_first.into_iter().find(|(_, is_given)| *is_given) {
            Some((key, _)) => {
                let message = format!(
                    "`{key}` must be left out with `continue`, which makes one attack for each response: it applies to first turns"
                );
                Err(CheckError::at(key, message))
            }
            None => Ok(()),
        }
    }

    /// Whether its attacks are later turns of episodes.
    pub(super) fn has_turns(&self) -> bool {
        self.continues.is_some()
    }

    /// Samples the next turn of each episode.
    fn continue_episodes(&self, context: &mut Context, input: &Input<Responses>) -> anyhow::Result<()> {
        let responses = artifact::rows::<ResponseRow, _>(context, input)?;
        let all: Vec<Sparse<TurnRow>> = responses.iter().map(turns::after).collect();
        let conversations: Vec<Vec<Turn>> = all.iter().map(|turns| turns::conversation(turns)).collect();
        let question = |(row, conversation)| {
            let (row, conversation): (&ResponseRow, &Vec<Turn>) = (row, conversation);
            Some(Question {
                seed: &row.origin.seed,
                techniques: &self.techniques,
                conversation,
                ..Question::default()
            })
        };
        let questions: Vec<Option<Question>> = responses.iter().zip(&conversations).map(question).collect();
        let replies = self.query().ask(context, &questions, "attacks")?;
        context.progress(1, 1, format!("{} attacks{}", replies.len(), SkippedCounts::of(&replies)));
        let at = artifact::position(context);
        let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
        let mut attacks = Vec::with_capacity(responses.len());
        for (index, ((response, turns), reply)) in responses.iter().zip(&all).zip(replies).enumerate() {
            let new = groups.len();
            let group = *groups.entry(&response.origin.seed_id).or_insert(new);
            let asked = Asked {
                origin: response.origin.clone(),
                answer: response.answer.clone(),
                turns: turns.clone(),
            };
            attacks.push(rows::attack(index, group, asked, (reply.text, reply.sample), &at));
        }
        Ok(data::write(&context.output("attacks"), &attacks)?)
    }
}

impl SamplingStage for Generate {
    fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    fn group(&self) -> Option<usize> {
        self.continues.is_none().then_some(self.group)
    }

    fn queries(&self) -> Vec<(String, ModelQuery<'_>)> {
        vec![("model".into(), self.query())]
    }

    fn asked(&self, upstream: Upstream) -> Vec<TokenLimit> {
        let responses = self.continues.as_ref().and_then(|responses| Rollouts::of(upstream, responses));
        responses.map_or(Vec::new(), |responses| responses.conversation())
    }
}

fn attack(index: usize, group: usize, seed: &SeedRow, reply: Reply, at: &data::Position) -> AttackRow {
    let asked =
        Asked { origin: artifact::origin(seed), answer: seed.answer.clone(), turns: Sparse::default() };
    rows::attack(index, index / group, asked, (reply.text, reply.sample), at)
}
