//! The routes, who may use them, and the small ones' answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::answer::{failed, usage};
use super::complete::complete;
use super::error::{ApiError, Json, Result};
use super::models::{Kind, NamedModel, Served};
use super::request::{
    Completions, Detokenize, Encoding, Fields, LoadAdapter, Prompt, Tokenized, UnloadAdapter, embeddings,
    prompts, tokenize,
};
use super::worker::{Inputs, Job};
use super::{Phase, Shared};

/// The most bytes of a request.
const MOST_BYTES: usize = 64 << 20;

/// The most time that a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is before the key.
const BEARER: &[u8] = b"Bearer ";

/// The route that answers without a key, so that a supervisor can watch the server.
const HEALTH: &str = "/health";

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(HEALTH, get(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/tokenizer_info", get(tokenizer_info))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(one_model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/embeddings", post(embed))
        .route("/tokenize", post(tokens))
        .route("/detokenize", post(detokenized))
        .route("/v1/load_lora_adapter", post(load))
        .route("/v1/unload_lora_adapter", post(unload))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(shared.clone(), admit))
        .with_state(shared)
}

async fn no_route(uri: Uri) -> ApiError {
    ApiError::no_route(format!("there is no route {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::wrong_method(format!("{} does not answer {method}", uri.path()))
}

/// Refuses strangers, and counts answers.
async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let response = match may_ask(&shared, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    shared.metrics.answered(&route, response.status().as_u16());
    response
}

fn may_ask(shared: &Shared, request: &Request) -> Result<()> {
    if request.uri().path() == HEALTH {
        return Ok(());
    }
    let headers = request.headers();
    match &shared.key {
        Some(key) => {
            let sent = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
            // The name of the scheme has no case.
            let sent = match sent.split_at_checked(BEARER.len()) {
                Some((scheme, key)) if scheme.eq_ignore_ascii_case(BEARER) => key.trim_ascii(),
                _ => &[],
            };
            // In a time that does not depend on where they differ.
            let differ = sent.iter().zip(key.as_bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
            if sent.len() != key.len() || differ != 0 {
                return Err(ApiError::wrong_key());
            }
        }
        // A page of another site whose name resolves to this address sends its own name (DNS rebinding).
        None => {
            // In HTTP/2 the name is a part of the address.
            let of_uri = || request.uri().authority().map(Authority::as_str);
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or_else(of_uri);
            let host = host.and_then(|host| host.parse::<Authority>().ok());
            let name = host.as_ref().map_or("", Authority::host).trim_matches(['[', ']']);
            if name.parse::<IpAddr>().is_err() && !super::is_loopback(name) {
                return Err(ApiError::wrong_host());
            }
        }
    }
    Ok(())
}

/// The body of a request, which must be JSON: a page of another site cannot send that without being asked first.
async fn body(headers: &HeaderMap, body: Body) -> Result<Bytes> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::not_json());
    }
    match tokio::time::timeout(PATIENCE, to_bytes(body, MOST_BYTES)).await {
        Ok(read) => read.map_err(|_| ApiError::too_large(MOST_BYTES)),
        Err(_) => Err(ApiError::too_slow()),
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let status = match shared.phase() {
        Phase::Serving => return Json(json!({ "status": "ok" })).into_response(),
        Phase::Loading => "loading",
        Phase::Stopping => "stopping",
    };
    (axum::http::StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": status }))).into_response()
}

async fn version(State(shared): State<Arc<Shared>>) -> Json {
    let compute = shared.models.compute().to_string();
    Json(json!({ "server": "triplay", "version": env!("CARGO_PKG_VERSION"), "compute": compute }))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shared.metrics.text()).into_response()
}

fn described(served: &Served) -> Value {
    json!({
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "triplay",
        "root": served.path.display().to_string(),
        "parent": served.parent,
        "max_model_len": served.decoder().map(|loaded| loaded.longest),
        "digest": served.digest.to_string(),
    })
}

async fn models(State(shared): State<Arc<Shared>>) -> Result<Json> {
    shared.ensure_serving()?;
    let data: Vec<Value> = shared.models.all().iter().map(|served| described(served)).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

async fn one_model(
    State(shared): State<Arc<Shared>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Json> {
    let served = shared.model(Some(&name))?;
    Ok(Json(described(&served)))
}

async fn completions(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<Response> {
    shared.ensure_serving()?;
    let request = Completions::of_prompts(&body(&headers, sent).await?)?;
    complete(shared, request).await
}

async fn chat(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<Response> {
    shared.ensure_serving()?;
    let request = Completions::of_chat(&body(&headers, sent).await?)?;
    complete(shared, request).await
}

fn tokenizer(served: &Served) -> Result<&model::Tokenizer> {
    Ok(&served.loaded()?.checkpoint.tokenizer)
}

async fn embed(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<Json> {
    shared.ensure_serving()?;
    let fields = embeddings(&body(&headers, sent).await?)?;
    let served = shared.model(fields.model.as_deref())?;
    let asked = served.clone();
    let (inputs, tokens) = shared.aside(move || inputs_of(&asked, prompts(fields.input, "input")?)).await?;
    let count = inputs.len();
    let (reply, vectors) = oneshot::channel();
    let name = served.name.clone();
    shared.enqueue(count, Job::Embed(served, inputs, reply))?;
    let vectors = vectors.await.map_err(|_| ApiError::unavailable("the server is stopping"))?;
    let vectors = vectors.map_err(ApiError::failed)?;
    let written = |vector: &Vec<f32>| match fields.encoding_format {
        Some(Encoding::Base64) => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Value::from(STANDARD.encode(bytes))
        }
        _ => json!(vector),
    };
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| json!({ "object": "embedding", "index": index, "embedding": written(vector) }))
        .collect();
    Ok(Json(json!({ "object": "list", "data": data, "model": name, "usage": usage(tokens, 0) })))
}

/// What is embedded, and its tokens.
fn inputs_of(served: &Served, inputs: Vec<Prompt>) -> Result<(Inputs, usize)> {
    match &served.kind {
        Kind::Encoder(encoder) => {
            let text = |input| match input {
                Prompt::Text(text) => Ok(text),
                Prompt::Ids(_) => {
                    let message = "`input` must be texts for a sentence encoder, found token ids";
                    Err(ApiError::invalid("input", message))
                }
            };
            let texts = inputs.into_iter().map(text).collect::<Result<Vec<String>>>()?;
            let mut tokens = 0;
            for text in &texts {
                let count = encoder.count(text).map_err(failed)?;
                ensure_length(count, encoder.longest())?;
                tokens += count;
            }
            Ok((Inputs::Texts(texts), tokens))
        }
        Kind::Decoder(loaded) => {
            let (tokenizer, vocabulary) = (&loaded.checkpoint.tokenizer, loaded.checkpoint.config.vocab_size);
            let row = |input| {
                let ids = match input {
                    Prompt::Ids(ids) => ids,
                    Prompt::Text(text) => {
                        loaded.ensure_short(text.len())?;
                        tokenizer.encode_filled(&[tokenizer.marks.data(&text)]).map_err(failed)?.concat()
                    }
                };
                ensure_length(ids.len(), loaded.longest)?;
                match ids.iter().find(|id| **id as usize >= vocabulary) {
                    None => Ok(ids),
                    Some(id) => {
                        let message = format!(
                            "token ids must be below {vocabulary}, the model's vocabulary, found {id}"
                        );
                        Err(ApiError::invalid("input", message))
                    }
                }
            };
            let rows = inputs.into_iter().map(row).collect::<Result<Vec<Vec<u32>>>>()?;
            let tokens = rows.iter().map(Vec::len).sum();
            Ok((Inputs::Rows(rows), tokens))
        }
    }
}

fn ensure_length(tokens: usize, longest: usize) -> Result<()> {
    if (1..=longest).contains(&tokens) {
        return Ok(());
    }
    let message =
        format!("an input must have between 1 and {longest} tokens, found {tokens}: change the text");
    Err(ApiError::too_long(message))
}

async fn tokens(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<Json> {
    let asked = tokenize(&body(&headers, sent).await?)?;
    let served = shared.model(asked.model.as_deref())?;
    let of_model = served.clone();
    let tokenize = move || {
        let tokenizer = tokenizer(&of_model)?;
        let tokens = match asked.what {
            Tokenized::Text(text, true) => tokenizer.encode_plain(&text),
            Tokenized::Text(text, false) => tokenizer.encode(&text),
            Tokenized::Chat(chat) => {
                tokenizer.encode_filled(&[chat.render(tokenizer)?]).map(|ids| ids.concat())
            }
        };
        tokens.map_err(failed)
    };
    let tokens = shared.aside(tokenize).await?;
    let longest = served.decoder().map(|loaded| loaded.longest);
    Ok(Json(json!({ "count": tokens.len(), "max_model_len": longest, "tokens": tokens, "token_strs": null })))
}

async fn detokenized(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<Json> {
    let asked: Detokenize = Fields::read(&body(&headers, sent).await?)?.rest()?;
    let served = shared.model(asked.model.as_deref())?;
    let text = shared.aside(move || tokenizer(&served)?.decode(&asked.tokens).map_err(failed)).await?;
    Ok(Json(json!({ "prompt": text })))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct OfModel {
    #[serde(default)]
    model: Option<String>,
}

/// tokenizer_config.json with its chat template, as vLLM tells it.
async fn tokenizer_info(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json> {
    let Ok(Query(OfModel { model })) = Query::try_from_uri(&uri) else {
        return Err(ApiError::malformed("the query may only have `model`"));
    };
    let served = match (model, shared.models.all().first()) {
        (None, Some(first)) => {
            shared.ensure_serving()?;
            first.clone()
        }
        (model, _) => shared.model(model.as_deref())?,
    };
    let tokenizer = tokenizer(&served)?;
    let mut info = match tokenizer.settings() {
        Value::Object(info) => info,
        _ => serde_json::Map::new(),
    };
    let text = |id| tokenizer.token(id).map_or(Value::Null, Value::from);
    info.entry("tokenizer_class").or_insert("PreTrainedTokenizerFast".into());
    info.insert("eos_token".into(), text(tokenizer.eos));
    info.insert("pad_token".into(), text(tokenizer.pad));
    info.insert("chat_template".into(), tokenizer.template().map_or(Value::Null, Value::from));
    info.insert("model_max_length".into(), served.decoder().map(|loaded| loaded.longest).into());
    Ok(Json(info.into()))
}

async fn load(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<String> {
    shared.ensure_serving()?;
    let asked: LoadAdapter = Fields::read(&body(&headers, sent).await?)?.rest()?;
    let model = NamedModel { name: asked.lora_name, path: asked.lora_path.into() };
    let name = model.name.clone();
    let loaded = tokio::task::spawn_blocking(move || shared.models.load(&model, true)).await;
    match loaded {
        Ok(Ok(())) => Ok(format!("Success: LoRA adapter '{name}' added successfully.")),
        Ok(Err(error)) => Err(ApiError::invalid("lora_path", format!("{error:#}"))),
        Err(_) => Err(ApiError::failed("the adapter could not be loaded")),
    }
}

async fn unload(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<String> {
    let asked: UnloadAdapter = Fields::read(&body(&headers, sent).await?)?.rest()?;
    let name = asked.lora_name;
    match shared.models.unload(&name) {
        None => Err(ApiError::no_model(format!("there is no model `{name}`"))),
        Some(Ok(())) => Ok(format!("Success: LoRA adapter '{name}' removed successfully.")),
        Some(Err(error)) => Err(ApiError::invalid("lora_name", error.to_string())),
    }
}
