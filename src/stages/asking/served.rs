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
use super::sampler::{Rendered, Report, Sampled, Sampler, Selected};
use crate::artifact::{self, AskedModel};
use endpoint::{
    Asking, Choose, Config, Embed, Endpoint, Journal, Model, Needs, Progress, Prompt, Question, Score,
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
    /// What was asked and answered, kept for the next attempt.
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

fn read(entry: &serde_json::Value) -> Result<Config, CheckError> {
    serde_path_to_error::deserialize(entry).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        CheckError::at(path, error.into_inner())
    })
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
        what: &str,
    ) -> anyhow::Result<Served> {
        let config =
            read(endpoint.entry).map_err(|error| anyhow::anyhow!("{}: {}", error.path, error.message))?;
        let artifact = context.input(model)?;
        let loaded = |here| -> anyhow::Result<Loaded> {
            let (folder, digest) = (artifact.path.clone(), artifact.digest);
            Ok(Loaded { here, base: artifact::base_digest(context, &folder)?, folder, digest })
        };
        let loaded = here.map(loaded).transpose()?;
        let (name, revision) = endpoint.model.unwrap_or_default();
        let of_what = Digest::of_bytes(what.as_bytes()).short();
        Ok(Served {
            name: endpoint.name.to_owned(),
            config,
            model: Model { name: name.to_owned(), revision: revision.map(str::to_owned) },
            loaded,
            arguments,
            skips_too_long,
            journal: context.unfinished()?.join(format!("answers-{of_what}")),
            logs: context.servers(),
            facts: Mutex::new(None),
        })
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
            Endpoint::open(&self.name, &self.config, model, &needs, &self.logs, waiting).map_err(failed)
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
            (Some(_), None) => open(&named(folder), &mut waiting),
            (Some(_), Some(_)) => {
                let base = self.base_alone(folder, *base)?;
                open_and_keep(&named(&base), &mut waiting)?.with_adapter(folder, *digest).map_err(failed)
            }
            (None, _) => open(&self.model, &mut waiting)?.with_adapter(folder, *digest).map_err(failed),
        }
    }

    /// A folder with the base of an adapter and nothing else, the same for all adapters of one base.
    fn base_alone(&self, folder: &Path, digest: Digest) -> anyhow::Result<PathBuf> {
        let base = self.logs.join(format!("base-{}", digest.short()));
        std::fs::create_dir_all(&base)?;
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
        let journal = Journal::open(&self.journal).map_err(failed)?;
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
        asked.map_err(failed)?;
        Ok(answers)
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

/// The error of a stage for one of a server.
fn failed(trouble: endpoint::Trouble) -> anyhow::Error {
    match trouble.is_transient() {
        true => Transient::of(trouble.into()),
        false => trouble.into(),
    }
}

/// The indices of the prompts that are to be read.
fn to_read(prompts: &[ReadyPrompt]) -> Vec<usize> {
    (0..prompts.len()).filter(|&row| prompts[row].is_read()).collect()
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
        let needs = Needs { ids: needed, logprobs: needed && trusted, ..Needs::default() };
        let endpoint = self.connect(needs, report)?;
        let can = endpoint.can().can;
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
        if let Some(loaded) = self.loaded.as_ref().filter(|_| !trusted) {
            let pairs: Vec<(&[u32], &[u32])> =
                rows.iter().map(|&row| (&prompts[row].ids[..], &sampled[row].completion.ids[..])).collect();
            let own = loaded.here.score(&pairs, sampling.temperature, report)?;
            for (row, own) in rows.into_iter().zip(own) {
                let completion = &mut sampled[row].completion;
                sampled[row].served_logprobs = std::mem::replace(&mut completion.logprobs, own);
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
        texts: &[&str],
        continuations: &[Vec<Vec<u32>>],
        temperature: f64,
        seed: Seed,
        report: Report,
    ) -> anyhow::Result<Vec<Option<Selected>>> {
        let rows = to_read(prompts);
        let mut chosen = vec![None; prompts.len()];
        let selected = |row: usize, logprobs: Vec<Vec<f32>>, ids: &[Vec<u32>]| {
            let index = rollout::select(&logprobs, temperature, seed, row)?;
            let ids = ids.get(index).cloned().unwrap_or_default();
            // Only these are log-probabilities at 1.
            let is_raw = temperature == 0.0 || temperature == 1.0;
            let mass = is_raw.then(|| rollout::mass(&logprobs));
            Some(Selected { index, ids, logprobs: logprobs[index].clone(), mass })
        };
        if self.loaded.is_some() {
            let texts =
                |&row: &usize| continuations[row].iter().map(move |ids| (&prompts[row].ids[..], &ids[..]));
            let pairs: Vec<(&[u32], &[u32])> = rows.iter().flat_map(texts).collect();
            let mut scores = self.score(&pairs, temperature, report)?.into_iter();
            for row in rows {
                let logprobs: Vec<Vec<f32>> = scores.by_ref().take(continuations[row].len()).collect();
                chosen[row] = selected(row, logprobs, &continuations[row]);
            }
            return Ok(chosen);
        }
        let endpoint = self.connect(Needs { choice: true, ..Needs::default() }, report)?;
        let question = |&row: &usize| Choose {
            prompt: self.prompt(&prompts[row]),
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            temperature,
            seed: seed.child(row),
        };
        let answers = self.ask(&endpoint, rows.iter().map(question), report)?;
        for (row, answer) in rows.into_iter().zip(answers) {
            let Some(answer) = answer else { continue };
            chosen[row] = match (answer.logprobs, answer.chosen) {
                (Some(logprobs), _) => selected(row, logprobs, &answer.ids),
                (None, Some(index)) => {
                    Some(Selected { index, ids: Vec::new(), logprobs: Vec::new(), mass: None })
                }
                (None, None) => None,
            };
        }
        Ok(chosen)
    }

    fn score(
        &self,
        rows: &[(&[u32], &[u32])],
        temperature: f64,
        report: Report,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let endpoint = self.connect(Needs { score: true, ..Needs::default() }, report)?;
        let question = |(prompt, completion): &(&[u32], &[u32])| Score {
            prompt: prompt.to_vec(),
            completion: completion.to_vec(),
            temperature,
        };
        let scores = self.ask(&endpoint, rows.iter().map(question), report)?;
        Ok(scores.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn facts(&self) -> Option<serde_json::Value> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn embed(&self, texts: &[&str]) -> anyhow::Result<Vec<Vec<f32>>> {
        let endpoint = self.connect(Needs { embed: true, ..Needs::default() }, &mut |_, _, _| ())?;
        let question = |text: &&str| Embed { text: (*text).to_owned() };
        let vectors = self.ask(&endpoint, texts.iter().map(question), &mut |_, _, _| ())?;
        let mut vectors: Vec<Vec<f32>> = vectors.into_iter().map(Option::unwrap_or_default).collect();
        for vector in &mut vectors {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            vector.iter_mut().for_each(|x| *x /= length);
        }
        Ok(vectors)
    }
}
