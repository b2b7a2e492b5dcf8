//! `triplay report` and `triplay ui`: the content of the file, omitted texts, and access to the live page.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::Value;
use triplay::data::{self, AttackRow, Origin, Position, Sample, Sparse};

use crate::space::{Seen, Space};

/// A page's data: the report, and the samples if it has any.
pub(crate) struct Page {
    html: String,
    pub report: Value,
    samples: Option<Value>,
}

impl Page {
    fn read(space: &Space, file: &str) -> Page {
        let html = fs::read_to_string(space.path(file)).unwrap();
        let part = |id: &str| {
            let start = html.find(&format!(" id=\"{id}\">"))? + id.len() + 7;
            Some(html[start..start + html[start..].find("</script>")?].to_owned())
        };
        let report = serde_json::from_str(&part("report").unwrap()).unwrap();
        let samples = part("samples").map(|packed| {
            let packed = base64::engine::general_purpose::STANDARD.decode(packed).unwrap();
            serde_json::from_reader(flate2::read::GzDecoder::new(&packed[..])).unwrap()
        });
        Page { html, report, samples }
    }

    pub(crate) fn of(space: &Space, args: &[&str]) -> (Seen, Page) {
        let seen = space.triplay(&[&["report", "-o", "page.html"], args].concat());
        assert_eq!(seen.code, Some(0), "{}{}", seen.out, seen.err);
        (seen, Page::read(space, "page.html"))
    }

    fn samples(&self) -> &Value {
        self.samples.as_ref().unwrap()
    }

    /// A text of a row.
    fn text(&self, column: &str, row: usize) -> &str {
        let samples = self.samples();
        match samples[column][row].as_i64().unwrap() {
            -1 => "",
            place => samples["strings"][place as usize].as_str().unwrap(),
        }
    }

    fn rows(&self) -> usize {
        self.samples()["attack_number"].as_array().unwrap().len()
    }

    fn notices(&self) -> String {
        let notices = self.report["notices"].as_array().unwrap().iter();
        notices.map(|notice| notice.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }

    fn stage(&self, id: &str) -> &Value {
        let stages = self.report["graphs"][0]["stages"].as_array().unwrap();
        stages.iter().find(|stage| stage["id"] == id).unwrap_or_else(|| panic!("no {id} in {stages:?}"))
    }
}

#[test]
fn a_report_of_a_finished_run_has_everything_in_one_file() {
    let space = Space::new();
    let summary = space.run(&[]);
    let run = summary["run"].as_str().unwrap();
    let (seen, page) = Page::of(&space, &[]);
    assert!(seen.out.starts_with("page.html: "), "{}", seen.out);
    let report = &page.report;
    assert_eq!(report["title"], format!("small {run}"));
    assert_eq!((&report["redacted"], page.notices().as_str()), (&false.into(), ""));
    let info = &report["runs"][0];
    assert_eq!((&info["status"], &info["nodes"], &info["ran"]), (&"done".into(), &70.into(), &70.into()));
    assert_eq!(info["reproduce"][1], "triplay pipeline run small.yaml");
    assert!(info["pipeline_yaml"].as_str().unwrap().contains("pipeline: small"));
    let machine = info["machine"].to_string();
    assert!(machine.contains("processor") && !machine.contains("host"), "{machine}");

    for id in ["world", "play", "play/red", "play/red/update", "after"] {
        assert_eq!(page.stage(id)["state"], "done", "{id}");
    }
    assert_eq!(page.stage("play/red/update")["total"], 4);
    assert_eq!(page.stage("others")["label"], "others[b, c]");
    let stages = report["graphs"][0]["stages"].as_array().unwrap();
    let edges = report["graphs"][0]["edges"].as_array().unwrap();
    let id = |place: &Value| stages[place.as_u64().unwrap() as usize]["id"].as_str().unwrap();
    let edges: Vec<(&str, &str)> = edges.iter().map(|edge| (id(&edge[0]), id(&edge[1]))).collect();
    for edge in [
        ("warmup", "play/red/attacks"),
        ("play/red/attacks", "play/red/responses"),
        ("play/blue/update", "after"),
    ] {
        assert!(edges.contains(&edge), "{edge:?} is not in {edges:?}");
    }

    let rows = report["headline"]["rows"].as_array().unwrap();
    let compared = space.triplay(&["runs", "compare", run, run, "--json"]).json();
    for name in ["attack_success", "benchmark_success", "benign_accuracy"] {
        let row = rows.iter().find(|row| row["metric"] == name).unwrap();
        let metrics = compared["metrics"].as_array().unwrap();
        let compared = metrics.iter().find(|found| found["metric"] == format!("defender {name}")).unwrap();
        let [last, interval] = [&row["cells"][0]["last"], &compared["a_interval"]];
        assert_eq!((&last["low"], &last["high"]), (&interval["low"], &interval["high"]), "{row} {compared}");
        assert!(last["low"].as_f64() < last["high"].as_f64(), "{row}");
    }
    assert!(report["panels"].as_array().unwrap().iter().any(|panel| panel["section"] == "training"));
    assert!(report["matrices"].as_array().unwrap().iter().any(|matrix| matrix["section"] == "confusion"));

    let checkpoints = report["checkpoints"].as_array().unwrap();
    let update = checkpoints.iter().find(|one| one["node"] == "play[1]/red[2]/update").unwrap();
    assert_eq!(update["parent"], format!("{run}:play[1]/red[1]/update"));
    assert!(update["inputs"].as_array().unwrap().contains(&"play[1]/red[2]/rewards".into()), "{update}");

    let learnt =
        |role: &str| (0..page.rows()).filter(|row| page.text("learner", *row) == role).collect::<Vec<_>>();
    let (attacker, defender, evaluator) = (learnt("attacker"), learnt("defender"), learnt("evaluator"));
    // Two rounds of two steps: 16 attacks on two defenders; 4 attacks and 2 benign prompts, each answered 4 times.
    assert_eq!((attacker.len(), defender.len()), (2 * 2 * 16 * 2, 2 * 2 * 6 * 4));
    assert!(!evaluator.is_empty());
    assert!(
        evaluator.iter().any(|row| !page.text("label", *row).is_empty()),
        "experts labelled what it learnt from"
    );
    assert!(attacker.iter().all(|row| page.text("label", *row).is_empty()));
    let row = attacker[0];
    assert_eq!(page.text("scope", row), "play[1]/red[1]");
    assert!(page.samples()["reward"][row].is_number());
    assert!(!page.text("verdict", row).is_empty());
    assert!(
        page.text("attacker_checkpoint", row).ends_with(":warmup"),
        "{}",
        page.text("attacker_checkpoint", row)
    );
    assert!(page.text("defender_checkpoint", row).contains(':'));
    let evaluated = (0..page.rows()).find(|row| page.text("scope", *row) == "after").unwrap();
    assert!(!page.text("truth", evaluated).is_empty());
    let components = page.samples()["components"].as_array().unwrap();
    assert!(components.iter().any(|component| component[0] == "self_bleu"), "{components:?}");
}

#[test]
fn whom_to_report_on_and_where_is_said_when_it_is_wrong() {
    let space = Space::new();
    space
        .triplay(&["report"])
        .fails(2, "there are no runs in results/ here; `triplay pipeline run FILE` makes one");
    space.write("p.yaml", "pipeline: p\nparams: { word: moss }\nstages: { say: { kind: exec, command: 'echo $w', env: { w: $word } } }\n");
    for word in ["moss", "fern"] {
        let seen = space.triplay(&["pipeline", "run", "p.yaml", "--set", &format!("word={word}")]);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
    }
    space.triplay(&["report", "2"]).fails(2, "write more of its name");
    space.triplay(&["report", "nothing"]).fails(2, "there is no run `nothing`; the newest are ");
    space.triplay(&["report", "latest@full"]).fails(2, "was made without --ablation and has one seed");
    space
        .triplay(&["report", "latest", "latest"])
        .fails(2, "each run must be given once, found latest twice");
    space.write("mine.html", "<html>mine</html>");
    space
        .triplay(&["report", "-o", "mine.html"])
        .fails(2, "mine.html must be new or an earlier report of triplay");
    assert_eq!(fs::read_to_string(space.path("mine.html")).unwrap(), "<html>mine</html>");
    space.triplay(&["report", "-o", "no/such/folder.html"]).fails(2, "cannot write no/such/folder.html");
    // An earlier report is replaced. Without attacks there is no text to omit, but the page says that texts are omitted.
    for _ in 0..2 {
        let (seen, page) = Page::of(&space, &["latest"]);
        assert!(page.samples.is_none() && page.report["redacted"] == true, "{}", seen.out);
        assert!(seen.out.contains("0 samples") && seen.out.contains("--reveal shows them"), "{}", seen.out);
        assert_eq!(page.report["runs"][0]["reproduce"][1], "triplay pipeline run p.yaml --set word=fern");
    }
    // A pipeline of another version of triplay.
    let newest = space.path("results/p");
    let mut runs: Vec<_> = fs::read_dir(newest).unwrap().map(|entry| entry.unwrap().path()).collect();
    runs.sort();
    let file = runs.last().unwrap().join("pipeline.yaml");
    fs::write(&file, "pipeline: p\nstages: { say: { kind: shout } }\n").unwrap();
    let record = runs.last().unwrap().join("run.json");
    let mut old: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    old.as_object_mut().unwrap().retain(|key, _| key != "files" && key != "check");
    fs::write(&record, triplay::store::seal_file(&old).unwrap()).unwrap();
    let (_, page) = Page::of(&space, &["latest"]);
    assert!(page.notices().contains("cannot read its pipeline"), "{}", page.notices());
    assert_eq!(page.stage("say")["state"], "done");
    // A record that was edited.
    let file = runs.last().unwrap().join("run.json");
    let text = fs::read_to_string(&file).unwrap().replace("\"done\"", "\"gone\"");
    fs::write(&file, text).unwrap();
    space.triplay(&["report"]).fails(2, "is damaged or was edited since triplay wrote it");
}

#[test]
fn what_broke_off_is_reported_as_far_as_it_came() {
    let space = Space::new();
    let mut child = space.command(&["pipeline", "run", "small.yaml"]).spawn().unwrap();
    while space.records(".triplay") < 15 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (_, page) = Page::of(&space, &["latest"]);
    let info = &page.report["runs"][0];
    assert_eq!(info["status"], "killed");
    assert!(
        page.notices().contains("is half-finished: ") && page.notices().contains(" of 70 nodes are done"),
        "{}",
        page.notices()
    );
    assert_eq!(
        (&page.stage("world")["state"], &page.stage("after")["state"]),
        (&"done".into(), &"skipped".into())
    );
    assert!(page.rows() > 0);

    space.write("fails.yaml", "pipeline: fails\nstages:\n  say: { kind: exec, command: 'echo moss' }\n  fall: { kind: exec, command: 'echo it slipped >&2; exit 3' }\n");
    assert_eq!(space.triplay(&["pipeline", "run", "fails.yaml"]).code, Some(1));
    let (_, page) = Page::of(&space, &["latest"]);
    assert_eq!(page.report["runs"][0]["status"], "failed");
    assert_eq!(page.stage("fall")["state"], "failed");
    assert!(page.notices().contains("fall failed: "), "{}", page.notices());

    // Without the cache, the page still shows the content of the run's folder.
    fs::remove_dir_all(space.path(".triplay")).unwrap();
    let (_, page) = Page::of(&space, &["small/2"]);
    assert!(page.rows() > 0, "tables outlive the cache");
    fs::remove_dir_all(
        fs::read_dir(space.path("results/small")).unwrap().next().unwrap().unwrap().path().join("tables"),
    )
    .unwrap();
    let (_, page) = Page::of(&space, &["small/2"]);
    assert!(
        page.samples.is_none() && page.notices().contains("its cache .triplay is gone"),
        "{}",
        page.notices()
    );
    assert!(!space.path(".triplay").exists(), "and none is made");
}

#[test]
fn seeds_and_ablations_stand_side_by_side() {
    let space = Space::new();
    space.write(
        "both.yaml",
        &(include_str!("small.yaml").trim_end().to_owned()
            + "\nablations: { full: {}, flat: { diversity: 0 } }\n"),
    );
    let run = [
        "pipeline",
        "run",
        "both.yaml",
        "--set",
        "rounds=1",
        "--set",
        "steps=1",
        "--seeds",
        "5,6",
        "--ablation",
        "all",
    ];
    assert_eq!(space.triplay(&run).code, Some(0));
    let (_, page) = Page::of(&space, &["latest"]);
    let headline = &page.report["headline"];
    let mut columns: Vec<&str> =
        headline["columns"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    columns.sort_unstable();
    assert_eq!((columns, &headline["seeds"]), (vec!["flat", "full"], &serde_json::json!([2, 2])));
    assert!(headline["note"].as_str().unwrap().contains("Student"), "{headline}");
    assert_eq!(
        page.report["runs"][0]["reproduce"][1],
        "triplay pipeline run both.yaml --set rounds=1 --set steps=1 --ablation flat --ablation full --seeds 5,6"
    );
    assert_eq!(page.stage("play/red/update")["total"], 4);
    let (_, page) = Page::of(&space, &["latest@full", "latest@flat-s5"]);
    assert_eq!(page.report["headline"]["seeds"], serde_json::json!([2, 1]));
    assert_eq!(page.report["graphs"][1]["run"].as_str().unwrap().split_once('@').unwrap().1, "flat-s5");
    assert!((0..page.rows()).all(|row| page.text("variant", row) != "flat-s6"));
}

const HOSTILE: &str = "</script><script>alert('glowvenom')</script>";

/// An attack that does not come from the sandbox.
fn attack(id: u32, text: &str) -> AttackRow {
    let origin = Origin {
        seed_id: format!("mine/{id}"),
        category: "potions".into(),
        split: "train".into(),
        task: "hazard".into(),
        seed: format!("seed of {text}"),
    };
    AttackRow {
        attack_id: id,
        origin,
        technique: Some("story".into()),
        group: id,
        text: text.into(),
        answer: None,
        turns: Sparse::default(),
        sample: Sample::template(text),
        at: Position { iteration: 0, step: 0, rng_seed: String::new() },
    }
}

#[test]
fn texts_of_the_real_world_are_left_out_unless_asked_for_and_never_become_markup() {
    let space = Space::new();
    space.run(&["--set", "rounds=1", "--set", "steps=1"]);
    let models =
        fs::read_dir(space.path("results/small")).unwrap().next().unwrap().unwrap().path().join("models");
    std::os::unix::fs::symlink(fs::canonicalize(models.join("warmup")).unwrap(), space.path("model"))
        .unwrap();
    data::write(&space.path("mine.parquet"), &[attack(0, "how do i brew moss ?"), attack(1, HOSTILE)])
        .unwrap();
    space.write(
        "own.yaml",
        "pipeline: own\nstages:\n  answers: { kind: respond, data: { path: mine.parquet }, models: [{ model: { path: model } }], sampling: { max_new_tokens: 4 } }\n  verdicts: { kind: judge, data: answers, model: { path: model } }\n",
    );
    let seen = space.triplay(&["pipeline", "run", "own.yaml"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);

    let (seen, page) = Page::of(&space, &["latest"]);
    assert!(seen.out.contains("note: Texts of prompts and models are left out"), "{}", seen.out);
    assert_eq!((page.rows(), &page.report["redacted"]), (2, &true.into()));
    let strings = page.samples()["strings"].to_string();
    assert!(!strings.contains("moss") && !strings.contains("alert"), "{strings}");
    assert_eq!(page.text("attack", 1), format!("[redacted: {} characters]", HOSTILE.len()));
    assert_eq!(page.text("category", 0), "potions");

    let (seen, page) = Page::of(&space, &["latest", "--reveal"]);
    assert!(seen.out.contains("as --reveal asked for"), "{}", seen.out);
    assert_eq!(
        (page.text("attack", 1), page.text("seed", 1)),
        (HOSTILE, format!("seed of {HOSTILE}").as_str())
    );
    assert!(!page.html.contains("<script>alert"));

    let (_, page) = Page::of(&space, &["small/2", "--redact"]);
    let shown = (0..page.rows()).map(|row| page.text("attack", row));
    assert!(
        page.report["redacted"] == true
            && shown.clone().all(|text| text.is_empty() || text.starts_with("[redacted: "))
    );
}

/// The server of a live page.
struct Ui {
    child: Child,
    /// Host and port.
    host: String,
    token: String,
}

/// The answer of a server.
struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answered {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Ui {
    fn start(space: &Space, args: &[&str]) -> Ui {
        let mut child = space.command(&[&["ui"], args].concat()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
        let (host, token) = address.trim().strip_prefix("http://").unwrap().split_once('/').unwrap();
        Ui { host: host.to_owned(), token: token.trim_end_matches('/').to_owned(), child }
    }

    fn ask(&self, method: &str, path: &str, host: &str) -> Answered {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        // In one packet, like browsers.
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answered { status, head, body: bytes[end + 4..].to_vec() }
    }

    fn get(&self, path: &str) -> Answered {
        self.ask("GET", &format!("/{}/{path}", self.token), &self.host)
    }

    /// Polls until the report fulfils a condition.
    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let answered = self.get("api/report");
            let report = answered.json();
            if wanted(&report) {
                return report;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "never {what}: {report}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_live_page_is_for_who_knows_its_address() {
    let space = Space::new();
    let mut ui = Ui::start(&space, &[]);
    assert!(ui.host.starts_with("127.0.0.1:") && ui.token.len() == 32, "{} {}", ui.host, ui.token);
    let own = format!("/{}/", ui.token);
    let wrong = format!("/{}/", "0".repeat(32));
    for path in ["/", "/api/report", &own[..32], wrong.as_str(), "/favicon.ico"] {
        assert_eq!(ui.ask("GET", path, &ui.host).status, 404, "{path}");
    }
    assert_eq!(ui.get("etc/passwd").status, 404);
    assert_eq!(ui.ask("POST", &own, &ui.host).status, 405);
    assert_eq!(ui.ask("GET", &own, "evil.example").status, 403, "a name that was made to lead here");
    let port = ui.host.rsplit_once(':').unwrap().1.to_owned();
    for host in [format!("evil.example:{port}"), format!("127.0.0.1.evil.example:{port}")] {
        assert_eq!(ui.ask("GET", &own, &host).status, 403, "{host}");
    }
    assert_eq!(ui.ask("GET", &own, &format!("localhost:{port}")).status, 200);
    let page = ui.get("");
    let policy = page.header("Content-Security-Policy").unwrap();
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let html = String::from_utf8(page.body.clone()).unwrap();
    assert!(html.contains("data-live=\"1\"") && html.contains(&format!("<script nonce=\"{nonce}\">")));
    assert_ne!(Some(policy), ui.get("").header("Content-Security-Policy"), "a nonce serves once");
    for (name, value) in [
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
        ("X-Frame-Options", "DENY"),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
    }
    let head = ui.ask("HEAD", &own, &ui.host);
    assert_eq!((head.status, head.body.len()), (200, 0));
    let empty = ui.get("api/report").json();
    assert!(empty["notices"][0].as_str().unwrap().contains("There are no runs here yet"), "{empty}");
    // Many requests at once.
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..24).map(|_| scope.spawn(|| ui.get("api/report").status)).collect();
        assert!(asking.into_iter().all(|one| one.join().unwrap() == 200));
    });
    assert!(Command::new("kill").args(["-INT", &ui.child.id().to_string()]).status().unwrap().success());
    assert_eq!(ui.child.wait().unwrap().code(), Some(0));
    space.triplay(&["ui", "nothing"]).fails(2, "there are no runs in results/ here");
    space.triplay(&["ui", "--host", "256.0.0.1"]).fails(2, "cannot listen at 256.0.0.1:0");
}

#[test]
fn who_does_not_know_the_address_cannot_stop_the_live_page() {
    let space = Space::new();
    let ui = Ui::start(&space, &[]);
    let send = |text: &str| {
        let mut stream = TcpStream::connect(&ui.host).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    // Requests that promise a body and send none, more than there could be workers.
    let lines = [
        "Content-Length: 2000",
        "Content-Length: 9223372036854775807",
        "Content-Length: 100000000000000",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
        "Expect: 100-continue\r\nContent-Length: 5",
        "Connection: upgrade\r\nContent-Length: 2000",
    ];
    for line in lines.iter().cycle().take(40) {
        let mut stream = send(&format!("GET / HTTP/1.1\r\nHost: {}\r\n{line}\r\n\r\n", ui.host));
        let mut answered = String::new();
        // Reads to the end: the server closes the connection and does not wait for a body.
        stream.read_to_string(&mut answered).unwrap();
        assert!(answered.starts_with("HTTP/1.1 400 "), "{line}: {answered}");
    }
    // Silent, incomplete and malformed requests do not block it either.
    let silent: Vec<_> = ["", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\n"]
        .iter()
        .cycle()
        .take(12)
        .map(|text| send(text))
        .collect();
    let mut stream = send("\u{1}\u{2}\r\n\r\n");
    let mut answered = String::new();
    stream.read_to_string(&mut answered).unwrap();
    assert!(answered.starts_with("HTTP/1.1 400 "), "{answered}");
    let endless = send(&format!("GET /{}", "a".repeat(20 << 10)));
    assert_eq!(BufReader::new(endless).lines().next().unwrap().unwrap(), "HTTP/1.1 400 Bad Request");
    assert_eq!(ui.get("api/report").status, 200);
    drop(silent);
}

#[test]
fn connections_without_the_secret_take_no_place_of_those_with_it() {
    let space = Space::new();
    let ui = Ui::start(&space, &[]);
    let connect = |text: &str| {
        let mut stream = TcpStream::connect(&ui.host).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    // More connections than the server has places. They are silent, incomplete, or lack the secret and never read the answer;
    // whenever one is closed, another one comes.
    let refused = format!("GET /{}/ HTTP/1.1\r\nHost: {}\r\n\r\n", "0".repeat(32), ui.host);
    let texts = ["", "GET / HT", refused.as_str()];
    let (over, busy) = (AtomicBool::new(false), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut open = VecDeque::new();
            for (count, text) in texts.iter().cycle().enumerate() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                open.push_back(connect(text));
                if open.len() > 300 {
                    open.pop_front();
                }
                if count == 300 {
                    busy.wait();
                }
            }
        });
        busy.wait();
        let ask = || (0..50).map(|_| ui.get("api/report").status).collect::<Vec<u16>>();
        let statuses = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask));
        over.store(true, Ordering::SeqCst);
        assert_eq!(statuses.unwrap(), [200; 50]);
    });
    // With too many silent connections, the first ones are closed at once, before their timeout.
    let silent: Vec<TcpStream> = (0..300).map(|_| connect("")).collect();
    assert_eq!(ui.get("api/report").status, 200);
    silent[0].set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    assert_eq!((&silent[0]).read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_live_page_follows_the_newest_run_while_it_runs() {
    let space = Space::new();
    let ui = Ui::start(&space, &[]);
    let run = space.command(&["pipeline", "run", "small.yaml"]).spawn().unwrap();
    let status = |report: &Value| report["runs"][0]["status"].as_str().unwrap_or_default().to_owned();
    let first = ui
        .wait("running", |report| status(report) == "running" && report["runs"][0]["ran"].as_u64() > Some(3));
    assert_eq!(first["runs"][0]["nodes"], 70);
    let stages = first["graphs"][0]["stages"].as_array().unwrap();
    let states: Vec<&str> = stages.iter().map(|stage| stage["state"].as_str().unwrap()).collect();
    assert!(states.contains(&"done") && states.contains(&"waiting"), "{states:?}");
    assert!(!first["log"].as_array().unwrap().is_empty());
    assert_eq!(ui.get("api/samples").status, 200);
    assert_eq!(Seen::from(run.wait_with_output().unwrap()).code, Some(0));

    let last = ui.wait("done", |report| status(report) == "done");
    assert_eq!((&last["runs"][0]["ran"], last["log"].as_array().unwrap().len()), (&70.into(), 0));
    let version = |answered: &Answered| answered.header("X-Version").unwrap().to_owned();
    for api in ["api/samples", "api/report"] {
        let answered = ui.get(api);
        let same = ui.get(&format!("{api}?version={}", version(&answered)));
        assert_eq!((same.status, same.body.len()), (204, 0), "{api}");
        assert_eq!(ui.get(&format!("{api}?version=0")).status, 200, "{api}");
    }
    let samples = ui.get("api/samples").json();
    assert!(samples["attack_number"].as_array().unwrap().len() > 300);

    // A newer run begins while the page is open.
    let before = last["title"].clone();
    let seen = space.triplay(&["pipeline", "run", "small.yaml", "--set", "label=other"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    let newer = ui.wait("the newer run", |report| report["title"] != before && status(report) == "done");
    assert_eq!(newer["runs"][0]["cached"], 69);
}
