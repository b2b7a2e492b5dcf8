//! Adapters at a server: loaded under the digest of their content, never overwritten, and unloaded when the last user in this
//! process is done.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use hyper::body::Bytes;
use serde_json::{Value, json};
use store::Digest;

use super::config::Kind;
use super::http::runtime;
use super::server::Server;
use super::trouble::{Lack, Trouble, words};

/// An adapter that the server has.
pub(crate) struct Loaded {
    pub digest: Digest,
    server: Arc<Server>,
    /// Whether it was loaded here: what others loaded is theirs to unload.
    is_ours: bool,
}

/// The adapters in use, by server and digest. An entry's lock is held while its adapter is loaded or unloaded.
type Adapters = HashMap<(String, Digest), Arc<Mutex<Weak<Loaded>>>>;

static ADAPTERS: LazyLock<Mutex<Adapters>> = LazyLock::new(Mutex::default);

fn entry(server: &Server, digest: Digest) -> Arc<Mutex<Weak<Loaded>>> {
    let mut adapters = ADAPTERS.lock().unwrap_or_else(PoisonError::into_inner);
    adapters.entry((server.base.to_string(), digest)).or_default().clone()
}

impl Loaded {
    /// Loads the adapter of a folder, unless the server has it.
    pub(crate) fn load(server: &Arc<Server>, folder: &Path, digest: Digest) -> Result<Arc<Loaded>, Trouble> {
        let trouble = |why: String| {
            let url = server.base.to_string();
            Trouble::Adapter { url, folder: folder.display().to_string(), why }
        };
        if !server.capabilities.can.adapters {
            return Err(server.lacks(Lack::Adapters));
        }
        let entry = entry(server, digest);
        let mut entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = entry.upgrade() {
            return Ok(loaded);
        }
        let name = digest.to_string();
        let is_there = || {
            let url = server.base.api("/models");
            let sent = runtime().block_on(server.http.send(&url, None));
            let list: Value =
                sent.ok().and_then(|reply| serde_json::from_slice(&reply.body).ok()).unwrap_or_default();
            list["data"].as_array().is_some_and(|models| models.iter().any(|model| model["id"] == *name))
        };
        let mut is_ours = false;
        if !is_there() {
            let path = at_server(server, folder).map_err(trouble)?;
            let body = json!({ "lora_name": name, "lora_path": path });
            let (status, said) = post(server, load_url(server), &body).map_err(trouble)?;
            match status {
                200..300 => is_ours = true,
                404 | 405 => return Err(server.lacks(Lack::Adapters)),
                // Another process was faster.
                _ if is_there() => {}
                _ => return Err(trouble(format!("status {status}: {said}"))),
            }
        }
        let loaded = Arc::new(Loaded { digest, server: server.clone(), is_ours });
        *entry = Arc::downgrade(&loaded);
        Ok(loaded)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        let entry = entry(&self.server, self.digest);
        let entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have loaded it again meanwhile, that is, found it loaded.
        if entry.strong_count() > 0 {
            return;
        }
        let url = match self.server.kind {
            Kind::Sglang => self.server.base.own("/unload_lora_adapter"),
            _ => self.server.base.api("/unload_lora_adapter"),
        };
        // A server that is gone has no adapters either.
        let _ = post(&self.server, url, &json!({ "lora_name": self.digest.to_string() }));
    }
}

fn load_url(server: &Server) -> String {
    match server.kind {
        Kind::Sglang => server.base.own("/load_lora_adapter"),
        _ => server.base.api("/load_lora_adapter"),
    }
}

fn post(server: &Server, url: String, body: &Value) -> Result<(u16, String), String> {
    let sent = runtime().block_on(server.http.send(&url, Some(Bytes::from(body.to_string()))));
    let reply = sent.map_err(|broken| format!("{broken:?}"))?;
    let said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let text = [&said["error"]["message"], &said["error"], &said["message"], &said["detail"]]
        .into_iter()
        .find_map(Value::as_str)
        .map_or_else(|| String::from_utf8_lossy(&reply.body).into_owned(), str::to_owned);
    Ok((reply.status.as_u16(), words(&text, server.key.as_deref(), &[])))
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
