//! One file: what is there already, the rest of it, and the check of all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::{Hub, RemoteFile, Repository};

/// Tries of a file. Each goes on where the one before it broke off.
const TRIES: u32 = 6;
/// The wait before the second try; it doubles.
const WAIT: Duration = Duration::from_millis(500);

/// How a file came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// It was there with the right content.
    There,
    /// It was downloaded, the first `kept` bytes of it by an earlier command.
    Downloaded {
        /// Bytes.
        kept: u64,
    },
}

/// Why a try failed.
enum Failure {
    /// Another try may succeed.
    Passing(anyhow::Error),
    Final(anyhow::Error),
}

/// Puts a file of a repository into a folder, under its path in the repository. `progress` gets the bytes that are there.
pub fn fetch(
    hub: &Hub,
    repository: &Repository,
    file: &RemoteFile,
    folder: &Path,
    progress: &mut dyn FnMut(u64),
) -> anyhow::Result<Fetched> {
    let place = folder.join(&file.path);
    let parent = place.parent().unwrap_or(folder);
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    if place.exists() {
        let mut hasher = file.content.hasher();
        let cannot_read = || format!("cannot read {}", place.display());
        let bytes = hasher.read(File::open(&place).with_context(cannot_read)?).with_context(cannot_read)?;
        return match file.content.ensure(bytes, hasher) {
            Ok(()) => Ok(Fetched::There),
            Err(why) => Err(anyhow!(
                "{} is there and is another file: it {why}\n  help: move it away, or choose another folder with --out",
                place.display()
            )),
        };
    }
    let part = part_of(&place);
    let kept = fs::metadata(&part).map_or(0, |found| found.len());
    let (mut tries, mut wait) = (0, WAIT);
    loop {
        tries += 1;
        match download(hub, repository, file, &part, progress) {
            Ok(()) => break,
            Err(Failure::Final(error)) => return Err(error.context(file.path.clone())),
            Err(Failure::Passing(error)) if tries == TRIES => {
                return Err(error.context(format!(
                    "{}: given up after {TRIES} tries; what came is kept, and the same command goes on",
                    file.path
                )));
            }
            Err(Failure::Passing(_)) => {
                std::thread::sleep(wait);
                wait *= 2;
            }
        }
    }
    fs::rename(&part, &place).with_context(|| format!("cannot write {}", place.display()))?;
    Ok(Fetched::Downloaded { kept })
}

/// Where a file is until it is whole.
fn part_of(place: &Path) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    place.with_file_name(name)
}

/// Downloads what is missing of a file and checks all of it.
fn download(
    hub: &Hub,
    repository: &Repository,
    file: &RemoteFile,
    part: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    let written =
        |error: io::Error| Failure::Final(anyhow!(error).context(format!("cannot write {}", part.display())));
    let whole = file.content.bytes();
    let mut output = OpenOptions::new().create(true).read(true).append(true).open(part).map_err(written)?;
    if output.try_lock().is_err_and(|error| matches!(error, TryLockError::WouldBlock)) {
        return Err(Failure::Final(anyhow!("another command downloads {}", part.display())));
    }
    let mut hasher = file.content.hasher();
    let mut bytes = hasher.read(&mut output).map_err(written)?;
    if bytes > whole {
        output.set_len(0).map_err(written)?;
        (bytes, hasher) = (0, file.content.hasher());
    }
    progress(bytes);
    if bytes < whole {
        let path: Vec<String> = file.path.split('/').map(escaped).collect();
        let url =
            format!("{}/{}/resolve/{}/{}", hub.endpoint, repository.name, repository.commit, path.join("/"));
        let reply = hub.get(&url, (bytes > 0).then_some(bytes));
        let mut reply =
            reply.map_err(|error| Failure::Passing(anyhow!(error).context(format!("cannot get {url}"))))?;
        match reply.status().as_u16() {
            206 if bytes > 0 => {}
            200 if bytes == 0 => {}
            // All of it, although a part was asked for.
            200 => {
                output.set_len(0).map_err(written)?;
                (bytes, hasher) = (0, file.content.hasher());
            }
            408 | 425 | 429 | 500.. => {
                return Err(Failure::Passing(anyhow!(
                    "{url} answers with status {}",
                    reply.status().as_u16()
                )));
            }
            _ => {
                let refused = hub.ensure_success(reply.status(), &repository.name);
                return Err(Failure::Final(refused.err().unwrap_or_else(|| {
                    anyhow!("{url} must answer with the file, found status {}", reply.status().as_u16())
                })));
            }
        }
        let mut reader = reply.body_mut().with_config().limit(whole - bytes + 1).reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Failure::Passing(
                        anyhow!(error).context(format!("{url} broke off at {bytes} bytes")),
                    ));
                }
            };
            output.write_all(&buffer[..count]).map_err(written)?;
            hasher.update(&buffer[..count]);
            bytes += count as u64;
            progress(bytes);
        }
        if bytes < whole {
            return Err(Failure::Passing(anyhow!("{url} broke off at {bytes} of {whole} bytes")));
        }
    }
    output.sync_all().map_err(written)?;
    match file.content.ensure(bytes, hasher) {
        Ok(()) => Ok(()),
        Err(why) => {
            fs::remove_file(part).map_err(written)?;
            Err(Failure::Final(
                why.context("the hub gave other bytes than it lists; they were removed: try again"),
            ))
        }
    }
}

/// A part of a path in a URL.
fn escaped(part: &str) -> String {
    let mut escaped = String::new();
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte as char),
            other => escaped += &format!("%{other:02X}"),
        }
    }
    escaped
}
