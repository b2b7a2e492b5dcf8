//! The thread that computes: rows of all models join between decoding steps, as far as the cache of keys and values has room, and
//! leave when they have ended or their client has gone. Rows join in the order in which they were asked for, whichever model they
//! are for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::metrics::Metrics;
use super::models::{Kind, Served};
use rollout::{Batch, PromptScores, Row};

/// Tokens of prompts that are read between two decoding steps, unless one prompt alone has more.
const READ_AT_ONCE: usize = 2048;

/// Texts that are embedded between two decoding steps, unless [`READ_AT_ONCE`] allows fewer.
const EMBEDDED_AT_ONCE: usize = 32;

/// About so many bytes of text are a token.
const BYTES_PER_TOKEN: usize = 4;

/// The limits of the work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// The most rows that draw tokens at the same time.
    pub rows: usize,
    /// Memory for their keys and values, in bytes.
    pub cache: usize,
}

/// What happens to a row.
pub(crate) enum Event {
    /// Its prompt was read.
    Read(Option<PromptScores>),
    /// A token was drawn; only for clients that follow.
    Token { id: u32, logprob: f32, alternatives: Vec<(u32, f32)> },
    /// It has ended.
    Ended(Box<Row>),
    /// It cannot be computed.
    Failed(String),
}

/// A row to sample. Its results are sent with the index of its choice.
pub(crate) struct NewRow {
    pub row: Row,
    pub choice: usize,
    pub reply: UnboundedSender<(usize, Event)>,
    /// Whether each token is sent as it is drawn.
    pub follow: bool,
    pub asked_at: Instant,
}

/// What is embedded.
pub(crate) enum Inputs {
    Texts(Vec<String>),
    Rows(Vec<Vec<u32>>),
}

impl Inputs {
    pub(crate) fn len(&self) -> usize {
        match self {
            Inputs::Texts(texts) => texts.len(),
            Inputs::Rows(rows) => rows.len(),
        }
    }

    /// About how many tokens one of them has.
    fn tokens(&self, at: usize) -> usize {
        match self {
            Inputs::Texts(texts) => texts[at].len() / BYTES_PER_TOKEN,
            Inputs::Rows(rows) => rows[at].len(),
        }
    }

    /// The end of those that are embedded together from `from` on.
    fn together(&self, from: usize) -> usize {
        let most = (from + EMBEDDED_AT_ONCE).min(self.len());
        let mut tokens = 0;
        let beyond = (from..most).find(|&at| {
            tokens += self.tokens(at);
            at > from && tokens > READ_AT_ONCE
        });
        beyond.unwrap_or(most)
    }
}

type Vectors = Result<Vec<Vec<f32>>, String>;

/// Work for a model.
pub(crate) enum Job {
    Sample(Arc<Served>, Vec<NewRow>),
    Embed(Arc<Served>, Inputs, oneshot::Sender<Vectors>),
}

/// Starts the thread. It ends when all senders are gone.
pub(crate) fn start(room: Room, metrics: Arc<Metrics>) -> std::io::Result<Sender<Job>> {
    let (send, jobs) = channel();
    let mut worker = Worker { jobs, room, metrics, lanes: Vec::new(), embeddings: VecDeque::new() };
    std::thread::Builder::new().name("sampling".into()).spawn(move || worker.work())?;
    Ok(send)
}

/// A row with the one who asked for it.
struct Active {
    new: NewRow,
    /// Memory that is reserved for its keys and values.
    bytes: usize,
}

impl AsMut<Row> for Active {
    fn as_mut(&mut self) -> &mut Row {
        &mut self.new.row
    }
}

impl Active {
    fn send(&self, event: Event) {
        // A client that has gone is noticed at the next step.
        let _ = self.new.reply.send((self.new.choice, event));
    }

    /// Tells that a token was drawn.
    fn drew(&self, metrics: &Metrics) {
        let row = &self.new.row;
        let drawn = row.completion();
        metrics.completion_tokens.fetch_add(1, Relaxed);
        if drawn.ids.len() == 1 {
            metrics.first_token_after(self.new.asked_at.elapsed());
        }
        if let (true, Some(&id), Some(&logprob)) = (self.new.follow, drawn.ids.last(), drawn.logprobs.last())
        {
            let alternatives = row.alternatives().last().cloned().unwrap_or_default();
            self.send(Event::Token { id, logprob, alternatives });
        }
    }

    fn end(self, metrics: &Metrics) {
        metrics.row_took(self.new.asked_at.elapsed());
        let _ = self.new.reply.send((self.new.choice, Event::Ended(Box::new(self.new.row))));
    }
}

/// The rows of a model.
struct Lane {
    served: Arc<Served>,
    batch: Batch<Active>,
    waiting: VecDeque<Active>,
}

/// Texts or rows to embed, and those that are done.
struct Embedding {
    served: Arc<Served>,
    inputs: Inputs,
    done: Vec<Vec<f32>>,
    reply: oneshot::Sender<Vectors>,
}

struct Worker {
    jobs: Receiver<Job>,
    room: Room,
    metrics: Arc<Metrics>,
    lanes: Vec<Lane>,
    embeddings: VecDeque<Embedding>,
}

impl Worker {
    fn work(&mut self) {
        loop {
            self.leave_unloaded();
            if self.lanes.iter().all(Lane::is_idle) && self.embeddings.is_empty() {
                match self.jobs.recv() {
                    Ok(job) => self.take(job),
                    Err(_) => return,
                }
            }
            while let Ok(job) = self.jobs.try_recv() {
                self.take(job);
            }
            // On a thread of the pool: handing each product over to it from outside would take longer than small products do.
            rayon::scope(|_| self.turn());
        }
    }

    /// Models that were unloaded and have no rows left leave the memory.
    fn leave_unloaded(&mut self) {
        self.lanes.retain(|lane| !lane.is_idle() || Arc::strong_count(&lane.served) > 1);
    }

    fn take(&mut self, job: Job) {
        let (served, rows) = match job {
            Job::Embed(served, inputs, reply) => {
                self.embeddings.push_back(Embedding { served, inputs, done: Vec::new(), reply });
                return;
            }
            Job::Sample(served, rows) => (served, rows),
        };
        let Some(loaded) = served.decoder() else { return };
        let at = match self.lanes.iter().position(|lane| Arc::ptr_eq(&lane.served, &served)) {
            Some(at) => at,
            None => match Batch::new(&loaded.decoder, loaded.longest) {
                Ok(batch) => {
                    self.lanes.push(Lane { served: served.clone(), batch, waiting: VecDeque::new() });
                    self.lanes.len() - 1
                }
                Err(error) => {
                    self.metrics.waiting.fetch_sub(rows.len(), Relaxed);
                    let failed = |new: NewRow| new.reply.send((new.choice, Event::Failed(error.to_string())));
                    rows.into_iter().for_each(|new| drop(failed(new)));
                    return;
                }
            },
        };
        let token = loaded.decoder.token_bytes();
        let active = |new: NewRow| Active { bytes: new.row.capacity() * token, new };
        self.lanes[at].waiting.extend(rows.into_iter().map(active));
    }

    /// One round: clients that have gone, new rows, a token for each row, some embeddings.
    fn turn(&mut self) {
        let metrics = self.metrics.clone();
        for lane in &mut self.lanes {
            let is_gone = |active: &Active| active.new.reply.is_closed();
            let before = lane.waiting.len();
            lane.waiting.retain(|active| !is_gone(active));
            metrics.waiting.fetch_sub(before - lane.waiting.len(), Relaxed);
            metrics.gone.fetch_add((before - lane.waiting.len()) as u64, Relaxed);
            if lane.batch.rows_mut().iter().any(is_gone) {
                let before = lane.batch.len();
                let kept = lane.batch.retain(|active| !is_gone(active));
                metrics.gone.fetch_add((before - lane.batch.len()) as u64, Relaxed);
                lane.ensure(kept);
            }
        }
        self.admit();
        let running: usize = self.lanes.iter().map(|lane| lane.batch.len()).sum();
        metrics.running.store(running, Relaxed);
        for lane in self.lanes.iter_mut().filter(|lane| !lane.batch.is_empty()) {
            metrics.batch_had(lane.batch.len());
            let served = lane.served.clone();
            let Some(loaded) = served.decoder() else { continue };
            let (ended, goes_on) = lane.batch.advance(&loaded.decoder, &loaded.checkpoint.tokenizer);
            lane.batch.rows_mut().iter().for_each(|active| active.drew(&metrics));
            for active in ended {
                active.drew(&metrics);
                active.end(&metrics);
            }
            lane.ensure(goes_on);
        }
        let running: usize = self.lanes.iter().map(|lane| lane.batch.len()).sum();
        metrics.running.store(running, Relaxed);
        self.embed();
    }

    /// Lets rows join in the order of their arrival, until the next one has no room. So no model waits for ever behind another.
    fn admit(&mut self) {
        let active = |lane: &mut Lane| lane.batch.rows_mut().iter().map(|active| active.bytes).sum::<usize>();
        let mut bytes: usize = self.lanes.iter_mut().map(active).sum();
        let mut rows: usize = self.lanes.iter().map(|lane| lane.batch.len()).sum();
        let mut joining: Vec<Vec<Active>> = self.lanes.iter().map(|_| Vec::new()).collect();
        let mut tokens = 0;
        loop {
            let fronts =
                self.lanes.iter().enumerate().filter_map(|(at, lane)| Some((at, lane.waiting.front()?)));
            let Some((at, first)) = fronts.min_by_key(|(_, first)| first.new.asked_at) else { break };
            // A prompt is read once for all rows that join with it.
            let prompt = first.new.row.prompt();
            let is_known = joining[at].iter().any(|other| other.new.row.prompt() == prompt);
            let more = if is_known { 0 } else { prompt.len() };
            let has_room = rows < self.room.rows && bytes.saturating_add(first.bytes) <= self.room.cache;
            // A row that fits in the cache only when it is alone still gets its turn.
            if !(has_room || rows == 0) || (tokens > 0 && tokens + more > READ_AT_ONCE) {
                break;
            }
            (rows, bytes, tokens) = (rows + 1, bytes + first.bytes, tokens + more);
            joining[at].extend(self.lanes[at].waiting.pop_front());
        }
        self.metrics.prompt_tokens.fetch_add(tokens as u64, Relaxed);
        for (lane, joining) in self.lanes.iter_mut().zip(joining).filter(|(_, joining)| !joining.is_empty()) {
            self.metrics.waiting.fetch_sub(joining.len(), Relaxed);
            lane.join(joining, &self.metrics);
        }
    }

    /// Embeds some more of what is asked.
    fn embed(&mut self) {
        let Some(first) = self.embeddings.front_mut() else { return };
        let (from, count) = (first.done.len(), first.inputs.len());
        let some = from..first.inputs.together(from);
        let vectors = match (&first.inputs, &first.served.kind) {
            _ if first.reply.is_closed() => Ok(Vec::new()),
            (Inputs::Texts(texts), Kind::Encoder(encoder)) => {
                let texts: Vec<&str> = texts[some].iter().map(String::as_str).collect();
                encoder.embed(&texts).map_err(|error| error.to_string())
            }
            (Inputs::Rows(rows), Kind::Decoder(loaded)) => {
                loaded.decoder.embed(&rows[some]).map_err(|error| error.to_string())
            }
            (Inputs::Texts(_), Kind::Decoder(_)) => Err("a decoder reads tokens, found texts".to_owned()),
            (Inputs::Rows(_), Kind::Encoder(_)) => {
                Err("a sentence encoder reads texts, found tokens".to_owned())
            }
        };
        let failure = match vectors {
            Ok(vectors) => {
                first.done.extend(vectors);
                if first.done.len() < count && !first.reply.is_closed() {
                    return;
                }
                None
            }
            Err(error) => Some(error),
        };
        if let Some(ended) = self.embeddings.pop_front() {
            self.metrics.waiting.fetch_sub(count, Relaxed);
            let _ = ended.reply.send(failure.map_or(Ok(ended.done), Err));
        }
    }
}

impl Lane {
    fn is_idle(&self) -> bool {
        self.batch.is_empty() && self.waiting.is_empty()
    }

    /// Reads the prompts of rows, which then draw tokens.
    fn join(&mut self, joining: Vec<Active>, metrics: &Metrics) {
        let served = self.served.clone();
        let Some(loaded) = served.decoder() else { return };
        let replies: Vec<_> =
            joining.iter().map(|active| (active.new.choice, active.new.reply.clone())).collect();
        let known = self.batch.len();
        match self.batch.join(&loaded.decoder, joining) {
            Ok(ended) => {
                let read = |active: &Active| {
                    if active.new.follow {
                        active.send(Event::Read(active.new.row.scores().cloned()));
                    }
                };
                self.batch.rows_mut()[known..].iter().for_each(read);
                ended.iter().for_each(read);
                ended.into_iter().for_each(|active| active.end(metrics));
            }
            Err(error) => {
                for (choice, reply) in replies {
                    let _ = reply.send((choice, Event::Failed(error.to_string())));
                }
                self.ensure(Err(error));
            }
        }
    }

    /// After a failure of the decoder, all rows end with its reason.
    fn ensure(&mut self, result: model::Result<()>) {
        let Err(error) = result else { return };
        for active in self.batch.rows_mut() {
            active.send(Event::Failed(error.to_string()));
        }
        if let Some(loaded) = self.served.decoder()
            && let Ok(batch) = Batch::new(&loaded.decoder, loaded.longest)
        {
            self.batch = batch;
        }
    }
}
