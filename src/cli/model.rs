//! `triplay model`: scores and generates text with a checkpoint, and merges its adapter.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use candle_core::{DType, Device};
use clap::{ArgGroup, Args, Subcommand};
use output::{NewFolder, one_line, print};
use serde_json::json;

use super::fetch::{self, FetchArgs};
use crate::model::{Arguments, Checkpoint, Completions, Compute, Error, Message, Purpose};
use crate::rollout::{self, Sampling, TEMPERATURES};
use crate::store::Seed;
use crate::store::read::{self, MAX_TEXT_BYTES};

#[derive(Subcommand)]
pub(crate) enum ModelCommand {
    /// Print the log-probability of each token of a text
    Score(ScoreArgs),
    /// Continue a prompt, or answer it with --chat
    Generate(GenerateArgs),
    /// Download a model from the Hugging Face hub, or the one of HF_ENDPOINT
    Fetch(FetchArgs),
    /// Write a model with its LoRA adapter merged into its weights, in f32
    Merge(MergeArgs),
}

/// The model, and the device and number type that compute it.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// A Hugging Face folder, a folder with a LoRA adapter, or a GGUF file
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto")]
    device: String,
    /// f32, bf16 (on a GPU) or f64; f32-dequantized and so on unpack the weights of a GGUF file
    #[arg(long, default_value = "f32")]
    dtype: String,
}

impl ModelArgs {
    fn load(&self) -> anyhow::Result<Checkpoint> {
        let compute = Compute::parse(&self.device, &self.dtype).map_err(anyhow::Error::msg)?;
        Ok(Checkpoint::load(&self.model, &compute)?)
    }
}

#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true)))]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to score
    #[arg(long, group = "what")]
    text: Option<String>,
    /// Token ids to score, such as 1,87,85
    #[arg(long, group = "what", value_delimiter = ',', value_name = "ID,ID,…")]
    ids: Option<Vec<u32>>,
    /// A file with the text to score
    #[arg(long, group = "what", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The temperature of the log-probabilities
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue; with --chat, the user's message
    #[arg(long)]
    prompt: String,
    /// Apply the model's chat template
    #[arg(long)]
    chat: bool,
    /// With --chat: the system's message
    #[arg(long, requires = "chat", value_name = "TEXT")]
    system: Option<String>,
    /// Always take the most probable token
    #[arg(long)]
    greedy: bool,
    /// The temperature of the sampling
    #[arg(long, default_value_t = 1.0, conflicts_with = "greedy", allow_negative_numbers = true)]
    temperature: f64,
    /// Sample from the N most probable tokens; 0: from all tokens
    #[arg(long, default_value_t = 0, value_name = "N")]
    top_k: usize,
    /// Sample from the most probable tokens that together reach this probability
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f64,
    /// Sample from tokens with at least this fraction of the highest probability
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    min_p: f64,
    /// The most tokens to generate
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_new_tokens: usize,
    /// Stop at this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// The random seed of the sampling
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct MergeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn command(command: &ModelCommand) -> anyhow::Result<ExitCode> {
    match command {
        ModelCommand::Score(args) => print(&score(args)?)?,
        ModelCommand::Generate(args) => print(&generate(args)?)?,
        ModelCommand::Fetch(args) => fetch::fetch(args)?,
        ModelCommand::Merge(args) => {
            let out = NewFolder::new(&args.out)?;
            let model = args.model.load()?;
            ensure!(
                model.adapter.is_some(),
                "{} must have an adapter to merge, found none",
                args.model.model.display()
            );
            out.make(|folder| Ok(model.save(folder)?))?;
            print(&format!("{}\n", args.out.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Scores a text and returns the table, or the JSON object, to print.
fn score(args: &ScoreArgs) -> anyhow::Result<String> {
    ensure!(
        TEMPERATURES.contains(&args.temperature),
        "`--temperature` must be between 0.000001 and 1000000, found {}",
        args.temperature
    );
    let model = args.model.load()?;
    let tokenizer = &model.tokenizer;
    let ids = match (&args.text, &args.ids, &args.file) {
        (_, Some(ids), _) => ids.clone(),
        (Some(text), ..) => tokenizer.encode_plain(text)?,
        (.., Some(file)) => {
            // Unchanged, line breaks included: every byte is scored.
            let text = read::bytes(file, MAX_TEXT_BYTES).map(String::from_utf8);
            let text = text.with_context(|| format!("cannot read {}", file.display()))?;
            tokenizer.encode_plain(&text.with_context(|| format!("{} is not UTF-8 text", file.display()))?)?
        }
        (None, None, None) => Vec::new(),
    };
    ensure!(
        ids.len() > 1,
        "the text must have at least 2 tokens, found {}; the first is not scored",
        ids.len()
    );
    let decoder = model.decoder(Purpose::Scoring)?;
    let scored = decoder.token_log_probabilities(&Completions::of_text(&ids)?, args.temperature)?;
    let scored = scored.tensor().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let (logprobs, entropies) = (&scored[0], &scored[1]);
    ensure!(logprobs.iter().all(|x| x.is_finite()), Error::Broken);
    let nll = -logprobs.iter().sum::<f64>() / logprobs.len() as f64;
    let token = |id: u32| tokenizer.token(id).unwrap_or_default();
    if args.json {
        let rows: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(at, &id)| {
                let of = |values: &[f64]| at.checked_sub(1).map(|before| values[before]);
                json!({ "id": id, "token": token(id), "logprob": of(logprobs), "entropy": of(entropies) })
            })
            .collect();
        return Ok(format!("{}\n", json!({ "tokens": rows, "nll": nll, "perplexity": nll.exp() })));
    }
    let mut table = format!("{:>5} {:>8} {:>9} {:>8}  token\n", "at", "id", "logprob", "entropy");
    for (at, &id) in ids.iter().enumerate() {
        let token = token(id);
        let token = one_line(&token);
        table += &match at.checked_sub(1) {
            None => format!("{at:>5} {id:>8} {:>9} {:>8}  {token}\n", "", ""),
            Some(before) => {
                format!("{at:>5} {id:>8} {:>9.4} {:>8.4}  {token}\n", logprobs[before], entropies[before])
            }
        };
    }
    table += &format!("{} tokens scored, NLL {nll:.4}, perplexity {:.3}\n", logprobs.len(), nll.exp());
    Ok(table)
}

/// Samples a completion and returns the text, or the JSON object, to print.
fn generate(args: &GenerateArgs) -> anyhow::Result<String> {
    let sampling = Sampling {
        temperature: if args.greedy { 0.0 } else { args.temperature },
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        max_new_tokens: args.max_new_tokens,
        stop: args.stop.clone(),
    };
    sampling.check().map_err(anyhow::Error::msg)?;
    let model = args.model.load()?;
    let tokenizer = &model.tokenizer;
    let prompt = if args.chat {
        let marks = &tokenizer.marks;
        let system = args.system.iter().map(|text| Message::new("system", marks.guard(text)));
        let turns: Vec<Message> = system.chain([Message::new("user", marks.guard(&args.prompt))]).collect();
        let text = tokenizer.render_chats(&[turns], jiff::Zoned::now().date(), &Arguments::new())?;
        tokenizer.encode_filled(&[marks.read(&text.concat())])?.concat()
    } else {
        tokenizer.encode_plain(&args.prompt)?
    };
    ensure!(!prompt.is_empty(), "the prompt must have at least one token, found none");
    let room = model.config.positions.saturating_sub(prompt.len());
    ensure!(
        room > 0,
        "the prompt must be shorter than the model's {} positions, found {} tokens",
        model.config.positions,
        prompt.len()
    );
    let sampling = Sampling { max_new_tokens: sampling.max_new_tokens.min(room), ..sampling };
    let seed = Seed::from_u64(args.seed);
    let completions =
        rollout::sample(&model, std::slice::from_ref(&prompt), &sampling, seed, &mut |_, _| ())?;
    let completion = completions.into_iter().next().context("no completion")?;
    if args.json {
        let json = json!({
            "text": completion.text,
            "finished": completion.finished,
            "prompt_ids": prompt,
            "ids": completion.ids,
            "logprobs": completion.logprobs,
        });
        return Ok(format!("{json}\n"));
    }
    Ok(format!("{}\n", completion.text))
}
