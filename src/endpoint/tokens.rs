//! Token ids as the server makes them.

use serde_json::{Value, json};

use super::call::{Call, Failure};
use super::config::Kind;
use super::question::Prompt;

/// So many tokens at the end of a prompt decide how a text after it is cut into tokens.
const TAIL: usize = 32;

impl Call {
    /// The ids of a prompt.
    pub(crate) async fn tokenize(&self, prompt: &Prompt) -> Result<Vec<u32>, Failure> {
        match (prompt, self.server.kind) {
            (Prompt::Ids(ids), _) => Ok(ids.clone()),
            (Prompt::Text(text), _) => self.tokenize_text(text, true).await,
            (Prompt::Chat { messages, arguments }, Kind::LlamaCpp) => {
                let mut body = json!({ "messages": messages });
                if !arguments.is_empty() {
                    body["chat_template_kwargs"] = arguments.clone().into();
                }
                let said = self.post(&self.server.base.own("/apply-template"), &body, 0).await?;
                let text = said["prompt"].as_str().ok_or_else(|| self.bad("it has no `prompt`"))?;
                // The template has written the tokens at the beginning.
                self.tokenize_text(text, true).await
            }
            (Prompt::Chat { messages, arguments }, _) => {
                let mut body =
                    json!({ "model": &*self.model, "messages": messages, "add_generation_prompt": true });
                if !arguments.is_empty() {
                    body["chat_template_kwargs"] = arguments.clone().into();
                }
                let said = self.post(&self.server.base.own("/tokenize"), &body, 0).await?;
                self.ids(&said["tokens"], "tokens")
            }
        }
    }

    /// The ids of a text; `special` puts the tokens before it that begin every prompt of the model.
    async fn tokenize_text(&self, text: &str, special: bool) -> Result<Vec<u32>, Failure> {
        let body = match self.server.kind {
            Kind::LlamaCpp => json!({ "content": text, "add_special": special, "parse_special": true }),
            _ => json!({ "model": &*self.model, "prompt": text, "add_special_tokens": special }),
        };
        let said = self.post(&self.server.base.own("/tokenize"), &body, 0).await?;
        self.ids(&said["tokens"], "tokens")
    }

    /// The ids of a text after a prompt: what follows the prompt's ids in those of both together, if the two are cut apart there;
    /// otherwise those of the text alone.
    pub(crate) async fn continuation(&self, prompt: &[u32], text: &str) -> Result<Vec<u32>, Failure> {
        let tail = &prompt[prompt.len().saturating_sub(TAIL)..];
        let joined = match self.known(tail, text) {
            Some(known) => known,
            None => {
                let found = self.after(tail, text).await?;
                self.remember(tail, text, found.clone());
                found
            }
        };
        match joined {
            Some(ids) => Ok(ids),
            None => match self.known(&[], text) {
                Some(Some(alone)) => Ok(alone),
                _ => {
                    let alone = self.tokenize_text(text, false).await?;
                    self.remember(&[], text, Some(alone.clone()));
                    Ok(alone)
                }
            },
        }
    }

    async fn after(&self, tail: &[u32], text: &str) -> Result<Option<Vec<u32>>, Failure> {
        if tail.is_empty() {
            return Ok(None);
        }
        let body = json!({ "model": &*self.model, "tokens": tail });
        let said = self.post(&self.server.base.own("/detokenize"), &body, 0).await?;
        let before = said["prompt"].as_str().or_else(|| said["text"].as_str());
        let before = before.ok_or_else(|| self.bad("it has no `prompt`"))?;
        let whole = self.tokenize_text(&format!("{before}{text}"), false).await?;
        Ok(whole.strip_prefix(tail).filter(|after| !after.is_empty()).map(<[u32]>::to_vec))
    }

    fn known(&self, tail: &[u32], text: &str) -> Option<Option<Vec<u32>>> {
        let known = self.server.continuations.lock().ok()?;
        known.get(&(tail.to_vec(), text.to_owned())).cloned()
    }

    fn remember(&self, tail: &[u32], text: &str, ids: Option<Vec<u32>>) {
        if let Ok(mut known) = self.server.continuations.lock() {
            // Prompts that end differently are not worth remembering.
            if known.len() > 10_000 {
                known.clear();
            }
            known.insert((tail.to_vec(), text.to_owned()), ids);
        }
    }

    /// Reads token ids.
    pub(crate) fn ids(&self, value: &Value, what: &str) -> Result<Vec<u32>, Failure> {
        let ids = value.as_array().map(|ids| {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            ids.iter().map(id).collect::<Option<Vec<u32>>>()
        });
        ids.flatten().ok_or_else(|| self.bad(format!("`{what}` must be token ids, found {}", kind_of(value))))
    }

    /// Reads log-probabilities.
    pub(crate) fn numbers<'a>(
        &self,
        values: impl Iterator<Item = &'a Value>,
        what: &str,
    ) -> Result<Vec<f32>, Failure> {
        values
            .map(|value| {
                let number = value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
                number.ok_or_else(|| self.bad(format!("`{what}` must be numbers, found {}", kind_of(value))))
            })
            .collect()
    }
}

/// What a value is, without its content.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list with something else in it",
        Value::Object(_) => "a map",
    }
}
