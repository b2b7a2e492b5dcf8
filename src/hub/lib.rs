//! Downloads models from a Hugging Face hub. A download that breaks off goes on where it was, and a file gets its name only
//! once its content has the digest that the hub has for it.

mod content;
mod file;

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use glob::{MatchOptions, Pattern};
use serde::Deserialize;
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::tls::{RootCerts, TlsConfig};

pub use content::Content;
pub use file::{Fetched, fetch};

/// The environment variables that all programs of this hub know.
const ENDPOINT: &str = "HF_ENDPOINT";
const TOKEN: &str = "HF_TOKEN";

/// Where models are unless `HF_ENDPOINT` says otherwise.
const HUB: &str = "https://huggingface.co";

/// How long a connection may take, and how long a server may send nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// The files of a checkpoint, of an adapter, of a sentence encoder, and those that say what may be done with them.
const NEEDED: [&str; 8] = [
    "*.json",
    "*.safetensors",
    "*.jinja",
    "tokenizer.model",
    "merges.txt",
    "1_Pooling/config.json",
    "LICENSE*",
    "README.md",
];

/// The most files that a repository may list.
const MOST_FILES: usize = 10_000;

/// A hub.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// A repository at one commit.
pub struct Repository {
    /// Its name, such as `HuggingFaceTB/SmolLM2-135M-Instruct`.
    pub name: String,
    /// The commit, in 40 hexadecimal digits.
    pub commit: String,
    /// Its files.
    pub files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub path: String,
    /// What its content must be.
    pub content: Content,
}

/// What the hub says of a commit.
#[derive(Deserialize)]
struct Commit {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

/// A file that is kept beside the repository.
#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, with the token of `HF_TOKEN`. A proxy of `HTTPS_PROXY` is used.
    pub fn from_env() -> anyhow::Result<Hub> {
        let variable = |name| {
            std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let endpoint = variable(ENDPOINT).unwrap_or_else(|| HUB.to_owned());
        ensure!(
            endpoint.starts_with("https://") || endpoint.starts_with("http://"),
            "{ENDPOINT} must begin with https:// or http://, found {endpoint}"
        );
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_resolve(Some(PATIENCE))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .user_agent(concat!("triplay/", env!("CARGO_PKG_VERSION")))
            .build();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Hub { agent: config.into(), endpoint, token: variable(TOKEN) })
    }

    /// Looks up a repository at a branch, a tag or a commit.
    pub fn repository(&self, name: &str, revision: &str) -> anyhow::Result<Repository> {
        let parts: Vec<&str> = name.split('/').collect();
        ensure!(
            matches!(parts.len(), 1 | 2) && parts.iter().all(|part| is_plain(part)),
            "a repository must be OWNER/NAME, such as HuggingFaceTB/SmolLM2-135M-Instruct, found `{name}`"
        );
        let revision = revision.replace('%', "%25").replace('/', "%2F");
        let url = format!("{}/api/models/{name}/revision/{revision}?blobs=true", self.endpoint);
        let mut reply = self.get(&url, None).with_context(|| format!("cannot ask {}", self.endpoint))?;
        self.ensure_success(reply.status(), name)?;
        let text = reply.body_mut().read_to_string().with_context(|| format!("cannot read {url}"))?;
        let commit: Commit = serde_json::from_str(&text)
            .with_context(|| format!("{url} must be a hub's description of a model, found something else"))?;
        ensure!(
            commit.sha.len() == 40 && commit.sha.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{url} must name a commit by 40 hexadecimal digits, found `{}`",
            commit.sha
        );
        ensure!(commit.siblings.len() <= MOST_FILES, "{name} has more than {MOST_FILES} files");
        let file = |sibling: Sibling| {
            let Sibling { rfilename: path, size, blob_id, lfs } = sibling;
            ensure!(
                path.split('/').all(is_plain),
                "{name} lists a file with the path `{path}`, which is refused"
            );
            let content = match (lfs, size, blob_id) {
                (Some(Lfs { sha256, size }), ..) => Content::Sha256 { digest: sha256, bytes: size },
                (None, Some(bytes), Some(digest)) => Content::Git { digest, bytes },
                _ => bail!("{} does not tell the digest of {path}, so it cannot be checked", self.endpoint),
            };
            Ok(RemoteFile { path, content })
        };
        let files = commit.siblings.into_iter().map(file).collect::<anyhow::Result<_>>()?;
        Ok(Repository { name: name.to_owned(), commit: commit.sha, files })
    }

    /// Asks for a part of a file from `from` on, or for all of it.
    fn get(&self, url: &str, from: Option<u64>) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        // Not sent on to where a redirect leads.
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(from) = from {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }

    fn ensure_success(&self, status: StatusCode, name: &str) -> anyhow::Result<()> {
        let (endpoint, has_token) = (&self.endpoint, self.token.is_some());
        match status.as_u16() {
            200..300 => Ok(()),
            401 | 403 if has_token => bail!(
                "{endpoint} does not give {name} to the token of {TOKEN} (status {status})\n  help: check the name; if the model \
                 is gated, accept its terms at {endpoint}/{name}",
                status = status.as_u16()
            ),
            401 | 403 => bail!(
                "{endpoint} does not give {name} without a token (status {status})\n  help: check the name; if the model is \
                 private or gated, accept its terms at {endpoint}/{name} and put a token into {TOKEN}",
                status = status.as_u16()
            ),
            404 => bail!(
                "{endpoint} has no model {name} at this revision\n  help: check the name and --revision"
            ),
            other => bail!("{endpoint} refuses {name} (status {other})"),
        }
    }
}

/// Whether a part of a path means nothing but a name.
fn is_plain(part: &str) -> bool {
    let is_safe = |c: char| c.is_alphanumeric() || "-_.+=@ ,()[]".contains(c);
    !part.is_empty() && part != "." && part != ".." && part.chars().all(is_safe)
}

impl Repository {
    /// The files that match one of the patterns; without a pattern those that triplay reads.
    pub fn selected(&self, patterns: &[String]) -> anyhow::Result<Vec<&RemoteFile>> {
        let wanted: Vec<&str> = match patterns {
            [] => NEEDED.to_vec(),
            patterns => patterns.iter().map(String::as_str).collect(),
        };
        let pattern = |text: &&str| {
            Pattern::new(text)
                .with_context(|| format!("`{text}` must be a pattern such as *.gguf, found a wrong one"))
        };
        let wanted: Vec<Pattern> = wanted.iter().map(pattern).collect::<anyhow::Result<_>>()?;
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::default() };
        let is_wanted =
            |file: &&RemoteFile| wanted.iter().any(|wanted| wanted.matches_with(&file.path, options));
        let files: Vec<&RemoteFile> = self.files.iter().filter(is_wanted).collect();
        if files.is_empty() && !patterns.is_empty() {
            bail!("{} has no file that matches {}", self.name, patterns.join(" or "));
        }
        let has_weights = files.iter().any(|file| file.path.ends_with(".safetensors"));
        if patterns.is_empty() && !has_weights {
            let others = ["bin", "gguf", "pt"].into_iter().find(|end| {
                self.files
                    .iter()
                    .any(|file| file.path.rsplit_once('.').is_some_and(|(_, found)| found == *end))
            });
            match others {
                Some(end) => bail!(
                    "{} must have weights in .safetensors files, found .{end} files\n  help: for GGUF files write --include '*.gguf'",
                    self.name
                ),
                None => bail!("{} must have weights in .safetensors files, found none", self.name),
            }
        }
        Ok(files)
    }
}
