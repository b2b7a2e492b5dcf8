//! Servers that triplay starts, and a process killed in the middle of asking. This binary is also the supervisor, the server and
//! the process that is killed.

#[path = "../scripted.rs"]
mod scripted;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use endpoint::{Asking, Config, Endpoint, Journal, Message, Model, Needs, Prompt, Sample, Sampling};
use scripted::{Say, Scripted, chat, models, ok};
use serde_json::{Value, json};
use store::{Digest, Seed};

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let first = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    match first {
        "supervise" => return supervise::supervise(&words[2..]),
        "serve" => return serve(words[1].to_str().unwrap()),
        "ask" => {
            ask_rows(words[1].to_str().unwrap(), Path::new(&words[2]), 100_000, &mut |row| {
                let mut out = std::io::stdout();
                let _ = writeln!(out, "{row}").and_then(|()| out.flush());
            });
            return ExitCode::SUCCESS;
        }
        "adapt" => {
            let config: Config =
                serde_json::from_value(json!({ "url": words[1].to_str().unwrap() })).unwrap();
            let mut go_on = |_: &str| ControlFlow::Continue(());
            let base = open(&config, &mut go_on).unwrap();
            let _adapter =
                base.with_adapter(Path::new("/a"), Digest::of_bytes(b"adapter"), &mut go_on).unwrap();
            // As an interrupt does: nothing is dropped.
            endpoint::unload_adapters();
            std::process::exit(0);
        }
        "die" => {
            let _server = open(&config(), &mut |_| ControlFlow::Continue(())).unwrap();
            println!("ready");
            std::thread::sleep(Duration::from_secs(600));
        }
        // What `cargo test` passes on, such as a filter, chooses among no tests here.
        _ => {}
    }
    a_process_that_is_killed_loses_no_finished_row();
    a_server_is_started_once_shared_and_ended();
    a_server_ends_when_the_process_dies();
    a_server_that_ends_or_never_answers_is_an_error_with_its_log();
    a_process_that_is_interrupted_unloads_its_adapters();
    println!("test result: ok. 5 passed");
    ExitCode::SUCCESS
}

/// A server for `command`.
fn serve(port: &str) -> ExitCode {
    println!("serving on {port} as {}", std::process::id());
    let inner = Scripted::new(|got, _| match got.path.as_str() {
        "/health" => ok(json!({})),
        "/v1/models" => ok(models("x")),
        _ => ok(chat("cold")),
    });
    let listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    for stream in listener.incoming() {
        let (mut stream, mut onward) =
            (stream.unwrap(), std::net::TcpStream::connect(inner.url.trim_start_matches("http://")).unwrap());
        let (mut from, mut to) = (stream.try_clone().unwrap(), onward.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        std::thread::spawn(move || std::io::copy(&mut onward, &mut stream));
    }
    ExitCode::SUCCESS
}

fn own_path() -> String {
    std::env::current_exe().unwrap().to_str().unwrap().to_owned()
}

fn config() -> Config {
    serde_json::from_value(json!({ "command": [own_path(), "serve", "{port}"], "ready": "20s" })).unwrap()
}

fn open(
    config: &Config,
    watch: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Endpoint, endpoint::Trouble> {
    let model = Model { name: "frost".into(), revision: None };
    Endpoint::open("tower", config, &model, &Needs::default(), &logs(), watch)
}

fn logs() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("endpoint-logs-{}", std::process::id()))
}

fn question(row: usize) -> Sample {
    let messages = vec![Message { role: "user".into(), content: format!("ice {row}?") }];
    let prompt = Prompt::Chat { messages, arguments: serde_json::Map::new() };
    let sampling =
        Sampling { max_tokens: 8, temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, stop: Vec::new() };
    Sample { prompt, sampling, seed: Seed::from_u64(7).child(row), ids: false, logprobs: false }
}

fn ask_rows(url: &str, folder: &Path, rows: usize, done: &mut dyn FnMut(usize)) -> Endpoint {
    let config: Config = serde_json::from_value(json!({ "url": url })).unwrap();
    let endpoint = open(&config, &mut |_| ControlFlow::Continue(())).unwrap();
    let journal = Journal::open(folder).unwrap();
    let asking = Asking { journal: Some(&journal), ..Asking::default() };
    let mut deliver = |row, _| {
        done(row);
        Ok(())
    };
    let asked =
        endpoint.ask((0..rows).map(question), &asking, &mut deliver, &mut |_| ControlFlow::Continue(()));
    asked.unwrap();
    endpoint
}

fn a_process_that_is_killed_loses_no_finished_row() {
    let server = Scripted::new(|got, _| match got.body {
        Value::Null => ok(models("x")),
        _ => ok(chat("cold")),
    });
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let mut child = Command::new(own_path());
        let mut child =
            child.args(["ask", &server.url]).arg(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let none = tempfile::tempdir().unwrap();
        let before = Journal::open(none.path()).unwrap().len();
        let last = lines.by_ref().take(500).last().unwrap().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let delivered: usize = lines.map_while(Result::ok).last().unwrap_or(last).parse().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert!(
            journal.len() > delivered && before == 0,
            "{} rows kept, {delivered} delivered",
            journal.len()
        );
    }
    let asked = server.count();
    let kept = Journal::open(folder.path()).unwrap().len();
    // At most those that were under way when it was killed were asked again: each time no more than 64.
    assert!(asked - kept <= 3 * 64, "{asked} asked, {kept} kept");
    let endpoint = ask_rows(&server.url, folder.path(), kept, &mut |_| {});
    assert!(endpoint.served().kept as usize >= kept - 64);
    println!("test a_process_that_is_killed_loses_no_finished_row ... ok");
}

fn a_process_that_is_interrupted_unloads_its_adapters() {
    let server = Scripted::new(|got, _| match got.body {
        Value::Null => ok(models("vllm")),
        _ => Say::Text("Success"),
    });
    let status = Command::new(own_path()).args(["adapt", &server.url]).status().unwrap();
    assert!(status.success());
    let name = Digest::of_bytes(b"adapter").to_string();
    assert_eq!(server.bodies("/v1/load_lora_adapter")[0]["lora_name"], name);
    assert_eq!(server.bodies("/v1/unload_lora_adapter"), [json!({ "lora_name": name })]);
    println!("test a_process_that_is_interrupted_unloads_its_adapters ... ok");
}

/// The process of the server, from the end of the newest log.
fn server_id() -> u32 {
    let log = newest_log();
    let line = log.lines().find(|line| line.starts_with("serving on")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn newest_log() -> String {
    let mut logs: Vec<_> = std::fs::read_dir(logs()).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    std::fs::read_to_string(logs.last().unwrap()).unwrap()
}

fn is_running(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn a_server_is_started_once_shared_and_ended() {
    let mut go_on = |_: &str| ControlFlow::Continue(());
    let one = open(&config(), &mut go_on).unwrap();
    let two = open(&config(), &mut go_on).unwrap();
    let id = server_id();
    assert_eq!(std::fs::read_dir(logs()).unwrap().count(), 1, "one server");
    drop(one);
    assert!(is_running(id));
    let mut deliver = |_, _| Ok(());
    two.ask([question(0)].into_iter(), &Asking::default(), &mut deliver, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    drop(two);
    assert!(!is_running(id), "ended with its last user");
    println!("test a_server_is_started_once_shared_and_ended ... ok");
}

fn a_server_ends_when_the_process_dies() {
    let mut child = Command::new(own_path()).arg("die").stdout(Stdio::piped()).spawn().unwrap();
    let line = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert_eq!(line, "ready");
    let logs = std::env::temp_dir().join(format!("endpoint-logs-{}", child.id()));
    let log = std::fs::read_to_string(logs.join("tower.log")).unwrap();
    let id: u32 = log.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(is_running(id));
    child.kill().unwrap();
    child.wait().unwrap();
    let begun = Instant::now();
    while is_running(id) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the server outlives the process");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_dir_all(logs).unwrap();
    println!("test a_server_ends_when_the_process_dies ... ok");
}

fn a_server_that_ends_or_never_answers_is_an_error_with_its_log() {
    let failing: Config =
        serde_json::from_value(json!({ "command": "echo no such {model} >&2; exit 3 # {port}" })).unwrap();
    let error = open(&failing, &mut |_| ControlFlow::Continue(())).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("has ended with exit code 3\n  | no such frost\n  the whole log: "), "{error}");
    let mute: Config =
        serde_json::from_value(json!({ "command": "echo loading; sleep 60 # {port}", "ready": "1s" }))
            .unwrap();
    let error = open(&mute, &mut |_| ControlFlow::Continue(())).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("must answer within 1 s, and does not\n  | loading\n"), "{error}");
    let cancelled = open(&mute, &mut |_| ControlFlow::Break(())).map(|_| ()).unwrap_err();
    assert!(cancelled.is_cancelled());
    let none: Config = serde_json::from_value(json!({ "command": ["no-such-program", "{port}"] })).unwrap();
    let error = open(&none, &mut |_| ControlFlow::Continue(())).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("there is no program `no-such-program` on PATH"), "{error}");
    std::fs::remove_dir_all(logs()).unwrap();
    println!("test a_server_that_ends_or_never_answers_is_an_error_with_its_log ... ok");
}
