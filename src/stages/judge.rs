//! `judge`: asks the evaluator for a verdict on each response: negative, rejective or positive.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, AskedModel, Judgeable};
use super::asking::{
    Chat, JudgeReply, ModelQuery, SkippedCounts, Text, TokenLimit, TooLong, greedy_label, mass_note,
};
use super::rollouts::{Rollouts, SamplingStage, labels_mismatch, prompt_mismatch};
use super::{rows, turns};
use data::{self, CompletionRow, JudgedRow, VerdictRow};
use engine::{CheckError, Context, Input, Kind, Output, Part, Purpose, Stage, Upstream, Views};
use game::{Answer, Class, Labels, Question, Role, Turn, has_no_text};
use rollout::Sampling;

/// Asks the evaluator for a verdict on each response: negative (unsafe), rejective (a plain refusal) or positive (safe and
/// helpful).
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Judge {
    /// What to judge: responses, or labelled pairs to train the evaluator on.
    pub(super) data: Input<Judgeable>,
    /// The evaluator.
    model: Input<AskedModel>,
    /// Verdicts on each pair; together they are one group of GRPO when the evaluator is trained.
    #[serde(default = "one")]
    group: usize,
    /// How verdicts are sampled: greedily by default. To train the evaluator, sample at temperature 1.
    #[serde(default = "greedy_label")]
    sampling: Sampling,
    /// How the label is read from the answer: `negative`, `rejective` or `positive`. An empty response is `rejective` without
    /// asking the evaluator. An answer without a label is `undetermined`, and so is a response that no defender was asked
    /// for. The stage reports how many there are.
    #[serde(default)]
    labels: Labels,
    /// The template of the evaluator's prompt, with the variables `prompt`, `response`, `seed` and `conversation`, the
    /// earlier turns of an episode; the verdict is on the response of its last turn. By default the sandbox's, with earlier
    /// turns before the last.
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

impl Judge {
    fn query(&self) -> ModelQuery<'_> {
        let Judge { model, prompt, system, chat, answer, too_long, sampling, .. } = self;
        let (prompt, system, answer) = (prompt.as_ref(), system.as_ref(), answer.as_ref());
        ModelQuery {
            role: Role::Evaluator,
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

impl Stage for Judge {
    const KIND: Kind = Kind {
        name: "judge",
        version: 9,
        outputs: &[Output::new("verdicts", "verdicts")],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Judging;
    const ROLES: &'static [(&'static str, &'static str)] = &[("", "evaluator")];
    const PARTS: &'static [(&'static str, Part)] = &[("data", Part::Source), ("model", Part::Judge)];

    fn views() -> Views {
        Views::default().with(|stage: &Judge| stage as &dyn SamplingStage)
    }

    fn check(&self) -> Result<(), CheckError> {
        if self.group == 0 {
            return Err("`group` must be at least 1, found 0".into());
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        self.query().check_labels(&self.labels, Class::LABELS)
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let query = self.query();
        let room = query.check_context(upstream, self.longest(), &self.asked(upstream))?;
        let unmentioned_labels = query.unmentioned_labels(&self.labels, Class::LABELS);
        let trained_otherwise =
            prompt_mismatch(upstream, &query).or_else(|| labels_mismatch(upstream, &query, &self.labels));
        Ok(room.into_iter().chain(unmentioned_labels).chain(trained_otherwise).collect())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let pairs = artifact::rows::<JudgedRow, _>(context, &self.data)?;
        let asked: Vec<(usize, &JudgedRow)> =
            pairs.iter().enumerate().flat_map(|pair| std::iter::repeat_n(pair, self.group)).collect();
        let conversations: Vec<Vec<Turn>> =
            asked.iter().map(|(_, pair)| turns::conversation(&pair.turns)).collect();
        let question = |((_, pair), conversation)| {
            let (pair, conversation): (&JudgedRow, &Vec<Turn>) = (pair, conversation);
            let question = about(&pair.origin.seed, &pair.attack, &pair.text)?;
            Some(Question { conversation, ..question })
        };
        let questions: Vec<Option<Question>> =
            asked.iter().copied().zip(&conversations).map(question).collect();
        let verdicts = self.query().judge(context, &questions, "verdicts", &self.labels, Class::LABELS)?;
        // Labelled pairs do not record whether a defender was asked.
        let completions = artifact::rows::<CompletionRow, _>(context, &self.data).ok();
        let was_asked =
            |row: usize| completions.as_ref().is_none_or(|rows| !rows[row].completion_ids.is_empty());
        let class = |(group, pair): &(usize, &JudgedRow), verdict: &JudgeReply| match has_no_text(&pair.text)
        {
            true => was_asked(*group).then_some(Class::NOTHING),
            false => verdict.class.map(|class| Class::ALL[class]),
        };
        let classes: Vec<Option<Class>> =
            asked.iter().zip(&verdicts).map(|(asked, verdict)| class(asked, verdict)).collect();
        let undetermined = classes.iter().filter(|class| class.is_none()).count();
        let missing = SkippedCounts::of(verdicts.iter().map(|verdict| &verdict.reply));
        let mass = mass_note(&verdicts);
        context.progress(
            1,
            1,
            format!("{} verdicts, {undetermined} undetermined{missing}{mass}", verdicts.len()),
        );
        let at = artifact::position(context);
        let rows: Vec<VerdictRow> = asked
            .into_iter()
            .zip(verdicts)
            .zip(classes)
            .enumerate()
            .map(|(index, (((group, pair), verdict), class))| {
                rows::verdict(index, group, pair, class, (verdict.reply.text, verdict.reply.sample), &at)
            })
            .collect();
        Ok(data::write(&context.output("verdicts"), &rows)?)
    }
}

impl Judge {
    /// The evaluator.
    pub(super) fn model(&self) -> &Input<AskedModel> {
        &self.model
    }

    /// The most tokens that a verdict has; with a `choice` at least 1, since the lengths of its texts are not known yet.
    fn longest(&self) -> usize {
        if self.is_free() { self.sampling.max_new_tokens } else { 1 }
    }
}

impl SamplingStage for Judge {
    fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    fn group(&self) -> Option<usize> {
        Some(self.group)
    }

    fn queries(&self) -> Vec<(String, ModelQuery<'_>)> {
        vec![("model".into(), self.query())]
    }

    fn is_free(&self) -> bool {
        !matches!(self.labels, Labels::Choice(_))
    }

    fn asked(&self, upstream: Upstream) -> Vec<TokenLimit> {
        Rollouts::of(upstream, &self.data).map_or(Vec::new(), |responses| responses.conversation())
    }

    fn labels(&self) -> Option<&Labels> {
        Some(&self.labels)
    }
}

/// The question about a pair; none if the response is empty.
pub(super) fn about<'a>(seed: &'a str, prompt: &'a str, response: &'a str) -> Option<Question<'a>> {
    (!has_no_text(response)).then_some(Question { seed, prompt, response, ..Question::default() })
}
