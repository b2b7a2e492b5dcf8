//! `triplay data get`: copies an output of a run out of the cache.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::ensure;
use clap::Args;

use super::{Content, Target};
use crate::cli::args::RunCacheArgs;
use crate::store::{Copied, Digest, copy_content};
use output::{Destination, NewFolder, Overwrite, println, several, size};

#[derive(Args)]
pub(crate) struct GetArgs {
    /// RUN:NODE or RUN:NODE.OUTPUT, such as `latest:warmup.model`; a file or a folder
    target: String,
    /// The file or folder to write
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
    /// Link to the cache's files instead of copying them, where both are on one disk: at once, and read-only
    #[arg(long)]
    link: bool,
    #[command(flatten)]
    overwrite: Overwrite,
    #[command(flatten)]
    cache: RunCacheArgs,
}

pub(crate) fn command(args: &GetArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let target = Target::locate(&args.target)?;
    ensure!(
        !args.link || target.recorded.is_some(),
        "`{}` must be an output of a run for --link, found a file or folder of yours",
        args.target
    );
    let mut copied = None;
    let copy = |new: &Path| -> anyhow::Result<()> {
        let made = copied.insert(copy_content(&target.path, new, args.link)?);
        made.digest.map_or(Ok(()), |digest| target.verify(digest, &args.target))
    };
    if target.content == Content::Folder {
        let (source, place) = (target.path.canonicalize()?, std::path::absolute(&args.out)?);
        ensure!(
            !place.starts_with(source),
            "`--out` must not be in the folder that is copied, found {}",
            args.out.display()
        );
        // An earlier copy may stay.
        let is_there = args.out.is_dir() && args.out.read_dir()?.next().is_some();
        if is_there && Digest::of_path(&args.out)? == target.digest()? {
            println!("{}: there already", args.out.display());
            return Ok(ExitCode::SUCCESS);
        }
        NewFolder::new(&args.out)?.make(copy)?;
    } else {
        // An earlier copy may be replaced.
        let source = target.path.clone();
        let digest = |file: &Path| Digest::of_file(file).ok();
        let is_own = move |file: &Path| digest(file).is_some_and(|found| digest(&source) == Some(found));
        let place = Destination::with_force(&args.out, "copy of this output", args.overwrite, is_own)?;
        place.write(copy)?;
    }
    if let Some(Copied { files, bytes, .. }) = copied {
        println!("{}: {}, {}", args.out.display(), several(files, "file"), size(bytes));
    }
    Ok(ExitCode::SUCCESS)
}
