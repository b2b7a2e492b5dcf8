//! `triplay data get`: copies an output of a run out of the cache.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;

use super::{Content, Target};
use crate::cli::args::RunCacheArgs;
use crate::store::{Digest, files_below, read};
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
    let target = Target::find(&args.target)?;
    ensure!(
        !args.link || target.artifact.is_some(),
        "`{}` must be an output of a run for --link, found a file or folder of yours",
        args.target
    );
    let mut written = Written::default();
    if target.content == Content::Folder {
        let (source, place) = (target.path.canonicalize()?, std::path::absolute(&args.out)?);
        ensure!(
            !place.starts_with(source),
            "`--out` must not be in the folder that is copied, found {}",
            args.out.display()
        );
        NewFolder::new(&args.out)?.make(|new| copy_folder(&target.path, new, args.link, &mut written))?;
    } else {
        // An earlier copy may be replaced.
        let source = target.path.clone();
        let digest = |file: &Path| Digest::of_file(file).ok();
        let is_own = move |file: &Path| digest(file).is_some_and(|found| digest(&source) == Some(found));
        let place = Destination::with_force(&args.out, "copy of this output", args.overwrite, is_own)?;
        place.write(|new| copy_file(&target.path, new, args.link, &mut written))?;
    }
    println!("{}: {}, {}", args.out.display(), several(written.files, "file"), size(written.bytes));
    Ok(ExitCode::SUCCESS)
}

/// What was written.
#[derive(Default)]
struct Written {
    files: usize,
    bytes: u64,
}

fn copy_folder(from: &Path, to: &Path, link: bool, written: &mut Written) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    for (name, file) in files_below(from, None)? {
        let to = to.join(name);
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        copy_file(&file, &to, link, written)?;
    }
    Ok(())
}

/// Copies a file without its permissions, except that it may be executed: files of the cache are read-only. The kernel makes the
/// copy a reflink on file systems that have them.
fn copy_file(from: &Path, to: &Path, link: bool, written: &mut Written) -> anyhow::Result<()> {
    let context = || format!("cannot copy {}", from.display());
    written.files += 1;
    written.bytes += from.metadata().with_context(context)?.len();
    if link && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let copy = || -> std::io::Result<()> {
        let (mut source, mut copy) = (read::open(from)?, File::create(to)?);
        std::io::copy(&mut source, &mut copy)?;
        let mode = copy.metadata()?.permissions().mode();
        match source.metadata()?.permissions().mode() & 0o100 {
            0 => Ok(()),
            _ => copy.set_permissions(Permissions::from_mode(mode | (mode & 0o444) >> 2)),
        }
    };
    copy().with_context(context)
}
