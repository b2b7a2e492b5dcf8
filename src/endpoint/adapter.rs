//! Adapters at a server: loaded under the digest of their content, never overwritten, and unloaded when the last user in this
//! process is done, or when the process is interrupted.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::json;
use store::Digest;
use tokio::sync::watch;

use super::call::{Call, Failure};
use super::config::Kind;
use super::endpoint::{lock, wait};
use super::http::{Http, runtime};
use super::server::Server;
use super::trouble::{Lack, Trouble};

/// How long a server may take to unload an adapter.
const UNLOADING: Duration = Duration::from_secs(30);
/// How long a process that is about to end waits for that.
const LEAVING: Duration = Duration::from_secs(2);

/// An adapter at a server.
pub(crate) struct Adapter {
    digest: Digest,
    server: Arc<Server>,
    /// Its folder on this machine, and where the server finds that.
    folder: PathBuf,
    at_server: PathBuf,
    /// Held while it is looked for and loaded.
    loading: tokio::sync::Mutex<()>,
}

/// The right to use an adapter; the last one that is dropped unloads it.
pub(crate) struct Loaded(pub Arc<Adapter>);

/// A server's address and the digest of an adapter.
type Key = (String, Digest);

/// An adapter as long as somebody uses it; locked while it is loaded or unloaded.
type Entry = Arc<Mutex<Weak<Loaded>>>;

/// The adapters in use.
static ADAPTERS: LazyLock<Mutex<HashMap<Key, Entry>>> = LazyLock::new(Mutex::default);

/// The adapters that this process has told a server to load: what others loaded is theirs to unload. `None` once the process is
/// about to end.
static OURS: Mutex<Option<BTreeMap<Key, Unload>>> = Mutex::new(Some(BTreeMap::new()));

fn ours() -> MutexGuard<'static, Option<BTreeMap<Key, Unload>>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The request that unloads an adapter.
struct Unload {
    http: Arc<Http>,
    url: String,
    body: Bytes,
}

impl Unload {
    async fn send(self) {
        // A server that is gone has no adapters either.
        let _ = self.http.send_within(&self.url, Some(self.body), UNLOADING).await;
    }
}

/// Unloads the adapters that this process has loaded, because it is about to end, and loads no more. Takes two seconds at most.
pub fn unload_adapters() {
    let Some(ours) = ours().take().filter(|ours| !ours.is_empty()) else { return };
    let unloading: Vec<_> = ours.into_values().map(|unload| runtime().spawn(unload.send())).collect();
    let all = async {
        for unloading in unloading {
            let _ = unloading.await;
        }
    };
    let _ = runtime().block_on(async { tokio::time::timeout(LEAVING, all).await });
}

impl Loaded {
    /// Loads the adapter of a folder, unless the server has it.
    pub(crate) fn load(
        server: &Arc<Server>,
        folder: &Path,
        digest: Digest,
        watch: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Arc<Loaded>, Trouble> {
        if !server.capabilities.can.adapters {
            return Err(server.lacks(Lack::Adapters));
        }
        let at_server = at_server(server, folder).map_err(|why| Trouble::Adapter {
            url: server.base.to_string(),
            folder: folder.display().to_string(),
            why,
        })?;
        let adapter = Arc::new(Adapter {
            digest,
            server: server.clone(),
            folder: folder.to_owned(),
            at_server,
            loading: tokio::sync::Mutex::default(),
        });
        let entry = adapter.entry();
        let waited = format!("waiting for {} to load {}", server.base, folder.display());
        // If loading fails, this is dropped after the lock, which its drop takes.
        let loaded;
        let mut entry = lock(&entry, &waited, watch)?;
        if let Some(other) = entry.upgrade() {
            return Ok(other);
        }
        loaded = Arc::new(Loaded(adapter.clone()));
        wait(&waited, watch, adapter.ensure())?;
        *entry = Arc::downgrade(&loaded);
        drop(entry);
        Ok(loaded)
    }

    pub(crate) fn digest(&self) -> Digest {
        self.0.digest
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let entry = self.0.entry();
        let entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have begun to use it meanwhile, and unloads it then.
        if entry.strong_count() > 0 {
            return;
        }
        let unload = ours().as_mut().and_then(|ours| ours.remove(&self.0.key()));
        if let Some(unload) = unload {
            runtime().block_on(unload.send());
        }
    }
}

impl Adapter {
    fn key(&self) -> Key {
        (self.server.base.to_string(), self.digest)
    }

    fn entry(&self) -> Arc<Mutex<Weak<Loaded>>> {
        ADAPTERS.lock().unwrap_or_else(PoisonError::into_inner).entry(self.key()).or_default().clone()
    }

    fn route(&self, route: &str) -> String {
        match self.server.kind {
            Kind::Sglang => self.server.base.own(route),
            _ => self.server.base.api(route),
        }
    }

    /// Loads the adapter unless the server has it.
    pub(crate) fn ensure(self: Arc<Adapter>) -> Pin<Box<dyn Future<Output = Result<(), Trouble>> + Send>> {
        Box::pin(async move {
            let _one = self.loading.lock().await;
            if self.is_there().await {
                return Ok(());
            }
            if !self.claim() {
                // The process is about to end.
                std::future::pending::<()>().await;
            }
            let body = json!({ "lora_name": self.digest.to_string(), "lora_path": self.at_server });
            let name = self.digest.to_string().into();
            let call = Call::new(self.server.clone(), name, None, Arc::new(watch::Sender::new(false)));
            let Err(failure) = call.tell(&self.route("/load_lora_adapter"), &body).await else {
                return Ok(());
            };
            if self.is_there().await {
                // Another process was faster.
                ours().as_mut().and_then(|ours| ours.remove(&self.key()));
                return Ok(());
            }
            Err(self.trouble(failure))
        })
    }

    async fn is_there(&self) -> bool {
        let list = self.server.look(&self.server.base.api("/models")).await;
        let name = self.digest.to_string();
        list["data"].as_array().is_some_and(|models| models.iter().any(|model| model["id"] == *name))
    }

    /// Notes that this process loads it. False if the process is about to end.
    fn claim(&self) -> bool {
        let unload = Unload {
            http: self.server.http.clone(),
            url: self.route("/unload_lora_adapter"),
            body: Bytes::from(json!({ "lora_name": self.digest.to_string() }).to_string()),
        };
        ours().as_mut().map(|ours| ours.insert(self.key(), unload)).is_some()
    }

    /// Why the server does not load it.
    fn trouble(&self, failure: Failure) -> Trouble {
        let (status, words) = match failure {
            Failure::Trouble(Trouble::Refused { status, words, .. }) => (status, words),
            Failure::Trouble(trouble) | Failure::TooLong(trouble) => return trouble,
            Failure::Filtered | Failure::Stopped => return Trouble::Cancelled,
        };
        let is_about_it =
            words.to_lowercase().contains("adapter") || words.contains(&*self.at_server.to_string_lossy());
        if matches!(status, 404 | 405) && !is_about_it {
            return self.server.lacks(Lack::Adapters);
        }
        let help = match status {
            404 => {
                "\n  help: the server must be able to read the folder: write share: { from: FOLDER HERE, to: FOLDER THERE } at the \
                 endpoint, if it has another name there"
            }
            _ => "",
        };
        let (url, folder) = (self.server.base.to_string(), self.folder.display().to_string());
        Trouble::Adapter { url, folder, why: format!("status {status}: {words}{help}") }
    }
}

/// Where the server finds a folder of this machine.
fn at_server(server: &Server, folder: &Path) -> Result<PathBuf, String> {
    let folder = std::path::absolute(folder).map_err(|error| error.to_string())?;
    match &server.config.share {
        Some(share) => match folder.strip_prefix(&share.from) {
            Ok(within) => Ok(share.to.join(within)),
            Err(_) => Err(format!(
                "it must be below {}, which is what the server sees by `share`\n  help: name a folder in `share.from` that holds the \
                 cache",
                share.from.display()
            )),
        },
        None if server.base.is_local() => Ok(folder),
        None => Err("the server is on another machine, and must be able to read it\n  help: write share: { from: FOLDER HERE, to: \
                     FOLDER THERE } at the endpoint; the cache is below the folder here"
            .to_owned()),
    }
}
