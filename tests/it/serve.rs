//! `triplay serve`: the real program, asked over real connections.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use triplay::model::{Checkpoint, Completions, Compute, Purpose};
use triplay::rollout::{self, Completion, Sampling};
use triplay::store::Seed;

use crate::exec::wait_for;
use crate::space::{Seen, Space};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A server, which ends with the test.
struct Server {
    child: Option<Child>,
    address: String,
    key: Option<&'static str>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The status, the head and the body of an answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Asserts an error: its status, the field that is wrong and a part of its message.
    fn fails(&self, status: u16, param: Value, expected: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        let error = serde_json::from_str::<Value>(&self.body).unwrap()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        assert!(error["message"].as_str().unwrap().contains(expected), "expected `{expected}` in {error}");
    }
}

impl Server {
    fn start(space: &Space, args: &[&str]) -> Server {
        let server = Server::listening(space.command(&[&["serve", "--port", "0"], args].concat()));
        wait_for("the models are loaded", || server.get("/health").status == 200);
        server
    }

    fn listening(mut command: Command) -> Server {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("http://") else {
            panic!("{}", Seen::from(child.wait_with_output().unwrap()).err)
        };
        Server { child: Some(child), address: address.to_owned(), key: None }
    }

    /// Sends a request and returns the connection.
    fn send(&self, method: &str, route: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let key = self.key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
        write!(
            stream,
            "{method} {route} HTTP/1.1\r\nHost: {}\r\n{key}Content-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        stream
    }

    fn ask(&self, method: &str, route: &str, body: &str) -> Answer {
        read(self.send(method, route, body))
    }

    fn get(&self, route: &str) -> Answer {
        self.ask("GET", route, "")
    }

    fn post(&self, route: &str, body: &Value) -> Answer {
        self.ask("POST", route, &body.to_string())
    }

    fn complete(&self, body: Value) -> Value {
        self.post("/v1/completions", &body).json()
    }

    /// A number of /metrics.
    fn count(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn wait(mut self) -> Seen {
        self.child.take().unwrap().wait_with_output().unwrap().into()
    }
}

/// Reads an answer to its end.
fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => unchunked(body),
        false => body.to_owned(),
    };
    Answer { status, head: head.to_ascii_lowercase(), body }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body += &after[..length];
        rest = &after[length + 2..];
    }
    body
}

/// The parts of a stream, without its mark of the end.
fn parts(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let lines: Vec<&str> = answer.body.split("\n\n").filter(|line| !line.is_empty()).collect();
    let (end, lines) = lines.split_last().unwrap();
    assert_eq!(*end, "data: [DONE]");
    lines.iter().map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

fn model(name: &str) -> Checkpoint {
    Checkpoint::load(&fixture(name), &Compute::default()).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    vec![vec![1, 87, 85, 71], vec![1, 91], vec![1, 87, 85, 71], vec![5; 40], vec![60, 61, 62]]
}

/// Asserts that a choice of an answer is a completion to the bit.
fn assert_is(choice: &Value, completion: &Completion) {
    let ids: Vec<u32> = serde_json::from_value(choice["token_ids"].clone()).unwrap();
    let logprobs: Vec<f32> = serde_json::from_value(choice["logprobs"]["token_logprobs"].clone()).unwrap();
    assert_eq!((ids, logprobs), (completion.ids.clone(), completion.logprobs.clone()));
    assert_eq!(choice["text"], completion.text);
    assert_eq!(choice["finish_reason"], if completion.finished { "stop" } else { "length" });
}

#[test]
fn completions_are_those_of_sampling_in_process_to_the_bit_whatever_runs_beside_them() {
    let space = Space::new();
    let server = Server::start(&space, &["--max-rows", "7", fixture("qwen3-tiny").to_str().unwrap()]);
    let checkpoint = model("qwen3-tiny");
    let seed = Seed::from_u64(11);
    let cases = [
        Sampling { temperature: 0.7, top_p: 0.9, max_new_tokens: 24, ..Sampling::default() },
        Sampling { top_k: 40, min_p: 0.01, max_new_tokens: 17, ..Sampling::default() },
        Sampling { temperature: 0.0, max_new_tokens: 9, ..Sampling::default() },
        Sampling {
            temperature: 1.3,
            max_new_tokens: 60,
            stop: vec!["a".into(), "e".into()],
            ..Sampling::default()
        },
    ];
    let asked = |sampling: &Sampling| {
        json!({
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
            "min_p": sampling.min_p, "stop": sampling.stop, "max_tokens": sampling.max_new_tokens,
            "logprobs": 0, "return_token_ids": true,
        })
    };
    std::thread::scope(|scope| {
        for sampling in &cases {
            let expected = rollout::sample(&checkpoint, &prompts(), sampling, seed, &mut |_, _| ()).unwrap();
            let server = &server;
            // All rows of one request, with the keys of their streams.
            let together = expected.clone();
            scope.spawn(move || {
                let mut body = asked(sampling);
                body["prompt"] = json!(prompts());
                body["seed"] = (0..prompts().len()).map(|row| seed.child(row).to_hex()).collect();
                let answer = server.complete(body);
                for (row, completion) in together.iter().enumerate() {
                    assert_eq!(answer["choices"][row]["index"], row);
                    assert_is(&answer["choices"][row], completion);
                }
            });
            // Each row by a request of its own.
            for (row, completion) in expected.into_iter().enumerate() {
                scope.spawn(move || {
                    let mut body = asked(sampling);
                    body["prompt"] = json!(prompts()[row]);
                    body["seed"] = seed.child(row).to_hex().into();
                    assert_is(&server.complete(body)["choices"][0], &completion);
                });
            }
        }
    });
    // A number is the seed of a sampling of its own.
    let sampling = &cases[0];
    let own =
        rollout::sample(&checkpoint, &prompts()[..2], sampling, Seed::from_u64(5), &mut |_, _| ()).unwrap();
    let mut body = asked(sampling);
    (body["prompt"], body["seed"]) = (json!(prompts()[..2]), 5.into());
    let answer = server.complete(body);
    own.iter().enumerate().for_each(|(row, own)| assert_is(&answer["choices"][row], own));
}

#[test]
fn without_a_seed_the_answer_names_the_one_it_took() {
    let space = Space::new();
    let server = Server::start(&space, &[fixture("qwen3-tiny").to_str().unwrap()]);
    let ask = |seed: Value| {
        server.complete(
            json!({ "prompt": [[1, 87]], "n": 3, "max_tokens": 12, "ignore_eos": true, "seed": seed }),
        )
    };
    let one = ask(Value::Null);
    assert_ne!(one["choices"][0]["text"], one["choices"][1]["text"], "choices have streams of their own");
    assert_ne!(one["choices"], ask(Value::Null)["choices"]);
    assert_eq!(one["choices"], ask(one["seed"].clone())["choices"]);
    assert_eq!(one["usage"], json!({ "prompt_tokens": 2, "completion_tokens": 36, "total_tokens": 38 }));
}

#[test]
fn echoed_prompts_have_the_decoders_scores_as_evaluators_ask_for_them() {
    let space = Space::new();
    let server = Server::start(&space, &[fixture("llama-tiny").to_str().unwrap()]);
    let checkpoint = model("llama-tiny");
    let decoder = checkpoint.decoder(Purpose::Scoring).unwrap();
    let prompts = [vec![1, 30, 41, 52, 30], vec![1, 60], (1..90).collect::<Vec<u32>>()];
    let scores = |temperature: f64| -> Vec<Vec<f32>> {
        let scored = |prompt: &Vec<u32>| {
            let text = Completions::of_text(prompt).unwrap();
            let scored = decoder.token_log_probabilities(&text, temperature).unwrap();
            scored.tensor().get(0).unwrap().to_vec1::<f32>().unwrap()
        };
        prompts.iter().map(scored).collect()
    };
    let close = |told: &[Value], expected: &[f32]| {
        assert_eq!(told[0], Value::Null);
        assert!(told.len() > expected.len());
        for (told, expected) in told[1..].iter().zip(expected) {
            assert!((told.as_f64().unwrap() - f64::from(*expected)).abs() < 1e-5, "{told} {expected}");
        }
    };
    for max_tokens in [0, 1] {
        let answer = server.complete(json!({
            "prompt": prompts, "echo": true, "max_tokens": max_tokens, "logprobs": 1, "temperature": 0, "seed": 1234,
        }));
        for ((choice, prompt), scores) in
            answer["choices"].as_array().unwrap().iter().zip(&prompts).zip(scores(1.0))
        {
            let told = &choice["logprobs"];
            close(told["token_logprobs"].as_array().unwrap(), &scores);
            let (tokens, tops) =
                (told["tokens"].as_array().unwrap(), told["top_logprobs"].as_array().unwrap());
            assert_eq!((tokens.len(), tops.len()), (prompt.len() + max_tokens, prompt.len() + max_tokens));
            assert_eq!(tops[0], Value::Null);
            let best = |top: &Value| {
                top.as_object().unwrap().values().map(|lp| lp.as_f64().unwrap()).fold(f64::MIN, f64::max)
            };
            assert!(tops[1..].iter().zip(&scores).all(|(top, score)| best(top) >= f64::from(*score) - 1e-6));
        }
    }
    // At a temperature, and the raw ones.
    for (mode, temperature) in [("processed_logprobs", 0.5), ("raw_logprobs", 1.0)] {
        let answer = server.complete(json!({
            "prompt": prompts, "max_tokens": 0, "prompt_logprobs": 2, "temperature": 0.5, "logprobs_mode": mode,
        }));
        for ((choice, prompt), scores) in
            answer["choices"].as_array().unwrap().iter().zip(&prompts).zip(scores(temperature))
        {
            let told = choice["prompt_logprobs"].as_array().unwrap();
            let own: Vec<Value> = std::iter::once(Value::Null)
                .chain(
                    prompt[1..]
                        .iter()
                        .zip(&told[1..])
                        .map(|(id, told)| told[id.to_string()]["logprob"].clone()),
                )
                .chain([Value::Null])
                .collect();
            close(&own, &scores);
            assert!(told[1].as_object().unwrap().values().any(|entry| entry["rank"] == 1));
        }
    }
}

#[test]
fn the_pieces_of_a_stream_are_the_whole_answer() {
    let space = Space::new();
    let server = Server::start(&space, &[fixture("qwen3-tiny").to_str().unwrap()]);
    for stop in [json!([]), json!(["e", "qu"])] {
        let mut body = json!({
            "prompt": ["how do i brew", "dawn"], "n": 2, "max_tokens": 40, "seed": 9, "stop": stop, "temperature": 1.5,
            "logprobs": 2, "return_token_ids": true, "echo": true,
        });
        let whole = server.complete(body.clone());
        body["stream"] = true.into();
        body["stream_options"] = json!({ "include_usage": true });
        let streamed = parts(&server.post("/v1/completions", &body));
        assert_eq!(streamed.last().unwrap()["usage"], whole["usage"]);
        for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
            let own = || {
                streamed
                    .iter()
                    .flat_map(|part| part["choices"].as_array().unwrap())
                    .filter(|part| part["index"] == index)
            };
            let text: String = own().map(|part| part["text"].as_str().unwrap()).collect();
            assert_eq!(text, choice["text"]);
            let ids: Vec<Value> =
                own().filter_map(|part| part["token_ids"].as_array()).flatten().cloned().collect();
            assert_eq!(Value::from(ids), choice["token_ids"]);
            for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                let told: Vec<Value> =
                    own().filter_map(|part| part["logprobs"][list].as_array()).flatten().cloned().collect();
                assert_eq!(Value::from(told), choice["logprobs"][list], "{list}");
            }
            assert_eq!(own().next_back().unwrap()["finish_reason"], choice["finish_reason"]);
            assert_eq!(own().next_back().unwrap()["stop_reason"], choice["stop_reason"]);
        }
    }
    let mut chat = json!({
        "messages": [{ "role": "user", "content": "how do i brew glowvenom ?" }], "max_tokens": 12, "seed": 2,
        "logprobs": true, "top_logprobs": 1,
    });
    let whole = server.post("/v1/chat/completions", &chat).json();
    chat["stream"] = true.into();
    let streamed = parts(&server.post("/v1/chat/completions", &chat));
    assert_eq!(streamed[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String =
        streamed.iter().map(|part| part["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"]);
    let told: Vec<Value> = streamed
        .iter()
        .filter_map(|part| part["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(Value::from(told), whole["choices"][0]["logprobs"]["content"]);
}

#[test]
fn a_chat_is_the_models_template_in_which_data_write_no_control_tokens() {
    let space = Space::new();
    let server = Server::start(&space, &[fixture("qwen3-tiny").to_str().unwrap()]);
    let tokenizer = model("qwen3-tiny").tokenizer;
    let tokens = |content: &str| {
        let body = json!({ "messages": [{ "role": "user", "content": content }] });
        let told = server.post("/tokenize", &body).json();
        assert_eq!(told["count"].as_u64().unwrap() as usize, told["tokens"].as_array().unwrap().len());
        serde_json::from_value::<Vec<u32>>(told["tokens"].clone()).unwrap()
    };
    let text = "<|im_start|>user\nbrew<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(tokens("brew"), tokenizer.encode(text).unwrap());
    let mark = tokenizer.id("<|im_end|>").unwrap();
    assert_eq!(tokens("a<|im_end|>b").iter().filter(|id| **id == mark).count(), 1);
    // The same tokens are what a chat is answered from.
    let chat = server.post(
        "/v1/chat/completions",
        &json!({
            "messages": [{ "role": "user", "content": [{ "type": "text", "text": "brew" }] }], "max_completion_tokens": 5,
            "seed": 4, "return_token_ids": true, "logprobs": true,
        }),
    );
    let chat = chat.json();
    assert_eq!(chat["prompt_token_ids"], json!(tokens("brew")));
    let plain = server
        .complete(json!({ "prompt": tokens("brew"), "max_tokens": 5, "seed": 4, "return_token_ids": true }));
    assert_eq!(chat["choices"][0]["token_ids"], plain["choices"][0]["token_ids"]);
    assert_eq!(chat["choices"][0]["message"]["content"], plain["choices"][0]["text"]);
    let back =
        server.post("/detokenize", &json!({ "tokens": tokenizer.encode("how do i brew").unwrap() })).json();
    assert_eq!(back["prompt"], "how do i brew");
    let info = server.get("/tokenizer_info").json();
    assert_eq!(info["eos_token"], "<|im_end|>");
    assert!(info["chat_template"].as_str().unwrap().contains("<|im_start|>"));
}

#[test]
fn embeddings_are_those_of_the_model_in_process() {
    let space = Space::new();
    let server = Server::start(&space, &[fixture("qwen2-tiny").to_str().unwrap()]);
    let checkpoint = model("qwen2-tiny");
    let texts = ["how do i brew", "dawn"];
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| checkpoint.tokenizer.encode(text).unwrap()).collect();
    let expected = checkpoint.embed(&ids).unwrap();
    for input in [json!(texts), json!(ids)] {
        let told = server.post("/v1/embeddings", &json!({ "input": input })).json();
        for (row, expected) in expected.iter().enumerate() {
            let vector: Vec<f32> = serde_json::from_value(told["data"][row]["embedding"].clone()).unwrap();
            assert_eq!(vector, *expected);
        }
    }
    let told =
        server.post("/v1/embeddings", &json!({ "input": texts[1], "encoding_format": "base64" })).json();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(told["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let vector: Vec<f32> =
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(vector, expected[1]);
}

#[test]
fn what_cannot_be_asked_is_refused_with_its_name() {
    let space = Space::new();
    let server = Server::start(&space, &["--kv-cache", "1MB", fixture("qwen3-tiny").to_str().unwrap()]);
    let ask = |mut body: Value| {
        body["prompt"] = json!("how");
        server.post("/v1/completions", &body)
    };
    ask(json!({ "top_kk": 3 })).fails(400, json!("top_kk"), "unknown field `top_kk`");
    ask(json!({ "stream_options": { "usage": true }, "stream": true })).fails(
        400,
        json!("usage"),
        "unknown field `usage`",
    );
    ask(json!({ "n": "many" })).fails(400, json!("n"), "`n` must be a whole number of at least 0");
    ask(json!({ "temperature": -1 })).fails(400, json!("temperature"), "must be 0, or between");
    ask(json!({ "frequency_penalty": 0.5 })).fails(400, json!("frequency_penalty"), "not supported");
    ask(json!({ "seed": "abc" })).fails(400, json!("seed"), "64 hexadecimal digits");
    ask(json!({ "max_tokens": 0 })).fails(400, json!("max_tokens"), "0 with `echo` or `prompt_logprobs`");
    ask(json!({ "logprobs": 21 })).fails(400, json!("logprobs"), "between 0 and 20, found 21");
    ask(json!({ "model": "qwen4" })).fails(
        404,
        json!("model"),
        "there is no model `qwen4`; there are `qwen3-tiny`",
    );
    ask(json!({ "max_tokens": 5000 })).fails(400, json!("prompt"), "`max_tokens` asks for 5000 more");
    let complete = |body: Value| server.post("/v1/completions", &body);
    complete(json!({ "prompt": [70_000] })).fails(400, json!("prompt"), "token ids must be below");
    complete(json!({ "prompt": [] })).fails(400, json!("prompt"), "must be a text");
    complete(json!({ "prompt": "" })).fails(400, json!("prompt"), "at least one token");
    complete(json!({})).fails(400, json!("prompt"), "`prompt` must be given");
    server.ask("POST", "/v1/completions", "{").fails(400, Value::Null, "must be JSON");
    server.get("/v1/nothing").fails(404, Value::Null, "there is no route /v1/nothing");
    server.get("/v1/completions").fails(405, Value::Null, "does not answer GET");
    let tools =
        json!({ "messages": [{ "role": "user", "content": "hi" }], "tools": [{ "type": "function" }] });
    server.post("/v1/chat/completions", &tools).fails(400, json!("tools"), "not supported");
    // Fields that change nothing are accepted with the values for which that is so.
    let neutral = json!({
        "user": "u", "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": null, "best_of": 1, "store": false,
        "metadata": {}, "repetition_penalty": 1.0, "n": null, "stop": null, "max_tokens": 2,
    });
    assert_eq!(ask(neutral).status, 200);
    // Other pages of a browser cannot ask.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(stream, "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}", server.address).unwrap();
    assert_eq!(read(stream).status, 415);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(stream, "GET /v1/models HTTP/1.1\r\nHost: moonbane.example\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(read(stream).status, 403);
}

#[test]
fn a_server_that_others_can_reach_has_a_key() {
    let space = Space::new();
    let model = fixture("qwen3-tiny");
    let model = model.to_str().unwrap();
    space.triplay(&["serve", model, "--host", "0.0.0.0", "--port", "0"]).fails(2, "a key is needed");
    space
        .triplay(&["serve", model, "--api-key-env", "NO_SUCH_KEY"])
        .fails(2, "NO_SUCH_KEY is not set or empty");
    let mut command = space.command(&["serve", model, "--port", "0", "--api-key-env", "BREWERS_KEY"]);
    let mut server = Server::listening({
        command.env("BREWERS_KEY", "moonbane");
        command
    });
    wait_for("the model is loaded", || server.get("/health").status == 200);
    server.get("/v1/models").fails(401, Value::Null, "wrong or missing key");
    server.key = Some("moonbanE");
    server.get("/v1/models").fails(401, Value::Null, "wrong or missing key");
    server.key = Some("moonbane");
    assert_eq!(server.get("/v1/models").status, 200);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let request =
        "GET /v1/models HTTP/1.1\r\nHost: x\r\nauthorization: bearer moonbane\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(read(stream).status, 200, "the name of the scheme has no case");
    server.signal("-TERM");
    let seen = server.wait();
    assert!(!seen.err.contains("moonbane"), "{}", seen.err);
}

/// A request that takes many steps.
fn long(rows: usize) -> Value {
    json!({ "prompt": [1, 87], "n": rows, "max_tokens": 500, "ignore_eos": true, "seed": 1, "stream": true })
}

#[test]
fn a_full_queue_is_429_and_a_client_that_goes_makes_room() {
    let space = Space::new();
    let server = Server::start(
        &space,
        &["--max-rows", "1", "--max-queue", "2", fixture("qwen3-tiny").to_str().unwrap()],
    );
    let stream = server.send("POST", "/v1/completions", &long(128).to_string());
    wait_for("rows run", || server.count("triplay_rows_running") == 1.0);
    let refused = server.post("/v1/completions", &json!({ "prompt": "how" }));
    refused.fails(429, Value::Null, "rows wait already");
    let after = refused.head.split("retry-after: ").nth(1).unwrap().lines().next().unwrap();
    assert!((1..=60).contains(&after.trim().parse::<u64>().unwrap()));
    drop(stream);
    wait_for("the rows are gone", || server.count("triplay_rows_running") == 0.0);
    assert!(server.count("triplay_rows_abandoned_total") > 50.0);
    assert_eq!(server.count("triplay_rows_waiting"), 0.0);
    server.complete(json!({ "prompt": "how", "max_tokens": 2 }));
    let text = server.get("/metrics").body;
    for line in [
        "triplay_requests_total{route=\"/v1/completions\",status=\"429\"} 1",
        "triplay_requests_total{route=\"/v1/completions\",status=\"200\"} 2",
        "triplay_time_to_first_token_seconds_count",
        "triplay_batch_rows_bucket{le=\"1\"}",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn rows_join_in_the_order_of_their_arrival_whatever_model_they_are_for() {
    let space = Space::new();
    let [one, other] = ["qwen3-tiny", "llama-tiny"].map(|name| fixture(name).to_str().unwrap().to_owned());
    let (one, other) = (format!("one={one}"), format!("other={other}"));
    let server = Server::start(&space, &["--max-rows", "1", &one, &other]);
    let mut asked = 0.0;
    let mut ask = |model: &str, rows: usize, tokens: usize| {
        let body = json!({
            "model": model, "prompt": [1, 30], "n": rows, "max_tokens": tokens, "ignore_eos": true, "seed": 1, "stream": true,
        });
        let stream = server.send("POST", "/v1/completions", &body.to_string());
        asked += 1.0;
        let answered = "triplay_requests_total{route=\"/v1/completions\",status=\"200\"}";
        wait_for("it waits", || {
            server.get("/metrics").body.contains(answered) && server.count(answered) == asked
        });
        stream
    };
    let first = ask("one", 32, 400);
    let short = ask("other", 1, 1);
    // For the model that comes first.
    let later: Vec<TcpStream> = (0..4).map(|_| ask("one", 16, 400)).collect();
    parts(&read(first));
    parts(&read(short));
    let left = server.count("triplay_rows_waiting") + server.count("triplay_rows_running");
    assert!(left > 16.0, "the short one does not wait for those that came after it: {left} are left");
    later.into_iter().for_each(|stream| drop(parts(&read(stream))));
}

#[test]
fn a_prompt_is_read_once_for_all_its_completions_and_never_if_it_cannot_fit() {
    let space = Space::new();
    let server = Server::start(&space, &[fixture("qwen3-tiny").to_str().unwrap()]);
    let longest = server.get("/v1/models").json()["data"][0]["max_model_len"].as_u64().unwrap() as usize;
    server.complete(json!({ "prompt": vec![5; longest - 2], "n": 32, "max_tokens": 1, "seed": 1 }));
    assert_eq!(server.count("triplay_prompt_tokens_total"), (longest - 2) as f64);
    // The default number of tokens is as many as there is room for.
    let answer = server.complete(json!({ "prompt": vec![5; longest - 2], "ignore_eos": true, "seed": 1 }));
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    let text = "brew ".repeat(longest * 1024 / 4);
    let refused = server.post("/v1/completions", &json!({ "prompt": text }));
    refused.fails(400, json!("prompt"), "bytes: shorten it");
    server.post("/v1/embeddings", &json!({ "input": text })).fails(400, json!("prompt"), "bytes: shorten it");
}

#[test]
fn each_part_of_an_answer_has_the_alternatives_that_were_asked_for_it() {
    let space = Space::new();
    let server = Server::start(&space, &[fixture("llama-tiny").to_str().unwrap()]);
    let answer = server.complete(json!({
        "prompt": [1, 30, 41], "max_tokens": 0, "echo": true, "logprobs": 3, "prompt_logprobs": 1, "logprob_token_ids": [7],
    }));
    let choice = &answer["choices"][0];
    let all = server.complete(json!({ "prompt": [1, 30, 41], "max_tokens": 0, "prompt_logprobs": 20 }));
    let ranks = |told: &Value| -> Vec<u64> {
        told.as_object().unwrap().values().map(|entry| entry["rank"].as_u64().unwrap()).collect()
    };
    let told = &choice["prompt_logprobs"][1];
    // The token itself, the most probable and the given one.
    assert_eq!(told.as_object().unwrap().len(), 3, "{told}");
    assert!(ranks(told).contains(&1), "{told}");
    if let Some(known) = all["choices"][0]["prompt_logprobs"][1].get("7") {
        assert_eq!(told["7"], *known);
    } else {
        assert!(told["7"]["rank"].as_u64().unwrap() > 20, "{told}");
    }
    let tops = choice["logprobs"]["top_logprobs"][1].as_object().unwrap();
    // Three, the token itself and the given one.
    assert_eq!(tops.len(), 5, "{tops:?}");
}

#[test]
fn a_server_that_is_told_to_stop_finishes_what_it_has_begun() {
    for signal in ["-TERM", "-INT"] {
        let space = Space::new();
        let server = Server::start(&space, &[fixture("qwen3-tiny").to_str().unwrap()]);
        let stream = server.send("POST", "/v1/completions", &long(8).to_string());
        wait_for("rows run", || server.count("triplay_rows_running") == 8.0);
        server.signal(signal);
        let ended = parts(&read(stream));
        let last = |part: &&Value| part["choices"][0]["finish_reason"] == "length";
        assert_eq!(ended.iter().filter(last).count(), 8);
        let address = server.address.clone();
        let seen = server.wait();
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        assert!(TcpStream::connect(address).is_err());
    }
}

#[test]
fn adapters_are_loaded_and_unloaded_under_names_that_never_change_their_meaning() {
    let space = Space::new();
    let server = Server::start(
        &space,
        &["base=".to_owned() + fixture("qwen3-tiny").to_str().unwrap()].each_ref().map(String::as_str),
    );
    let adapted = model("lora-tiny");
    let sampling = Sampling { temperature: 0.8, max_new_tokens: 20, ..Sampling::default() };
    let expected =
        rollout::sample(&adapted, &prompts()[..1], &sampling, Seed::from_u64(6), &mut |_, _| ()).unwrap();
    let body = |model: &str| {
        json!({
            "model": model, "prompt": prompts()[0], "temperature": 0.8, "max_tokens": 20, "seed": 6, "logprobs": 0,
            "return_token_ids": true,
        })
    };
    // An adapter alone, and one with its base beside it.
    let alone = space.path("alone");
    fs::create_dir(&alone).unwrap();
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::copy(fixture("lora-tiny").join(file), alone.join(file)).unwrap();
    }
    let load = |name: &str, path: &Path| {
        server.post("/v1/load_lora_adapter", &json!({ "lora_name": name, "lora_path": path }))
    };
    for (name, path) in [("alone", &alone), ("whole", &fixture("lora-tiny"))] {
        let loaded = load(name, path);
        assert_eq!(
            (loaded.status, loaded.body),
            (200, format!("Success: LoRA adapter '{name}' added successfully."))
        );
        assert_is(&server.complete(body(name))["choices"][0], &expected[0]);
    }
    let models = server.get("/v1/models").json();
    let of = |name: &str| {
        models["data"].as_array().unwrap().iter().find(|model| model["id"] == name).unwrap().clone()
    };
    assert_eq!((of("whole")["parent"].clone(), of("base")["parent"].clone()), (json!("base"), Value::Null));
    assert_eq!(of("alone")["digest"], of("whole")["digest"]);
    assert_ne!(of("alone")["digest"], of("base")["digest"]);
    assert_eq!(load("alone", &alone).status, 200, "the same again");
    // Trained further at the same place.
    let weights = alone.join("adapter_model.safetensors");
    let mut changed = fs::read(&weights).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&weights, changed).unwrap();
    load("alone", &alone).fails(400, json!("lora_path"), "with other files than those that are there now");
    load("alone", &fixture("lora-tiny")).fails(400, json!("lora_path"), "a name never changes its meaning");
    load("other", &space.path("nothing")).fails(400, json!("lora_path"), "there is no");
    // Whole checkpoints, too.
    assert_eq!(load("llama", &fixture("llama-tiny")).status, 200);
    let unload = |name: &str| server.post("/v1/unload_lora_adapter", &json!({ "lora_name": name }));
    assert_eq!(unload("alone").status, 200);
    server.post("/v1/completions", &body("alone")).fails(404, json!("model"), "there is no model `alone`");
    unload("alone").fails(404, json!("model"), "there is no model `alone`");
    unload("base").fails(400, json!("lora_name"), "named when the server was started");
    assert_is(&server.complete(body("whole"))["choices"][0], &expected[0]);
    let base =
        rollout::sample(&model("qwen3-tiny"), &prompts()[..1], &sampling, Seed::from_u64(6), &mut |_, _| ());
    assert_is(&server.complete(body("base"))["choices"][0], &base.unwrap()[0]);
}

#[test]
fn roles_of_a_run_are_served_by_the_names_of_its_loops() {
    let space = Space::new();
    let summary = space.run(&[]);
    let digests = space.digests(&summary);
    let server = Server::start(
        &space,
        &[
            "latest:play[1].attacker",
            "last=latest:play.defender",
            "latest:warmup.model",
            "inner=latest:play[2]/red.attacker",
        ],
    );
    let models = server.get("/v1/models").json();
    let root = |name: &str| {
        let model = models["data"].as_array().unwrap().iter().find(|model| model["id"] == name).unwrap();
        model["root"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    };
    for (name, node) in [
        ("attacker", "play[1]/red[2]/update.model"),
        ("last", "play[2]/blue[2]/update.model"),
        ("warmup", "warmup.model"),
        ("inner", "play[2]/red[2]/update.model"),
    ] {
        assert_eq!(root(name), digests[node], "{name}");
    }
    let shown = space.triplay(&["data", "show", "latest:play[2].pool"]).ok();
    let node = space.triplay(&["data", "show", "latest:play[2]/red[2]/successes"]).ok();
    assert_eq!(shown.out, node.out);
    space.triplay(&["serve", "latest:play[3].attacker"]).fails(2, "has rounds 1 to 2");
    space
        .triplay(&["serve", "latest:play[1].atacker"])
        .fails(2, "the loop carries only attacker, defender, evaluator");
    space
        .triplay(&["serve", "latest:play[2]/red[1].attacker"])
        .fails(2, "was evicted: its loop keeps only the last");
    space.triplay(&["serve", "latest:play[1].pool"]).fails(2, "must be a model, found pool");
    space.triplay(&["serve", "nothing"]).fails(2, "there is no model nothing");
}

#[test]
fn numbers_of_another_type_are_batched_too() {
    let space = Space::new();
    let server = Server::start(&space, &["--dtype", "f64", fixture("llama-tiny").to_str().unwrap()]);
    let compute = Compute::parse("cpu", "f64").unwrap();
    let checkpoint = Checkpoint::load(&fixture("llama-tiny"), &compute).unwrap();
    let sampling = Sampling { max_new_tokens: 30, ..Sampling::default() };
    std::thread::scope(|scope| {
        for row in 0..12usize {
            let (server, checkpoint, sampling) = (&server, &checkpoint, &sampling);
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(7 * row as u64));
                let prompt: Vec<u32> = (1..(3 + 5 * row as u32)).collect();
                let body =
                    json!({ "prompt": prompt, "max_tokens": 30, "seed": row, "return_token_ids": true });
                let own = rollout::sample(
                    checkpoint,
                    &[prompt],
                    sampling,
                    Seed::from_u64(row as u64),
                    &mut |_, _| (),
                );
                assert_eq!(server.complete(body)["choices"][0]["token_ids"], json!(own.unwrap()[0].ids));
            });
        }
    });
}
