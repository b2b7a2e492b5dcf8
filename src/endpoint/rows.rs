//! The loop over a node's questions: as many under way as the server takes, answers kept as they come and delivered in order. It
//! holds a window of rows in memory, however many there are.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use store::{Digest, canonical_digest};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::call::{Call, Counts, Failure};
use super::endpoint::Endpoint;
use super::http::runtime;
use super::journal::{Journal, Line, Lines};
use super::question::sealed::Answered;
use super::question::{Model, Question};
use super::served::{Progress, Usage};
use super::trouble::Trouble;

/// How far answers may be ahead of the oldest row without one.
const WINDOW: usize = 1024;
/// How often the caller hears of the progress.
const TICK: Duration = Duration::from_millis(100);
/// How long requests under way have to end once one has failed for good.
const GRACE: Duration = Duration::from_secs(10);

/// How questions are asked.
#[derive(Default)]
pub struct Asking<'a> {
    /// Where answers are kept. Those of an earlier try are taken from it.
    pub journal: Option<&'a Journal>,
    /// The number of rows, if known.
    pub total: Option<usize>,
    /// Whether a prompt that the server refuses as too long is left unanswered, rather than an error.
    pub skip_too_long: bool,
}

/// A row's answer, and what it took.
type Outcome<A> = (Result<A, Failure>, Usage);

/// The rows between the oldest without an answer and the newest.
struct Window<A> {
    /// The row at the front.
    first: usize,
    answers: VecDeque<Option<Option<A>>>,
}

impl<A> Window<A> {
    fn next_row(&self) -> usize {
        self.first + self.answers.len()
    }

    fn put(&mut self, row: usize, answer: Option<A>) {
        if let Some(place) = self.answers.get_mut(row - self.first) {
            *place = Some(answer);
        }
    }

    /// The oldest row, if it has its answer.
    fn take(&mut self) -> Option<(usize, Option<A>)> {
        let answer = self.answers.front_mut()?.take()?;
        self.answers.pop_front();
        self.first += 1;
        Some((self.first - 1, answer))
    }
}

/// Ends tasks with what asked for them, however that ends, so that none of them still has the server afterwards.
pub(crate) struct Tasks(pub Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
        for task in self.0.drain(..) {
            let _ = runtime().block_on(task);
        }
    }
}

impl Endpoint {
    /// Asks all questions, and delivers the answers in the order of the questions. `deliver` gets a row's index and its answer, or
    /// `None` if its prompt is too long. `watch` is called about ten times a second; with `Break` asking stops. Whatever the
    /// outcome, all answers that came are in the journal and on disk.
    pub fn ask<Q: Question>(
        &self,
        questions: impl Iterator<Item = Q>,
        asking: &Asking,
        deliver: &mut dyn FnMut(usize, Option<Q::Answer>) -> Result<(), String>,
        watch: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(), Trouble> {
        let begun = Instant::now();
        let outcome = self.ask_all(questions, asking, deliver, watch);
        Counts::add(&self.server.counts.microseconds, begun.elapsed().as_micros() as u64);
        let durable = asking.journal.map_or(Ok(()), |journal| journal.lines().sync());
        outcome.and(durable)
    }

    fn ask_all<Q: Question>(
        &self,
        mut questions: impl Iterator<Item = Q>,
        asking: &Asking,
        deliver: &mut dyn FnMut(usize, Option<Q::Answer>) -> Result<(), String>,
        watch: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(), Trouble> {
        let (sender, answers) = mpsc::channel::<(usize, Outcome<Q::Answer>)>();
        let stop = Arc::new(watch::Sender::new(false));
        let lines = asking.journal.map(Journal::lines);
        // Of a model whose files are known, the name is only where a server has it.
        let model = self.content.is_none().then_some(&self.asked);
        if let (Some(lines), Some(model)) = (&lines, model) {
            lines.answered(model).into_iter().for_each(|name| self.server.expect_model(name));
        }
        // What the node has taken from this endpoint, with all its questions and tries.
        let mut spent = lines.as_ref().map(|lines| lines.spent(&self.server.name)).unwrap_or_default();
        let most = self.server.config.requests.0;
        let mut window = Window { first: 0, answers: VecDeque::new() };
        let mut tasks = Tasks(Vec::new());
        let (mut under_way, mut is_over, mut failure) = (0, false, None::<Trouble>);
        // A question that waits until the budget is known to have room for it.
        let mut held: Option<(usize, Q, Digest)> = None;
        let (mut asked_rows, mut filtered) = (0, 0);
        let (mut progress, mut usage) =
            (Progress { total: asking.total, ..Progress::default() }, Usage::default());
        let (begun, mut ticked, mut failed_at) = (Instant::now(), Instant::now(), None::<Instant>);
        let retries = Counts::of(&self.server.counts.retries);
        loop {
            while failure.is_none() && under_way < most {
                let (row, question, asked) = match held.take() {
                    Some(held) => held,
                    None => {
                        if is_over || window.answers.len() >= WINDOW {
                            break;
                        }
                        let Some(question) = questions.next() else {
                            is_over = true;
                            break;
                        };
                        let row = window.next_row();
                        window.answers.push_back(None);
                        let asked = self.digest(&question);
                        let kept = match &lines {
                            Some(lines) => {
                                self.server.counts.take(lines.lost(asked));
                                lines.find::<Q::Answer>(asked)?
                            }
                            None => None,
                        };
                        if let Some((answer, cost)) = kept {
                            self.server.counts.keep(cost);
                            (progress.kept, progress.done) = (progress.kept + 1, progress.done + 1);
                            usage += cost;
                            window.put(row, Some(answer));
                            if ticked.elapsed() >= TICK {
                                break;
                            }
                            continue;
                        }
                        (row, question, asked)
                    }
                };
                if let Some(trouble) = self.over_budget(spent, progress.done, asking.total) {
                    failure = Some(trouble);
                    break;
                }
                // Those under way are taken to cost as much as the others did. The first is asked alone.
                let mut expected = usage.scaled(under_way as f64 / progress.done.max(1) as f64);
                expected += spent;
                let may_be_over = || self.over_budget(expected, 0, None).is_some();
                if under_way > 0 && self.server.config.budget.is_some() && (asked_rows == 0 || may_be_over())
                {
                    held = Some((row, question, asked));
                    break;
                }
                let call = self.call(&stop);
                if let Err(message) = question.check(&call) {
                    failure = Some(Trouble::Wrong(message));
                    break;
                }
                let (sender, lines, model) = (sender.clone(), lines.clone(), model.cloned());
                let task = runtime().spawn(async move {
                    let outcome = one(&question, &call, asked, model, lines.as_deref()).await;
                    let _ = sender.send((row, outcome));
                });
                if tasks.0.len() >= 2 * most {
                    tasks.0.retain(|task| !task.is_finished());
                }
                tasks.0.push(task);
                under_way += 1;
            }
            while let Some((row, answer)) = window.take() {
                if failure.is_none()
                    && let Err(message) = deliver(row, answer)
                {
                    failure = Some(Trouble::Caller(message));
                }
            }
            if failure.is_some() && failed_at.is_none() {
                failed_at = Some(Instant::now());
                stop.send_replace(true);
            }
            if under_way == 0
                && (is_over || failure.is_some())
                && window.answers.front().is_none_or(Option::is_none)
            {
                break;
            }
            let is_budget = matches!(failure, Some(Trouble::Budget { .. }));
            if failed_at.is_some_and(|at| !is_budget && at.elapsed() > GRACE) {
                break;
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                let seconds = begun.elapsed().as_secs_f64();
                progress.rate = (progress.done - progress.kept) as f64 / seconds.max(1e-3);
                progress.errors = Counts::of(&self.server.counts.retries) - retries;
                progress.failing = self.server.failing();
                progress.under_way = under_way;
                progress.tokens = usage.tokens();
                progress.cost = self.cost(usage);
                if watch(&progress).is_break() {
                    return Err(Trouble::Cancelled);
                }
            }
            if under_way == 0 {
                continue;
            }
            // One at least, then all that are there.
            let mut next = match answers.recv_timeout(TICK) {
                Ok(answer) => Some(answer),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            while let Some((row, (outcome, took))) = next {
                under_way -= 1;
                spent += took;
                match outcome {
                    Ok(answer) => {
                        usage += took;
                        asked_rows += 1;
                        progress.done += 1;
                        window.put(row, Some(answer));
                    }
                    // The others are still asked, so that the error tells how many there are.
                    Err(Failure::Filtered) => {
                        filtered += 1;
                        progress.done += 1;
                        window.put(row, None);
                    }
                    Err(Failure::TooLong(_)) if asking.skip_too_long => {
                        progress.done += 1;
                        window.put(row, None);
                    }
                    Err(Failure::Trouble(trouble) | Failure::TooLong(trouble)) => {
                        failure.get_or_insert(trouble);
                    }
                    Err(Failure::Stopped) => {}
                }
                next = answers.try_recv().ok();
            }
        }
        if let Some(Trouble::Budget { what, .. }) = &failure {
            // With those that were under way.
            let what = *what;
            return Err(self.budget_spent(what, spent, progress.done, asking.total));
        }
        if filtered > 0 && failure.is_none() {
            let url = self.server.base.to_string();
            return Err(Trouble::Filtered { url, rows: filtered, of: progress.done });
        }
        failure.map_or(Ok(()), Err)
    }

    /// The journal's key of a question: everything that its answer depends on, and nothing of where it is asked.
    fn digest<Q: Question>(&self, question: &Q) -> Digest {
        let model = self.content.map_or_else(|| json!(self.asked), |content| json!(content));
        canonical_digest(&json!({ "kind": <Q as Answered>::NAME, "model": model, "question": question }))
    }

    fn cost(&self, usage: Usage) -> f64 {
        let price = self.server.config.price.unwrap_or_default();
        price.of(usage.prompt_tokens, usage.completion_tokens)
    }

    fn over_budget(&self, usage: Usage, done: usize, total: Option<usize>) -> Option<Trouble> {
        let budget = self.server.config.budget?;
        let tokens = budget.tokens.is_some_and(|most| usage.tokens() >= most);
        let money = budget.money.is_some_and(|most| self.cost(usage) >= most);
        match (tokens, money) {
            (true, _) => Some(self.budget_spent("tokens", usage, done, total)),
            (_, true) => Some(self.budget_spent("money", usage, done, total)),
            _ => None,
        }
    }

    fn budget_spent(&self, what: &'static str, usage: Usage, done: usize, total: Option<usize>) -> Trouble {
        let budget = self.server.config.budget.unwrap_or_default();
        let (limit, spent) = match what {
            "tokens" => (budget.tokens.unwrap_or_default().to_string(), usage.tokens().to_string()),
            _ => (budget.money.unwrap_or_default().to_string(), format!("{:.4}", self.cost(usage))),
        };
        Trouble::Budget { what, limit, spent, done, left: total.map(|total| total.saturating_sub(done)) }
    }
}

/// About how many tokens something has: one for four bytes.
fn estimate(of: &impl Serialize) -> u64 {
    serde_json::to_vec(of).map_or(1, |written| written.len() as u64 / 4)
}

/// Asks one question, and keeps its answer and what it took.
async fn one<Q: Question>(
    question: &Q,
    call: &Call,
    asked: Digest,
    model: Option<Model>,
    lines: Option<&Lines>,
) -> Outcome<Q::Answer> {
    let answer = question.answer(call).await;
    let mut usage = call.usage();
    if let Ok(answer) = &answer
        && usage.tokens() == 0
        && call.server.config.budget.is_some()
    {
        // Some servers do not tell. A budget must not be without limit for that.
        usage = Usage { prompt_tokens: estimate(question), completion_tokens: estimate(answer) };
        call.server.counts.take(usage);
    }
    let kept = match lines.filter(|_| answer.is_ok() || usage.tokens() > 0) {
        Some(lines) => {
            let (endpoint, answered) = (call.server.name.clone(), call.answered());
            let answer = answer.as_ref().ok();
            lines.append(Line { asked, endpoint, model, answered, usage, answer })
        }
        None => Ok(()),
    };
    (kept.map_err(Failure::from).and(answer), usage)
}
