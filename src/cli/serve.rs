//! `triplay serve`: models behind OpenAI-compatible routes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::args::RunCacheArgs;
use super::judge;
use crate::model::Compute;
use crate::serve::{self, NamedModel, Options, Stop};
use output::{eprintln, println};

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Models: a Hugging Face folder, a folder with a LoRA adapter, a GGUF file, a sentence encoder, or a model of a run, as
    /// `RUN:NODE` or `RUN:LOOP[ROUND].VALUE`, such as `latest:play[2].attacker`; NAME=MODEL gives it a name [default: that of its
    /// folder, file or value]
    #[arg(required = true, value_name = "[NAME=]MODEL")]
    models: Vec<String>,
    /// Also serve this adapter, on its base beside it or else on the only base that is served; may be repeated
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    adapters: Vec<String>,
    /// Listen at this address; other than a loopback address, it needs --api-key-env
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Listen at this port; 0 selects any free port
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// The environment variable that holds the key which clients must send
    #[arg(long, value_name = "VARIABLE")]
    api_key_env: Option<String>,
    /// Refuse requests while this many rows wait
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    max_queue: u32,
    /// The most rows that are sampled at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_rows: u32,
    /// Memory for the keys and values of these rows, such as 4GB
    #[arg(long, value_name = "SIZE", default_value = "4GB")]
    kv_cache: String,
    /// Seconds that requests under way may take after Ctrl-C or SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u64,
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto")]
    device: String,
    /// f32, bf16 (on a GPU) or f64; f32-dequantized and so on unpack the weights of a GGUF file
    #[arg(long, default_value = "f32")]
    dtype: String,
    #[command(flatten)]
    cache: RunCacheArgs,
}

pub(crate) fn command(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let mut models = args.models.iter().map(|text| model(text)).collect::<anyhow::Result<Vec<_>>>()?;
    for text in &args.adapters {
        let Some((name, path)) = text.split_once('=') else {
            bail!("`--adapter` must be NAME=DIR, found `{text}`")
        };
        models.push(NamedModel { name: name.to_owned(), path: found(path)? });
    }
    for (at, model) in models.iter().enumerate() {
        let twice = models[..at].iter().any(|other| other.name == model.name);
        ensure!(!twice, "two models have the name `{}`: give one another, as NAME=MODEL", model.name);
    }
    let kv_cache: bytesize::ByteSize = args
        .kv_cache
        .parse()
        .map_err(|_| anyhow::anyhow!("`--kv-cache` must be a size such as 4GB, found `{}`", args.kv_cache))?;
    let options = Options {
        models,
        host: args.host.clone(),
        port: args.port,
        key: args.api_key_env.as_deref().map(key).transpose()?,
        most_waiting: args.max_queue as usize,
        most_rows: args.max_rows as usize,
        cache: usize::try_from(kv_cache.as_u64()).unwrap_or(usize::MAX),
        grace: Duration::from_secs(args.grace),
        compute: Compute::parse(&args.device, &args.dtype).map_err(anyhow::Error::msg)?,
    };
    let stop = Stop::default();
    let (stopping, mut is_told) = (stop.clone(), false);
    let interrupt = move || {
        // Told twice, it does not wait.
        if std::mem::replace(&mut is_told, true) {
            std::process::exit(130);
        }
        stopping.now();
    };
    crate::exec::on_interrupt(interrupt).context("cannot listen for Ctrl-C")?;
    serve::serve(
        options,
        stop,
        |address| println!("http://{address}"),
        |names| eprintln!("ready: {}; press Ctrl-C to stop", names.join(", ")),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The key in a variable.
fn key(variable: &str) -> anyhow::Result<String> {
    let key = std::env::var(variable).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    key.with_context(|| {
        format!("`--api-key-env` must name a variable that holds the key, but {variable} is not set or empty")
    })
}

/// A model with its name.
fn model(text: &str) -> anyhow::Result<NamedModel> {
    let named = text.split_once('=').filter(|_| !Path::new(text).exists());
    let (name, what) = named.map_or((None, text), |(name, what)| (Some(name), what));
    let path = found(what)?;
    let default = || match what.split_once(':').filter(|_| !Path::new(what).exists()) {
        // The value of a loop, the stage of another output.
        Some((_, node)) => match node.rsplit_once('.') {
            Some((_, value)) if value != "model" => value.to_owned(),
            Some((stage, _)) => stage.to_owned(),
            None => node.to_owned(),
        },
        None => {
            // A link keeps its own name.
            let path = match path.file_name() {
                Some(_) => path.clone(),
                None => path.canonicalize().unwrap_or_else(|_| path.clone()),
            };
            let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
            name.unwrap_or_default().to_string_lossy().into_owned()
        }
    };
    Ok(NamedModel { name: name.map_or_else(default, str::to_owned), path: path.clone() })
}

/// The path of a model that is given by its path or as an output of a run.
fn found(text: &str) -> anyhow::Result<PathBuf> {
    ensure!(
        Path::new(text).exists() || text.contains(':'),
        "there is no model {text}: write the path of a folder or file, or RUN:NODE for a model that a run made"
    );
    judge::model(text)
}
