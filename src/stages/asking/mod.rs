//! Asks models: a question becomes a prompt, a completion and its text. The text of a judge becomes a label.
//!
//! No case is dropped silently. No model is asked about an empty text. A judge's verdict is undetermined if no label can be read.
//! A prompt that does not fit into the context is an error; with `too_long: skip` the model is not asked, and what it would have
//! said is not known. The stage counts and reports each case.
//!
//! Each stage declares the keys `system`, `chat`, `answer` and `too_long` itself, after its own, and has a method `query` that
//! gathers them. A shared struct with `#[serde(flatten)]` would need no repetition, but serde then buffers these keys: errors in
//! them lose their places, and a misspelt key is no longer reported beside the names of the known ones. A macro that declares the
//! stage's struct hides its fields from rustfmt and rust-analyzer. A trait would need an accessor for each key, and no code is
//! generic over the stages.

mod context_length;
mod here;
mod keys;
mod sampler;
mod served;

use std::fmt;

use anyhow::Context as _;

pub(crate) use context_length::{TokenLimit, Trainer};
pub(crate) use keys::{Chat, Text, TooLong};
pub(crate) use sampler::embed;
pub(crate) use served::check_endpoint;

use super::artifact::AskedModel;
use data::{Mass, Sample, ServedLogprob, Sparse};
use engine::{CheckError, Context, Input};
use game::{Answer, Choice, Labels, Prompt, PromptError, Question, Role, has_no_text};
use model::{Arguments, Message, RenderedPrompt};
use rollout::Sampling;
use sampler::{Choosing, Rendered, Report, Sampled, Sampler, Selected};

/// A model, and how it is asked.
#[derive(Clone, Copy)]
pub(crate) struct ModelQuery<'a> {
    pub role: Role,
    pub model: &'a Input<AskedModel>,
    /// The role's default prompt if there is none.
    pub prompt: Option<&'a Text>,
    pub system: Option<&'a Text>,
    pub chat: &'a Chat,
    pub answer: Option<&'a Answer>,
    pub too_long: TooLong,
    pub sampling: &'a Sampling,
}

/// How a judge's label is sampled by default: greedily. A label is one word and the end of text: three tokens are enough.
pub(crate) fn greedy_label() -> Sampling {
    Sampling { temperature: 0.0, max_new_tokens: 3, ..Sampling::default() }
}

/// The answer to a question.
pub(crate) struct Reply {
    /// The part of the completion that counts; empty if the model was not asked.
    pub text: String,
    pub sample: Sample,
    too_long: bool,
}

/// The verdict of a judge.
pub(crate) struct JudgeReply {
    /// The index of the class; `None` if undetermined.
    pub class: Option<usize>,
    pub reply: Reply,
    /// What a choice says about its mass.
    mass: Option<ChoiceMass>,
}

/// How often a model that chose would have said one of the texts.
struct ChoiceMass {
    /// The sum of their probabilities.
    mass: f64,
    /// The least at which the choice decides.
    least: f64,
}

/// A prompt for a model; the default value if the model is not asked.
#[derive(Clone, Default)]
pub(crate) struct ReadyPrompt {
    pub rendered: RenderedPrompt,
    /// Its tokens; none where only the server knows them.
    pub ids: Vec<u32>,
    /// Its messages, where the server renders the chat.
    pub messages: Option<Vec<Message>>,
    is_asked: bool,
    is_too_long: bool,
}

impl ReadyPrompt {
    fn of_tokens(rendered: RenderedPrompt, ids: Vec<u32>) -> ReadyPrompt {
        ReadyPrompt { rendered, ids, is_asked: true, ..ReadyPrompt::default() }
    }

    /// A prompt that a server renders and tokenizes.
    fn of_server(rendered: RenderedPrompt, messages: Option<Vec<Message>>) -> ReadyPrompt {
        ReadyPrompt { rendered, messages, is_asked: true, ..ReadyPrompt::default() }
    }

    /// Whether the model reads it.
    fn is_read(&self) -> bool {
        self.is_asked && !self.is_too_long
    }
}

impl<'a> ModelQuery<'a> {
    /// With the role's default prompt and no chat, as in the sandbox.
    pub(crate) fn with_default_prompt(
        role: Role,
        model: &'a Input<AskedModel>,
        sampling: &'a Sampling,
    ) -> ModelQuery<'a> {
        const OFF: &Chat = &Chat::Off;
        // The sandbox's models do not think.
        const ALL: Option<&Answer> = Some(&Answer::All);
        let too_long = TooLong::Error;
        ModelQuery { role, model, prompt: None, system: None, chat: OFF, answer: ALL, too_long, sampling }
    }

    /// Checks the keys, and the contents of the files that exist.
    pub(crate) fn check(&self) -> Result<(), CheckError> {
        let peek =
            |key: &'static str, text: &Text| text.peek().map_err(|message| CheckError::at(key, message));
        let prompt = match self.prompt {
            None => Some(Prompt::of(self.role, self.chat.is_on())),
            Some(text) => {
                peek("prompt", text)?.map(|template| Prompt::parse(self.role, &template, text.shown()))
            }
        };
        prompt.transpose().map_err(|error| CheckError::at("prompt", error))?;
        if let Some(text) = self.system {
            if !self.chat.is_on() {
                return Err(CheckError::at("system", "`system` must be part of a chat: add `chat: true`"));
            }
            let system = peek("system", text)?;
            let system = system.map(|template| Prompt::system(self.role, &template, text.shown()));
            system.transpose().map_err(|error| CheckError::at("system", error))?;
        }
        self.chat.check().map_err(|message| CheckError::at("chat", message))?;
        let finder = self.answer.map(Answer::finder).transpose();
        finder.map(|_| ()).map_err(|message| CheckError::at("answer", message))
    }

    /// The same for a judge with its labels.
    pub(crate) fn check_labels(
        &self,
        labels: &Labels,
        classes: &'static [&'static str],
    ) -> Result<(), CheckError> {
        self.check()?;
        if matches!(labels, Labels::Choice(_)) && self.answer.is_some() {
            let message = "`answer` must be left out with a `choice`: there is no completion to search";
            return Err(CheckError::at("answer", message));
        }
        labels.check(classes).map_err(|message| CheckError::at("labels", message))
    }

    /// A warning if a judge's own prompt does not mention the labels that its answers are read by.
    pub(crate) fn unmentioned_labels(
        &self,
        labels: &Labels,
        classes: &'static [&'static str],
    ) -> Option<CheckError> {
        let prompt = self.prompt?;
        // An unreadable file is reported where it is read.
        let mut said = prompt.peek().ok()??;
        said.extend(self.system.and_then(|text| text.peek().ok()?));
        let unmentioned_labels: Vec<String> =
            labels.unmentioned_labels(classes, &said).into_iter().map(|text| format!("`{text}`")).collect();
        let message = format!(
            "the {}'s prompt {} never mentions {}, by which its answers are read: a model not trained on them cannot know them",
            self.role,
            prompt.shown(),
            unmentioned_labels.join(", ")
        );
        (!unmentioned_labels.is_empty()).then(|| CheckError::at("labels", message))
    }

    /// The first key in which this and another way of asking differ.
    pub(crate) fn first_difference(&self, other: &ModelQuery) -> Option<&'static str> {
        let text = |text: &Text| text.peek().ok().flatten().unwrap_or_else(|| text.shown());
        let prompt = |query: &ModelQuery| match query.prompt {
            Some(prompt) => text(prompt),
            None => Prompt::default_source(query.role, query.chat.is_on()).into(),
        };
        let differ = [
            ("chat", self.chat != other.chat),
            ("system", self.system.map(text) != other.system.map(text)),
            ("prompt", prompt(self) != prompt(other)),
        ];
        differ.into_iter().find_map(|(key, is_other)| is_other.then_some(key))
    }

    /// Whether the prompt or the system prompt uses a variable; true if a file cannot be read yet.
    pub(crate) fn uses(&self, variable: &str) -> bool {
        let uses = |text: &Text| {
            let template = text.peek().ok()??;
            Some(Prompt::system(self.role, &template, text.shown()).ok()?.uses(variable))
        };
        [self.prompt, self.system].into_iter().flatten().any(|text| uses(text).unwrap_or(true))
    }

    /// Samples one completion for each question and reports tokens per second. Without a question, the model is not asked. `what`
    /// names the random streams and the progress.
    pub(crate) fn ask(
        &self,
        context: &mut Context,
        questions: &[Option<Question>],
        what: &str,
    ) -> anyhow::Result<Vec<Reply>> {
        let sampler = self.sampler(context)?;
        let finder = self.answer.unwrap_or(&Answer::Final).finder().map_err(anyhow::Error::msg)?;
        let mut prompts = self.prepare(context, &*sampler, questions)?;
        self.fit(&*sampler, &mut prompts, |_| self.sampling.max_new_tokens, "max_new_tokens")?;
        let seed = context.seed().child(what);
        let sampled = sampler.sample(&prompts, self.sampling, seed, &mut |done, total, note| {
            context.progress(done, total, format!("{what}, {note}"));
        })?;
        sampler.facts().into_iter().for_each(|facts| context.record_served(facts));
        let reply = |(prompt, sampled): (ReadyPrompt, Sampled)| {
            let Sampled { completion, prompt_ids, served_logprobs, too_long } = sampled;
            // What a server renders is not known here.
            let known = prompt.messages.is_none().then_some(&*prompt.rendered.text);
            let text = finder.find(&completion.text, known).to_owned();
            let own = self.sample(prompt);
            Reply {
                text,
                too_long: own.too_long || too_long,
                sample: Sample {
                    completion: completion.text,
                    completion_ids: completion.ids,
                    logprobs: completion.logprobs,
                    finished: completion.finished,
                    prompt_ids: prompt_ids.unwrap_or(own.sample.prompt_ids),
                    served_logprobs: Sparse(
                        served_logprobs
                            .into_iter()
                            .map(|logprob| ServedLogprob { logprob: f64::from(logprob) })
                            .collect(),
                    ),
                    ..own.sample
                },
            }
        };
        Ok(prompts.into_iter().zip(sampled).map(reply).collect())
    }

    /// Asks a judge for one of `classes`.
    pub(crate) fn judge(
        &self,
        context: &mut Context,
        questions: &[Option<Question>],
        what: &str,
        labels: &Labels,
        classes: &'static [&'static str],
    ) -> anyhow::Result<Vec<JudgeReply>> {
        if let (Labels::Choice(choice), Some(texts)) = (labels, labels.choices(classes)) {
            return self.choose(context, questions, what, &texts, choice);
        }
        let reader = labels.reader(classes).map_err(anyhow::Error::msg)?;
        let replies = self.ask(context, questions, what)?;
        let read = |reply: Reply| JudgeReply { class: reader.read(&reply.text), reply, mass: None };
        Ok(replies.into_iter().map(read).collect())
    }

    /// Lets the model choose among texts. A choice with less than the least mass is undetermined, but its text is kept. A mass that
    /// the pipeline states must be known; where it states none, a server may tell none.
    fn choose(
        &self,
        context: &mut Context,
        questions: &[Option<Question>],
        what: &str,
        texts: &[&str],
        choice: &Choice,
    ) -> anyhow::Result<Vec<JudgeReply>> {
        let sampler = self.sampler(context)?;
        let mut prompts = self.prepare(context, &*sampler, questions)?;
        let continuations = sampler.continuations(&prompts, texts)?;
        let longest = |row: usize| {
            let texts = continuations.get(row).into_iter().flatten();
            texts.map(Vec::len).max().unwrap_or(0)
        };
        self.fit(&*sampler, &mut prompts, longest, "the longest choice")?;
        let temperature = self.sampling.temperature;
        let least = choice.least_mass(temperature);
        let needs_mass = choice.mass.is_some_and(|mass| mass > 0.0);
        let choosing = Choosing { texts, temperature, needs_mass, seed: context.seed().child(what) };
        let report: Report = &mut |done, all, note| {
            let note = if note.is_empty() { String::new() } else { format!(", {note}") };
            context.progress(done, all, format!("{what}{note}"));
        };
        let chosen = sampler.choose(&prompts, &continuations, &choosing, report)?;
        sampler.facts().into_iter().for_each(|facts| context.record_served(facts));
        let verdict = |(prompt, chosen): (ReadyPrompt, Option<Selected>)| {
            let is_read = prompt.is_read();
            let own = self.sample(prompt);
            let Some(Selected { index, ids, logprobs, mass }) = chosen else {
                // The server found that it is too long.
                let too_long = own.too_long || is_read;
                return JudgeReply { class: None, reply: Reply { too_long, ..own }, mass: None };
            };
            let mass = mass.map(|mass| ChoiceMass { mass: f64::from(mass), least });
            let text = texts[index].to_owned();
            let sample = Sample {
                completion: text.clone(),
                completion_ids: ids,
                logprobs,
                finished: true,
                mass: Sparse(mass.iter().map(|mass| Mass { probability: mass.mass }).collect()),
                ..own.sample
            };
            let class = mass.as_ref().is_none_or(ChoiceMass::decides).then_some(index);
            JudgeReply { class, reply: Reply { text, sample, ..own }, mass }
        };
        Ok(prompts.into_iter().zip(chosen).map(verdict).collect())
    }

    /// What answers: the decoder in this process, or a server.
    fn sampler(&self, context: &Context) -> anyhow::Result<Box<dyn Sampler>> {
        let arguments = match self.chat {
            Chat::On(arguments) => arguments.clone(),
            Chat::Off => Arguments::new(),
        };
        sampler::of(context, self.model, arguments, self.too_long)
    }

    /// The prompt of each question.
    fn prepare(
        &self,
        context: &Context,
        sampler: &dyn Sampler,
        questions: &[Option<Question>],
    ) -> anyhow::Result<Vec<ReadyPrompt>> {
        let prompt = match self.prompt {
            None => Prompt::of(self.role, self.chat.is_on())?,
            Some(text) => Prompt::parse(self.role, &text.read(context)?, text.shown())?,
        };
        let system = match self.system {
            None => None,
            Some(text) => Some(Prompt::system(self.role, &text.read(context)?, text.shown())?),
        };
        let count = questions.len();
        let rows: Vec<usize> = (0..count).filter(|&row| questions[row].is_some()).collect();
        let questions = || questions.iter().flatten();
        // Text that fills a template never becomes a control token, whatever it spells.
        let render = |prompt: &Prompt, question: &Question| {
            question.with_texts(|text| sampler.guard(text), |question| prompt.render(question))
        };
        let render_all = |prompt: &Prompt| -> anyhow::Result<Vec<String>> {
            let texts = || questions().map(|question| render(prompt, question)).collect::<Result<_, _>>();
            Ok(template::with_large_stack(texts)??)
        };
        let forgets =
            self.role == Role::Defender && matches!(self.chat, Chat::Off) && !prompt.uses("conversation");
        anyhow::ensure!(
            !forgets || questions().all(|question| question.conversation.is_empty()),
            "`prompt` of `{}` must use `conversation`, since there are earlier turns and no `chat` to put them in",
            self.model.text()
        );
        let prompts = render_all(&prompt)?;
        let rendered: Vec<Rendered> = if self.chat.is_on() {
            let mut systems = system.as_ref().map(&render_all).transpose()?.unwrap_or_default().into_iter();
            let turn = |(prompt, before): (String, Vec<Message>)| {
                let system = systems.next().map(|text| Message::new("system", text));
                system.into_iter().chain(before).chain([Message::new("user", prompt)]).collect()
            };
            // A defender gets its earlier responses as messages of its own, unless its prompt uses `conversation`.
            let told = system.iter().chain([&prompt]).any(|prompt| prompt.uses("conversation"));
            let has_turns = self.role == Role::Defender && !told;
            let before = |question: &Question| match has_turns {
                true => earlier(question, |question| render(&prompt, question), |text| sampler.guard(text)),
                false => Ok(Vec::new()),
            };
            let before =
                template::with_large_stack(|| questions().map(before).collect::<Result<Vec<_>, _>>())??;
            prompts.into_iter().zip(before).map(turn).map(Rendered::Chat).collect()
        } else {
            prompts.into_iter().map(Rendered::Text).collect()
        };
        let ready = sampler.prompts(rendered).with_context(|| format!("model `{}`", self.model.text()))?;
        let mut prompts = vec![ReadyPrompt::default(); count];
        for (row, prompt) in rows.into_iter().zip(ready) {
            anyhow::ensure!(
                !prompt.ids.is_empty() || prompt.messages.is_some() || !prompt.rendered.text.is_empty(),
                "row {row}: the {}'s prompt must have at least one token, found none in `{}`",
                self.role,
                prompt.rendered.text
            );
            prompts[row] = prompt;
        }
        Ok(prompts)
    }

    /// Marks prompts that leave too little room in the model's context, or fails on the first.
    fn fit(
        &self,
        sampler: &dyn Sampler,
        prompts: &mut [ReadyPrompt],
        room: impl Fn(usize) -> usize,
        of_what: &str,
    ) -> anyhow::Result<()> {
        let Some(positions) = sampler.positions() else { return Ok(()) };
        for (row, prompt) in prompts.iter_mut().enumerate() {
            let room = room(row);
            prompt.is_too_long = !prompt.ids.is_empty() && prompt.ids.len().saturating_add(room) > positions;
            anyhow::ensure!(
                !prompt.is_too_long || self.too_long == TooLong::Skip,
                "row {row}: the {}'s prompt ({} tokens) and {of_what} ({room}) must fit into the {positions} positions of \
                 model `{}`: make them shorter, or write `too_long: skip` to leave out and count such rows",
                self.role,
                prompt.ids.len(),
                self.model.text()
            );
        }
        Ok(())
    }

    /// A reply without a completion.
    fn sample(&self, prompt: ReadyPrompt) -> Reply {
        let too_long = prompt.is_too_long;
        let sample = Sample {
            role: self.role.to_string(),
            prompt: prompt.rendered.text,
            prompt_ids: prompt.ids,
            completion: String::new(),
            completion_ids: Vec::new(),
            logprobs: Vec::new(),
            finished: false,
            served_logprobs: Sparse::default(),
            mass: Sparse::default(),
        };
        Reply { text: String::new(), sample, too_long }
    }
}

/// The earlier turns of a question to a defender as messages: the attacks as the user's, the responses as the model's.
fn earlier(
    question: &Question,
    ask: impl Fn(&Question) -> Result<String, PromptError>,
    guard: impl Fn(&str) -> String,
) -> Result<Vec<Message>, PromptError> {
    let mut messages = Vec::new();
    for (index, turn) in question.conversation.iter().enumerate() {
        let conversation = &question.conversation[..index];
        let asked = ask(&Question { prompt: turn.attack, conversation, ..*question })?;
        messages.push(Message::new("user", asked));
        messages.push(Message::new("assistant", guard(turn.response)));
    }
    Ok(messages)
}

impl ChoiceMass {
    fn decides(&self) -> bool {
        self.mass >= self.least
    }
}

/// The mean mass of a judge's choices, and how many were below the least, for the stage's last note; nothing without choices.
pub(crate) fn mass_note(verdicts: &[JudgeReply]) -> String {
    let masses: Vec<&ChoiceMass> = verdicts.iter().filter_map(|verdict| verdict.mass.as_ref()).collect();
    let Some(ChoiceMass { least, .. }) = masses.first() else { return String::new() };
    let mean = masses.iter().map(|choice| choice.mass).sum::<f64>() / masses.len() as f64;
    let note = format!(", mean mass {mean:.2}");
    match masses.iter().filter(|choice| !choice.decides()).count() {
        0 => note,
        below => format!("{note}, {below} below {least}"),
    }
}

/// The numbers of empty and skipped replies, for the stage's last note.
#[derive(Default)]
pub(crate) struct SkippedCounts {
    empty: usize,
    too_long: usize,
}

impl SkippedCounts {
    pub(crate) fn count<'a>(&mut self, replies: impl IntoIterator<Item = &'a Reply>) {
        for reply in replies {
            match reply.too_long {
                true => self.too_long += 1,
                false => self.empty += usize::from(has_no_text(&reply.text)),
            }
        }
    }

    pub(crate) fn of<'a>(replies: impl IntoIterator<Item = &'a Reply>) -> SkippedCounts {
        let mut missing = SkippedCounts::default();
        missing.count(replies);
        missing
    }
}

impl fmt::Display for SkippedCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, what) in [(self.empty, "empty"), (self.too_long, "too long to ask")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}
