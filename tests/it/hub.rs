//! `triplay model fetch` against a hub on this machine, which answers as the real one does and fails as networks do.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha1::Digest as _;

use crate::space::{Seen, Space};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_moonbane";

/// What the hub does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// The first answers of each file end in the middle.
    Cut { answers: usize },
    /// Every answer of the weights ends after 1,000 bytes.
    CutAlways,
    /// The weights have another byte.
    OtherByte,
    /// The first requests are refused as too many.
    Busy,
    /// A whole file although a part was asked for.
    NoRanges,
    /// Nothing without a token.
    Gated,
    /// A file outside of the folder is listed.
    Escaping,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    fault: Fault,
    /// The requests: path, and `Range`.
    asked: Vec<(String, Option<u64>)>,
    /// Whether where redirects lead got the token.
    leaked: bool,
}

struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    /// A hub with the files of a fixture and one that nobody needs.
    fn start(fault: Fault) -> Hub {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/qwen3-tiny");
        let read =
            |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap());
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: BTreeMap<_, _> = entries.filter(|path| path.is_file()).map(read).collect();
        files.insert("onnx/model.onnx".into(), vec![1; 100]);
        files.insert("README.md".into(), b"A tiny brewer.\n".to_vec());
        let state = Arc::new(Mutex::new(State { files, fault, asked: Vec::new(), leaked: false }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &shared));
            }
        });
        Hub { address, state }
    }

    fn fetch(&self, space: &Space, args: &[&str]) -> Seen {
        let mut command = space.command(&[&["model", "fetch", "guild/tiny-brewer"], args].concat());
        command.env("HF_ENDPOINT", format!("http://{}", self.address));
        command.output().unwrap().into()
    }

    fn set(&self, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        (state.fault, state.asked) = (fault, Vec::new());
    }

    /// Where the weights were asked from.
    fn weights_asked(&self) -> Vec<Option<u64>> {
        let state = self.state.lock().unwrap();
        state
            .asked
            .iter()
            .filter(|(path, _)| path.contains("/cdn/model.safetensors"))
            .map(|(_, from)| *from)
            .collect()
    }

    fn weights(&self) -> Vec<u8> {
        self.state.lock().unwrap().files["model.safetensors"].clone()
    }
}

fn listed(state: &State) -> Value {
    let sibling = |(name, content): (&String, &Vec<u8>)| {
        let git = sha1::Sha1::digest([format!("blob {}\0", content.len()).as_bytes(), content].concat());
        let mut sibling = json!({ "rfilename": name, "size": content.len(), "blobId": hex(&git) });
        if name.ends_with(".safetensors") || name.ends_with(".onnx") {
            let sha256 = hex(&sha2::Sha256::digest(content));
            sibling["lfs"] = json!({ "sha256": sha256, "size": content.len(), "pointerSize": 134 });
        }
        sibling
    };
    let mut siblings: Vec<Value> = state.files.iter().map(sibling).collect();
    if state.fault == Fault::Escaping {
        siblings.push(json!({ "rfilename": "../outside.json", "size": 1, "blobId": "00" }));
    }
    json!({ "id": "guild/tiny-brewer", "sha": COMMIT, "siblings": siblings })
}

fn answer(stream: TcpStream, shared: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<String> =
        lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
    let header =
        |name: &str| headers.iter().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
    let from = header("range: bytes=").map(|range| range.trim_end_matches('-').parse::<u64>().unwrap());
    let has_token = header("authorization:").is_some_and(|sent| sent == format!("bearer {TOKEN}"));
    let mut state = shared.lock().unwrap();
    state.asked.push((path.clone(), from));
    let before = state.asked.iter().filter(|(asked, _)| *asked == path).count() - 1;
    let reply = |status: &str, more: &str, length: usize, body: &[u8]| {
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n");
        // A client that has enough goes.
        let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(body));
    };
    let whole = |status: &str, body: &[u8]| reply(status, "", body.len(), body);
    if state.fault == Fault::Gated && !has_token && !path.starts_with("/cdn/") {
        return whole("401 Unauthorized", b"{\"error\":\"gated\"}");
    }
    if state.fault == Fault::Busy && before == 0 && path.starts_with("/cdn/") {
        return whole("429 Too Many Requests", b"");
    }
    if let Some(rest) = path.strip_prefix("/api/models/guild/tiny-brewer/revision/") {
        return match rest {
            "main?blobs=true" => whole("200 OK", listed(&state).to_string().as_bytes()),
            _ => whole("404 Not Found", b"{\"error\":\"Invalid rev id\"}"),
        };
    }
    if let Some(file) = path.strip_prefix(&format!("/guild/tiny-brewer/resolve/{COMMIT}/")) {
        // Large files are elsewhere, under an address that needs no token.
        return reply(
            "302 Found",
            &format!("Location: http://localhost:{}/cdn/{file}\r\n", port(&headers)),
            0,
            b"",
        );
    }
    let Some(mut content) = path.strip_prefix("/cdn/").and_then(|file| state.files.get(file).cloned()) else {
        return whole("404 Not Found", b"");
    };
    state.leaked |= has_token;
    let is_weights = path.ends_with("model.safetensors");
    if state.fault == Fault::OtherByte && is_weights {
        *content.last_mut().unwrap() ^= 1;
    }
    let from = from.filter(|_| state.fault != Fault::NoRanges);
    let rest = &content[from.unwrap_or_default() as usize..];
    let sent = match state.fault {
        Fault::Cut { answers } if before < answers => rest.len() / 2,
        Fault::CutAlways if is_weights => rest.len().min(1000),
        _ => rest.len(),
    };
    let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
    reply(status, "", rest.len(), &rest[..sent]);
}

fn port(headers: &[String]) -> String {
    let host = headers.iter().find_map(|line| line.strip_prefix("host: ")).unwrap();
    host.rsplit_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn a_model_is_downloaded_checked_and_used() {
    let (space, hub) = (Space::new(), Hub::start(Fault::None));
    let seen = hub.fetch(&space, &[]).ok();
    assert_eq!(seen.out, "models/tiny-brewer\n");
    assert!(seen.err.contains(&format!("guild/tiny-brewer at {COMMIT}: ")), "{}", seen.err);
    assert_eq!(fs::read(space.path("models/tiny-brewer/model.safetensors")).unwrap(), hub.weights());
    assert!(space.path("models/tiny-brewer/README.md").exists());
    assert!(!space.path("models/tiny-brewer/onnx").exists());
    space.triplay(&["model", "score", "--model", "models/tiny-brewer", "--ids", "1,87,85"]).ok();
    // Again: nothing is downloaded.
    hub.set(Fault::None);
    let again = hub.fetch(&space, &[]).ok();
    assert!(again.err.contains("  model.safetensors there already\n"), "{}", again.err);
    assert_eq!(hub.weights_asked(), []);
    // Other files, by a pattern.
    hub.fetch(&space, &["--include", "onnx/*", "--out", "other"]).ok();
    assert_eq!(fs::read_dir(space.path("other")).unwrap().count(), 1);
    assert_eq!(fs::read(space.path("other/onnx/model.onnx")).unwrap(), [1; 100]);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let (space, hub) = (Space::new(), Hub::start(Fault::Cut { answers: 2 }));
    let whole = hub.weights().len() as u64;
    hub.fetch(&space, &[]).ok();
    assert_eq!(hub.weights_asked(), [None, Some(whole / 2), Some(whole / 2 + (whole - whole / 2) / 2)]);
    // A hub that never gives it all: what came is kept for the next command.
    let space = Space::new();
    hub.set(Fault::CutAlways);
    hub.fetch(&space, &[]).fails(2, "given up after 6 tries; what came is kept");
    let part = space.path("models/tiny-brewer/model.safetensors.part");
    assert_eq!(fs::metadata(&part).unwrap().len(), 6000);
    hub.set(Fault::None);
    let seen = hub.fetch(&space, &[]).ok();
    assert!(seen.err.contains("  model.safetensors downloaded, 6.0 kB of it before\n"), "{}", seen.err);
    assert_eq!(hub.weights_asked(), [Some(6000)]);
    assert_eq!(fs::read(space.path("models/tiny-brewer/model.safetensors")).unwrap(), hub.weights());
    assert!(!part.exists());
    for fault in [Fault::Busy, Fault::NoRanges] {
        let space = Space::new();
        fs::create_dir_all(space.path("models/tiny-brewer")).unwrap();
        fs::write(space.path("models/tiny-brewer/model.safetensors.part"), &hub.weights()[..500]).unwrap();
        hub.set(fault);
        hub.fetch(&space, &[]).ok();
        assert_eq!(
            fs::read(space.path("models/tiny-brewer/model.safetensors")).unwrap(),
            hub.weights(),
            "{fault:?}"
        );
    }
}

#[test]
fn other_bytes_are_never_taken_for_a_model() {
    let (space, hub) = (Space::new(), Hub::start(Fault::OtherByte));
    hub.fetch(&space, &[]).fails(2, "model.safetensors: the hub gave other bytes than it lists");
    let folder = space.path("models/tiny-brewer");
    assert!(!folder.join("model.safetensors").exists() && !folder.join("model.safetensors.part").exists());
    // What is there and is another file stays.
    hub.set(Fault::None);
    fs::write(folder.join("model.safetensors"), "mine").unwrap();
    hub.fetch(&space, &[]).fails(2, "model.safetensors is there and is another file: it must have");
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"mine");
    hub.set(Fault::Escaping);
    hub.fetch(&space, &["--out", "new"])
        .fails(2, "lists a file with the path `../outside.json`, which is refused");
    assert!(!space.path("new").exists());
}

#[test]
fn what_a_hub_does_not_give_is_one_clear_error() {
    let (space, hub) = (Space::new(), Hub::start(Fault::Gated));
    hub.fetch(&space, &[])
        .fails(2, "without a token (status 401)\n  help: check the name; if the model is private or gated");
    let with_token = |token: &str| -> Seen {
        let mut command = space.command(&["model", "fetch", "guild/tiny-brewer"]);
        command.env("HF_ENDPOINT", format!("http://{}", hub.address)).env("HF_TOKEN", token);
        command.output().unwrap().into()
    };
    with_token("hf_wrong").fails(2, "to the token of HF_TOKEN (status 401)");
    let seen = with_token(TOKEN).ok();
    assert!(!seen.err.contains(TOKEN) && !seen.out.contains(TOKEN));
    assert!(!hub.state.lock().unwrap().leaked, "the token is not for where redirects lead");
    hub.set(Fault::None);
    hub.fetch(&space, &["--revision", "v9"]).fails(2, "has no model guild/tiny-brewer at this revision");
    hub.fetch(&space, &["--include", "*.gguf"]).fails(2, "guild/tiny-brewer has no file that matches *.gguf");
    space.triplay(&["model", "fetch", "../guild"]).fails(2, "a repository must be OWNER/NAME");
    let asked_of = |endpoint: &str| -> Seen {
        let mut command = space.command(&["model", "fetch", "guild/tiny-brewer"]);
        command.env("HF_ENDPOINT", endpoint);
        command.output().unwrap().into()
    };
    asked_of("hub.example").fails(2, "HF_ENDPOINT must begin with https:// or http://, found hub.example");
    asked_of("http://127.0.0.1:1").fails(2, "cannot ask http://127.0.0.1:1");
}
