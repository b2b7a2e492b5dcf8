//! Numbers of transformers, TRL and NLTK that triplay must match. Walks every folder under `TRIPLAY_FIXTURES` (default
//! `tests/fixtures`). A folder with `config.json` is a model. A folder whose `expected.json` has `variants` is a GRPO case, with
//! `preferences` a case of losses on pairs. Prints the checks and their largest deviations.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use triplay::grpo::{
    GrpoConfig, Pair, PairLoss, PreferenceConfig, Reference, Sample, ScaleRewards, StepReport,
    SupervisedConfig, advantages, gradients, preference_gradients, supervised_gradients,
};
use triplay::model::{
    Arguments, Checkpoint, Completions, Compute, FIXED_DAY, Message, Packed, Params, Purpose,
};
use triplay::rollout::{Sampling, sample};
use triplay::store::Seed;

fn folders() -> Vec<PathBuf> {
    let root = std::env::var_os("TRIPLAY_FIXTURES").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    let mut folders: Vec<PathBuf> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn expected(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap()
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The largest relative deviation of gradient norms.
fn gradient_deviation(params: &Params, gradients: &[Tensor], norms: &Value) -> f64 {
    let mut worst = 0f64;
    let mut checked = 0;
    for ((name, _), gradient) in params.iter().zip(gradients) {
        let squares = gradient.sqr().unwrap().sum_all().unwrap().to_dtype(DType::F64).unwrap();
        let norm = squares.to_scalar::<f64>().unwrap().sqrt();
        let Some(expected) = norms[name].as_f64() else { panic!("no expected gradient for {name}") };
        assert!(norm > 0.0 && norm.is_finite(), "{name} has gradient norm {norm}");
        worst = worst.max((norm - expected).abs() / expected);
        checked += 1;
    }
    assert_eq!(checked, norms.as_object().unwrap().len());
    worst
}

fn largest(a: &Tensor, b: &Tensor) -> f32 {
    let differences = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(differences.iter().all(|difference| difference.is_finite()));
    differences.into_iter().fold(0.0, f32::max)
}

fn largest_logit_deviation(
    model: &Checkpoint,
    sequences: &[Vec<u32>],
    numbers: &HashMap<String, Tensor>,
) -> f32 {
    let decoder = model.decoder(Purpose::Scoring).unwrap();
    let packed = Packed::new(sequences);
    let logits = decoder.logits(&decoder.hidden(&packed).unwrap()).unwrap().to_dtype(DType::F32).unwrap();
    let deviation = |row: usize| {
        let range = packed.rows.range(row);
        let mine = logits.narrow(0, range.start, range.len()).unwrap();
        largest(&mine, &numbers[&format!("logits_{row}")])
    };
    (0..sequences.len()).map(deviation).fold(0.0, f32::max)
}

fn check_model(folder: &Path) {
    let (expected, numbers) = (expected(folder), tensors(&folder.join("expected.safetensors")));
    let model = Checkpoint::load(folder, &Compute::default()).unwrap();
    let sequences: Vec<Vec<u32>> = expected["input_ids"].as_array().unwrap().iter().map(ids).collect();
    let texts = expected["chat_texts"].as_array().unwrap();
    for ((chat, text), ids) in expected["messages"].as_array().unwrap().iter().zip(texts).zip(&sequences) {
        let part = |message: &Value, key: &str| message[key].as_str().unwrap().to_owned();
        let turns = chat.as_array().unwrap().iter();
        let turns: Vec<Message> =
            turns.map(|turn| Message::new(part(turn, "role"), part(turn, "content"))).collect();
        let rendered = model.tokenizer.render_chats(&[turns], FIXED_DAY, &Arguments::new()).unwrap().concat();
        assert_eq!(rendered, text.as_str().unwrap());
        assert_eq!(&model.tokenizer.encode(&rendered).unwrap(), ids);
    }
    let logit_deviation = largest_logit_deviation(&model, &sequences, &numbers);
    assert!(logit_deviation < 2e-4, "logits differ by {logit_deviation}");

    let decoder = model.decoder(Purpose::Scoring).unwrap();
    let text = Completions::of_text(&sequences[0]).unwrap();
    let scored = decoder.token_log_probabilities(&text, 1.0).unwrap();
    let logprob_deviation = largest(&scored.tensor().get(0).unwrap(), &numbers["token_logprobs_0"]);
    assert!(logprob_deviation < 2e-4, "log-probabilities differ by {logprob_deviation}");

    let sequence = &sequences[expected["nll_sequence"].as_u64().unwrap() as usize];
    let (example, whole) = ((&sequence[..1], &sequence[1..]), SupervisedConfig::default());
    let (gradients, report) = supervised_gradients(&model, &[example], &whole).unwrap();
    let loss_deviation = (report.loss - expected["nll"].as_f64().unwrap()).abs();
    assert!(loss_deviation < 1e-5, "NLL differs by {loss_deviation}");
    let gradient = gradient_deviation(model.trained(), &gradients, &expected["grad_norms"]);
    assert!(gradient < 1e-3, "gradient norms differ by {gradient}");

    // The compositions that run on other devices, in f64 on this one.
    let wide = Compute { dtype: DType::F64, ..Compute::default() };
    let composed = Checkpoint::load(folder, &wide).unwrap();
    let deviation = largest_logit_deviation(&composed, &sequences, &numbers);
    assert!(deviation < 2e-4, "logits in f64 differ by {deviation}");
    let (gradients, _) = supervised_gradients(&composed, &[example], &whole).unwrap();
    let deviation = gradient_deviation(composed.trained(), &gradients, &expected["grad_norms"]);
    assert!(deviation < 1e-3, "gradient norms in f64 differ by {deviation}");

    let sampling = Sampling {
        temperature: 0.0,
        max_new_tokens: expected["max_new_tokens"].as_u64().unwrap() as usize,
        ..Sampling::default()
    };
    let greedy = |model| sample(model, &sequences, &sampling, Seed::from_u64(0), &mut |_, _| ()).unwrap();
    for (row, completion) in greedy(&model).iter().chain(&greedy(&composed)).enumerate() {
        let row = row % sequences.len();
        let mut mine: Vec<i64> = completion.ids.iter().map(|id| i64::from(*id)).collect();
        mine.resize(sampling.max_new_tokens, i64::from(model.tokenizer.pad));
        assert_eq!(mine, numbers["greedy"].get(row).unwrap().to_vec1::<i64>().unwrap(), "greedy row {row}");
    }
    println!(
        "{}: logits {logit_deviation:.1e}, log-probabilities {logprob_deviation:.1e}, NLL {loss_deviation:.1e}, \
         gradient norms {gradient:.1e} relative, token ids and greedy tokens exact",
        folder.display()
    );
}

/// The part of a TRL configuration that triplay knows, in triplay's names.
fn grpo_config(config: &Value) -> GrpoConfig {
    let mut ours = serde_json::Map::new();
    for (name, value) in config.as_object().unwrap() {
        match name.as_str() {
            "advantages" => {}
            "beta" => drop(ours.insert("kl".into(), value.clone())),
            _ => drop(ours.insert(name.clone(), value.clone())),
        }
    }
    serde_json::from_value(Value::Object(ours)).unwrap()
}

fn check_grpo(folder: &Path) {
    let (expected, inputs) = (expected(folder), tensors(&folder.join("inputs.safetensors")));
    let folder_of_model = folder.with_file_name(expected["model"].as_str().unwrap());
    let model = Checkpoint::load(&folder_of_model, &Compute::default()).unwrap();
    let rows = |name: &str| inputs[name].to_vec2::<i64>().unwrap();
    let (prompts, prompt_mask) = (rows("prompt_ids"), rows("prompt_mask"));
    let (completions, completion_mask) = (rows("completion_ids"), rows("completion_mask"));
    let real = |ids: &[i64], mask: &[i64]| -> Vec<u32> {
        ids.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(id, _)| *id as u32).collect()
    };
    let group_size = expected["group_size"].as_u64().unwrap() as u32;
    let rewards: Vec<f64> = inputs["rewards"].to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
    let groups: Vec<u32> = (0..rewards.len() as u32).map(|row| row / group_size).collect();
    for (kind, scale) in
        [("group", ScaleRewards::Group), ("batch", ScaleRewards::Batch), ("none", ScaleRewards::None)]
    {
        let theirs = inputs[&format!("advantages_{kind}")].to_vec1::<f32>().unwrap();
        for (mine, theirs) in advantages(&rewards, &groups, scale).iter().zip(theirs) {
            assert!(
                (mine - f64::from(theirs)).abs() < 1e-5,
                "advantage scaled by {kind}: {mine} instead of {theirs}"
            );
        }
    }
    let finished = |row: usize| {
        inputs.get("finished").is_none_or(|finished| finished.to_vec1::<i64>().unwrap()[row] == 1)
    };
    for (name, variant) in expected["variants"].as_object().unwrap() {
        let config = grpo_config(&variant["config"]);
        let kind = variant["config"]["advantages"].as_str().unwrap();
        let advantages = inputs[&format!("advantages_{kind}")].to_vec1::<f32>().unwrap();
        let old = inputs[&format!("{name}.old")].to_vec2::<f32>().unwrap();
        let samples: Vec<Sample> = (0..prompts.len())
            .map(|row| {
                let completion = real(&completions[row], &completion_mask[row]);
                Sample {
                    prompt: real(&prompts[row], &prompt_mask[row]),
                    old_logprobs: old[row][..completion.len()].to_vec(),
                    completion,
                    advantage: f64::from(advantages[row]),
                    finished: finished(row),
                }
            })
            .collect();
        let samples: Vec<&Sample> = samples.iter().collect();
        // The reference's log-probabilities are given as numbers, not as a model.
        let reference = inputs[&format!("{name}.ref")].to_vec2::<f32>().unwrap();
        let reference: Vec<Vec<f32>> = samples
            .iter()
            .zip(reference)
            .map(|(sample, row)| row[..sample.completion.len()].to_vec())
            .collect();
        let reference = Reference::Logprobs(reference);
        let mut worst = (0f64, 0f64);
        for micro_batch in [256, 3] {
            let gradient_checkpointing = micro_batch == 3;
            let config = GrpoConfig { micro_batch, gradient_checkpointing, ..config.clone() };
            let (gradients, report) = gradients(&model, &reference, &samples, &config).unwrap();
            let loss = (report.loss - variant["loss"].as_f64().unwrap()).abs();
            assert!(loss < 1e-5, "{name}: loss {} instead of {}", report.loss, variant["loss"]);
            let gradient = gradient_deviation(model.trained(), &gradients, &variant["grad_norms"]);
            assert!(gradient < 1e-3, "{name}: gradient norms differ by {gradient}");
            worst = (worst.0.max(loss), worst.1.max(gradient));
        }
        println!(
            "{}, {name}: loss {:.1e}, gradient norms {:.1e} relative",
            folder.display(),
            worst.0,
            worst.1
        );
    }
}

fn check_preferences(folder: &Path) {
    let (expected, small) = (expected(folder), tensors(&folder.join("gradients.safetensors")));
    let model = |name: &str, compute: &Compute| {
        Checkpoint::load(&folder.with_file_name(expected[name].as_str().unwrap()), compute).unwrap()
    };
    let pair = |pair: &Value| Pair {
        prompt: ids(&pair["prompt"]),
        chosen: ids(&pair["chosen"]),
        rejected: ids(&pair["rejected"]),
    };
    let pairs: Vec<Pair> = expected["pairs"].as_array().unwrap().iter().map(pair).collect();
    let wide = Compute { dtype: DType::F64, ..Compute::default() };
    for (name, variant) in expected["preferences"].as_object().unwrap() {
        let (algorithm, config) = variant["algorithm"].as_object().unwrap().iter().next().unwrap();
        let loss = if algorithm == "ipo" { PairLoss::Ipo } else { PairLoss::Dpo };
        let config: PreferenceConfig = serde_json::from_value(config.clone()).unwrap();
        let mut worst = (0f64, 0f64);
        for (micro_batch, compute) in [(256, &Compute::default()), (2, &Compute::default()), (256, &wide)] {
            let (policy, reference) = (model("model", compute), model("reference", compute));
            let gradient_checkpointing = micro_batch == 2;
            let config = PreferenceConfig { micro_batch, gradient_checkpointing, ..config.clone() };
            let reference = Reference::of_pairs(&reference, &pairs, &config).unwrap();
            let (gradients, report) =
                preference_gradients(&policy, &reference, &pairs, loss, &config).unwrap();
            worst.0 = worst.0.max(report_deviation(name, &report, variant));
            let gradient = gradient_deviation(policy.trained(), &gradients, &variant["grad_norms"]);
            assert!(gradient < 1e-3, "{name}: gradient norms differ by {gradient}");
            worst.1 = worst.1.max(gradient);
            // Norms have no sign.
            for ((parameter, _), mine) in policy.trained().iter().zip(&gradients) {
                let Some(theirs) = small.get(&format!("{name}.{parameter}")) else { continue };
                let difference = largest(&mine.to_dtype(DType::F32).unwrap(), theirs);
                let scale = theirs.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(difference < 1e-3 * scale, "{name}: {parameter} differs by {difference} of {scale}");
            }
        }
        println!(
            "{}, {name}: loss and rewards {:.1e}, gradient norms {:.1e} relative",
            folder.display(),
            worst.0,
            worst.1
        );
    }
    assert!(small.keys().any(|name| name.starts_with("ipo.")));
}

/// The largest deviation of the metrics of a step on pairs.
fn report_deviation(name: &str, report: &StepReport, expected: &Value) -> f64 {
    let pairs = report.pairs.unwrap();
    let measures = [
        ("loss", report.loss),
        ("entropy", report.entropy),
        ("chosen_reward", pairs.chosen_reward),
        ("rejected_reward", pairs.rejected_reward),
        ("accuracy", pairs.accuracy),
        ("margin", pairs.margin),
    ];
    let mut worst = 0f64;
    for (measure, mine) in measures {
        // TRL reports the entropy only per batch.
        let Some(theirs) = expected[measure].as_f64() else {
            assert_eq!(measure, "entropy");
            continue;
        };
        let deviation = (mine - theirs).abs() / theirs.abs().max(1.0);
        assert!(deviation < 1e-5, "{name}: {measure} {mine} instead of {theirs}");
        worst = worst.max(deviation);
    }
    worst
}

#[test]
fn numbers_match_transformers_and_trl() {
    let mut checked = Vec::new();
    for folder in folders() {
        if folder.join("config.json").exists() {
            check_model(&folder);
        } else if folder.join("expected.json").exists() && expected(&folder).get("variants").is_some() {
            check_grpo(&folder);
        } else if folder.join("expected.json").exists() && expected(&folder).get("preferences").is_some() {
            check_preferences(&folder);
        } else {
            continue;
        }
        checked.push(folder.file_name().unwrap().to_str().unwrap().to_owned());
    }
    let own =
        ["dpo", "grpo", "grpo-more", "llama-tiny", "llama3-tiny", "lora-tiny", "qwen2-tiny", "qwen3-tiny"];
    let asked = std::env::var_os("TRIPLAY_FIXTURES").is_some();
    assert!(if asked { !checked.is_empty() } else { checked == own }, "checked {checked:?}");
}
