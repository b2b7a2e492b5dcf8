//! A server that answers as a test says, faults included. A thread a connection, so that a slow answer holds up nothing else.

#![allow(unreachable_pub, missing_docs, dead_code)] // Benches and the tests of processes include this file too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What a client sent.
pub struct Got {
    pub path: String,
    pub head: String,
    pub body: Value,
}

/// What comes back.
pub enum Say {
    /// JSON with this status and further header lines.
    Json(u16, Value, &'static str),
    /// Bytes with status 200.
    Text(&'static str),
    /// A body that is announced as longer than it is.
    Cut,
    /// A byte a while, for ever.
    Drip(Duration),
    /// The connection closes without an answer.
    Close,
}

pub fn ok(value: Value) -> Say {
    Say::Json(200, value, "")
}

pub struct Scripted {
    pub url: String,
    /// What clients posted first, a thousand requests at most.
    pub got: Arc<Mutex<Vec<Got>>>,
    /// How many there were.
    pub posted: Arc<AtomicUsize>,
    pub most_at_once: Arc<AtomicUsize>,
}

/// The answer of a server of this kind to `GET /v1/models`.
pub fn models(owner: &str) -> Value {
    json!({ "object": "list", "data": [{ "id": "frost", "object": "model", "owned_by": owner, "max_model_len": 2048 }] })
}

/// A completion of a chat.
pub fn chat(text: &str) -> Value {
    json!({
        "model": "frost", "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7 },
    })
}

impl Scripted {
    /// Starts a server; `answer` gets what a client sent, and how many came before.
    pub fn new(answer: impl Fn(&Got, usize) -> Say + Send + Sync + 'static) -> Scripted {
        Scripted::with(answer, "http", |stream| Box::new(stream))
    }

    /// The same with a wrapper of each connection, for TLS.
    pub fn with(
        answer: impl Fn(&Got, usize) -> Say + Send + Sync + 'static,
        scheme: &str,
        wrap: impl Fn(TcpStream) -> Box<dyn Connection> + Send + 'static,
    ) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let scripted =
            Scripted { url, got: Arc::default(), posted: Arc::default(), most_at_once: Arc::default() };
        let (got, most) = (scripted.got.clone(), scripted.most_at_once.clone());
        let (answer, at_once, count) =
            (Arc::new(answer), Arc::new(AtomicUsize::new(0)), scripted.posted.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let _ = stream.set_nodelay(true);
                let stream = wrap(stream);
                let (answer, got, most) = (answer.clone(), got.clone(), most.clone());
                let (at_once, count) = (at_once.clone(), count.clone());
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    while let Some(request) = read(&mut stream) {
                        most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let is_asked = request.body != Value::Null;
                        let before = if is_asked { count.fetch_add(1, Ordering::SeqCst) } else { 0 };
                        let said = answer(&request, before);
                        if is_asked && before < 1000 {
                            got.lock().unwrap().push(request);
                        }
                        at_once.fetch_sub(1, Ordering::SeqCst);
                        if !say(stream.get_mut(), said) {
                            return;
                        }
                    }
                });
            }
        });
        scripted
    }

    /// The bodies that were sent to a route.
    pub fn bodies(&self, path: &str) -> Vec<Value> {
        self.got.lock().unwrap().iter().filter(|got| got.path == path).map(|got| got.body.clone()).collect()
    }

    pub fn count(&self) -> usize {
        self.posted.load(Ordering::SeqCst)
    }
}

pub trait Connection: Read + Write + Send {}

impl<T: Read + Write + Send> Connection for T {}

fn read(stream: &mut BufReader<Box<dyn Connection>>) -> Option<Got> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    Some(Got { path, head, body: serde_json::from_slice(&body).unwrap_or_default() })
}

/// Whether the connection stays open.
fn say(stream: &mut dyn Connection, said: Say) -> bool {
    let whole = |status: u16, headers: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        )
    };
    match said {
        Say::Json(status, value, headers) => {
            stream.write_all(whole(status, headers, &value.to_string()).as_bytes()).is_ok()
        }
        Say::Text(text) => stream.write_all(whole(200, "", text).as_bytes()).is_ok(),
        Say::Cut => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"choices\": [");
            let _ = stream.flush();
            false
        }
        Say::Drip(pause) => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
            while stream.write_all(b" ").and_then(|()| stream.flush()).is_ok() {
                std::thread::sleep(pause);
            }
            false
        }
        Say::Close => false,
    }
}
