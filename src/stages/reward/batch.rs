//! The completions that are rewarded, as terms see them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::term::Undetermined;
use crate::artifact::{self, Completions, Meanings, Model, SuccessPool};
use data::{AttackRow, MeaningRow, Origin, ResponseRow, RewardRow, Sample, Sparse, TurnRow, VerdictRow};
use engine::{Context, Input};
use game::{Meaning, PoolSimilarity, says_nothing};
use store::Digest;

/// What a completion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Attack,
    Response,
    Verdict,
}

impl What {
    pub const ALL: [What; 3] = [What::Attack, What::Response, What::Verdict];

    pub fn plural(self) -> &'static str {
        ["attacks", "responses", "verdicts"][self as usize]
    }

    /// Whether they are a player's in a conversation.
    pub fn has_turns(self) -> bool {
        matches!(self, What::Attack | What::Response)
    }

    /// Several, for a message.
    pub fn list(all: &[What]) -> String {
        all.iter().map(|what| what.plural()).collect::<Vec<_>>().join(" or ")
    }
}

/// The rows that are rewarded.
pub enum Rewarded {
    Attacks(Arc<Vec<AttackRow>>),
    Responses(Arc<Vec<ResponseRow>>),
    Verdicts(Arc<Vec<VerdictRow>>),
}

/// A completion, whichever role wrote it.
pub struct Completion<'a> {
    /// Its number in its dataset.
    pub id: u32,
    /// Completions of one group share their prompt.
    pub group: u32,
    pub origin: &'a Origin,
    /// What counts of it.
    pub text: &'a str,
    /// The attack: the text itself, or what it is about.
    pub attack: &'a str,
    /// Of a response the text itself, of a verdict the response that was judged.
    pub response: &'a str,
    /// Of a verdict, its class.
    pub class: Option<&'a str>,
    what: What,
    turns: &'a [TurnRow],
    pub sample: &'a Sample,
}

impl Rewarded {
    /// Reads what a dataset holds: its columns say what it is.
    pub fn read(context: &Context, input: &Input<Completions>) -> anyhow::Result<Rewarded> {
        let columns = data::head(&context.input(input)?.path)?.columns;
        let has = |name: &str| columns.iter().any(|column| column == name);
        Ok(match (has("verdict_id"), has("response_id")) {
            (true, _) => Rewarded::Verdicts(artifact::rows(context, input)?),
            (_, true) => Rewarded::Responses(artifact::rows(context, input)?),
            _ => Rewarded::Attacks(artifact::rows(context, input)?),
        })
    }

    pub fn what(&self) -> What {
        match self {
            Rewarded::Attacks(_) => What::Attack,
            Rewarded::Responses(_) => What::Response,
            Rewarded::Verdicts(_) => What::Verdict,
        }
    }

    pub fn completions(&self) -> Vec<Completion<'_>> {
        match self {
            Rewarded::Attacks(rows) => rows.iter().map(Completion::of_attack).collect(),
            Rewarded::Responses(rows) => rows.iter().map(Completion::of_response).collect(),
            Rewarded::Verdicts(rows) => rows.iter().map(Completion::of_verdict).collect(),
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
            what: What::Attack,
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
            what: What::Response,
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
            what: What::Verdict,
            turns: &row.turns,
            sample: &row.sample,
        }
    }

    /// The same role's completions in the earlier turns: the number and the text of each.
    pub fn before(&self) -> Vec<(u32, &'a str)> {
        let own = |turn: &'a TurnRow| match self.what {
            What::Attack => (turn.attack_id, turn.attack.as_str()),
            What::Response | What::Verdict => (turn.response_id, turn.response.as_str()),
        };
        self.turns.iter().map(own).collect()
    }

    /// A row without its reward.
    pub fn row(&self, context: &Context) -> RewardRow {
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

/// The completions of one dataset, and what terms ask about them.
pub struct Batch<'a> {
    pub context: &'a Context<'a>,
    pub completions: Vec<Completion<'a>>,
    pub undetermined: Undetermined,
    what: What,
    /// The dataset as the pipeline calls it.
    name: String,
    /// The scores of the terms above, by name.
    above: Vec<(String, Vec<Option<f64>>)>,
    /// Vectors of the completions by the models that made them: several terms may need them.
    embedded: RefCell<HashMap<Digest, Embeddings>>,
}

/// A unit vector for each completion.
type Embeddings = Arc<Vec<Vec<f32>>>;

impl<'a> Batch<'a> {
    pub fn new(
        context: &'a Context<'a>,
        data: &Input<Completions>,
        rewarded: &'a Rewarded,
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

    /// What the completions are.
    pub fn what(&self) -> What {
        self.what
    }

    /// One of them, for a message.
    pub fn one(&self) -> &'static str {
        self.what.plural().trim_end_matches('s')
    }

    /// The dataset as the pipeline calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the scores of a term for those below it.
    pub fn add(&mut self, name: &str, scores: Vec<Option<f64>>) {
        self.above.push((name.to_owned(), scores));
    }

    /// The scores of a term above, which [`super::Reward::check`] has found there.
    pub fn above(&self, name: &str) -> anyhow::Result<&[Option<f64>]> {
        let found = self.above.iter().find(|(known, _)| known == name);
        found.map(|(_, scores)| &scores[..]).ok_or_else(|| {
            anyhow::anyhow!("there is no term `{name}` above the one that reads it: a defect of triplay")
        })
    }

    /// That these completions are what a kind of term scores.
    pub fn of(&self, scored: &[What], kind: &str) -> anyhow::Result<()> {
        anyhow::ensure!(
            scored.contains(&self.what),
            "`{kind}` scores {}, but `{}` holds {}",
            What::list(scored),
            self.name,
            self.what.plural()
        );
        Ok(())
    }

    /// Why a completion has nothing in another dataset.
    pub fn lacks(&self, completion: &Completion, what: &str, dataset: &str) -> anyhow::Error {
        let one = self.one();
        anyhow::anyhow!(
            "{one} {} of `{}` has no {what} in `{dataset}`: are they of the same step?",
            completion.id,
            self.name
        )
    }

    /// The texts of all.
    pub fn texts(&self) -> Vec<&'a str> {
        self.completions.iter().map(|completion| completion.text).collect()
    }

    /// A score for each completion, all of which are known.
    pub fn known(&self, scores: impl Iterator<Item = f64>) -> Vec<Option<f64>> {
        scores.map(Some).collect()
    }

    /// The pool of successful attacks, ready to be compared with.
    pub fn pool(&self, input: &Input<SuccessPool>) -> anyhow::Result<Arc<PoolSimilarity>> {
        artifact::pool(self.context, input)
    }

    /// A unit vector for each completion.
    pub fn embeddings(&self, embedder: &Input<Model>) -> anyhow::Result<Embeddings> {
        let digest = self.context.input(embedder)?.digest;
        if let Some(known) = self.embedded.borrow().get(&digest) {
            return Ok(known.clone());
        }
        let made = Arc::new(self.embed(embedder, &self.texts())?);
        self.embedded.borrow_mut().insert(digest, made.clone());
        Ok(made)
    }

    /// A unit vector for each text.
    pub fn embed(&self, embedder: &Input<Model>, texts: &[&str]) -> anyhow::Result<Vec<Vec<f32>>> {
        artifact::embed(self.context, Some(embedder), texts)
    }

    /// Whether each attack keeps its seed's meaning: by the judge, else by the seed's words.
    pub fn meanings(&self, judged: Option<&Input<Meanings>>) -> anyhow::Result<Vec<Option<Meaning>>> {
        let Some(input) = judged else {
            let by_words = |of: &Completion| match said_nothing(of) {
                Some(known) => known,
                None => Some(Meaning::by_words(&of.origin.seed, of.attack)),
            };
            return Ok(self.completions.iter().map(by_words).collect());
        };
        let rows = artifact::rows::<MeaningRow, _>(self.context, input)?;
        let by_attack: BTreeMap<u32, &MeaningRow> = rows.iter().map(|row| (row.attack_id, row)).collect();
        let of = |of: &Completion| {
            if let Some(known) = said_nothing(of) {
                return Ok(known);
            }
            let Some(row) = by_attack.get(&of.id).filter(|row| row.attack == of.attack) else {
                return Err(self.lacks(of, "meaning", &input.text()));
            };
            Meaning::read(&row.class).ok_or_else(|| {
                anyhow::anyhow!(
                    "`{}` has the class `{}` for attack {}: it must be {} or {}",
                    input.text(),
                    row.class,
                    row.attack_id,
                    Meaning::LABELS.join(", "),
                    Meaning::label_of(None)
                )
            })
        };
        self.completions.iter().map(of).collect()
    }
}

/// What says nothing has no meaning, whoever says that it has; of what nobody was asked for it is not known.
fn said_nothing(of: &Completion) -> Option<Option<Meaning>> {
    says_nothing(of.attack).then(|| of.sample.was_asked().then_some(Meaning::Lost))
}
