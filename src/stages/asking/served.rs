//! A model behind a server.
//!
//! What the server has is asked in texts and messages, which the server renders and tokenizes. What it was told to load is in this
//! process too: prompts are rendered and tokenized here, completions come back as tokens, and their log-probabilities are this
//! process's own, those of the trainer, unless the site file trusts the server's.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;

use super::ReadyPrompt;
use super::here::InProcess;
use super::sampler::{Choosing, Rendered, Report, Sampled, Sampler, Selected};
use crate::artifact::{self, AskedModel};
use crate::site;
use endpoint::{
    Asking, Choose, Config, Embed, Endpoint, Journal, LogprobsMode, Model, Needs, Progress, Prompt, Question,
    Score,
};
use engine::{CheckError, Context, Input, Transient};
use model::{Arguments, Checkpoint, Message, RenderedPrompt};
use rollout::{Completion, Sampling};
use store::{Digest, Seed};

/// A served model.
pub(crate) struct Served {
    /// The endpoint's name.
    name: String,
    config: Config,
    model: Model,
    loaded: Option<Loaded>,
    arguments: Arguments,
    skips_too_long: bool,
    /// The folder in which all that the node asked is kept for its next attempt.
    journal: PathBuf,
    /// Where a server that triplay starts writes its log.
    logs: PathBuf,
    facts: Mutex<Option<serde_json::Value>>,
}

/// A model that the server was told to load.
struct Loaded {
    here: InProcess,
    folder: PathBuf,
    digest: Digest,
    /// The digest of the model without its adapter.
    base: Digest,
}

/// Checks an entry of the site file.
pub(crate) fn check_endpoint(config: &Config) -> Result<(), CheckError> {
    match config.check().into_iter().next() {
        Some((path, message)) => Err(CheckError::at(path, message)),
        None => Ok(()),
    }
}

impl Served {
    /// Prepares to ask through an endpoint; `here` is the model in this process if the server is told to load it.
    pub(super) fn new(
        context: &Context,
        model: &Input<AskedModel>,
        endpoint: engine::Endpoint,
        here: Option<InProcess>,
        arguments: Arguments,
        skips_too_long: bool,
    ) -> anyhow::Result<Served> {
        let config: Config = site::read(&format!("endpoint `{}`", endpoint.name), endpoint.entry)?;
        let artifact = context.input(model)?;
        let loaded = |here| -> anyhow::Result<Loaded> {
            let (folder, digest) = (artifact.path.clone(), artifact.digest);
            Ok(Loaded { here, base: artifact::base_digest(context, &folder)?, folder, digest })
        };
        let loaded = here.map(loaded).transpose()?;
        let (name, revision) = endpoint.model.unwrap_or_default();
        let logs = match config.command {
            Some(_) => context.servers()?,
            None => PathBuf::new(),
        };
        Ok(Served {
            name: endpoint.name.to_owned(),
            config,
            model: Model { name: name.to_owned(), revision: revision.map(str::to_owned) },
            loaded,
            arguments,
            skips_too_long,
            journal: context.unfinished()?,
            logs,
            facts: Mutex::new(None),
        })
    }

    /// The error of a stage for one of the server.
    fn failed(&self, trouble: endpoint::Trouble) -> anyhow::Error {
        let is_transient = trouble.is_transient();
        let error = anyhow::anyhow!("endpoint `{}`: {trouble}", self.name);
        if is_transient { Transient::of(error) } else { error }
    }

    /// The server, which can do what is needed.
    fn connect(&self, needs: Needs, report: Report) -> anyhow::Result<Endpoint> {
        let loads = self
            .loaded
            .as_ref()
            .is_some_and(|loaded| self.config.command.is_none() || loaded.here.checkpoint.adapter.is_some());
        let needs = Needs { adapters: loads, ..needs };
        let mut waiting = |note: &str| {
            report(0, 1, note);
            ControlFlow::Continue(())
        };
        let open = |model: &Model, waiting: &mut dyn FnMut(&str) -> ControlFlow<()>| {
            Endpoint::open(&self.name, &self.config, model, &needs, &self.logs, waiting)
                .map_err(|trouble| self.failed(trouble))
        };
        // Such a model is the same for many nodes.
        let open_and_keep = |model: &Model, waiting: &mut dyn FnMut(&str) -> ControlFlow<()>| {
            open(model, waiting).inspect(Endpoint::keep)
        };
        let Some(Loaded { here, folder, digest, base }) = &self.loaded else {
            return open_and_keep(&self.model, &mut waiting);
        };
        let named = |path: &Path| Model { name: path.display().to_string(), revision: None };
        match (&self.config.command, &here.checkpoint.adapter) {
            // A server that triplay starts serves the weights from its beginning. Each step of a training makes others.
            (Some(_), None) => Ok(open(&named(folder), &mut waiting)?.of_content(*digest)),
            (Some(_), Some(_)) => {
                let base = self.base_alone(folder, *base)?;
                open_and_keep(&named(&base), &mut waiting)?
                    .with_adapter(folder, *digest, &mut waiting)
                    .map_err(|trouble| self.failed(trouble))
            }
            (None, _) => open(&self.model, &mut waiting)?
                .with_adapter(folder, *digest, &mut waiting)
                .map_err(|trouble| self.failed(trouble)),
        }
    }

    /// A folder with the base of an adapter and nothing else, the same for all adapters of one base.
    fn base_alone(&self, folder: &Path, digest: Digest) -> anyhow::Result<PathBuf> {
        let base = self.logs.join(format!("base-{}", digest.short()));
        store::create_private(&base)?;
        for path in Checkpoint::base_files(folder)? {
            let link = base.join(path.file_name().unwrap_or_default());
            match std::os::unix::fs::symlink(std::path::absolute(&path)?, &link) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("cannot write {}", link.display()));
                }
                _ => {}
            }
        }
        Ok(base)
    }

    /// Asks all questions; answers come in their order, none for a prompt that is too long.
    fn ask<Q: Question>(
        &self,
        endpoint: &Endpoint,
        questions: impl ExactSizeIterator<Item = Q> + Send,
        report: Report,
    ) -> anyhow::Result<Vec<Option<Q::Answer>>> {
        let total = questions.len();
        let journal = Journal::open(&self.journal).map_err(|trouble| self.failed(trouble))?;
        let asking =
            Asking { journal: Some(&journal), total: Some(total), skip_too_long: self.skips_too_long };
        let mut answers = Vec::with_capacity(total);
        let asked = endpoint.ask(
            questions,
            &asking,
            &mut |_, answer| {
                answers.push(answer);
                Ok(())
            },
            &mut |progress: &Progress| {
                report(progress.done, total, &progress.to_string());
                ControlFlow::Continue(())
            },
        );
        let facts = serde_json::to_value(endpoint.served()).ok();
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts;
        asked.map_err(|trouble| self.failed(trouble))?;
        Ok(answers)
    }

    /// The log-probability of each token of each completion after its prompt, at the temperature (at 1 if that is 0); none of one
    /// that is too long.
    fn scores(
        &self,
        rows: &[(&[u32], &[u32])],
        temperature: f64,
        report: Report,
    ) -> anyhow::Result<Vec<Option<Vec<f32>>>> {
        let endpoint = self.connect(Needs { score: true, ..Needs::default() }, report)?;
        let question = |(prompt, completion): &(&[u32], &[u32])| Score {
            prompt: prompt.to_vec(),
            completion: completion.to_vec(),
            temperature,
        };
        self.ask(&endpoint, rows.iter().map(question), report)
    }

    fn prompt(&self, prompt: &ReadyPrompt) -> Prompt {
        if self.loaded.is_some() {
            return Prompt::Ids(prompt.ids.clone());
        }
        match &prompt.messages {
            None => Prompt::Text(prompt.rendered.text.clone()),
            Some(messages) => {
                let message = |message: &Message| endpoint::Message {
                    role: message.role.clone(),
                    content: message.content.clone(),
                };
                Prompt::Chat {
                    messages: messages.iter().map(message).collect(),
                    arguments: self.arguments.clone(),
                }
            }
        }
    }
}

/// Whether log-probabilities at the temperature of sampling, and at 1 if that is 0, are those at 1.
fn is_at_one(temperature: f64) -> bool {
    temperature == 0.0 || temperature == 1.0
}

/// The indices of the prompts that are to be read.
fn to_read(prompts: &[ReadyPrompt]) -> Vec<usize> {
    (0..prompts.len()).filter(|&row| prompts[row].is_read()).collect()
}

/// The scores of the next texts, unless one has none.
fn of_texts(scores: &mut impl Iterator<Item = Option<Vec<f32>>>, count: usize) -> Option<Vec<Vec<f32>>> {
    // All are taken first: those after a text without a score are not the next row's.
    let scores: Vec<Option<Vec<f32>>> = scores.take(count).collect();
    scores.into_iter().collect::<Option<Vec<_>>>().filter(|scores| scores.len() == count)
}

/// The messages of a chat as a person reads them.
fn shown(messages: &[Message]) -> String {
    let shown: Vec<String> =
        messages.iter().map(|message| format!("[{}]\n{}\n", message.role, message.content)).collect();
    shown.join("\n")
}

impl Sampler for Served {
    fn guard(&self, text: &str) -> String {
        match &self.loaded {
            Some(loaded) => loaded.here.guard(text),
            // The control tokens of the server's tokenizer are not known.
            None => text.to_owned(),
        }
    }

    fn positions(&self) -> Option<usize> {
        self.loaded.as_ref().and_then(|loaded| loaded.here.positions())
    }

    fn prompts(&self, asked: Vec<Rendered>) -> anyhow::Result<Vec<ReadyPrompt>> {
        if let Some(loaded) = &self.loaded {
            return loaded.here.prompts(asked);
        }
        let prompt = |asked| match asked {
            Rendered::Text(text) => ReadyPrompt::of_server(RenderedPrompt::plain(&text), None),
            Rendered::Chat(messages) => {
                ReadyPrompt::of_server(RenderedPrompt::plain(&shown(&messages)), Some(messages))
            }
        };
        Ok(asked.into_iter().map(prompt).collect())
    }

    fn sample(
        &self,
        prompts: &[ReadyPrompt],
        sampling: &Sampling,
        seed: Seed,
        report: Report,
    ) -> anyhow::Result<Vec<Sampled>> {
        let needed = self.loaded.is_some();
        let trusted = self.config.trust_logprobs;
        let endpoint = self.connect(Needs { ids: needed, logprobs: needed, ..Needs::default() }, report)?;
        let can = endpoint.can().can;
        // Others are of another distribution than the one that was sampled, which the trainer scores.
        let is_of_sampling =
            is_at_one(sampling.temperature) || endpoint.can().logprobs_mode == Some(LogprobsMode::Processed);
        anyhow::ensure!(
            is_of_sampling || !trusted || !needed,
            "endpoint `{}`: `trust_logprobs` must be left out where a server samples at temperature {} and gives log-probabilities at \
             1, or does not tell at which\n  help: leave `trust_logprobs` out, sample at 1, or start vLLM with --logprobs-mode \
             processed_logprobs",
            self.name,
            sampling.temperature
        );
        let rows = to_read(prompts);
        let question = |&row: &usize| endpoint::Sample {
            prompt: self.prompt(&prompts[row]),
            sampling: endpoint::Sampling {
                max_tokens: sampling.max_new_tokens,
                temperature: sampling.temperature,
                top_p: sampling.top_p,
                top_k: sampling.top_k,
                min_p: sampling.min_p,
                stop: sampling.stop.clone(),
            },
            // The key of the stream that a row draws from in this process.
            seed: seed.child(row),
            ids: can.ids,
            logprobs: can.logprobs,
        };
        let answers = self.ask(&endpoint, rows.iter().map(question), report)?;
        let mut sampled = vec![Sampled::default(); prompts.len()];
        for (&row, answer) in rows.iter().zip(answers) {
            let Some(answer) = answer else {
                sampled[row].too_long = true;
                continue;
            };
            let endpoint::Sampled { text, reasoning, prompt_ids, ids, logprobs, finished } = answer;
            // As the model wrote it, so that it is kept apart from the answer in one way.
            let text = match (reasoning, &self.loaded) {
                (_, Some(loaded)) => rollout::text(&loaded.here.checkpoint.tokenizer, &ids, &sampling.stop)?,
                (Some(reasoning), None) => format!("<think>{reasoning}</think>{text}"),
                (None, None) => text,
            };
            sampled[row] = Sampled {
                completion: Completion { ids, logprobs, finished, text },
                prompt_ids: (!prompt_ids.is_empty()).then_some(prompt_ids),
                ..Sampled::default()
            };
        }
        if let Some(loaded) = &self.loaded {
            // llama.cpp has none for a completion that a `stop` ended.
            let is_trusted = |row: &usize| {
                let Completion { ids, logprobs, .. } = &sampled[*row].completion;
                trusted && ids.len() == logprobs.len()
            };
            let rows: Vec<usize> = rows.into_iter().filter(|row| !is_trusted(row)).collect();
            let pairs: Vec<(&[u32], &[u32])> =
                rows.iter().map(|&row| (&prompts[row].ids[..], &sampled[row].completion.ids[..])).collect();
            let own = loaded.here.score(&pairs, sampling.temperature)?;
            for (row, own) in rows.into_iter().zip(own) {
                let served = std::mem::replace(&mut sampled[row].completion.logprobs, own);
                sampled[row].served_logprobs = if is_of_sampling { served } else { Vec::new() };
            }
        }
        Ok(sampled)
    }

    fn continuations(&self, prompts: &[ReadyPrompt], texts: &[&str]) -> anyhow::Result<Vec<Vec<Vec<u32>>>> {
        match &self.loaded {
            Some(loaded) => loaded.here.continuations(prompts, texts),
            None => Ok(vec![Vec::new(); prompts.len()]),
        }
    }

    fn choose(
        &self,
        prompts: &[ReadyPrompt],
        continuations: &[Vec<Vec<u32>>],
        choosing: &Choosing,
        report: Report,
    ) -> anyhow::Result<Vec<Option<Selected>>> {
        let Choosing { texts, temperature, needs_mass, seed } = *choosing;
        let rows = to_read(prompts);
        let mut chosen = vec![None; prompts.len()];
        // The mass is that at 1.
        let at_one = (needs_mass && !is_at_one(temperature)).then_some(1.0);
        let selected =
            |row: usize, logprobs: Vec<Vec<f32>>, at_one: Option<Vec<Vec<f32>>>, ids: &[Vec<u32>]| {
                let index = rollout::select(&logprobs, temperature, seed, row)?;
                let ids = ids.get(index).cloned().unwrap_or_default();
                let at_one = at_one.as_ref().or(is_at_one(temperature).then_some(&logprobs));
                let mass = at_one.map(|logprobs| rollout::mass(logprobs));
                Some(Selected { index, ids, logprobs: logprobs[index].clone(), mass })
            };
        if self.loaded.is_some() {
            let texts =
                |&row: &usize| continuations[row].iter().map(move |ids| (&prompts[row].ids[..], &ids[..]));
            let pairs: Vec<(&[u32], &[u32])> = rows.iter().flat_map(texts).collect();
            let mut scores = self.scores(&pairs, temperature, report)?.into_iter();
            let mut at_one = match at_one {
                Some(temperature) => self.scores(&pairs, temperature, report)?,
                None => Vec::new(),
            }
            .into_iter();
            for row in rows {
                let count = continuations[row].len();
                let at_one = of_texts(&mut at_one, count);
                // Too long with any of the texts: nothing is chosen among the others.
                let Some(logprobs) = of_texts(&mut scores, count) else { continue };
                chosen[row] = selected(row, logprobs, at_one, &continuations[row]);
            }
            return Ok(chosen);
        }
        let endpoint = self.connect(Needs { choice: true, ..Needs::default() }, report)?;
        anyhow::ensure!(
            !needs_mass || !endpoint.can().by_grammar,
            "endpoint `{}`: `mass` must be left out where a server chooses by grammar: it tells no probabilities\n  help: leave `mass` \
             out, or ask vLLM, SGLang or triplay serve",
            self.name
        );
        let question = |row: usize, temperature: f64| Choose {
            prompt: self.prompt(&prompts[row]),
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            temperature,
            seed: seed.child(row),
        };
        let answers = self.ask(&endpoint, rows.iter().map(|&row| question(row, temperature)), report)?;
        let at_one = match at_one {
            Some(temperature) => {
                self.ask(&endpoint, rows.iter().map(|&row| question(row, temperature)), report)?
            }
            None => vec![None; rows.len()],
        };
        for ((row, answer), at_one) in rows.into_iter().zip(answers).zip(at_one) {
            let Some(answer) = answer else { continue };
            chosen[row] = match (answer.logprobs, answer.chosen) {
                (Some(logprobs), _) => {
                    selected(row, logprobs, at_one.and_then(|answer| answer.logprobs), &answer.ids)
                }
                (None, Some(index)) => {
                    Some(Selected { index, ids: Vec::new(), logprobs: Vec::new(), mass: None })
                }
                (None, None) => None,
            };
        }
        Ok(chosen)
    }

    fn facts(&self) -> Option<serde_json::Value> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn embed(&self, texts: &[&str], report: Report) -> anyhow::Result<Vec<Vec<f32>>> {
        let endpoint = self.connect(Needs { embed: true, ..Needs::default() }, report)?;
        let question = |text: &&str| Embed { text: (*text).to_owned() };
        let vectors = self.ask(&endpoint, texts.iter().map(question), report)?;
        let mut vectors: Vec<Vec<f32>> = vectors.into_iter().map(Option::unwrap_or_default).collect();
        for vector in &mut vectors {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            vector.iter_mut().for_each(|x| *x /= length);
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_with_a_text_that_is_too_long_has_no_scores_and_takes_none_of_the_next_rows() {
        let score = |number: f32| Some(vec![number]);
        let mut scores = vec![None, score(-1.0), score(-2.0), score(-3.0)].into_iter();
        assert_eq!(of_texts(&mut scores, 2), None);
        assert_eq!(of_texts(&mut scores, 2), Some(vec![vec![-2.0], vec![-3.0]]));
        assert_eq!(of_texts(&mut scores, 2), None);
    }
}
