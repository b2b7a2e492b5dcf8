//! The live page: a small server for people at this machine. Its address holds a secret, it answers to its own names only,
//! and it changes nothing.

use std::io::Cursor;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use tiny_http::{Header, Method, Request, Response, Server, StatusCode};

use super::html;
use super::live::{Answer, Live};

/// How many requests are answered side by side.
const THREADS: usize = 4;

/// A server that listens.
pub struct Page {
    server: Arc<Server>,
    shared: Arc<Shared>,
    /// Where it is to be found.
    pub address: String,
}

struct Shared {
    token: String,
    /// The name that was asked to be listened at.
    host: String,
    live: Live,
}

impl Page {
    /// Begins to listen at an address; port 0 is any that is free.
    pub fn open(host: &str, port: u16, live: Live) -> anyhow::Result<Page> {
        let server =
            Server::http((host, port)).map_err(|error| anyhow::anyhow!("{error}")).with_context(|| {
                format!("cannot listen at {host}:{port}; --port 0 takes any port that is free")
            })?;
        let at = server.server_addr().to_ip().context("the server has no address")?;
        let token = html::random_hex()?;
        let address = format!("http://{at}/{token}/");
        let shared = Arc::new(Shared { token, host: host.to_owned(), live });
        Ok(Page { server: Arc::new(server), shared, address })
    }

    /// Answers until the process ends.
    pub fn serve(self) -> anyhow::Result<()> {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (server, shared) = (self.server.clone(), self.shared.clone());
                std::thread::spawn(move || {
                    while let Ok(request) = server.recv() {
                        // Who has gone away meanwhile needs no answer.
                        let response = shared.answer(&request);
                        let _ = request.respond(response);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the server ended"))?;
        }
        anyhow::bail!("the server stopped listening")
    }
}

type Body = Response<Cursor<Vec<u8>>>;

impl Shared {
    fn answer(&self, request: &Request) -> Body {
        // Another site whose name was made to lead here asks by its own name.
        if !self.is_own_name(request) {
            return plain(403, "triplay answers by its own address only");
        }
        let url = request.url();
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let Some(rest) = self.behind_token(path) else { return plain(404, "there is nothing here") };
        if !matches!(request.method(), Method::Get | Method::Head) {
            let response = plain(405, "only looking is possible");
            return with(response, "Allow", "GET, HEAD");
        }
        let version = query.split('&').find_map(|pair| pair.strip_prefix("version=")?.parse().ok());
        match rest {
            "" => page(),
            "api/report" => data(self.live.report(version), request),
            "api/samples" => data(self.live.samples(version), request),
            _ => plain(404, "there is nothing here"),
        }
    }

    /// What stands behind the secret, which takes as long to compare however much of it is right.
    fn behind_token<'p>(&self, path: &'p str) -> Option<&'p str> {
        let (token, rest) = path.strip_prefix('/')?.split_once('/')?;
        let (token, own) = (token.as_bytes(), self.token.as_bytes());
        let differ = token.iter().zip(own).fold(0, |differ, (a, b)| differ | (a ^ b));
        (token.len() == own.len() && differ == 0).then_some(rest)
    }

    /// Whether a request names this server: by an address, as this machine itself, or by the name that it listens at.
    fn is_own_name(&self, request: &Request) -> bool {
        let header = request.headers().iter().find(|header| header.field.equiv("Host"));
        let Some(host) = header.map(|header| header.value.as_str()) else { return false };
        let name = match host.parse::<SocketAddr>() {
            Ok(_) => return true,
            Err(_) => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.is_ok() || name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(&self.host)
    }
}

fn page() -> Body {
    let Ok(nonce) = html::random_hex() else { return plain(500, "there are no random numbers here") };
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let response = answer(200, "text/html; charset=utf-8", html::live(&nonce).into_bytes());
    with(response, "Content-Security-Policy", &policy)
}

fn data(answer_: Result<Answer, String>, request: &Request) -> Body {
    let takes_gzip = request
        .headers()
        .iter()
        .any(|header| header.field.equiv("Accept-Encoding") && header.value.as_str().contains("gzip"));
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

fn answer(status: u16, kind: &str, body: Vec<u8>) -> Body {
    let mut response =
        Response::from_data(body).with_status_code(StatusCode(status)).with_chunked_threshold(usize::MAX);
    for (name, value) in [
        ("Content-Type", kind),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    ] {
        response = with(response, name, value);
    }
    response
}

fn with(mut response: Body, name: &str, value: &str) -> Body {
    if let Ok(header) = Header::from_bytes(name, value) {
        response.add_header(header);
    }
    response
}
