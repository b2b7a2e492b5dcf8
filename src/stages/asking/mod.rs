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
mod keys;

use std::fmt;

use anyhow::Context as _;

pub(crate) use context_length::{TokenLimit, Trainer};
pub(crate) use keys::{Chat, Text, TooLong};

use super::artifact::{self, Model};
use data::Sample;
use engine::{CheckError, Context, Input};
use game::{Answer, Labels, Prompt, PromptError, Question, Role, has_no_text};
use model::{Checkpoint, FIXED_DAY, Message, RenderedPrompt};
use rollout::{self, Sampling};

/// A model, and how it is asked.
#[derive(Clone, Copy)]
pub(crate) struct ModelQuery<'a> {
    pub role: Role,
    pub model: &'a Input<Model>,
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
}

/// A question, tokenized; the default value if the model is not asked.
#[derive(Clone, Default)]
struct TokenizedPrompt {
    prompt: RenderedPrompt,
    ids: Vec<u32>,
    too_long: bool,
}

impl<'a> ModelQuery<'a> {
    /// With the role's default prompt and no chat, as in the sandbox.
    pub(crate) fn with_default_prompt(
        role: Role,
        model: &'a Input<Model>,
        sampling: &'a Sampling,
    ) -> ModelQuery<'a> {
        const OFF: &Chat = &Chat::Off;
        let too_long = TooLong::Error;
        ModelQuery { role, model, prompt: None, system: None, chat: OFF, answer: None, too_long, sampling }
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
        let checkpoint = artifact::model(context, self.model)?;
        let finder = self.answer.map(Answer::finder).transpose().map_err(anyhow::Error::msg)?;
        let mut asked = self.prepare(context, &checkpoint, questions)?;
        self.fit(&checkpoint, &mut asked, |_| self.sampling.max_new_tokens, "max_new_tokens")?;
        let seed = context.seed().child(what);
        let begun = std::time::Instant::now();
        let total = self.sampling.max_new_tokens;
        let mut tokens = 0;
        let prompts = to_read(&asked);
        let completions =
            rollout::sample(&checkpoint, &prompts, self.sampling, seed, &mut |step, active| {
                tokens += active;
                let rate = tokens as f64 / begun.elapsed().as_secs_f64().max(1e-3);
                context.progress(step, total, format!("{what}, {rate:.0} tokens/s"));
            })?;
        let reply = |(asked, completion): (TokenizedPrompt, rollout::Completion)| Reply {
            text: match &finder {
                Some(finder) => finder.find(&completion.text).to_owned(),
                None => completion.text.clone(),
            },
            too_long: asked.too_long,
            sample: Sample {
                completion: completion.text,
                completion_ids: completion.ids,
                logprobs: completion.logprobs,
                finished: completion.finished,
                ..self.sample(asked)
            },
        };
        Ok(asked.into_iter().zip(completions).map(reply).collect())
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
        if let Some(texts) = labels.choices(classes) {
            return self.choose(context, questions, what, &texts);
        }
        let reader = labels.reader(classes).map_err(anyhow::Error::msg)?;
        let replies = self.ask(context, questions, what)?;
        Ok(replies.into_iter().map(|reply| JudgeReply { class: reader.read(&reply.text), reply }).collect())
    }

    /// Lets the model choose among texts.
    fn choose(
        &self,
        context: &mut Context,
        questions: &[Option<Question>],
        what: &str,
        texts: &[&str],
    ) -> anyhow::Result<Vec<JudgeReply>> {
        let checkpoint = artifact::model(context, self.model)?;
        let mut asked = self.prepare(context, &checkpoint, questions)?;
        let choices = self.continuations(&checkpoint, &asked, texts)?;
        let longest = |row: usize| choices[row].iter().map(Vec::len).max().unwrap_or(0);
        self.fit(&checkpoint, &mut asked, longest, "the longest choice")?;
        let (seed, prompts) = (context.seed().child(what), to_read(&asked));
        let temperature = self.sampling.temperature;
        let chosen =
            rollout::choose(&checkpoint, &prompts, &choices, temperature, seed, &mut |done, all| {
                context.progress(done, all, what);
            })?;
        let verdict = |(asked, chosen): (TokenizedPrompt, Option<rollout::Chosen>)| {
            let too_long = asked.too_long;
            let (class, text, sample) = match chosen {
                None => (None, String::new(), self.sample(asked)),
                Some(chosen) => {
                    let text = texts[chosen.index].to_owned();
                    let sample = Sample {
                        completion: text.clone(),
                        completion_ids: chosen.ids,
                        logprobs: chosen.logprobs,
                        finished: true,
                        ..self.sample(asked)
                    };
                    (Some(chosen.index), text, sample)
                }
            };
            JudgeReply { class, reply: Reply { text, sample, too_long } }
        };
        Ok(asked.into_iter().zip(chosen).map(verdict).collect())
    }

    /// The tokens with which each text continues each prompt, since some tokenizers encode a text differently after a prompt.
    /// Where the prompt's own tokens would change, the tokens of the text alone.
    fn continuations(
        &self,
        checkpoint: &Checkpoint,
        asked: &[TokenizedPrompt],
        texts: &[&str],
    ) -> anyhow::Result<Vec<Vec<Vec<u32>>>> {
        let tokenizer = &checkpoint.tokenizer;
        let alone = tokenizer.encode_all(texts)?;
        let mut choices = vec![Vec::new(); asked.len()];
        for (text, alone) in texts.iter().zip(alone) {
            let text = tokenizer.marks.read(text);
            let whole: Vec<RenderedPrompt> =
                asked.iter().map(|asked| asked.prompt.followed_by(&text)).collect();
            for ((asked, ids), choices) in
                asked.iter().zip(tokenizer.encode_filled(&whole)?).zip(&mut choices)
            {
                let after = ids.strip_prefix(&asked.ids[..]).filter(|_| !asked.ids.is_empty());
                choices.push(after.map_or_else(|| alone.clone(), <[u32]>::to_vec));
            }
        }
        for choices in &choices {
            for (index, choice) in choices.iter().enumerate() {
                let like = |other: &usize| *other != index && choices[*other].starts_with(choice);
                if let Some(other) = (0..choices.len()).find(like) {
                    anyhow::bail!(
                        "the model `{}` cannot choose between `{}` and `{}`: the tokens of one begin with those of the \
                         other; use other texts in `labels`",
                        self.model.text(),
                        texts[index],
                        texts[other]
                    );
                }
            }
        }
        Ok(choices)
    }

    /// The prompt of each question, and its tokens.
    fn prepare(
        &self,
        context: &Context,
        checkpoint: &Checkpoint,
        questions: &[Option<Question>],
    ) -> anyhow::Result<Vec<TokenizedPrompt>> {
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
        let marks = &checkpoint.tokenizer.marks;
        // Text that fills a template never becomes a control token, whatever it spells.
        let render = |prompt: &Prompt, question: &Question| {
            question.with_texts(|text| marks.guard(text), |question| prompt.render(question))
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
        let mut prompts = render_all(&prompt)?;
        if let Chat::On(arguments) = self.chat {
            let mut systems = system.as_ref().map(&render_all).transpose()?.unwrap_or_default().into_iter();
            let turn = |(prompt, before): (String, Vec<Message>)| {
                let system = systems.next().map(|text| Message::new("system", text));
                system.into_iter().chain(before).chain([Message::new("user", prompt)]).collect()
            };
            // A defender gets its earlier responses as messages of its own, unless its prompt uses `conversation`.
            let told = system.iter().chain([&prompt]).any(|prompt| prompt.uses("conversation"));
            let has_turns = self.role == Role::Defender && !told;
            let before = |question: &Question| match has_turns {
                true => earlier(question, |question| render(&prompt, question), |text| marks.guard(text)),
                false => Ok(Vec::new()),
            };
            let before =
                template::with_large_stack(|| questions().map(before).collect::<Result<Vec<_>, _>>())??;
            let turns: Vec<Vec<Message>> = prompts.into_iter().zip(before).map(turn).collect();
            let rendered = checkpoint.tokenizer.render_chats(&turns, FIXED_DAY, arguments);
            prompts = rendered.with_context(|| format!("model `{}`", self.model.text()))?;
        }
        let prompts: Vec<RenderedPrompt> = prompts.iter().map(|prompt| marks.read(prompt)).collect();
        let ids = checkpoint.tokenizer.encode_filled(&prompts)?;
        let mut asked = vec![TokenizedPrompt::default(); count];
        for ((row, prompt), ids) in rows.into_iter().zip(prompts).zip(ids) {
            anyhow::ensure!(
                !ids.is_empty(),
                "row {row}: the {}'s prompt must have at least one token, found none in `{}`",
                self.role,
                prompt.text
            );
            asked[row] = TokenizedPrompt { prompt, ids, too_long: false };
        }
        Ok(asked)
    }

    /// Marks prompts that leave too little room in the model's context, or fails on the first.
    fn fit(
        &self,
        checkpoint: &Checkpoint,
        asked: &mut [TokenizedPrompt],
        room: impl Fn(usize) -> usize,
        of_what: &str,
    ) -> anyhow::Result<()> {
        let positions = checkpoint.config.positions;
        for (row, asked) in asked.iter_mut().enumerate() {
            let room = room(row);
            asked.too_long = !asked.ids.is_empty() && asked.ids.len().saturating_add(room) > positions;
            anyhow::ensure!(
                !asked.too_long || self.too_long == TooLong::Skip,
                "row {row}: the {}'s prompt ({} tokens) and {of_what} ({room}) must fit into the {positions} positions of \
                 model `{}`: make them shorter, or write `too_long: skip` to leave out and count such rows",
                self.role,
                asked.ids.len(),
                self.model.text()
            );
        }
        Ok(())
    }

    /// A sample without a completion.
    fn sample(&self, asked: TokenizedPrompt) -> Sample {
        Sample {
            role: self.role.to_string(),
            prompt: asked.prompt.text,
            prompt_ids: asked.ids,
            completion: String::new(),
            completion_ids: Vec::new(),
            logprobs: Vec::new(),
            finished: false,
        }
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

/// The tokens that the model reads: none if a prompt is too long.
fn to_read(asked: &[TokenizedPrompt]) -> Vec<Vec<u32>> {
    asked.iter().map(|asked| if asked.too_long { Vec::new() } else { asked.ids.clone() }).collect()
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
