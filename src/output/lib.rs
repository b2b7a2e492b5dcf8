//! What commands print, and the files that they write where people asked for them.

use std::fs::Permissions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

/// As the standard one, but a reader that has seen enough, such as `head`, is no error.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::print_line(format_args!($($text)*)) };
}

/// What [`println!`] comes to.
pub fn print_line(text: std::fmt::Arguments) {
    if let Err(error) = print(&format!("{text}\n")) {
        eprintln!("error: cannot write to standard output: {error}");
        std::process::exit(2);
    }
}

/// Prints; a reader that has seen enough, such as `head`, is no error.
pub fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// `1 node`, `2 nodes`.
pub fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Has a file written under another name first, so that it is there whole or not at all.
pub fn placed(out: &Path, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let place = || -> anyhow::Result<()> {
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = tempfile::Builder::new()
            .prefix(".writing-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        write(temporary.path())?;
        Ok(temporary.persist(out).map(drop)?)
    };
    place().with_context(|| format!("cannot write {}", out.display()))
}
