//! What commands print, and the files that they write where people asked for them.

mod place;

use std::io::{self, ErrorKind, Write};

pub use place::{Destination, beginning, begins_with, is_csv, is_free, is_jsonl, table_with};

/// As the standard one, but a reader that has seen enough, such as `head`, is no error.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::print_line(format_args!($($text)*)) };
}

/// As the standard one, but where nobody reads what is said nothing is wrong: the work goes on.
#[macro_export]
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::tell_line(format_args!($($text)*)) };
}

/// What [`eprintln!`] comes to.
pub fn tell_line(text: std::fmt::Arguments) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// What [`println!`] comes to.
pub fn print_line(text: std::fmt::Arguments) {
    if let Err(error) = print(&format!("{text}\n")) {
        tell_line(format_args!("error: cannot write to standard output: {error}"));
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
