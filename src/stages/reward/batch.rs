//! The completions to reward, as terms see them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::{self, AskedModel, Completions, Meanings, SuccessPool};
use crate::asking;
use data::{AttackRow, MeaningRow, Origin, ResponseRow, RewardRow, Sample, Sparse, TurnRow, VerdictRow};
use engine::{Context, Input};
use game::{Meaning, PoolSimilarity, has_no_text};
use store::Digest;

/// How to score with an undetermined verdict or meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Undetermined {
    /// As unknown: such a score is unknown too; nothing is learnt from it, and it counts in no mean.
    #[default]
    Skip,
    /// As the class of the least value, and as a lost meaning.
    Worst,
}

/// The kind of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompletionKind {
    Attack,
    Response,
    Verdict,
}

impl CompletionKind {
    pub(crate) const ALL: [CompletionKind; 3] =
        [CompletionKind::Attack, CompletionKind::Response, CompletionKind::Verdict];

    pub(crate) fn plural(self) -> &'static str {
        ["attacks", "responses", "verdicts"][self as usize]
    }

    /// Whether a player in a conversation writes them.
    pub(crate) fn has_turns(self) -> bool {
        matches!(self, CompletionKind::Attack | CompletionKind::Response)
    }

    /// Several kinds, for a message.
    pub(crate) fn list(all: &[CompletionKind]) -> String {
        all.iter().map(|what| what.plural()).collect::<Vec<_>>().join(" or ")
    }
}

/// The rows to reward.
pub(crate) enum RewardedRows {
    Attacks(Arc<Vec<AttackRow>>),
    Responses(Arc<Vec<ResponseRow>>),
    Verdicts(Arc<Vec<VerdictRow>>),
}

/// A completion of any role.
pub(crate) struct Completion<'a> {
    /// Its id in its dataset.
    pub id: u32,
    /// Completions of one group share their prompt.
    pub group: u32,
    pub origin: &'a Origin,
    /// The part of the completion that counts.
    pub text: &'a str,
    /// The attack: the text itself, or the attack that it is about.
    pub attack: &'a str,
    /// The response: the text itself, or the response that a verdict is on.
    pub response: &'a str,
    /// The class of a verdict.
    pub class: Option<&'a str>,
    what: CompletionKind,
    turns: &'a [TurnRow],
    pub sample: &'a Sample,
}

impl RewardedRows {
    /// Reads a dataset, whose columns tell what it holds.
    pub(crate) fn read(context: &Context, input: &Input<Completions>) -> anyhow::Result<RewardedRows> {
        let columns = data::head(&context.input(input)?.path)?.columns;
        let has = |name: &str| columns.iter().any(|column| column == name);
        Ok(match (has("verdict_id"), has("response_id")) {
            (true, _) => RewardedRows::Verdicts(artifact::rows(context, input)?),
            (_, true) => RewardedRows::Responses(artifact::rows(context, input)?),
            _ => RewardedRows::Attacks(artifact::rows(context, input)?),
        })
    }

    pub(crate) fn what(&self) -> CompletionKind {
        match self {
            RewardedRows::Attacks(_) => CompletionKind::Attack,
            RewardedRows::Responses(_) => CompletionKind::Response,
            RewardedRows::Verdicts(_) => CompletionKind::Verdict,
        }
    }

    pub(crate) fn completions(&self) -> Vec<Completion<'_>> {
        match self {
            RewardedRows::Attacks(rows) => rows.iter().map(Completion::of_attack).collect(),
            RewardedRows::Responses(rows) => rows.iter().map(Completion::of_response).collect(),
            RewardedRows::Verdicts(rows) => rows.iter().map(Completion::of_verdict).collect(),
        }
    }
}

impl<'a> Completion<'a> {
    fn of_attack(row: &'a AttackRow) -> Completion<'a> {
        Completion {
            id: row.attack_id,
            group: row.group,
            origin: &row.origin,
            text: &row.text,
            attack: &row.text,
            response: "",
            class: None,
            what: CompletionKind::Attack,
            turns: &row.turns,
            sample: &row.sample,
        }
    }

    fn of_response(row: &'a ResponseRow) -> Completion<'a> {
        Completion {
            id: row.response_id,
            group: row.group,
            origin: &row.origin,
            text: &row.text,
            attack: &row.attack,
            response: &row.text,
            class: None,
            what: CompletionKind::Response,
            turns: &row.turns,
            sample: &row.sample,
        }
    }

    fn of_verdict(row: &'a VerdictRow) -> Completion<'a> {
        Completion {
            id: row.verdict_id,
            group: row.group,
            origin: &row.origin,
            text: &row.text,
            attack: &row.attack,
            response: &row.response,
            class: Some(&row.class),
            what: CompletionKind::Verdict,
            turns: &row.turns,
            sample: &row.sample,
        }
    }

    /// The same role's completions in the earlier turns: the id and text of each.
    pub(crate) fn before(&self) -> Vec<(u32, &'a str)> {
        let own = |turn: &'a TurnRow| match self.what {
            CompletionKind::Attack => (turn.attack_id, turn.attack.as_str()),
            CompletionKind::Response | CompletionKind::Verdict => (turn.response_id, turn.response.as_str()),
        };
        self.turns.iter().map(own).collect()
    }

    /// A row without its reward.
    pub(crate) fn row(&self, context: &Context) -> RewardRow {
        RewardRow {
            sample_id: self.id,
            group: self.group,
            origin: self.origin.clone(),
            text: self.text.to_owned(),
            reward: None,
            advantage: None,
            components: Sparse::default(),
            notes: Sparse::default(),
            undetermined: 0,
            sample: self.sample.clone(),
            at: artifact::position(context),
        }
    }
}

/// The completions of a dataset, and what terms ask about them.
pub(crate) struct Batch<'a> {
    pub context: &'a Context<'a>,
    pub completions: Vec<Completion<'a>>,
    pub undetermined: Undetermined,
    what: CompletionKind,
    /// The name of the dataset in the pipeline.
    name: String,
    /// The scores of the terms above, by name.
    above: Vec<(String, Vec<Option<f64>>)>,
    /// Embeddings of the completions by model, since several terms may need them.
    embedded: RefCell<HashMap<Digest, Embeddings>>,
}

/// A unit vector for each completion.
type Embeddings = Arc<Vec<Vec<f32>>>;

impl<'a> Batch<'a> {
    pub(crate) fn new(
        context: &'a Context<'a>,
        data: &Input<Completions>,
        rewarded: &'a RewardedRows,
        undetermined: Undetermined,
    ) -> Batch<'a> {
        Batch {
            context,
            completions: rewarded.completions(),
            undetermined,
            what: rewarded.what(),
            name: data.text(),
            above: Vec::new(),
            embedded: RefCell::default(),
        }
    }

    /// The kind of the completions.
    pub(crate) fn what(&self) -> CompletionKind {
        self.what
    }

    /// The kind of one of them, for a message.
    pub(crate) fn one(&self) -> &'static str {
        self.what.plural().trim_end_matches('s')
    }

    /// The name of the dataset in the pipeline.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the scores of a term for those below it.
    pub(crate) fn add(&mut self, name: &str, scores: Vec<Option<f64>>) {
        self.above.push((name.to_owned(), scores));
    }

    /// The scores of a term above; `super::Reward::check` has checked that it is there.
    pub(crate) fn above(&self, name: &str) -> anyhow::Result<&[Option<f64>]> {
        let found = self.above.iter().find(|(known, _)| known == name);
        found.map(|(_, scores)| &scores[..]).ok_or_else(|| {
            anyhow::anyhow!("there is no term `{name}` above the one that reads it: a defect of triplay")
        })
    }

    /// Checks that a kind of term can score these completions.
    pub(crate) fn of(&self, scored: &[CompletionKind], kind: &str) -> anyhow::Result<()> {
        anyhow::ensure!(
            scored.contains(&self.what),
            "`data` must hold {} for `{kind}`, found {} in `{}`",
            CompletionKind::list(scored),
            self.what.plural(),
            self.name
        );
        Ok(())
    }

    /// The error for a completion without a row in another dataset.
    pub(crate) fn missing_row_error(
        &self,
        completion: &Completion,
        what: &str,
        dataset: &str,
    ) -> anyhow::Error {
        let one = self.one();
        anyhow::anyhow!(
            "{one} {} of `{}` must have a {what} in `{dataset}`, found none: both must be of the same step",
            completion.id,
            self.name
        )
    }

    /// The texts of all completions.
    pub(crate) fn texts(&self) -> Vec<&'a str> {
        self.completions.iter().map(|completion| completion.text).collect()
    }

    /// Scores of the texts of all completions; unknown where no model was asked for a text.
    pub(crate) fn of_texts(&self, scores: impl IntoIterator<Item = f64>) -> Vec<Option<f64>> {
        let is_known =
            |completion: &Completion| completion.sample.was_asked() || !has_no_text(completion.text);
        self.completions
            .iter()
            .zip(scores)
            .map(|(completion, score)| is_known(completion).then_some(score))
            .collect()
    }

    /// The pool of successful attacks, ready for comparisons.
    pub(crate) fn pool(&self, input: &Input<SuccessPool>) -> anyhow::Result<Arc<PoolSimilarity>> {
        artifact::pool(self.context, input)
    }

    /// A unit vector for each completion.
    pub(crate) fn embeddings(&self, embedder: &Input<AskedModel>) -> anyhow::Result<Embeddings> {
        let digest = self.context.input(embedder)?.digest;
        if let Some(known) = self.embedded.borrow().get(&digest) {
            return Ok(known.clone());
        }
        let made = Arc::new(self.embed(embedder, &self.texts())?);
        self.embedded.borrow_mut().insert(digest, made.clone());
        Ok(made)
    }

    /// A unit vector for each text.
    pub(crate) fn embed(
        &self,
        embedder: &Input<AskedModel>,
        texts: &[&str],
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        asking::embed(self.context, Some(embedder), texts)
    }

    /// Whether each attack keeps the meaning of its seed prompt: by the judge, otherwise by the words of the seed prompt.
    pub(crate) fn meanings(&self, judged: Option<&Input<Meanings>>) -> anyhow::Result<Vec<Option<Meaning>>> {
        let Some(input) = judged else {
            let by_words = |of: &Completion| match meaning_of_empty(of) {
                Some(known) => known,
                None => Some(Meaning::by_words(&of.origin.seed, of.attack)),
            };
            return Ok(self.completions.iter().map(by_words).collect());
        };
        let rows = artifact::rows::<MeaningRow, _>(self.context, input)?;
        let by_attack: BTreeMap<u32, &MeaningRow> = rows.iter().map(|row| (row.attack_id, row)).collect();
        let of = |of: &Completion| {
            if let Some(known) = meaning_of_empty(of) {
                return Ok(known);
            }
            let Some(row) = by_attack.get(&of.id).filter(|row| row.attack == of.attack) else {
                return Err(self.missing_row_error(of, "meaning", &input.text()));
            };
            Meaning::read(&row.class).ok_or_else(|| {
                anyhow::anyhow!(
                    "`class` of attack {} in `{}` must be {} or {}, found `{}`",
                    row.attack_id,
                    input.text(),
                    Meaning::LABELS.join(", "),
                    Meaning::label_of(None),
                    row.class
                )
            })
        };
        self.completions.iter().map(of).collect()
    }
}

/// An empty attack has lost its meaning, whatever the verdict; if no model was asked for it, its meaning is not known.
fn meaning_of_empty(of: &Completion) -> Option<Option<Meaning>> {
    has_no_text(of.attack).then(|| of.sample.was_asked().then_some(Meaning::Lost))
}
