//! Log-probabilities of given tokens.

use serde_json::{Value, json};

use super::call::{Call, Failure};
use super::config::Kind;
use super::kind::LogprobsMode;
use super::question::Score;
use super::question::sealed::Answered;
use super::trouble::Lack;

/// What the server cannot do about a temperature: most have log-probabilities at 1 only.
pub(crate) fn check_temperature(call: &Call, temperature: f64) -> Result<(), String> {
    // Those of given tokens are raw in vLLM in both modes.
    let is_raw = call.server.kind != Kind::Triplay
        || call.server.capabilities.logprobs_mode == Some(LogprobsMode::Raw);
    if !is_raw || temperature == 0.0 || temperature == 1.0 {
        return Ok(());
    }
    Err(format!(
        "`temperature` must be 0 or 1 where {} scores texts, found {temperature}\n  help: its log-probabilities of given tokens are \
         those at 1; triplay serve has them at any temperature",
        call.server.kind.name()
    ))
}

impl Call {
    /// The log-probability of each token of each completion of a prompt.
    pub(crate) async fn score(
        &self,
        prompt: &[u32],
        completions: &[Vec<u32>],
        temperature: f64,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let rows: Vec<Vec<u32>> = completions.iter().map(|ids| [prompt, ids].concat()).collect();
        let numbers = match self.server.kind {
            Kind::Sglang => self.score_by_generate(prompt, &rows).await?,
            Kind::Vllm => {
                // One at a time: two prompts with log-probabilities in a batch end vLLM 0.32 on CPUs if adapters are enabled.
                let mut numbers = Vec::with_capacity(rows.len());
                for row in rows.chunks(1) {
                    numbers.extend(self.score_by_completions(row, temperature).await?);
                }
                numbers
            }
            _ => self.score_by_completions(&rows, temperature).await?,
        };
        if numbers.len() != completions.len() {
            let found = numbers.len();
            return Err(self.bad(format!("it has {found} rows for {} prompts", completions.len())));
        }
        // What is before the completion belongs to the prompt.
        let of = |(numbers, ids): (Vec<Value>, &Vec<u32>)| match numbers.len().checked_sub(ids.len()) {
            Some(before) => self.numbers(numbers[before..].iter(), "prompt_logprobs"),
            None => Err(self.bad("it has fewer log-probabilities than tokens")),
        };
        numbers.into_iter().zip(completions).map(of).collect()
    }

    async fn score_by_completions(
        &self,
        rows: &[Vec<u32>],
        temperature: f64,
    ) -> Result<Vec<Vec<Value>>, Failure> {
        let body = match self.server.kind {
            Kind::Triplay => json!({
                "model": &*self.model, "prompt": rows, "max_tokens": 0, "temperature": temperature, "seed": 0,
                "prompt_logprobs": 0, "logprobs_mode": "processed_logprobs",
            }),
            _ => json!({
                "model": &*self.model, "prompt": rows, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
                "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "seed": 0,
                "prompt_logprobs": 0,
            }),
        };
        let answer = self.post(&self.server.base.api("/completions"), &body, rows.len()).await?;
        let mut choices: Vec<&Value> =
            answer["choices"].as_array().map(|all| all.iter().collect()).unwrap_or_default();
        choices.sort_by_key(|choice| choice["index"].as_u64());
        let of = |(choice, ids): (&Value, &Vec<u32>)| {
            let tokens = choice["prompt_logprobs"].as_array().filter(|tokens| tokens.len() == ids.len());
            let tokens =
                tokens.ok_or_else(|| self.bad("it has no log-probability for each token of the prompt"))?;
            let of_token = |(token, id): (&Value, &u32)| token[id.to_string()]["logprob"].clone();
            Ok(tokens.iter().zip(ids).map(of_token).collect())
        };
        if choices.len() != rows.len() {
            return Err(self.bad(format!("it has {} choices for {} prompts", choices.len(), rows.len())));
        }
        choices.into_iter().zip(rows).map(of).collect()
    }

    async fn score_by_generate(&self, prompt: &[u32], rows: &[Vec<u32>]) -> Result<Vec<Vec<Value>>, Failure> {
        let mut body = json!({
            "input_ids": rows, "sampling_params": { "max_new_tokens": 1, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0 },
            "return_logprob": true, "logprob_start_len": prompt.len().saturating_sub(1),
        });
        if self.adapter.is_some() {
            body["lora_path"] = json!(&*self.model);
        }
        let answer = self.post(&self.server.base.own("/generate"), &body, rows.len()).await?;
        let found = answer.as_array().ok_or_else(|| self.bad("it must be a list"))?;
        if found.len() != rows.len() {
            return Err(self.bad(format!("it has {} rows for {} prompts", found.len(), rows.len())));
        }
        let of = |(found, row): (&Value, &Vec<u32>)| {
            let tokens = found["meta_info"]["input_token_logprobs"].as_array();
            let tokens = tokens.ok_or_else(|| self.bad("it has no `input_token_logprobs`"))?;
            let ids = &row[prompt.len()..];
            let before = tokens.len().checked_sub(ids.len());
            let tokens =
                &tokens[before.ok_or_else(|| self.bad("it has fewer log-probabilities than tokens"))?..];
            if tokens.iter().zip(ids).any(|(token, id)| token[1] != *id) {
                return Err(self.bad("its log-probabilities are of other tokens than those that were asked"));
            }
            Ok(tokens.iter().map(|token| token[0].clone()).collect())
        };
        found.iter().zip(rows).map(of).collect()
    }
}

impl Answered for Score {
    const NAME: &'static str = "score";

    fn check(&self, call: &Call) -> Result<(), String> {
        if !call.server.capabilities.can.score {
            return Err(call.lacks(Lack::Score));
        }
        check_temperature(call, self.temperature)
    }

    async fn answer(&self, call: &Call) -> Result<Vec<f32>, Failure> {
        if self.completion.is_empty() {
            return Ok(Vec::new());
        }
        let scored =
            call.score(&self.prompt, std::slice::from_ref(&self.completion), self.temperature).await?;
        Ok(scored.into_iter().next().unwrap_or_default())
    }
}
