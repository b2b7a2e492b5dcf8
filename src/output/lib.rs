//! What commands print, and the files that they write where people asked for them.

mod place;
mod terminal;

use std::io::{self, ErrorKind, Write};

pub use place::{Destination, NewFolder, Overwrite, beginning, begins_with, is_csv, is_jsonl, table_with};
pub use terminal::{Printer, command_line, one_line, say_panics, stderr, stdout, steers, visible};

/// As the standard one, but a reader that has seen enough, such as `head`, is no error, and nothing steers a terminal.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::print_line(format_args!($($text)*)) };
}

/// As the standard one, but where nobody reads what is said nothing is wrong: the work goes on. Nothing steers a terminal.
#[macro_export]
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::tell_line(format_args!($($text)*)) };
}

/// What [`eprintln!`] comes to.
pub fn tell_line(text: std::fmt::Arguments) {
    let _ = stderr().write_all(format!("{text}\n").as_bytes());
}

/// What [`println!`] comes to.
pub fn print_line(text: std::fmt::Arguments) {
    if let Err(error) = print(&format!("{text}\n")) {
        tell_line(format_args!("error: cannot write to standard output: {error}"));
        std::process::exit(2);
    }
}

/// Prints; a reader that has seen enough, such as `head`, is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    unless_closed(stdout().write_all(text.as_bytes()).map_err(Into::into))
}

/// The same, of text with colours of ours. What is not ours in it has gone through [`one_line`].
pub fn print_coloured(text: &str) -> anyhow::Result<()> {
    unless_closed(stdout().with_colours().write_all(text.as_bytes()).map_err(Into::into))
}

/// What came of writing to standard output. A reader that has seen enough, such as `head`, is no error.
pub fn unless_closed(written: anyhow::Result<()>) -> anyhow::Result<()> {
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

/// `1 node`, `2 nodes`.
pub fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
