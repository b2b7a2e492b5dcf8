//! `respond`: has every defender respond to every attack. Benign prompts can be mixed in, so that a defender in training also
//! meets prompts that it should help with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, AskedModel, Attacks, Prompts};
use super::asking::{Chat, ModelQuery, SkippedCounts, Text, TokenLimit, TooLong};
use super::rollouts::{Rollouts, SamplingStage, prompt_mismatch};
use super::rows;
use super::turns;
use data::{self, AttackRow, ResponseRow};
use engine::{CheckError, Context, Input, Inputs, Kind, Output, Part, Stage, Upstream, Views};
use game::{Answer, Question, Role, Turn, has_no_text};
use rollout::Sampling;

/// Has every defender respond to every attack. Benign prompts can be mixed in, so that a defender in training also meets prompts
/// that it should help with.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Respond {
    /// The attacks: a dataset, or a list of datasets. Attacks of the first dataset keep their ids, the others get new ones.
    /// Without `data`, the defenders respond to the benign prompts alone.
    #[serde(default = "no_attacks")]
    data: Inputs<Attacks>,
    /// The defenders, each with its weight in the attacker's reward.
    models: Vec<Defense>,
    /// Benign prompts to mix in; none by default.
    #[serde(default)]
    benign: Option<Benign>,
    /// Responses of each defender to each attack; together they are one group of GRPO.
    #[serde(default = "one")]
    group: usize,
    /// How responses are sampled.
    #[serde(default)]
    sampling: Sampling,
    /// The prompt template of models that have none of their own, with the variables `prompt` and `conversation`, the earlier
    /// turns of an episode. By default the attack: in a chat as it is, otherwise between the sandbox's markers, after earlier
    /// turns. In a chat, earlier turns are messages of the user and the model, unless the template uses `conversation`; without a
    /// chat, a template must use it.
    #[serde(default)]
    prompt: Option<Text>,
}

/// A defender and its weight w_i in the attacker's reward.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Defense {
    /// The model.
    model: Input<AskedModel>,
    /// Its name in datasets; each model needs its own.
    #[serde(default = "default_name")]
    name: String,
    /// w_i: how much breaking this model counts in the attacker's reward. The weights must add up to 1; a model of weight 0
    /// is not asked.
    #[serde(default = "default_weight")]
    weight: f64,
    /// The prompt template of this model, with the variables `prompt` and `conversation`.
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

impl Defense {
    fn query<'a>(&'a self, sampling: &'a Sampling) -> ModelQuery<'a> {
        let Defense { model, prompt, system, chat, answer, too_long, .. } = self;
        let (prompt, system, answer) = (prompt.as_ref(), system.as_ref(), answer.as_ref());
        ModelQuery {
            role: Role::Defender,
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

/// Benign prompts that are mixed in.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Benign {
    /// The prompts to draw from: attacks, or seed prompts, which are asked as they are.
    data: Input<Prompts>,
    /// How many prompts to draw.
    prompts: usize,
    /// Draw only prompts of this split.
    #[serde(default = "default_split")]
    split: String,
    /// Draw only prompts of this task; of all tasks by default.
    #[serde(default)]
    task: Option<String>,
}

fn one() -> usize {
    1
}

fn no_attacks() -> Inputs<Attacks> {
    Inputs::Several(Vec::new())
}

fn default_name() -> String {
    "defender".into()
}

fn default_weight() -> f64 {
    1.0
}

fn default_split() -> String {
    "train".into()
}

impl Stage for Respond {
    const KIND: Kind = Kind {
        name: "respond",
        version: 8,
        outputs: &[Output::new("responses", "responses")],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const ROLES: &'static [(&'static str, &'static str)] = &[("models.*", "defender")];
    const PARTS: &'static [(&'static str, Part)] =
        &[("models", Part::Subject), ("data", Part::Source), ("benign", Part::Prompts)];

    fn views() -> Views {
        Views::default().with(|stage: &Respond| stage as &dyn SamplingStage)
    }

    fn check(&self) -> Result<(), CheckError> {
        if self.models.is_empty() || self.group == 0 {
            let found = format!("{} and {}", self.models.len(), self.group);
            return Err(format!(
                "`models` must have at least one entry and `group` be at least 1, found {found}"
            )
            .into());
        }
        if self.data.iter().next().is_none() && self.benign.is_none() {
            return Err("`data` (attacks) or `benign` (prompts) must be given, found neither".into());
        }
        for (index, defense) in self.models.iter().enumerate() {
            if self.models[..index].iter().any(|other| other.name == defense.name) {
                let message =
                    format!("each of `models` must have its own `name`, found `{}` twice", defense.name);
                return Err(CheckError::at(format!("models.{index}"), message));
            }
        }
        let wrong = |defense: &Defense| !(0.0..f64::INFINITY).contains(&defense.weight);
        if let Some(index) = self.models.iter().position(wrong) {
            let message = format!("`weight` must be at least 0, found {}", self.models[index].weight);
            return Err(CheckError::at(format!("models.{index}.weight"), message));
        }
        if self.models.iter().all(|defense| defense.weight == 0.0) {
            return Err(CheckError::at(
                "models",
                "at least one `weight` must be above 0, found 0 for all models",
            ));
        }
        let sum: f64 = self.models.iter().map(|defense| defense.weight).sum();
        if self.models.len() > 1 && (sum - 1.0).abs() > 1e-6 {
            let message = format!(
                "the weights of the models must add up to 1, found {}: divide each by this sum, so that the attacker's \
                 success is a share",
                (sum * 1e6).round() / 1e6
            );
            return Err(CheckError::at("models", message));
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        for (index, defense) in self.models.iter().enumerate() {
            self.query(defense).check().map_err(|error| match defense.prompt {
                None if self.prompt.is_some() && error.path == "prompt" => error,
                _ => CheckError { path: format!("models.{index}.{}", error.path), ..error },
            })?;
        }
        Ok(())
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let mut warnings = Vec::new();
        for (index, defense) in self.models.iter().enumerate().filter(|(_, model)| model.weight > 0.0) {
            let query = self.query(defense);
            let room = query.check_context(upstream, self.sampling.max_new_tokens, &self.asked(upstream))?;
            let own = format!("models.{index}");
            warnings.extend(room.map(|warning| CheckError { path: own.clone(), ..warning }));
            let other = prompt_mismatch(upstream, &query);
            warnings.extend(
                other.map(|warning| CheckError { path: format!("{own}.{}", warning.path), ..warning }),
            );
        }
        Ok(warnings)
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let attacks = self.attacks(context)?;
        self.check_conversations(&attacks)?;
        let at = artifact::position(context);
        let mut responses: Vec<ResponseRow> = Vec::new();
        let mut missing = SkippedCounts::default();
        for (index, defense) in self.models.iter().enumerate().filter(|(_, model)| model.weight > 0.0) {
            // An episode continues with the model that responded before.
            let own = attacks
                .iter()
                .filter(|attack| earlier_defender(attack).is_none_or(|name| name == defense.name));
            let asked: Vec<&AttackRow> =
                own.flat_map(|attack| std::iter::repeat_n(attack, self.group)).collect();
            let conversations: Vec<Vec<Turn>> =
                asked.iter().map(|attack| turns::conversation(&attack.turns)).collect();
            let questions: Vec<Option<Question>> = asked
                .iter()
                .zip(&conversations)
                .map(|(attack, conversation)| Question {
                    prompt: &attack.text,
                    conversation,
                    ..Question::default()
                })
                .map(|question| (!has_no_text(question.prompt)).then_some(question))
                .collect();
            let what = format!("responses {}/{}", index + 1, self.models.len());
            let replies = self.query(defense).ask(context, &questions, &what)?;
            missing.count(&replies);
            for (position, (attack, reply)) in asked.iter().zip(replies).enumerate() {
                let group = index * attacks.len() + position / self.group;
                let by = (defense.name.as_str(), defense.weight);
                let said = (reply.text, reply.sample);
                responses.push(rows::response(responses.len(), group, attack, by, said, &at));
            }
        }
        context.progress(1, 1, format!("{} responses{missing}", responses.len()));
        Ok(data::write(&context.output("responses"), &responses)?)
    }
}

impl SamplingStage for Respond {
    fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    fn group(&self) -> Option<usize> {
        Some(self.group)
    }

    fn queries(&self) -> Vec<(String, ModelQuery<'_>)> {
        let asked = self.models.iter().enumerate().filter(|(_, defense)| defense.weight > 0.0);
        asked.map(|(index, defense)| (format!("models.{index}.model"), self.query(defense))).collect()
    }

    fn asked(&self, upstream: Upstream) -> Vec<TokenLimit> {
        let attacks = self.data.iter().filter_map(|attacks| Rollouts::of(upstream, attacks));
        let tokens = |texts: &Vec<TokenLimit>| texts.iter().map(|longest| longest.tokens).sum::<usize>();
        attacks.map(|attacks| attacks.conversation()).max_by_key(tokens).unwrap_or_default()
    }
}

impl Respond {
    /// The attacks that keep their ids.
    pub(super) fn attacks_input(&self) -> Option<&Input<Attacks>> {
        self.data.iter().next()
    }

    /// All datasets of attacks.
    pub(super) fn attacks_inputs(&self) -> impl Iterator<Item = &Input<Attacks>> {
        self.data.iter()
    }

    /// Checks that every episode continues with a model that is asked.
    fn check_conversations(&self, attacks: &[AttackRow]) -> anyhow::Result<()> {
        let models: Vec<&str> =
            self.models.iter().filter(|model| model.weight > 0.0).map(|model| model.name.as_str()).collect();
        let unknown =
            |attack: &&AttackRow| earlier_defender(attack).is_some_and(|name| !models.contains(&name));
        match attacks.iter().find(unknown) {
            None => Ok(()),
            Some(attack) => anyhow::bail!(
                "attack {} continues a conversation with `{}`, which must be one of `models` with a weight above 0; found {}",
                attack.attack_id,
                earlier_defender(attack).unwrap_or_default(),
                models.join(", ")
            ),
        }
    }

    /// How a model is asked: with its own `prompt`, or else that of the stage.
    fn query<'a>(&'a self, defense: &'a Defense) -> ModelQuery<'a> {
        let query = defense.query(&self.sampling);
        ModelQuery { prompt: query.prompt.or(self.prompt.as_ref()), ..query }
    }

    /// The attacks of all datasets, then the benign prompts drawn for this node, with new ids.
    fn attacks(&self, context: &Context) -> anyhow::Result<Vec<AttackRow>> {
        let mut attacks: Vec<AttackRow> = Vec::new();
        for (index, data) in self.data.iter().enumerate() {
            let rows = artifact::rows::<AttackRow, _>(context, data)?;
            match index {
                0 => attacks.extend(rows.iter().cloned()),
                _ => number_on(&mut attacks, rows.iter()),
            }
        }
        if let Some(benign) = &self.benign {
            let pool = artifact::prompts(context, &benign.data)?;
            let of_task = |row: &AttackRow| benign.task.as_ref().is_none_or(|task| *task == row.origin.task);
            let wanted = |row: &&AttackRow| row.origin.split == benign.split && of_task(row);
            let pool: Vec<&AttackRow> = pool.iter().filter(wanted).collect();
            anyhow::ensure!(
                !pool.is_empty(),
                "`{}` has no rows of split `{}` and task `{}`",
                benign.data.text(),
                benign.split,
                benign.task.as_deref().unwrap_or("any")
            );
            let drawn = artifact::draw(pool.len(), benign.prompts, context.seed().child("benign"));
            number_on(&mut attacks, drawn.into_iter().map(|index| pool[index]));
        }
        Ok(attacks)
    }
}

/// The model that responded to the earlier turns of an attack's episode.
fn earlier_defender(attack: &AttackRow) -> Option<&str> {
    attack.turns.last().map(|turn| turn.defender.as_str())
}

/// Adds attacks under new ids.
fn number_on<'a>(attacks: &mut Vec<AttackRow>, more: impl Iterator<Item = &'a AttackRow>) {
    let first = attacks.iter().map(|attack| attack.attack_id.saturating_add(1)).max().unwrap_or(0);
    let numbers = (0..).map(|number| first.saturating_add(number));
    attacks.extend(more.zip(numbers).map(|(row, attack_id)| AttackRow { attack_id, ..row.clone() }));
}
