//! The live page: a small HTTP server for people at this machine. Its address contains a secret, it answers only to its own
//! names, and it changes nothing. Clients without the secret cannot block those with it, however many connections they open:
//! until a client has shown the secret, its connection is one of the [`PendingConnections`], of which the oldest is closed for the newest.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::html;
use super::live::{Answer, Live};

/// The most requests with the secret that are answered at once. Each has a connection of its own.
const CONNECTIONS: usize = 64;
/// The most open connections that have not shown the secret.
const STRANGERS: usize = 256;
/// The most lines and bytes of a request's head.
const LINES: usize = 64;
const HEAD: usize = 16 << 10;
/// The most time that a client may take to send its request, and to receive a part of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long, and how many bytes of, a refused body are discarded: a client that is still sending may lose the answer.
const LINGER: Duration = Duration::from_secs(1);
const THROWN_AWAY: usize = 1 << 20;

/// A listening server. It supports only as much HTTP as viewing a page takes: bodies are refused and never read.
pub struct Page {
    listener: TcpListener,
    shared: Arc<Shared>,
    /// Its URL.
    pub address: String,
}

struct Shared {
    token: String,
    /// The requested host name.
    host: String,
    live: Live,
    open: AtomicUsize,
    strangers: PendingConnections,
}

impl Page {
    /// Starts listening at an address; port 0 selects any free port.
    pub fn open(host: &str, port: u16, live: Live) -> anyhow::Result<Page> {
        let listener = TcpListener::bind((host, port))
            .with_context(|| format!("cannot listen at {host}:{port}; --port 0 selects a free port"))?;
        let at = listener.local_addr().context("the server has no address")?;
        let token = html::random_hex()?;
        let address = format!("http://{at}/{token}/");
        let (open, strangers) = (AtomicUsize::new(0), PendingConnections::default());
        let shared = Arc::new(Shared { token, host: host.to_owned(), live, open, strangers });
        Ok(Page { listener, shared, address })
    }

    /// Answers until the process ends.
    pub fn serve(self) -> anyhow::Result<()> {
        loop {
            let Ok((stream, _)) = self.listener.accept() else {
                // For example too many open files.
                self.shared.strangers.send_away(1);
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let stream = Arc::new(stream);
            self.shared.strangers.admit(&stream);
            let (shared, own) = (self.shared.clone(), stream.clone());
            let talk = move || {
                shared.talk(&own);
                shared.strangers.dismiss(&own);
            };
            // A client that cannot be answered is dismissed by closing the connection, as when all places are taken.
            if std::thread::Builder::new().spawn(talk).is_err() {
                self.shared.strangers.dismiss(&stream);
            }
        }
    }
}

/// The connections that have not shown the secret, the oldest first.
#[derive(Default)]
struct PendingConnections(Mutex<VecDeque<Arc<TcpStream>>>);

impl PendingConnections {
    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<TcpStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, stream: &Arc<TcpStream>) {
        let count = {
            let mut all = self.all();
            all.push_back(stream.clone());
            all.len()
        };
        self.send_away(count.saturating_sub(STRANGERS));
    }

    /// Closes the oldest: data that have arrived are still read, later data are not. A client with the secret sends it at once.
    fn send_away(&self, count: usize) {
        for _ in 0..count {
            // Wakes its thread, which reads the received data and then the end.
            let _ = self.all().pop_front().map(|oldest| oldest.shutdown(Shutdown::Read));
        }
    }

    /// Removes a connection that has shown the secret, or is done.
    fn dismiss(&self, stream: &Arc<TcpStream>) {
        self.all().retain(|other| !Arc::ptr_eq(other, stream));
    }
}

/// A place for a request with the secret, until it is dropped.
struct Place<'s>(&'s AtomicUsize);

impl Place<'_> {
    fn take(open: &AtomicUsize) -> Option<Place<'_>> {
        let place = Place(open);
        (open.fetch_add(1, Ordering::AcqRel) < CONNECTIONS).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A client's request.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    url: String,
    host: String,
    takes_gzip: bool,
}

impl Request {
    /// Reads the head of a request, or returns why it is refused. The body is not read.
    fn read(mut stream: &TcpStream) -> std::io::Result<Result<Request, &'static str>> {
        let begun = Instant::now();
        let (mut head, mut part) = (Vec::new(), [0; 2048]);
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut part)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => head.extend_from_slice(&part[..read]),
            }
            match Request::parse(&head) {
                Ok(None) if head.len() >= HEAD => return Ok(Err("the request is too long")),
                Ok(None) => {}
                Ok(Some(request)) => return Ok(Ok(request)),
                Err(why) => return Ok(Err(why)),
            }
        }
    }

    /// `None` if more data must come.
    fn parse(head: &[u8]) -> Result<Option<Request>, &'static str> {
        let mut lines = [httparse::EMPTY_HEADER; LINES];
        let mut parsed = httparse::Request::new(&mut lines);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err("the request must be HTTP/1.1"),
        }
        let header = |name: &str| {
            let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
        };
        let has_body = header("Content-Length").is_some_and(|length| length != "0")
            || header("Transfer-Encoding").is_some()
            || header("Expect").is_some();
        if has_body {
            return Err("the page is read-only, so the request must have no body");
        }
        Ok(Some(Request {
            method: parsed.method.unwrap_or_default().to_owned(),
            url: parsed.path.unwrap_or_default().to_owned(),
            host: header("Host").unwrap_or_default(),
            takes_gzip: header("Accept-Encoding").is_some_and(|kinds| kinds.contains("gzip")),
        }))
    }
}

/// The part of the path after the secret, and the query after `?`.
struct Asked<'r> {
    what: &'r str,
    query: &'r str,
}

/// An answer under construction.
struct Body {
    status: u16,
    headers: Vec<(&'static str, String)>,
    bytes: Vec<u8>,
}

impl Body {
    fn send(&self, mut stream: &TcpStream, is_head: bool) -> std::io::Result<()> {
        let reason = match self.status {
            200 => "OK",
            204 => "No Content",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        let mut head = format!("HTTP/1.1 {} {reason}\r\nConnection: close\r\n", self.status);
        // Without content there is no length.
        if self.status != 204 {
            head += &format!("Content-Length: {}\r\n", self.bytes.len());
        }
        self.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        stream.write_all((head + "\r\n").as_bytes())?;
        if !is_head {
            stream.write_all(&self.bytes)?;
        }
        stream.shutdown(Shutdown::Write)
    }
}

impl Shared {
    /// Answers one request. A client that has disconnected needs no answer.
    fn talk(&self, stream: &Arc<TcpStream>) {
        let answer = || {
            stream.set_write_timeout(Some(PATIENCE))?;
            match Request::read(stream)? {
                Ok(request) => match self.asked(&request) {
                    Ok(asked) => {
                        self.strangers.dismiss(stream);
                        let Some(_place) = Place::take(&self.open) else { return Ok(()) };
                        self.answer(&request, &asked).send(stream, request.method == "HEAD")
                    }
                    Err(refusal) => refusal.send(stream, request.method == "HEAD"),
                },
                Err(why) => {
                    plain(400, why).send(stream, false)?;
                    throw_away(stream)
                }
            }
        };
        let _: std::io::Result<()> = answer();
    }

    /// The target of a request, if it is allowed.
    fn asked<'r>(&self, request: &'r Request) -> Result<Asked<'r>, Body> {
        // Another site whose name resolves to this address sends its own name (DNS rebinding).
        if !self.is_own_name(&request.host) {
            return Err(plain(403, "triplay answers only at its own address"));
        }
        let url = request.url.as_str();
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let what = self.behind_token(path).ok_or_else(|| plain(404, "there is nothing here"))?;
        Ok(Asked { what, query })
    }

    fn answer(&self, request: &Request, &Asked { what, query }: &Asked) -> Body {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            let response = plain(405, "the page is read-only");
            return with(response, "Allow", "GET, HEAD");
        }
        let version = query.split('&').find_map(|pair| pair.strip_prefix("version=")?.parse().ok());
        match what {
            "" => page(),
            "api/report" => data(self.live.report(version), request.takes_gzip),
            "api/samples" => data(self.live.samples(version), request.takes_gzip),
            _ => plain(404, "there is nothing here"),
        }
    }

    /// The path after the secret. The comparison takes constant time.
    fn behind_token<'p>(&self, path: &'p str) -> Option<&'p str> {
        let (token, rest) = path.strip_prefix('/')?.split_once('/')?;
        let (token, own) = (token.as_bytes(), self.token.as_bytes());
        let differ = token.iter().zip(own).fold(0, |differ, (a, b)| differ | (a ^ b));
        (token.len() == own.len() && differ == 0).then_some(rest)
    }

    /// Whether a request names this server: by an address, as localhost, or by its host name.
    fn is_own_name(&self, host: &str) -> bool {
        let name = match host.parse::<SocketAddr>() {
            Ok(_) => return true,
            Err(_) => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.is_ok() || name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(&self.host)
    }
}

/// Reads and discards data for a while.
fn throw_away(mut stream: &TcpStream) -> std::io::Result<()> {
    let begun = Instant::now();
    let (mut part, mut thrown_away) = ([0; 4096], 0);
    while begun.elapsed() < LINGER && thrown_away < THROWN_AWAY {
        stream.set_read_timeout(Some(LINGER))?;
        match stream.read(&mut part)? {
            0 => break,
            read => thrown_away += read,
        }
    }
    Ok(())
}

fn page() -> Body {
    let Ok(nonce) = html::random_hex() else { return plain(500, "no random numbers are available") };
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let response = answer(200, "text/html; charset=utf-8", html::live(&nonce).into_bytes());
    with(response, "Content-Security-Policy", &policy)
}

fn data(answer_: Result<Answer, String>, takes_gzip: bool) -> Body {
    match answer_ {
        Ok(Answer::Unchanged) => answer(204, "application/json", Vec::new()),
        Ok(Answer::New { version, json, packed }) => {
            let response = match (takes_gzip, packed) {
                (true, Some(packed)) => {
                    with(answer(200, "application/json", packed.to_vec()), "Content-Encoding", "gzip")
                }
                _ => answer(200, "application/json", json.to_vec()),
            };
            with(response, "X-Version", &version.to_string())
        }
        Err(why) => plain(503, &why),
    }
}

fn plain(status: u16, text: &str) -> Body {
    answer(status, "text/plain; charset=utf-8", format!("{text}\n").into_bytes())
}

fn answer(status: u16, kind: &str, bytes: Vec<u8>) -> Body {
    let headers = [
        ("Content-Type", kind),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    ];
    let headers = headers.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    Body { status, headers, bytes }
}

fn with(mut response: Body, name: &'static str, value: &str) -> Body {
    response.headers.push((name, value.to_owned()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_brings_a_body_is_refused_before_any_of_it_is_read() {
        let parse =
            |lines: &str| Request::parse(format!("GET /a HTTP/1.1\r\nHost: b\r\n{lines}\r\n").as_bytes());
        let plain = parse("Accept-Encoding: gzip, br\r\n").unwrap().unwrap();
        assert_eq!((plain.url.as_str(), plain.host.as_str(), plain.takes_gzip), ("/a", "b", true));
        assert!(parse("Content-Length: 0\r\n").is_ok());
        for line in [
            "Content-Length: 2000",
            "content-length: 9223372036854775807",
            "Content-Length: 99999999999999999999999",
            "Transfer-Encoding: chunked",
            "Expect: 100-continue",
        ] {
            assert!(parse(&format!("{line}\r\n")).is_err(), "{line}");
        }
        assert_eq!(Request::parse(b"GET /a HTTP/1.1\r\nHost"), Ok(None));
        assert!(Request::parse(b"GET /a HTTP/2.0\r\n\r\n").is_err());
        assert!(parse(&"A: b\r\n".repeat(LINES)).is_err(), "too many lines");
    }
}
