//! What a stage asks of a model. The decoder in this process and a served model are the two implementations; which one it is
//! follows from the input. No stage knows.

use super::here::InProcess;
use super::served::Served;
use super::{ReadyPrompt, TooLong};
use crate::artifact::{self, AskedModel};
use engine::{Context, Input};
use model::{Arguments, Embedder, Message};
use rollout::{Completion, Sampling};
use store::Seed;

/// A question as it is put to a model, before it is tokenized.
pub(crate) enum Rendered {
    /// The text of a prompt.
    Text(String),
    /// The messages of a chat.
    Chat(Vec<Message>),
}

/// What was sampled for a prompt.
#[derive(Clone, Default)]
pub(crate) struct Sampled {
    pub completion: Completion,
    /// The tokens of the prompt where the server made them.
    pub prompt_ids: Option<Vec<u32>>,
    /// The log-probabilities that a server gave, where those of the completion are this process's own.
    pub served_logprobs: Vec<f32>,
    /// Whether the prompt turned out to be too long to be answered.
    pub too_long: bool,
}

/// How one of some texts is chosen.
pub(crate) struct Choosing<'a> {
    pub texts: &'a [&'a str],
    pub temperature: f64,
    /// Whether the mass must be known.
    pub needs_mass: bool,
    pub seed: Seed,
}

/// What was chosen for a prompt.
#[derive(Clone)]
pub(crate) struct Selected {
    /// The index of the text.
    pub index: usize,
    /// Its tokens; none where the server does not tell them.
    pub ids: Vec<u32>,
    /// Their log-probabilities; none where the server does not tell them.
    pub logprobs: Vec<f32>,
    /// The sum of the probabilities of all texts at temperature 1; `None` where the server does not tell it.
    pub mass: Option<f32>,
}

/// Gets the number of steps done, that of all, and a note.
pub(crate) type Report<'a> = &'a mut dyn FnMut(usize, usize, &str);

/// What a stage asks of a model.
pub(crate) trait Sampler: Send + Sync {
    /// Marks the control tokens that a text spells, so that it never becomes one in a prompt.
    fn guard(&self, text: &str) -> String;

    /// The tokens that a model can read, prompt and completion together; `None` if that is not known.
    fn positions(&self) -> Option<usize>;

    /// Makes prompts of what is asked, in order.
    fn prompts(&self, asked: Vec<Rendered>) -> anyhow::Result<Vec<ReadyPrompt>>;

    /// Samples a completion for each prompt that is to be read.
    fn sample(
        &self,
        prompts: &[ReadyPrompt],
        sampling: &Sampling,
        seed: Seed,
        report: Report,
    ) -> anyhow::Result<Vec<Sampled>>;

    /// The tokens with which each text continues each prompt; empty where only the server knows them.
    fn continuations(&self, prompts: &[ReadyPrompt], texts: &[&str]) -> anyhow::Result<Vec<Vec<Vec<u32>>>>;

    /// Chooses one of the texts for each prompt that is to be read: the most probable at temperature 0, otherwise drawn in
    /// proportion to its probability at that temperature. An error if the mass must be known and cannot be.
    fn choose(
        &self,
        prompts: &[ReadyPrompt],
        continuations: &[Vec<Vec<u32>>],
        choosing: &Choosing,
        report: Report,
    ) -> anyhow::Result<Vec<Option<Selected>>>;

    /// What a server did so far, for the node's record.
    fn facts(&self) -> Option<serde_json::Value> {
        None
    }

    /// A unit vector for each text.
    fn embed(&self, texts: &[&str], report: Report) -> anyhow::Result<Vec<Vec<f32>>>;
}

/// What answers for a model.
pub(super) fn of(
    context: &Context,
    model: &Input<AskedModel>,
    arguments: Arguments,
    too_long: TooLong,
) -> anyhow::Result<Box<dyn Sampler>> {
    let endpoint = context.endpoint(model)?;
    let here = || -> anyhow::Result<InProcess> {
        let checkpoint = artifact::model(context, model)?;
        Ok(InProcess { checkpoint, name: model.text(), arguments: arguments.clone() })
    };
    Ok(match endpoint {
        None => Box::new(here()?),
        Some(endpoint) => {
            // What the server loads is here too.
            let local = endpoint.model.is_none().then(here).transpose()?;
            let too_long_is_skipped = too_long == TooLong::Skip;
            Box::new(Served::new(context, model, endpoint, local, arguments, too_long_is_skipped)?)
        }
    })
}

/// A unit vector for each text, by a sentence encoder or the mean-pooled last hidden states of a decoder, here or behind a
/// server; empty vectors without a model.
pub(crate) fn embed(
    context: &Context,
    embedder: Option<&Input<AskedModel>>,
    texts: &[&str],
) -> anyhow::Result<Vec<Vec<f32>>> {
    let Some(embedder) = embedder else { return Ok(vec![Vec::new(); texts.len()]) };
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let artifact = context.input(embedder)?;
    if context.endpoint(embedder)?.is_none() && Embedder::is_in(&artifact.path) {
        let compute = artifact::compute(context)?;
        let encoder = context.load(artifact, |path| {
            let encoder = Embedder::load(path, &compute)?;
            let bytes = encoder.bytes();
            Ok((encoder, bytes))
        })?;
        return Ok(encoder.embed(texts)?);
    }
    let sampler = of(context, embedder, Arguments::new(), TooLong::Error)?;
    let embeddings = sampler.embed(texts, &mut |done, total, note| {
        context.progress_of_part(done, total, &format!("embeddings, {note}"));
    });
    sampler.facts().into_iter().for_each(|facts| context.record_served(facts));
    embeddings
}
