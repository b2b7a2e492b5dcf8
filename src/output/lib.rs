//! Prints the output of commands, and writes the files that users name for it.

mod number;
mod place;
mod terminal;

use std::io::{self, ErrorKind, Write};

pub use number::{fixed, visible_fixed};
pub use place::{
    Destination, NewFolder, Overwrite, begins_with, describe_table, first_bytes, is_csv, is_jsonl,
};
pub use terminal::{
    Printer, install_panic_hook, one_line, parse_command_line, stderr, stdout, steers, visible,
};

/// Like the standard macro, but a reader that closes the pipe early, such as `head`, is no error, and text cannot control the
/// terminal.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::print_line(format_args!($($text)*)) };
}

/// Like the standard macro, but a closed standard error is no error: the work continues. Text cannot control the terminal.
#[macro_export]
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::eprint_line(format_args!($($text)*)) };
}

/// Implements [`eprintln!`].
pub fn eprint_line(text: std::fmt::Arguments) {
    let _ = stderr().write_all(format!("{text}\n").as_bytes());
}

/// Implements [`println!`].
pub fn print_line(text: std::fmt::Arguments) {
    if let Err(error) = print(&format!("{text}\n")) {
        eprint_line(format_args!("error: cannot write to standard output: {error}"));
        std::process::exit(2);
    }
}

/// Prints to standard output. A reader that closes the pipe early, such as `head`, is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    allow_broken_pipe(stdout().write_all(text.as_bytes()).map_err(Into::into))
}

/// Prints text with colours that triplay added. Foreign text in it must have passed through [`one_line`].
pub fn print_coloured(text: &str) -> anyhow::Result<()> {
    allow_broken_pipe(stdout().with_colours().write_all(text.as_bytes()).map_err(Into::into))
}

/// The result of writing to standard output, in which a reader that closed the pipe early, such as `head`, is no error.
pub fn allow_broken_pipe(written: anyhow::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        written => written,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of_csv = error.downcast_ref::<csv::Error>().and_then(|error| match error.kind() {
        csv::ErrorKind::Io(error) => Some(error),
        _ => None,
    });
    let error = of_csv.or_else(|| error.downcast_ref::<io::Error>());
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// A size with its unit, such as 12.3 MB.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().si().to_string()
}

/// `1 node`, `2 nodes`.
pub fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
