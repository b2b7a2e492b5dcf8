//! Errors as OpenAI's clients read them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A JSON answer.
pub(crate) struct Json(pub Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0.to_string()).into_response()
    }
}

/// An answer other than success.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field of the request that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
    /// Seconds after which the same request may succeed.
    retry_after: Option<u64>,
}

pub(crate) type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// A field of the request has a value that is not possible.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.to_owned()), ..ApiError::new(StatusCode::BAD_REQUEST, message) }
    }

    /// The request as a whole is wrong.
    pub(crate) fn malformed(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn unknown_field(name: &str) -> ApiError {
        let message = format!(
            "unknown field `{name}`: this server does not know it, and refuses it because ignoring it might change the result"
        );
        ApiError { code: Some("unknown_field"), ..ApiError::invalid(name, message) }
    }

    pub(crate) fn too_long(message: String) -> ApiError {
        ApiError { code: Some("context_length_exceeded"), ..ApiError::invalid("prompt", message) }
    }

    pub(crate) fn no_model(message: String) -> ApiError {
        let error = ApiError::new(StatusCode::NOT_FOUND, message);
        ApiError { param: Some("model".into()), code: Some("model_not_found"), ..error }
    }

    pub(crate) fn no_route(message: String) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn wrong_method(message: String) -> ApiError {
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
    }

    pub(crate) fn wrong_key() -> ApiError {
        let message = "wrong or missing key: send `Authorization: Bearer KEY` with the key that this server was started with";
        ApiError { code: Some("invalid_api_key"), ..ApiError::new(StatusCode::UNAUTHORIZED, message) }
    }

    pub(crate) fn wrong_host() -> ApiError {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "without a key, this server answers only at an address or at localhost: use one of these, or start it with \
             --api-key-env",
        )
    }

    pub(crate) fn not_json() -> ApiError {
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the request must be JSON: send `Content-Type: application/json`",
        )
    }

    pub(crate) fn too_large(most: usize) -> ApiError {
        let message = format!("the request must have at most {} MiB", most >> 20);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(crate) fn too_slow() -> ApiError {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time")
    }

    pub(crate) fn full(waiting: usize, retry_after: u64) -> ApiError {
        let message = format!(
            "{waiting} rows wait already: ask again later, or start the server with a larger --max-queue"
        );
        ApiError {
            code: Some("queue_full"),
            retry_after: Some(retry_after),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
        }
    }

    /// The server is starting or stopping.
    pub(crate) fn unavailable(message: &str) -> ApiError {
        ApiError { retry_after: Some(1), ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// The model failed.
    pub(crate) fn failed(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body of the answer.
    pub(crate) fn json(&self) -> Value {
        let (message, param) = (&self.message, &self.param);
        json!({ "error": { "message": message, "type": self.kind(), "param": param, "code": self.code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
