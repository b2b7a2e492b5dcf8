//! One HTTP exchange: a JSON body out, a JSON body back, with limits on time and size. It knows neither models nor retries. It
//! follows no redirect and uses no proxy: an address of the site file is where prompts go, and nowhere else.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use store::read::{self, MAX_PARTS_BYTES, MAX_TEXT_BYTES};
use tokio::runtime::Runtime;

/// The threads that all clients of the process share.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let built = builder.worker_threads(2).thread_name("endpoint").enable_all().build();
        // Only without threads or files, when nothing else of the program works either.
        built.unwrap_or_else(|error| panic!("cannot start the threads of endpoints: {error}"))
    })
}

/// A client of one server.
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    headers: HeaderMap,
    answer: Duration,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
    /// The header `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The connection could not be made, or broke.
    Connection(String),
    /// The certificate of the server is not valid.
    Certificate(String),
    /// The answer took too long.
    Timeout(Duration),
    /// The answer is larger than any answer should be.
    TooLarge,
}

impl Http {
    /// `ca` is a PEM file of authorities besides the system's, `key` goes into each request.
    pub(crate) fn new(
        ca: Option<&Path>,
        key: Option<&str>,
        connect: Duration,
        answer: Duration,
    ) -> Result<Http, String> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls(ca)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .build(https);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("triplay/", env!("CARGO_PKG_VERSION"))));
        if let Some(key) = key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| "the key must be printable text without line feeds, found other characters")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Http { client, headers, answer })
    }

    /// Sends a request with a body, or one without.
    pub(crate) async fn send(&self, url: &str, body: Option<Bytes>) -> Result<Reply, Broken> {
        self.send_within(url, body, self.answer).await
    }

    /// The same with a time limit of its own.
    pub(crate) async fn send_within(
        &self,
        url: &str,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<Reply, Broken> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let request = Request::builder().method(method).uri(url).body(Full::new(body.unwrap_or_default()));
        let mut request = request.map_err(|error| Broken::Connection(error.to_string()))?;
        *request.headers_mut() = self.headers.clone();
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| broken(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_PARTS_BYTES as usize).collect().await;
            let body = body.map_err(|error| match error.is::<http_body_util::LengthLimitError>() {
                true => Broken::TooLarge,
                false => Broken::Connection(format!("the answer ends in the middle ({error})")),
            })?;
            let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            Ok(Reply {
                status: head.status,
                body: body.to_bytes(),
                retry_after: retry_after.and_then(read_retry_after),
            })
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Broken::Timeout(limit)))
    }
}

/// Reads `Retry-After`: seconds, or a date.
fn read_retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value.trim()).ok()?;
    Some(date.duration_since(jiff::Timestamp::now()).try_into().unwrap_or(Duration::ZERO))
}

/// The innermost cause says the most.
fn broken(error: &hyper_util::client::legacy::Error) -> Broken {
    let mut cause: &dyn std::error::Error = error;
    loop {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(why) => Broken::Certificate(why.to_string()),
                other => Broken::Connection(format!("TLS: {other}")),
            };
        }
        // An I/O error shows its cause as its text, and hides it as a source.
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match inner.map(|inner| inner as &dyn std::error::Error).or(cause.source()) {
            Some(source) => cause = source,
            None => return Broken::Connection(cause.to_string()),
        }
    }
}

fn tls(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca {
        let shown = path.display();
        let pem = read::bytes(path, MAX_TEXT_BYTES).map_err(|error| {
            format!("`ca` must be a PEM file of certificates, but {shown} cannot be read: {error}")
        })?;
        let found: Vec<CertificateDer> =
            CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        let (added, _) = roots.add_parsable_certificates(found);
        if added == 0 {
            return Err(format!("`ca` must be a PEM file of certificates, found none in {shown}"));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|error| format!("TLS cannot be used: {error}"))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(read_retry_after("2"), Some(Duration::from_secs(2)));
        assert_eq!(read_retry_after("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&later).unwrap();
        assert!(read_retry_after(&date).unwrap() > Duration::from_secs(50));
        assert_eq!(read_retry_after("-1"), None);
        assert_eq!(read_retry_after("soon"), None);
    }
}
