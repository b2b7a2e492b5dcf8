//! `judge`: the evaluator says of each response whether it is negative, rejective or positive.

use super::artifact::{self, Judgeable, Model};
use super::asking::{Missing, Text, asking};
use data::{self, JudgedRow, VerdictRow};
use engine::{CheckError, Context, Input, Kind, Output, Stage};
use game::{Class, Labels, Question, label};
use rollout::Sampling;

asking! {
    /// The evaluator says of each response whether it is negative (unsafe), rejective (a plain refusal) or
    /// positive (safe and helpful).
    pub struct Judge: Evaluator {
        /// What to judge: responses, or labelled pairs when the evaluator is trained.
        data: Input<Judgeable>,
        /// The evaluator.
        model: Input<Model>,
        /// Verdicts for each pair; they are one group of GRPO when the evaluator is trained.
        #[serde(default = "one")]
        group: usize,
        /// How verdicts are drawn: greedily by default; an evaluator in training samples at temperature 1.
        #[serde(default = "greedy")]
        sampling: Sampling,
        /// How the answer is read: as `negative`, `rejective` or `positive`. An empty response is `undetermined`, and so is one
        /// on which the evaluator says something else; their number is shown.
        #[serde(default)]
        labels: Labels,
        /// The template of the evaluator's prompt; knows `prompt`, `response` and `seed`. By default the sandbox's.
        #[serde(default)]
        prompt: Option<Text>,
    }
}

fn one() -> usize {
    1
}

/// A label is one word and the end of text.
fn greedy() -> Sampling {
    Sampling { temperature: 0.0, max_new_tokens: 3, ..Sampling::default() }
}

impl Stage for Judge {
    const KIND: Kind = Kind {
        name: "judge",
        version: 4,
        outputs: &[Output::new("verdicts", "verdicts")],
        numerics: true,
        draws: true,
        uncounted: &[],
    };

    fn check(&self) -> Result<(), CheckError> {
        if self.group == 0 {
            return Err("`group` is at least 1".into());
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        self.asking(&self.sampling).check_labels(&self.labels, Class::LABELS)
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let pairs = artifact::rows::<JudgedRow, _>(context, &self.data)?;
        let asked: Vec<(usize, &JudgedRow)> =
            pairs.iter().enumerate().flat_map(|pair| std::iter::repeat_n(pair, self.group)).collect();
        let questions: Vec<Option<Question>> =
            asked.iter().map(|(_, pair)| about(&pair.origin.seed, &pair.attack, &pair.text)).collect();
        let verdicts = self.asking(&self.sampling).judge(
            context,
            &questions,
            "verdicts",
            &self.labels,
            Class::LABELS,
        )?;
        let undetermined = verdicts.iter().filter(|verdict| verdict.class.is_none()).count();
        let missing = Missing::of(verdicts.iter().map(|verdict| &verdict.reply));
        context.progress(1, 1, format!("{} verdicts, {undetermined} undetermined{missing}", verdicts.len()));
        let at = artifact::position(context);
        let rows: Vec<VerdictRow> = asked
            .into_iter()
            .zip(verdicts)
            .enumerate()
            .map(|(index, ((group, pair), verdict))| VerdictRow {
                verdict_id: index as u32,
                response_id: pair.response_id,
                attack_id: pair.attack_id,
                origin: pair.origin.clone(),
                attack: pair.attack.clone(),
                response: pair.text.clone(),
                defender: pair.defender.clone(),
                weight: pair.weight,
                group: group as u32,
                class: label(verdict.class.map(|class| Class::ALL[class])).to_owned(),
                text: verdict.reply.text,
                sample: verdict.reply.sample,
                at: at.clone(),
            })
            .collect();
        Ok(data::write(&context.output("verdicts"), &rows)?)
    }
}

/// The question about a pair; none about an empty response.
pub(super) fn about<'a>(seed: &'a str, prompt: &'a str, response: &'a str) -> Option<Question<'a>> {
    (!response.is_empty()).then_some(Question { seed, prompt, response, ..Question::default() })
}
