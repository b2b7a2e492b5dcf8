//! The routes, who may use them, and the small ones' answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
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
            let sent = headers.get(header::AUTHORIZATION).and_then(|sent| sent.to_str().ok());
            let sent = sent.and_then(|sent| sent.strip_prefix("Bearer ")).unwrap_or_default();
            // In a time that does not depend on where they differ.
            let differ = sent.bytes().zip(key.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
            if sent.len() != key.len() || differ != 0 {
                return Err(ApiError::wrong_key());
            }
        }
        // A page of another site whose name resolves to this address sends its own name (DNS rebinding).
        None => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            let is_address = host.parse::<std::net::SocketAddr>().is_ok();
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            if !is_address && !super::is_loopback(name.trim_start_matches('[').trim_end_matches(']')) {
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

/// A decoder, for what an encoder cannot do.
fn tokenizer(served: &Served) -> Result<&model::Tokenizer> {
    match &served.kind {
        Kind::Decoder(loaded) => Ok(&loaded.checkpoint.tokenizer),
        Kind::Encoder(_) => Err(ApiError::invalid(
            "model",
            format!("`{}` is a sentence encoder: it only answers /v1/embeddings", served.name),
        )),
    }
}

async fn embed(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<Json> {
    shared.ensure_serving()?;
    let fields = embeddings(&body(&headers, sent).await?)?;
    let served = shared.model(fields.model.as_deref())?;
    let inputs = prompts(fields.input, "input")?;
    let (mut texts, mut rows, mut tokens) = (Vec::new(), Vec::new(), 0);
    for input in inputs {
        match (input, served.decoder()) {
            (Prompt::Text(text), None) => texts.push(text),
            (Prompt::Text(text), Some(loaded)) => {
                let tokenizer = &loaded.checkpoint.tokenizer;
                let ids = tokenizer.encode_filled(&[tokenizer.marks.data(&text)]).map_err(failed)?.concat();
                rows.push(ids);
            }
            (Prompt::Ids(ids), Some(_)) => rows.push(ids),
            (Prompt::Ids(_), None) => {
                let message = "`input` must be texts for a sentence encoder, found token ids";
                return Err(ApiError::invalid("input", message));
            }
        }
    }
    if let Some(loaded) = served.decoder() {
        let (longest, vocabulary) = (loaded.longest, loaded.checkpoint.config.vocab_size);
        for row in &rows {
            if row.is_empty() || row.len() > longest {
                let message = format!(
                    "an input must have between 1 and {longest} tokens, found {}: change the text",
                    row.len()
                );
                return Err(ApiError::too_long(message));
            }
            if let Some(id) = row.iter().find(|id| **id as usize >= vocabulary) {
                let message =
                    format!("token ids must be below {vocabulary}, the model's vocabulary, found {id}");
                return Err(ApiError::invalid("input", message));
            }
            tokens += row.len();
        }
    }
    let inputs = if texts.is_empty() { Inputs::Rows(rows) } else { Inputs::Texts(texts) };
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

async fn tokens(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<Json> {
    let asked = tokenize(&body(&headers, sent).await?)?;
    let served = shared.model(asked.model.as_deref())?;
    let tokenizer = tokenizer(&served)?;
    let tokens = match asked.what {
        Tokenized::Text(text, true) => tokenizer.encode_plain(&text),
        Tokenized::Text(text, false) => tokenizer.encode(&text),
        Tokenized::Chat(chat) => tokenizer.encode_filled(&[chat.render(tokenizer)?]).map(|ids| ids.concat()),
    };
    let tokens = tokens.map_err(failed)?;
    let longest = served.decoder().map(|loaded| loaded.longest);
    Ok(Json(json!({ "count": tokens.len(), "max_model_len": longest, "tokens": tokens, "token_strs": null })))
}

async fn detokenized(State(shared): State<Arc<Shared>>, headers: HeaderMap, sent: Body) -> Result<Json> {
    let asked: Detokenize = Fields::read(&body(&headers, sent).await?)?.rest()?;
    let served = shared.model(asked.model.as_deref())?;
    let text = tokenizer(&served)?.decode(&asked.tokens).map_err(failed)?;
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
