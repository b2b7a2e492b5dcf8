//! Embeddings.

use serde_json::json;

use super::call::{Call, Failure};
use super::question::Embed;
use super::question::sealed::Answered;
use super::trouble::Lack;

impl Answered for Embed {
    const NAME: &'static str = "embed";

    fn check(&self, call: &Call) -> Result<(), String> {
        if call.server.capabilities.can.embed { Ok(()) } else { Err(call.lacks(Lack::Embed)) }
    }

    async fn answer(&self, call: &Call) -> Result<Vec<f32>, Failure> {
        let body = json!({ "model": &*call.model, "input": [self.text], "encoding_format": "float" });
        let answer = call.post(&call.server.base.api("/embeddings"), &body, 0).await?;
        let numbers = answer["data"][0]["embedding"].as_array();
        let numbers = numbers.filter(|numbers| !numbers.is_empty());
        call.numbers(numbers.ok_or_else(|| call.bad("it has no `embedding`"))?.iter(), "embedding")
    }
}
