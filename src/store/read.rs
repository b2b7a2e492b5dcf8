//! Files as they come into memory. Only regular files are opened, since a pipe may have no beginning and a device no end;
//! who reads one whole says how large it may be, whatever it says of its own size. Nothing of triplay opens files to
//! read them in another way: `tests/it/reading.rs` sees to it.

use std::fs::{self, File, FileType, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The most that is read of a text that somebody wrote: a template, a declaration, a description of a model.
pub const MOST_TEXT: u64 = 16 << 20;

/// The most that is read of what lists the parts of a model: the tokens of its vocabulary, the names of its tensors.
pub const MOST_PARTS: u64 = 256 << 20;

/// The most that is read of what grows with a run: a line for each of its nodes, say, of which there may be a million.
pub const MOST_LIST: u64 = 2 << 30;

/// Opens a regular file for reading, without waiting for whoever writes to a pipe of that name.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: opening some devices does something.
    ensure_regular(&fs::metadata(path)?)?;
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    ensure_regular(&file.metadata()?)?;
    Ok(file)
}

fn ensure_regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    match kind.is_file() {
        true => Ok(()),
        false => Err(io::Error::other(format!("it must be a regular file, found {}", described(kind)))),
    }
}

fn described(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// All of a file, if that is not more than `most` bytes.
pub fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    all(&open(path)?, most)
}

/// The same of an open file, from where it is.
pub fn all(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    if size > most {
        return Err(too_large(&in_words(size), most));
    }
    // Files that the system makes up say that they are empty.
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size as usize + 1)?;
    if file.take(most + 1).read_to_end(&mut bytes)? as u64 > most {
        return Err(too_large("more", most));
    }
    Ok(bytes)
}

fn too_large(found: &str, most: u64) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, format!("it must have at most {}, found {found}", in_words(most)))
}

fn in_words(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

/// A text file that somebody wrote: see [`as_text`].
pub fn text(path: &Path, most: u64) -> io::Result<String> {
    as_text(bytes(path, most)?)
}

/// The text that bytes are, as editors on all systems mean it: a byte order mark is no part of it, and a line ends in a
/// line feed, whichever of the three ways the file has.
pub fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let (valid, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
        let line = memchr::memchr_iter(b'\n', &bytes[..valid]).count() + 1;
        let message = format!("line {line} is not UTF-8 text (byte {valid} of the file)");
        io::Error::new(ErrorKind::InvalidData, message)
    })?;
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    Ok(with_line_feeds(text))
}

/// The text with every line ending in a line feed.
pub fn with_line_feeds(text: String) -> String {
    match text.contains('\r') {
        true => text.replace("\r\n", "\n").replace('\r', "\n"),
        false => text,
    }
}

/// A file of a folder whose content is its own: no part of the way from the folder to it may be a link, which could lead
/// to whatever the reader can read. What is not there is no error yet.
pub fn inside(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let mut path = folder.to_owned();
    for part in Path::new(name) {
        path.push(part);
        if path.is_symlink() {
            return Err(io::Error::other(format!(
                "{} is a symbolic link, which may lead anywhere: put the file itself there",
                path.display()
            )));
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_no_more_than_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let said = |path: &Path| bytes(path, 8).unwrap_err().to_string();
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        assert_eq!(said(&at("pipe")), "it must be a regular file, found a pipe");
        assert_eq!(said(folder.path()), "it must be a regular file, found a folder");
        assert_eq!(said(Path::new("/dev/zero")), "it must be a regular file, found a device");
        // What the system makes up as it is read has no size before.
        assert_eq!(said(Path::new("/proc/self/environ")), "it must have at most 8 bytes, found more");
        File::create(at("sparse")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(said(&at("sparse")), "it must have at most 8 bytes, found 1048576 MiB");
        fs::write(at("own"), "moonbane").unwrap();
        assert_eq!(bytes(&at("own"), 8).unwrap(), b"moonbane");
    }

    #[test]
    fn a_text_is_the_same_whatever_editor_wrote_it() {
        let text = |bytes: &[u8]| as_text(bytes.into());
        for bytes in
            [b"brew\nglowvenom\n".as_slice(), b"\xef\xbb\xbfbrew\r\nglowvenom\r\n", b"brew\rglowvenom\r"]
        {
            assert_eq!(text(bytes).unwrap(), "brew\nglowvenom\n");
        }
        let error = text(b"brew\n\xff").unwrap_err().to_string();
        assert_eq!(error, "line 2 is not UTF-8 text (byte 5 of the file)");
    }

    #[test]
    fn a_link_on_the_way_to_a_file_of_a_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("own/deep")).unwrap();
        symlink("/etc", at("own/link")).unwrap();
        assert_eq!(inside(folder.path(), "own/deep/none").unwrap(), at("own/deep/none"));
        let error = inside(folder.path(), "own/link/passwd").unwrap_err().to_string();
        let link = at("own/link");
        let expected = "is a symbolic link, which may lead anywhere: put the file itself there";
        assert_eq!(error, format!("{} {expected}", link.display()));
    }
}
