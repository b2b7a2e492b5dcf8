//! An endpoint that is open: a server with one model of it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use store::Digest;
use tokio::sync::watch;

use super::adapter::Loaded;
use super::call::{Call, Counts};
use super::config::Config;
use super::http::runtime;
use super::kind::{Capabilities, Needs};
use super::managed::Managed;
use super::question::Model;
use super::rows::Tasks;
use super::served::Served;
use super::server::Server;
use super::trouble::Trouble;
use super::url::Base;

/// How often the caller is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);

/// A model behind a server.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) server: Arc<Server>,
    /// The model as the pipeline names it.
    pub(crate) asked: Model,
    /// As the server names it; the adapter's name with an adapter.
    pub(crate) model: Arc<str>,
    pub(crate) adapter: Option<Arc<Loaded>>,
    /// The digest of the model's files, where they are known.
    pub(crate) content: Option<Digest>,
}

impl Endpoint {
    /// Finds the server, or starts it, and ensures that it has the model and can do what is needed. `name` is the endpoint's name
    /// in the site file; the log of a server that is started is written to the folder `logs`. `watch` is called about ten times a
    /// second with what is waited for; `Break` cancels.
    pub fn open(
        name: &str,
        config: &Config,
        model: &Model,
        needs: &Needs,
        logs: &Path,
        watch: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Endpoint, Trouble> {
        if let Some((key, message)) = config.check().into_iter().next() {
            let key = if key.is_empty() { key } else { format!(".{key}") };
            return Err(Trouble::Wrong(format!("endpoints.{name}{key}: {message}")));
        }
        let managed = match &config.command {
            Some(_) => Some(Managed::start(name, config, config.served_name(&model.name), logs, watch)?),
            None => None,
        };
        let base = match (&managed, &config.url) {
            (Some(managed), _) => managed.base.clone(),
            (None, url) => Base::parse(url.as_deref().unwrap_or_default()).map_err(Trouble::Wrong)?,
        };
        let (of_name, of_config, of_model, of_needs) =
            (name.to_owned(), config.clone(), model.clone(), *needs);
        let waited = format!("waiting for {base}");
        let server = wait(&waited, watch, async move {
            Server::find(&of_name, &of_config, &of_model, &of_needs, base, managed).await
        })?;
        let served = config.served_name(&model.name).into();
        Ok(Endpoint {
            server: Arc::new(server),
            asked: model.clone(),
            model: served,
            adapter: None,
            content: None,
        })
    }

    /// The same model with an adapter: it is loaded under its digest, unless the server has it, and unloaded when the last clone
    /// of what is returned is dropped. `watch` as in [`Endpoint::open`].
    pub fn with_adapter(
        &self,
        folder: &Path,
        digest: Digest,
        watch: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Endpoint, Trouble> {
        let loaded = Loaded::load(&self.server, folder, digest, watch)?;
        let endpoint = Endpoint { model: digest.to_string().into(), adapter: Some(loaded), ..self.clone() };
        Ok(endpoint.of_content(digest))
    }

    /// The same model, known by the digest of its files: rows are kept under that, whatever name the server has for it.
    pub fn of_content(self, digest: Digest) -> Endpoint {
        Endpoint { content: Some(digest), ..self }
    }

    pub(crate) fn call(&self, stop: &Arc<watch::Sender<bool>>) -> Call {
        let adapter = self.adapter.as_ref().map(|loaded| loaded.0.clone());
        Call::new(self.server.clone(), self.model.clone(), adapter, stop.clone())
    }

    /// Keeps the server until the process ends, if triplay started it: another node may ask for the same model.
    pub fn keep(&self) {
        self.server.keep();
    }

    /// What is known of the server, and what it did for this endpoint and its clones.
    pub fn served(&self) -> Served {
        let (server, counts) = (&self.server, &self.server.counts);
        let (prompt_tokens, completion_tokens) =
            (Counts::of(&counts.prompt_tokens), Counts::of(&counts.completion_tokens));
        Served {
            endpoint: server.name.clone(),
            kind: server.kind,
            version: server.version.clone(),
            models: server.models.clone(),
            model: server.config.served_name(&self.asked.name).to_owned(),
            answered: server.answers(),
            adapter: self.adapter.as_ref().map(|adapter| adapter.digest().to_string()),
            logprobs_mode: server.capabilities.logprobs_mode,
            requests: Counts::of(&counts.requests),
            kept: Counts::of(&counts.kept),
            prompt_tokens,
            completion_tokens,
            cost: server.config.price.unwrap_or_default().of(prompt_tokens, completion_tokens),
            retries: Counts::of(&counts.retries),
            seconds: Counts::of(&counts.microseconds) as f64 / 1e6,
            peak_at_once: server.pace.under_way().1,
        }
    }

    /// The model's positions, where the server tells them.
    pub fn context(&self) -> Option<usize> {
        self.server.context
    }

    /// What the server can do.
    pub fn can(&self) -> Capabilities {
        self.server.capabilities
    }

    /// Whether the site says that the server's log-probabilities are those of the trainer.
    pub fn trusts_logprobs(&self) -> bool {
        self.server.config.trust_logprobs
    }
}

/// Takes a lock while the caller is asked whether to go on.
pub(crate) fn lock<'a, T>(
    mutex: &'a Mutex<T>,
    what: &str,
    watch: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<MutexGuard<'a, T>, Trouble> {
    loop {
        match mutex.try_lock() {
            Ok(held) => return Ok(held),
            Err(TryLockError::Poisoned(held)) => return Ok(held.into_inner()),
            Err(TryLockError::WouldBlock) if watch(what).is_continue() => std::thread::sleep(TICK),
            Err(TryLockError::WouldBlock) => return Err(Trouble::Cancelled),
        }
    }
}

/// Runs something on the runtime's threads while the caller is asked whether to go on.
pub(crate) fn wait<T: Send + 'static>(
    what: &str,
    watch: &mut dyn FnMut(&str) -> ControlFlow<()>,
    work: impl Future<Output = Result<T, Trouble>> + Send + 'static,
) -> Result<T, Trouble> {
    let (sender, done) = mpsc::channel();
    let _task = Tasks(vec![runtime().spawn(async move {
        let _ = sender.send(work.await);
    })]);
    loop {
        match done.recv_timeout(TICK) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Timeout) if watch(what).is_continue() => {}
            Err(_) => return Err(Trouble::Cancelled),
        }
    }
}
