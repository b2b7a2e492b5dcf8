//! Models behind OpenAI-compatible routes, with continuous batching. A request becomes rows (`complete`), one thread samples the
//! rows of all requests together (`worker`), and what happens to a row comes back as events. Draws, stop texts and
//! log-probabilities are those of `rollout`: given the key of a row's random stream, the answer has the same tokens and the same
//! log-probabilities.

mod answer;
mod complete;
mod error;
mod metrics;
mod models;
mod request;
mod routes;
mod text;
mod worker;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

use error::{ApiError, Result};
use metrics::Metrics;
use model::Compute;
use models::{Models, Served};
use worker::{Job, Room};

pub use models::NamedModel;

/// How models are served.
pub struct Options {
    /// At least one.
    pub models: Vec<NamedModel>,
    /// The address to listen at.
    pub host: String,
    /// 0 selects any free port.
    pub port: u16,
    /// What clients must send as `Authorization: Bearer KEY`; required unless `host` is a loopback address.
    pub key: Option<String>,
    /// The most rows that wait before requests are refused.
    pub most_waiting: usize,
    /// The most rows that draw tokens at the same time.
    pub most_rows: usize,
    /// Memory for keys and values, in bytes.
    pub cache: usize,
    /// How long requests under way may take after the server was told to stop.
    pub grace: Duration,
    /// The device and number type of the models.
    pub compute: Compute,
}

/// Tells a running server to stop: from then on it accepts no request, and finishes those under way.
#[derive(Clone, Default)]
pub struct Stop(Arc<Notify>);

impl Stop {
    /// Tells it.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

/// Whether requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Loading,
    Serving,
    Stopping,
}

/// What all requests share.
struct Shared {
    models: Models,
    /// `None` once the server has stopped.
    jobs: Mutex<Option<Sender<Job>>>,
    metrics: Arc<Metrics>,
    key: Option<String>,
    most_waiting: usize,
    phase: AtomicU8,
    /// Numbers answers.
    next: AtomicU64,
    /// Requests whose texts may be read at the same time.
    readers: Semaphore,
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Loading,
            1 => Phase::Serving,
            _ => Phase::Stopping,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// An error unless models can be asked now.
    fn ensure_serving(&self) -> Result<()> {
        match self.phase() {
            Phase::Loading => {
                Err(ApiError::unavailable("the models are being loaded: ask again in a moment"))
            }
            Phase::Serving => Ok(()),
            Phase::Stopping => Err(ApiError::unavailable("the server is stopping")),
        }
    }

    /// The model of this name; without a name, the only one.
    fn model(&self, name: Option<&str>) -> Result<Arc<Served>> {
        self.ensure_serving()?;
        let all = self.models.all();
        let names = || all.iter().map(|served| format!("`{}`", served.name)).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => self.models.find(name).ok_or_else(|| {
                ApiError::no_model(format!("there is no model `{name}`; there are {}", names()))
            }),
            None => match &all[..] {
                [only] => Ok(only.clone()),
                _ => Err(ApiError::invalid("model", format!("`model` must be one of {}", names()))),
            },
        }
    }

    /// Hands work with so many rows to the worker, unless too many wait.
    fn enqueue(&self, rows: usize, job: Job) -> Result<()> {
        let waiting = &self.metrics.waiting;
        let before = waiting.fetch_add(rows, Ordering::AcqRel);
        let refuse = |error| {
            waiting.fetch_sub(rows, Ordering::AcqRel);
            Err(error)
        };
        if before >= self.most_waiting && rows > 0 {
            return refuse(ApiError::full(before, self.metrics.patience()));
        }
        let jobs = self.jobs.lock().unwrap_or_else(|error| error.into_inner());
        match jobs.as_ref().map(|jobs| jobs.send(job)) {
            Some(Ok(())) => Ok(()),
            _ => refuse(ApiError::unavailable("the server is stopping")),
        }
    }

    /// Reads a request's texts on a thread beside those that answer: a long text takes seconds.
    async fn aside<T: Send + 'static>(&self, read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let _turn = self.readers.acquire().await;
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|_| Err(ApiError::failed("the request could not be read")))
    }

    /// A number that tells answers apart.
    fn next_id(&self) -> String {
        format!("{:016x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// What results depend on besides the request.
    fn fingerprint(&self) -> String {
        format!("triplay-{}-{}", env!("CARGO_PKG_VERSION"), self.models.compute()).replace(' ', "-")
    }
}

/// Whether only this machine can reach an address.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Serves models until it is told to stop. `listening` gets the address before the models are loaded, `ready` the names of the
/// models once they answer.
pub fn serve(
    options: Options,
    stop: Stop,
    listening: impl FnOnce(SocketAddr),
    ready: impl FnOnce(&[String]),
) -> anyhow::Result<()> {
    ensure!(
        options.key.is_some() || is_loopback(&options.host),
        "`{}` can be reached by other machines, so that a key is needed: put one into a variable and name the variable with \
         --api-key-env, or listen at 127.0.0.1",
        options.host
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(run(options, stop, listening, ready));
    // Rows that outlive the grace period are not waited for.
    runtime.shutdown_background();
    ended
}

async fn run(
    options: Options,
    stop: Stop,
    listening: impl FnOnce(SocketAddr),
    ready: impl FnOnce(&[String]),
) -> anyhow::Result<()> {
    let (host, port) = (options.host.as_str(), options.port);
    let listener = TcpListener::bind((host, port))
        .await
        .with_context(|| format!("cannot listen at {host}:{port}; --port 0 selects a free port"))?;
    let address = listener.local_addr().context("the server has no address")?;
    let metrics = Arc::new(Metrics::default());
    let room = Room { rows: options.most_rows, cache: options.cache };
    let shared = Arc::new(Shared {
        models: Models::new(options.compute, options.cache),
        jobs: Mutex::new(Some(worker::start(room, metrics.clone())?)),
        metrics,
        key: options.key,
        most_waiting: options.most_waiting,
        phase: AtomicU8::new(Phase::Loading as u8),
        next: AtomicU64::new(0),
        readers: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
    });
    listening(address);
    // Each token of a stream is sent at once.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    let told = Arc::new(Notify::new());
    let until: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = {
        let told = told.clone();
        Box::pin(async move { told.notified().await })
    };
    let routes = routes::router(shared.clone());
    let answering =
        tokio::spawn(async move { axum::serve(listener, routes).with_graceful_shutdown(until).await });
    let loading = {
        let (shared, models) = (shared.clone(), options.models);
        tokio::task::spawn_blocking(move || {
            models.iter().try_for_each(|model| shared.models.load(model, false))?;
            anyhow::Ok(models.into_iter().map(|model| model.name).collect::<Vec<String>>())
        })
    };
    let stopped = stop.0.notified();
    tokio::pin!(stopped);
    tokio::select! {
        loaded = loading => {
            let names = loaded.context("the models could not be loaded")??;
            shared.enter(Phase::Serving);
            ready(&names);
            stopped.await;
        }
        () = &mut stopped => {}
    }
    shared.enter(Phase::Stopping);
    told.notify_one();
    // After that, their clients see the connection end.
    if let Ok(ended) = tokio::time::timeout(options.grace, answering).await {
        ended.context("the server failed")?.context("the server failed")?;
    }
    shared.jobs.lock().unwrap_or_else(|error| error.into_inner()).take();
    Ok(())
}
