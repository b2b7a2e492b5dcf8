//! `meaning`: asks a judge whether each attack keeps the meaning of its seed prompt (R_sem of TriPlay-RL, arXiv 2601.18292,
//! section 3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, AskedModel, Attacks};
use super::asking::{Chat, JudgeReply, ModelQuery, SkippedCounts, Text, TooLong, greedy_label, mass_note};
use super::rollouts::Rollouts;
use super::turns;
use data::{self, AttackRow, MeaningRow};
use engine::{CheckError, Context, Input, Kind, Output, Part, Purpose, Stage, Upstream};
use game::{Answer, Labels, Question, Role, Turn, has_no_text};
use rollout::Sampling;

/// Asks a judge whether each attack keeps the meaning of its seed prompt: kept or lost.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Meaning {
    /// The attacks to judge.
    pub(super) data: Input<Attacks>,
    /// The judge.
    model: Input<AskedModel>,
    /// How answers are sampled: greedily by default.
    #[serde(default = "greedy_label")]
    sampling: Sampling,
    /// How the label is read from the answer: `kept` or `lost`. An empty attack is `lost` without asking the judge. An answer
    /// without a label is `undetermined`, and so is an attack that no attacker was asked for. The stage reports how many
    /// there are.
    #[serde(default)]
    labels: Labels,
    /// The template of the judge's prompt, with the variables `seed`, `prompt`, the attack, and `conversation`, the earlier
    /// turns of its episode. By default the sandbox's, without earlier turns.
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

impl Meaning {
    fn query(&self) -> ModelQuery<'_> {
        let Meaning { model, prompt, system, chat, answer, too_long, sampling, .. } = self;
        let (prompt, system, answer) = (prompt.as_ref(), system.as_ref(), answer.as_ref());
        ModelQuery {
            role: Role::MeaningJudge,
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

impl Stage for Meaning {
    const KIND: Kind = Kind {
        name: "meaning",
        version: 8,
        outputs: &[Output::new("meanings", "meanings")],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Judging;
    const ROLES: &'static [(&'static str, &'static str)] = &[("", "judge")];
    const PARTS: &'static [(&'static str, Part)] = &[("data", Part::Source), ("model", Part::Judge)];

    fn check(&self) -> Result<(), CheckError> {
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        self.query().check_labels(&self.labels, game::Meaning::LABELS)
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let query = self.query();
        let attacks = Rollouts::of(upstream, &self.data);
        let shown = match query.uses("conversation") {
            true => attacks.map_or(Vec::new(), |attacks| attacks.conversation()),
            false => attacks.iter().map(Rollouts::longest).collect(),
        };
        let completion = match self.labels {
            Labels::Choice(_) => 1,
            _ => self.sampling.max_new_tokens,
        };
        let room = query.check_context(upstream, completion, &shown)?;
        Ok(room.into_iter().chain(query.unmentioned_labels(&self.labels, game::Meaning::LABELS)).collect())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let attacks = artifact::rows::<AttackRow, _>(context, &self.data)?;
        let conversations: Vec<Vec<Turn>> =
            attacks.iter().map(|row| turns::conversation(&row.turns)).collect();
        let questions: Vec<Option<Question>> = attacks
            .iter()
            .zip(&conversations)
            .map(|(row, conversation)| {
                let (seed, prompt) = (&row.origin.seed, &row.text);
                Question { seed, prompt, conversation, ..Question::default() }
            })
            .map(|question| (!has_no_text(question.prompt)).then_some(question))
            .collect();
        let query = self.query();
        let verdicts = query.judge(context, &questions, "meanings", &self.labels, game::Meaning::LABELS)?;
        let class = |(attack, verdict): (&AttackRow, &JudgeReply)| match has_no_text(&attack.text) {
            true => attack.sample.was_asked().then_some(game::Meaning::Lost),
            false => verdict.class.map(|class| game::Meaning::ALL[class]),
        };
        let meanings: Vec<Option<game::Meaning>> = attacks.iter().zip(&verdicts).map(class).collect();
        let count =
            |meaning: Option<game::Meaning>| meanings.iter().filter(|found| **found == meaning).count();
        let missing = SkippedCounts::of(verdicts.iter().map(|verdict| &verdict.reply));
        let note = format!(
            "{} kept, {} lost, {} undetermined{missing}{}",
            count(Some(game::Meaning::Kept)),
            count(Some(game::Meaning::Lost)),
            count(None),
            mass_note(&verdicts)
        );
        context.progress(1, 1, note);
        let at = artifact::position(context);
        let rows: Vec<MeaningRow> = attacks
            .iter()
            .zip(verdicts)
            .zip(meanings)
            .map(|((attack, verdict), meaning)| MeaningRow {
                attack_id: attack.attack_id,
                origin: attack.origin.clone(),
                attack: attack.text.clone(),
                class: game::Meaning::label_of(meaning).to_owned(),
                text: verdict.reply.text,
                sample: verdict.reply.sample,
                at: at.clone(),
            })
            .collect();
        Ok(data::write(&context.output("meanings"), &rows)?)
    }
}
