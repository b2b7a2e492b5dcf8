//! Models behind servers: `triplay serve` answers for the roles of a game, and what goes wrong is said.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use triplay::data::{self, AttackRow, MetricRow, VerdictRow};

use self::scripted::{Say, Scripted, models, ok};
use crate::space::{Seen, Space, WARMUP};

#[path = "../../src/endpoint/scripted.rs"]
mod scripted;

/// A `triplay serve` that ends with the test.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(space: &Space, args: &[&str]) -> Server {
        let mut command = space.command(&[&["serve", "--port", "0"], args].concat());
        let mut process = command.stderr(Stdio::null()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let server = Server { process, url: url.trim().to_owned() };
        until("the server is ready", || server.get("/health").contains("\"ok\""));
        server
    }

    /// The body of an answer.
    fn get(&self, path: &str) -> String {
        let address = self.url.strip_prefix("http://").unwrap();
        let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// The names of the models that it has.
    fn models(&self) -> Vec<String> {
        let answer = self.get("/v1/models");
        let list: serde_json::Value =
            serde_json::from_str(&answer[answer.find('{').unwrap()..=answer.rfind('}').unwrap()]).unwrap();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The completions that it was asked for.
    fn asked(&self) -> usize {
        let answer = self.get("/metrics");
        let of_route = |line: &&str| line.starts_with("triplay_requests_total{route=\"/v1/completions\"");
        let counts =
            answer.lines().filter(of_route).filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        counts.sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The tiny model of the fixtures, which every server here has.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen3-tiny");

/// small.yaml with every model that is asked behind the endpoint `lab`.
fn served_small() -> String {
    let mut text = include_str!("small.yaml").replace("pipeline: small", "pipeline: served");
    for (role, served) in [
        ("kind: generate, model: attacker", "kind: generate, model: { endpoint: lab, load: attacker }"),
        (
            "kind: generate, model: red.attacker",
            "kind: generate, model: { endpoint: lab, load: red.attacker }",
        ),
        ("[{ model: defender", "[{ model: { endpoint: lab, load: defender }"),
        (
            "{ model: \"others[b].model\", name: b",
            "{ model: { endpoint: lab, load: \"others[b].model\" }, name: b",
        ),
        (
            "kind: judge, data: responses, model: evaluator",
            "kind: judge, data: responses, model: { endpoint: lab, load: evaluator }",
        ),
        (
            "kind: judge, data: labels, model: evaluator",
            "kind: judge, data: labels, model: { endpoint: lab, load: evaluator }",
        ),
        ("attacker: play.attacker", "attacker: { endpoint: lab, load: play.attacker }"),
        ("defender: play.defender", "defender: { endpoint: lab, load: play.defender }"),
        ("evaluator: play.evaluator", "evaluator: { endpoint: lab, load: play.evaluator }"),
    ] {
        assert!(text.contains(role), "{role}");
        text = text.replace(role, served);
    }
    text
}

#[test]
fn a_game_whose_roles_are_all_behind_a_server_has_the_same_outputs_to_the_byte() {
    let space = Space::new();
    let server = Server::start(&space, &[&format!("tiny={TINY}")]);
    space.write("served.yaml", &served_small());
    space.write(
        "triplay.yaml",
        &format!("endpoints: {{ lab: {{ url: {}, trust_logprobs: true }} }}\n", server.url),
    );
    let here = space.run(&["--set", "rounds=1"]);
    let served = space.triplay(&["pipeline", "run", "served.yaml", "--json", "--set", "rounds=1"]).json();
    assert_eq!(space.digests(&served), space.digests(&here));
    let ran = served["ran"].as_u64().unwrap();
    assert!(ran > 10, "what is asked through a server has keys of its own: {served}");
    assert_eq!(server.models(), ["tiny"], "what was loaded is unloaded");
    assert!(server.asked() > 50);
    let again = space.triplay(&["pipeline", "run", "served.yaml", "--json", "--set", "rounds=1"]).json();
    assert_eq!(again["ran"], 0);
}

/// A game of one step: attacks through the server, and an update on them.
const STEP: &str = "  attacks: { kind: generate, model: ATTACKER, data: world.seeds, prompts: 8, group: 4, sampling: SAMPLING }
  rewards: { kind: reward, data: attacks, terms: [{ overlong: { free: 2, longest: 12 } }] }
  update: { kind: update, model: warmup.model, data: rewards, lora: { rank: 4 }, GUARDSalgorithm: { grpo: { lr: 1, kl: 0 } } }
  before: { kind: generate, model: { endpoint: lab, load: warmup.model }, data: world.seeds, prompts: 4, seed: 9, sampling: { max_new_tokens: 12 } }
  after: { kind: generate, model: { endpoint: lab, load: update.model }, data: world.seeds, prompts: 4, seed: 9, sampling: { max_new_tokens: 12 } }
  later: { kind: generate, model: { endpoint: lab, load: warmup.model }, data: world.seeds, prompts: 4, seed: 9, sampling: { max_new_tokens: 12, stop: [never] } }
";

fn step(attacker: &str, sampling: &str, guards: &str) -> String {
    let stages = STEP.replace("ATTACKER", attacker).replace("SAMPLING", sampling).replace("GUARDS", guards);
    format!("pipeline: step\n{WARMUP}{stages}")
}

/// A dataset of a run.
fn rows<R: data::Row>(space: &Space, output: &str) -> Vec<R> {
    let name = output.replace([':', '/', '.'], "-");
    space.triplay(&["data", "get", output, "-o", &name, "--force"]).ok();
    data::read(&space.path(&name)).unwrap()
}

#[test]
fn log_probabilities_are_the_trainers_own_and_their_distance_to_the_servers_is_a_metric_with_a_guard() {
    let space = Space::new();
    let server = Server::start(&space, &[&format!("tiny={TINY}")]);
    space.write("triplay.yaml", &format!("endpoints: {{ lab: {{ url: {} }} }}\n", server.url));
    space.write("step.yaml", &step("{ endpoint: lab, load: warmup.model }", "{ max_new_tokens: 12 }", ""));
    space.triplay(&["pipeline", "run", "step.yaml"]).ok();
    let attacks: Vec<AttackRow> = rows(&space, "latest:attacks");
    assert!(attacks.iter().all(|row| row.sample.served_logprobs.len() == row.sample.completion_ids.len()));
    let metrics: Vec<MetricRow> = rows(&space, "latest:update.metrics");
    let gap = metrics.iter().find(|row| row.metric == "served_gap").expect("a metric");
    assert!(gap.value < 1e-4 && gap.count > 100, "{} over {}", gap.value, gap.count);

    // The sampler stays what it was after a step, and the trained one is another.
    let texts = |output: &str| -> Vec<String> {
        rows::<AttackRow>(&space, output).into_iter().map(|row| row.text).collect()
    };
    let before = texts("latest:before");
    assert_eq!(before, texts("latest:later"), "a frozen sampler stays frozen");
    assert_ne!(before, texts("latest:after"));
    assert_eq!(server.models(), ["tiny"], "adapters are unloaded");

    let guards = "guards: { served_gap: 0, previous: other.model }, ";
    let mut halts = step("{ endpoint: lab, load: warmup.model }", "{ max_new_tokens: 12 }", guards);
    halts += "  other: { kind: sft, data: world.sft, model: warmup.model, steps: 1, lr: 1e-9 }\n";
    space.write("step.yaml", &halts);
    let seen = space.triplay(&["pipeline", "run", "step.yaml"]).ok();
    assert!(seen.err.contains("served_gap") && seen.err.contains("halted"), "{}", seen.err);
}

#[test]
fn what_a_trainer_cannot_learn_from_is_refused_before_anything_runs() {
    let space = Space::new();
    space.write("triplay.yaml", "endpoints: { lab: { url: http://127.0.0.1:1 } }\n");
    let check = |attacker: &str, sampling: &str| {
        space.write("step.yaml", &step(attacker, sampling, ""));
        space.triplay(&["pipeline", "check", "step.yaml"])
    };
    check("{ endpoint: lab, load: warmup.model }", "{ top_p: 0.9 }")
        .fails(2, "`top_k`, `top_p` and `min_p` must be left out where a server samples for training");
    check("{ endpoint: lab, model: owl }", "{ max_new_tokens: 12 }")
        .fails(2, "`owl of lab` must be a model that triplay has loaded");
    check("{ endpoint: lob, model: owl }", "{ max_new_tokens: 12 }")
        .fails(2, "the site file must have the endpoint `lob`; it has lab");
    check("{ endpoint: lab, model: owl, load: warmup.model }", "{ max_new_tokens: 12 }")
        .fails(2, "must be { endpoint: NAME, model: MODEL }");
    let text = step("warmup.model", "{}", "")
        .replace("kind: update, model: warmup.model", "kind: update, model: { endpoint: lab, model: owl }");
    space.write("step.yaml", &text);
    space.triplay(&["pipeline", "check", "step.yaml"]).fails(2, "must be of this machine, found owl of lab");
    space.write("triplay.yaml", "endpoints: { lab: { url: http://127.0.0.1:1, adress: x } }\n");
    space
        .triplay(&["pipeline", "check", "step.yaml"])
        .fails(2, "triplay.yaml:1:46: endpoint `lab` has no key `adress`");
    for (entry, error) in [
        ("5", "triplay.yaml:1:14: endpoint `lab` must be a map, found a whole number"),
        (
            "{ command: 5 }",
            "`command` must be text for a shell, or a list with a program and its arguments, found 5",
        ),
        (
            "{ url: http://127.0.0.1:1, budget: { tokens: 1e20 } }",
            "`budget.tokens` must be a whole number from 0",
        ),
    ] {
        space.write("triplay.yaml", &format!("endpoints: {{ lab: {entry} }}\n"));
        space.triplay(&["pipeline", "check", "step.yaml"]).fails(2, error);
    }
}

/// Attacks by a model that a server has, or that a path has.
fn attacks(model: &str, prompts: usize) -> String {
    format!(
        "pipeline: ask\nseed: 3\nstages:\n  world: {{ kind: sandbox, sft: 50, sft_others: 50, benchmark: 8, pairs: 8, benign: 1 }}\n  \
         attacks: {{ kind: generate, model: {model}, data: world.seeds, prompts: {prompts}, sampling: {{ max_new_tokens: 24 }} }}\n"
    )
}

#[test]
fn no_finished_row_is_lost_by_kill_9_and_none_is_asked_again() {
    let space = Space::new();
    let server = Server::start(&space, &[&format!("tiny={TINY}")]);
    let at_once = 2;
    space.write(
        "triplay.yaml",
        &format!("endpoints: {{ lab: {{ url: {}, requests: {at_once} }} }}\n", server.url),
    );
    let rows_asked = 400;
    space.write("ask.yaml", &attacks("{ endpoint: lab, model: tiny }", rows_asked));
    let asked = || server.asked();
    let run = space.command(&["pipeline", "run", "ask.yaml"]).spawn().unwrap();
    until("rows are answered", || asked() > 20);
    assert!(Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success());
    Seen::from(run.wait_with_output().unwrap())
        .fails(130, "attacks goes on: the rows that the server answered are kept");
    let interrupted = asked();
    let mut run = space.command(&["pipeline", "run", "ask.yaml"]).spawn().unwrap();
    until("more rows are answered", || asked() > interrupted + 20);
    run.kill().unwrap();
    run.wait().unwrap();
    let before = asked();
    assert!(before < rows_asked, "it was killed in the middle: {before}");
    let seen = space.triplay(&["pipeline", "run", "ask.yaml"]).ok();
    assert!(seen.err.contains("400 attacks"), "{}", seen.err);
    until("the last answers are counted", || asked() >= rows_asked);
    let most = rows_asked + 2 * at_once;
    assert!(asked() <= most, "{} requests for {rows_asked} rows, {at_once} under way at each stop", asked());
    let shown = space.triplay(&["runs", "show", "latest"]).ok().out;
    let last = shown.lines().last().unwrap_or_default();
    assert!(shown.contains("\nserved\n") && last.contains("lab") && last.contains("tiny"), "{shown}");
    let shown = space.triplay(&["runs", "show", "latest", "--json"]).ok().out;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let served = &shown["served"][0];
    // Tokens of rows that earlier tries were answered count, requests do not.
    assert!(served["requests"].as_u64().unwrap() < rows_asked as u64, "{served}");
    assert!(served["completion_tokens"].as_u64().unwrap() >= rows_asked as u64, "{served}");
    let served: Vec<AttackRow> = rows(&space, "latest:attacks");
    space.write("ask.yaml", &attacks(&format!("{{ path: {TINY} }}"), rows_asked));
    space.triplay(&["pipeline", "run", "ask.yaml"]).ok();
    let here: Vec<AttackRow> = rows(&space, "latest:attacks");
    let texts = |rows: &[AttackRow]| rows.iter().map(|row| row.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&served), texts(&here));
    // Another revision is another model.
    space.write("ask.yaml", &attacks("{ endpoint: lab, model: tiny, revision: r2 }", rows_asked));
    let plan = space.triplay(&["pipeline", "explain", "ask.yaml", "attacks"]).ok();
    assert!(plan.out.contains("tiny at r2"), "{}", plan.out);
}

#[test]
fn a_managed_server_is_started_where_it_is_needed_and_ends_with_the_run_and_with_a_killed_one() {
    let space = Space::new();
    let command = format!(
        "echo $$ >> pids; exec {} serve {{model}}={{model}} --port {{port}}",
        env!("CARGO_BIN_EXE_triplay")
    );
    space.write("triplay.yaml", &format!("endpoints:\n  lab:\n    command: '{command}'\n"));
    let pids = || -> Vec<i32> {
        let text = fs::read_to_string(space.path("pids")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let lives = |pid: &i32| {
        Command::new("kill").args(["-0", &pid.to_string()]).stderr(Stdio::null()).status().unwrap().success()
    };
    space.write("ask.yaml", &attacks(&format!("{{ endpoint: lab, model: {TINY} }}"), 4));
    // One node after the other.
    let another = "  more: { kind: generate, model: MODEL, data: world.seeds, prompts: 2, seed: 4, sampling: { max_new_tokens: 8 } }\n"
        .replace("MODEL", &format!("{{ endpoint: lab, model: {TINY} }}"));
    let text = attacks(&format!("{{ endpoint: lab, model: {TINY} }}"), 4);
    space.write("ask.yaml", &(text + &another));
    space.triplay(&["pipeline", "run", "ask.yaml", "--jobs", "1"]).ok();
    assert_eq!(pids().len(), 1, "started once");
    until("the server is gone", || !pids().iter().any(lives));
    let rows = 4000;
    space.write("ask.yaml", &attacks(&format!("{{ endpoint: lab, model: {TINY} }}"), rows));
    let mut run = space.command(&["pipeline", "run", "ask.yaml"]).spawn().unwrap();
    until("the server is up", || pids().get(1).is_some_and(lives));
    run.kill().unwrap();
    run.wait().unwrap();
    until("the server of a killed run is gone", || !pids().iter().any(lives));
    space.write(
        "triplay.yaml",
        "endpoints: { lab: { command: 'echo no cauldron >&2; exit 3 # {port}', ready: 20s } }\n",
    );
    let seen: Seen = space.triplay(&["pipeline", "run", "ask.yaml"]);
    seen.fails(1, "no cauldron");
}

/// A small world and a model of it that is trained here.
fn trained() -> String {
    let sampling = "sampling: { max_new_tokens: 12 }";
    format!(
        "pipeline: trained\n{WARMUP}  attacks: {{ kind: generate, model: warmup.model, data: world.seeds, prompts: 8, group: 4, {sampling} }}\n"
    )
}

#[test]
fn rows_of_an_adapter_at_a_managed_server_are_kept_over_kill_9() {
    let space = Space::new();
    let command = format!("{} serve {{model}}={{model}} --port {{port}}", env!("CARGO_BIN_EXE_triplay"));
    space.write("triplay.yaml", &format!("endpoints: {{ lab: {{ command: '{command}', requests: 2 }} }}\n"));
    let rows_asked = 600;
    let more = format!(
        "  rewards: {{ kind: reward, data: attacks, terms: [{{ overlong: {{ free: 2, longest: 12 }} }}] }}\n  update: {{ kind: update, \
         model: warmup.model, data: rewards, lora: {{ rank: 4 }}, algorithm: {{ grpo: {{ lr: 1, kl: 0 }} }} }}\n  after: {{ kind: \
         generate, model: {{ endpoint: lab, load: update.model }}, data: world.seeds, prompts: {rows_asked}, seed: 9, sampling: {{ \
         max_new_tokens: 12 }} }}\n"
    );
    space.write("adapted.yaml", &(trained() + &more));
    let kept = || -> usize {
        let nodes = fs::read_dir(space.path(".triplay/unfinished")).into_iter().flatten().flatten();
        let journal = nodes.map(|node| node.path().join("content/answers.jsonl"));
        journal.filter_map(|path| Some(fs::read_to_string(path).ok()?.lines().count())).sum()
    };
    let mut run = space.command(&["pipeline", "run", "adapted.yaml"]).spawn().unwrap();
    until("rows are answered", || kept() > 200);
    run.kill().unwrap();
    run.wait().unwrap();
    let before = kept();
    assert!(before < rows_asked, "it was killed in the middle: {before}");
    space.triplay(&["pipeline", "run", "adapted.yaml"]).ok();
    let shown = space.triplay(&["runs", "show", "latest", "--json"]).ok().out;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let requests = shown["served"][0]["requests"].as_u64().unwrap() as usize;
    // Besides rows, the server is asked what it is, and told to load the adapter.
    assert!(requests < rows_asked - before + 20, "{requests} requests, {before} rows were kept");
}

#[test]
fn a_stated_mass_holds_for_a_judge_behind_a_server_at_every_temperature() {
    let space = Space::new();
    let server = Server::start(&space, &[&format!("tiny={TINY}")]);
    space.write("triplay.yaml", &format!("endpoints: {{ lab: {{ url: {} }} }}\n", server.url));
    let judge = |name: &str, model: &str| {
        format!(
            "  {name}: {{ kind: judge, seed: 5, data: responses, model: {model}, labels: {{ mass: 0.999, choice: {{ negative: negative, \
             rejective: rejective, positive: positive }} }}, sampling: {{ temperature: 0.7 }} }}\n"
        )
    };
    let responses = "  responses: { kind: respond, data: attacks, models: [{ model: warmup.model }], sampling: { max_new_tokens: 12 } }\n";
    let (here, served) =
        (judge("here", "warmup.model"), judge("served", "{ endpoint: lab, load: warmup.model }"));
    space.write("masses.yaml", &format!("{}{responses}{here}{served}", trained()));
    space.triplay(&["pipeline", "run", "masses.yaml"]).ok();
    let verdicts = |name: &str| -> Vec<VerdictRow> { rows(&space, &format!("latest:{name}")) };
    let (here, served) = (verdicts("here"), verdicts("served"));
    assert_eq!(here.len(), served.len());
    for (here, served) in here.iter().zip(&served) {
        let mass = |row: &VerdictRow| row.sample.mass.first().map(|mass| mass.probability);
        assert_eq!((&here.class, &here.text), (&served.class, &served.text));
        match (mass(here), mass(served)) {
            (Some(here), Some(served)) => assert!((here - served).abs() < 1e-4, "{here} {served}"),
            (here, served) => assert_eq!(here, served),
        }
    }
}

#[test]
fn log_probabilities_of_another_temperature_are_not_taken_and_what_is_too_long_there_has_no_verdict() {
    let space = Space::new();
    // An SGLang whose context is shorter than the model's: it scores nothing.
    let server = Scripted::new(|got, _| match got.path.as_str() {
        "/v1/models" => ok(models("sglang")),
        "/get_server_info" => ok(json!({ "version": "0.5", "context_length": 64 })),
        "/generate" if got.body["input_ids"][0].is_array() => {
            let message = "The input is longer than the model's context length.";
            Say::Json(400, json!({ "error": { "message": message } }), "")
        }
        "/generate" => ok(json!({
            "text": "", "output_ids": [5],
            "meta_info": { "finish_reason": { "type": "stop" }, "output_token_logprobs": [[-0.5, 5, null]] },
        })),
        _ => Say::Text("Success"),
    });
    let site = |more: &str| {
        space.write("triplay.yaml", &format!("endpoints: {{ lab: {{ url: {}{more} }} }}\n", server.url));
    };
    let sampled = |temperature: &str| {
        let stage = format!(
            "  served: {{ kind: generate, model: {{ endpoint: lab, load: warmup.model }}, data: world.seeds, prompts: 4, sampling: {{ \
             max_new_tokens: 12, temperature: {temperature} }} }}\n"
        );
        space.write("sampled.yaml", &(trained() + &stage));
        space.triplay(&["pipeline", "run", "sampled.yaml"])
    };
    site(", trust_logprobs: true");
    sampled("0.7").fails(1, "`trust_logprobs` must be left out where a server samples at temperature 0.7");
    site("");
    for (temperature, gaps) in [("0.7", 0), ("1", 1)] {
        sampled(temperature).ok();
        let rows: Vec<AttackRow> = rows(&space, "latest:served");
        for row in rows {
            let sample = &row.sample;
            assert_eq!((sample.logprobs.len(), sample.served_logprobs.len()), (1, gaps), "{temperature}");
        }
    }
    let judge = "  responses: { kind: respond, data: attacks, models: [{ model: warmup.model }], sampling: { max_new_tokens: 12 } }\n  \
                 served: { kind: judge, data: responses, model: { endpoint: lab, load: warmup.model }, too_long: skip, labels: { \
                 choice: { negative: negative, rejective: rejective, positive: positive } } }\n";
    space.write("judged.yaml", &(trained() + judge));
    let seen = space.triplay(&["pipeline", "run", "judged.yaml"]).ok();
    assert!(seen.err.contains("too long to ask"), "{}", seen.err);
    let verdicts: Vec<VerdictRow> = rows(&space, "latest:served");
    // Empty responses are rejective without a question.
    assert!(verdicts.iter().all(|row| row.class == "undetermined" || row.response.trim().is_empty()));
}

#[test]
fn a_server_that_cannot_answer_is_one_clear_error() {
    let space = Space::new();
    let mut command =
        space.command(&["serve", "--port", "0", &format!("tiny={TINY}"), "--api-key-env", "LAB_KEY"]);
    command.env("LAB_KEY", "moss-and-rue").stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    let mut url = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let server = Server { process, url: url.trim().to_owned() };
    until("the server is ready", || server.get("/health").contains("\"ok\""));
    let ask = |site: &str, model: &str, key: &str| {
        space.write(
            "triplay.yaml",
            &format!("endpoints: {{ lab: {{ {site}, timeout: {{ retry: 1s, connect: 1s }} }} }}\n"),
        );
        space.write("ask.yaml", &attacks(model, 4));
        let mut command = space.command(&["pipeline", "run", "ask.yaml"]);
        let seen = Seen::from(command.env("LAB_KEY", key).output().unwrap());
        assert!(!seen.err.contains("moss-and-rue") && !seen.out.contains("moss-and-rue"), "{}", seen.err);
        seen
    };
    let url = format!("url: {}", server.url);
    let tiny = "{ endpoint: lab, model: tiny }";
    assert_eq!(ask(&format!("{url}, key: LAB_KEY"), tiny, "moss-and-rue").code, Some(0));
    // Not in the cache.
    let other = "{ endpoint: lab, model: tiny, revision: b }";
    for (site, model, key, error) in [
        (format!("{url}, key: LAB_KEY"), other, "wrong", "LAB_KEY"),
        (url.clone(), other, "x", "key"),
        (format!("{url}, key: LAB_KEY"), "{ endpoint: lab, model: owl }", "moss-and-rue", "owl"),
        ("url: http://127.0.0.1:1".into(), other, "x", "127.0.0.1:1"),
    ] {
        let seen = ask(&site, model, key);
        seen.fails(1, error);
        assert!(seen.err.contains("help:"), "{}", seen.err);
    }
}
