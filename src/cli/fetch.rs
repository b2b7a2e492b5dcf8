//! `triplay model fetch`: downloads a checkpoint from a Hugging Face hub.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use hub::{Fetched, Hub};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use output::{eprintln, one_line, println, several};

use super::progress::is_on_terminal;

#[derive(Args)]
pub(crate) struct FetchArgs {
    /// The repository, such as HuggingFaceTB/SmolLM2-135M-Instruct
    repository: String,
    /// A branch, a tag or a commit
    #[arg(long, default_value = "main", value_name = "REVISION")]
    revision: String,
    /// The folder of the model [default: models/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Download the files that match, such as '*.gguf', and no others; may be repeated
    /// [default: what triplay reads, and the licence]
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
}

pub(crate) fn fetch(args: &FetchArgs) -> anyhow::Result<()> {
    let hub = Hub::from_env()?;
    let repository = hub.repository(&args.repository, &args.revision)?;
    let files = repository.selected(&args.include)?;
    let name = repository.name.rsplit('/').next().unwrap_or_default();
    let out = args.out.clone().unwrap_or_else(|| Path::new("models").join(name));
    let bytes = files.iter().map(|file| file.content.bytes()).sum();
    eprintln!(
        "{} at {}: {}, {}",
        repository.name,
        repository.commit,
        several(files.len(), "file"),
        ByteSize(bytes).display().si()
    );
    let bar = bar(bytes);
    let mut before = 0;
    for file in &files {
        bar.set_message(one_line(&file.path).into_owned());
        let fetched =
            hub::fetch(&hub, &repository, file, &out, &mut |there| bar.set_position(before + there));
        let told = match fetched? {
            Fetched::There => "there already".to_owned(),
            Fetched::Downloaded { kept: 0 } => "downloaded".to_owned(),
            Fetched::Downloaded { kept } => {
                format!("downloaded, {} of it before", ByteSize(kept).display().si())
            }
        };
        before += file.content.bytes();
        bar.set_position(before);
        bar.suspend(|| eprintln!("  {} {told}", file.path));
    }
    bar.finish_and_clear();
    println!("{}", out.display());
    Ok(())
}

/// A bar of bytes, on a terminal.
fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(
        Some(bytes),
        if is_on_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    let style = ProgressStyle::with_template(
        "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {msg}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
