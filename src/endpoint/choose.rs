//! Choosing among texts: by the log-probabilities of their tokens, or by a grammar where the server has no such numbers.

use serde_json::{Map, Value, json};

use super::call::{Call, Failure};
use super::config::Kind;
use super::question::sealed::Answered;
use super::question::{Choice, Choose, Prompt, number};
use super::sample::{chat, check_prompt};
use super::score::check_temperature;
use super::trouble::Lack;

impl Choose {
    /// A grammar of these texts and nothing else, as llama.cpp reads it.
    fn grammar(&self) -> String {
        let quoted = |text: &String| {
            let text =
                text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n").replace('\r', r"\r");
            format!("\"{text}\"")
        };
        format!("root ::= {}", self.texts.iter().map(quoted).collect::<Vec<_>>().join(" | "))
    }

    fn by_grammar(&self, model: &str) -> (bool, Value) {
        let longest = self.texts.iter().map(String::len).max().unwrap_or(0);
        let mut body = Map::new();
        let is_chat = match &self.prompt {
            Prompt::Chat { messages, arguments } => {
                chat(&mut body, model, messages, arguments);
                body.insert("max_tokens".into(), json!(longest + 1));
                true
            }
            Prompt::Text(text) => {
                body.insert("prompt".into(), json!(text));
                body.insert("n_predict".into(), json!(longest + 1));
                false
            }
            Prompt::Ids(ids) => {
                body.insert("prompt".into(), json!(ids));
                body.insert("n_predict".into(), json!(longest + 1));
                false
            }
        };
        let fields = json!({
            "grammar": self.grammar(), "temperature": self.temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
            "repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "typical_p": 1.0, "mirostat": 0,
            "dynatemp_range": 0.0, "xtc_probability": 0.0, "dry_multiplier": 0.0, "cache_prompt": false, "seed": number(&self.seed),
        });
        if let Value::Object(fields) = fields {
            body.extend(fields);
        }
        (is_chat, body.into())
    }
}

impl Answered for Choose {
    const NAME: &'static str = "choose";

    fn check(&self, call: &Call) -> Result<(), String> {
        if !call.server.capabilities.can.choice {
            return Err(call.lacks(Lack::Choice));
        }
        if !call.server.capabilities.by_grammar {
            check_temperature(call, self.temperature)?;
        }
        check_prompt(call, &self.prompt)
    }

    async fn answer(&self, call: &Call) -> Result<Choice, Failure> {
        let base = &call.server.base;
        if call.server.kind == Kind::LlamaCpp {
            let (is_chat, body) = self.by_grammar(&call.model);
            let url = if is_chat { base.api("/chat/completions") } else { base.own("/completion") };
            let answer = call.post(&url, &body, 8).await?;
            let text = if is_chat { &answer["choices"][0]["message"]["content"] } else { &answer["content"] };
            let text = text.as_str().ok_or_else(|| call.bad("it has no text"))?;
            let chosen = self.texts.iter().position(|choice| choice == text);
            let chosen = chosen.or_else(|| self.texts.iter().position(|choice| choice.trim() == text.trim()));
            let chosen = chosen.ok_or_else(|| call.bad("its text is none of the texts of the grammar"))?;
            return Ok(Choice { chosen: Some(chosen), ..Choice::default() });
        }
        let prompt_ids = call.tokenize(&self.prompt).await?;
        let mut ids = Vec::with_capacity(self.texts.len());
        for text in &self.texts {
            ids.push(call.continuation(&prompt_ids, text).await?);
        }
        for (index, of_text) in ids.iter().enumerate() {
            let other = (0..ids.len()).find(|&other| other != index && ids[other].starts_with(of_text));
            if let Some(other) = other {
                let (one, other) = (&self.texts[index], &self.texts[other]);
                return Err(call.bad(format!(
                    "the tokens of `{one}` begin those of `{other}`, so that it cannot choose between them; use other texts in \
                     `labels`"
                )));
            }
        }
        let logprobs = call.score(&prompt_ids, &ids, self.temperature).await?;
        Ok(Choice { prompt_ids, ids, logprobs: Some(logprobs), chosen: None })
    }
}
