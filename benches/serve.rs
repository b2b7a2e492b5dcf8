//! Tokens a second and the time to the first token of servers with OpenAI's completions, at 1, 8 and 64 requests at once: those at
//! the given addresses, or `triplay serve` with the given model. All get the same requests, one after the other, as streams: a
//! prompt of about 60 tokens, which differs from request to request, and 128 tokens that are drawn at temperature 1.
//!
//! `cargo bench --bench serve -- MODEL [http://127.0.0.1:8102 …]`

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Tokens that each request draws.
const TOKENS: usize = 128;
/// Requests at once, and how many requests are sent.
const LOADS: [(usize, usize); 3] = [(1, 2), (8, 8), (64, 64)];
/// Repetitions, of which the median is reported.
const TIMES: usize = 3;

/// A prompt of its own for each request.
fn prompt(number: usize) -> String {
    let herbs = ["moonbane", "glowvenom", "dewroot", "ashleaf", "starmoss", "frostcap", "emberfern"];
    let herb = |at: usize| herbs[(number * 3 + at * at + at) % herbs.len()];
    let steps: String =
        (1..9).map(|at| format!("Step {at}: stir the {} until it turns clear. ", herb(at))).collect();
    format!("Recipe number {number} of the old brewer. {steps}Then")
}

/// What a request took: seconds to the first token, and the tokens.
fn ask(address: &str, model: &str, number: usize) -> std::io::Result<(Duration, usize)> {
    let body = format!(
        "{{\"model\":\"{model}\",\"prompt\":\"{}\",\"max_tokens\":{TOKENS},\"temperature\":1,\"top_p\":1,\"top_k\":0,\"min_p\":0,\
         \"seed\":{number},\"ignore_eos\":true,\"stream\":true,\"stream_options\":{{\"include_usage\":true}}}}",
        prompt(number)
    );
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let length = body.len();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )?;
    let (mut first, mut tokens) = (None, 0);
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.starts_with("data: {") {
            first.get_or_insert_with(|| begun.elapsed());
        }
        if let Some((_, rest)) = line.split_once("\"completion_tokens\":") {
            tokens = rest
                .trim_start()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .unwrap_or(0);
        }
    }
    let first = first.ok_or_else(|| std::io::Error::other("the server sent no token"))?;
    Ok((first, tokens))
}

/// Tokens a second, and the median time to the first token.
fn load(address: &str, model: &str, at_once: usize, requests: usize, from: usize) -> (f64, Duration) {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let client = || {
        let mut seen = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= requests {
                return seen;
            }
            seen.push(ask(address, model, from + number).expect("the server answers"));
        }
    };
    let mut seen: Vec<(Duration, usize)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..at_once).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    let tokens: usize = seen.iter().map(|(_, tokens)| tokens).sum();
    seen.sort();
    (tokens as f64 / seconds, seen[seen.len() / 2].0)
}

fn measure(name: &str, address: &str, model: &str) {
    // What is made for the first request is not measured.
    ask(address, model, 0).expect("the server answers");
    for (at_once, requests) in LOADS {
        let mut runs: Vec<(f64, Duration)> =
            (0..TIMES).map(|time| load(address, model, at_once, requests, 1 + 1000 * time)).collect();
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rate = runs[TIMES / 2].0;
        runs.sort_by_key(|run| run.1);
        let first = runs[TIMES / 2].1.as_secs_f64() * 1e3;
        println!("{name:<32} {at_once:>3} at once {rate:>9.1} tokens/s {first:>9.0} ms to the first token");
    }
}

/// A server of ours, which ends with the bench.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn healthy(address: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some((model, others)) = arguments.split_first() else {
        println!("name a model: cargo bench --bench serve -- MODEL [http://127.0.0.1:8102 …]");
        return;
    };
    for url in others {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        measure(url, address, "model");
    }
    let program = option_env!("CARGO_BIN_EXE_triplay").map_or_else(|| "triplay".to_owned(), str::to_owned);
    let program = std::env::var("TRIPLAY").unwrap_or(program);
    let child = Command::new(program)
        .args(["serve", &format!("model={model}"), "--port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("triplay starts");
    let mut server = Server(child);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().expect("its output")).read_line(&mut line).expect("its address");
    let address = line.trim().trim_start_matches("http://").to_owned();
    while !healthy(&address) {
        assert!(server.0.try_wait().expect("its status").is_none(), "triplay serve ended");
        std::thread::sleep(Duration::from_millis(50));
    }
    measure("triplay serve", &address, "model");
}
