//! Reading files. Only regular files are opened, since a pipe may have no beginning and a device no end. Callers that read a
//! whole file state the largest size that they accept, whatever the file system reports. No other code of triplay opens files for
//! reading: `tests/it/reading.rs` checks that.

use std::fs::{self, File, FileType, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The largest text written by a person, in bytes: a template, a declaration, a description of a model.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;

/// The largest list of a model's parts, in bytes: the tokens of its vocabulary, the names of its tensors.
pub const MAX_PARTS_BYTES: u64 = 256 << 20;

/// The largest file that grows with a run, in bytes: a line for each of its nodes, for example, which may be a million.
pub const MAX_LIST_BYTES: u64 = 2 << 30;

/// Opens a regular file for reading. It does not wait for a writer if a pipe has taken the file's place.
pub fn open(path: &Path) -> io::Result<File> {
    // Checked before opening: opening some devices has effects.
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

/// Reads a whole file of at most `most` bytes.
pub fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    all(&open(path)?, most)
}

/// The same for an open file, from its current position.
pub fn all(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    if size > most {
        return Err(too_large(&in_words(size), most));
    }
    // Generated files, as in `/proc`, report a size of 0.
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

/// Reads a text file: see [`as_text`].
pub fn text(path: &Path, most: u64) -> io::Result<String> {
    as_text(bytes(path, most)?)
}

/// Decodes UTF-8 text. A byte order mark is removed, and the line ends of all systems (LF, CRLF, CR) become line feeds.
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

/// Converts all line ends to line feeds.
pub fn with_line_feeds(text: String) -> String {
    match text.contains('\r') {
        true => text.replace("\r\n", "\n").replace('\r', "\n"),
        false => text,
    }
}

/// The path of a file of a folder that strangers may have written. No part of the path below the folder may be a link, which
/// could lead to any file that the reader may read. A missing file is not an error yet.
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
        // Generated files report no size before they are read.
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
