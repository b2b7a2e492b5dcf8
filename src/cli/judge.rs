//! `triplay judge`: judges the responses of a run again with another judge. It runs a pipeline of its own, so its verdicts
//! are cached, kept and shown like those of any other pipeline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::args::{RunArgs, RunCacheArgs};
use super::pipeline;
use super::registry::registry;
use crate::analysis::{self, Judged};
use crate::data::{self, VerdictRow};
use crate::engine::read_stage;
use crate::runs::{JUDGE_FILE, JUDGE_MARK, JUDGED, Run};
use crate::store::Store;
use crate::store::read::{self, MAX_TEXT_BYTES};
use output::{Destination, begins_with, println, several};

#[derive(Args)]
pub(crate) struct JudgeArgs {
    /// The run whose responses are judged
    #[arg(default_value = "latest")]
    run: String,
    /// The judge: a model's folder or file, RUN:NODE for a model that a run made, or a .yaml file with the keys of a
    /// `judge` or `exec` stage
    #[arg(long, value_name = "MODEL|STAGE.yaml")]
    with: String,
    /// Judge the responses of nodes whose names begin with this; may be repeated [default: the evaluations]
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: RunCacheArgs,
}

pub(crate) fn command(args: &JudgeArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let run = Run::find(&args.run)?;
    let gone = || {
        format!(
            "the cache {} of run {} is gone, and with it the responses",
            run.record.cache.display(),
            run.title()
        )
    };
    let store = run.record.store()?.with_context(gone)?;
    let mut judged = analysis::judged(&run, &store, &args.nodes)?;
    let stage = stage(&args.with)?;
    let names = stage_names(&judged);
    let file = write(&run, &store, &judged, &names, &stage)?;
    let (code, folder) = pipeline::execute(&arguments(file, &run), true)?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    let verdicts = verdicts(&folder, &names)?;
    for (one, name) in judged.iter_mut().zip(&names) {
        one.add(verdicts.get(name.as_str()).map_or(&[], Vec::as_slice));
    }
    let agreement = analysis::agreement(&judged);
    if args.json {
        println!(
            "{}",
            json!({ "run": run.title(), "with": args.with, "verdicts": folder, "agreement": agreement })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} of {} judged again with {}",
        several(agreement.responses, "response"),
        run.title(),
        args.with
    );
    println!("verdicts: {}\n", folder.display());
    output::print(&agreement.text())?;
    Ok(ExitCode::SUCCESS)
}

/// The judging stage, without the responses as its input.
fn stage(with: &str) -> anyhow::Result<Map<String, Value>> {
    let path = Path::new(with);
    if !matches!(path.extension().and_then(|text| text.to_str()), Some("yaml" | "yml")) {
        let stage = json!({ "kind": "judge", "model": { "path": model(with)? } });
        return Ok(stage.as_object().cloned().unwrap_or_default());
    }
    let text = read::text(path, MAX_TEXT_BYTES).with_context(|| format!("cannot read {with}"))?;
    let stage = read_stage(&text, &registry()).map_err(|error| anyhow::anyhow!("{with}: {error}"))?;
    let Value::Object(mut stage) = stage else {
        bail!("{with} must hold the keys of a stage, such as `kind: judge` and `model: {{ path: FOLDER }}`")
    };
    let kind = stage.entry("kind").or_insert_with(|| json!("judge")).clone();
    match kind.as_str() {
        Some("judge") if stage.contains_key("data") => {
            bail!("{with}: `data` must be left out: triplay sets it to the responses of the run")
        }
        Some("judge" | "exec") => Ok(stage),
        _ => bail!("{with}: `kind` must be `judge` or `exec`, found {kind}"),
    }
}

/// The path of a model: `with` is a path, or `RUN:NODE`, the output of a run's node.
pub(crate) fn model(with: &str) -> anyhow::Result<PathBuf> {
    if Path::new(with).exists() {
        return Ok(with.into());
    }
    let Some((run, node)) = with.split_once(':') else {
        bail!(
            "there is no model {with}; write the path of a folder or file, RUN:NODE, or a .yaml file with a stage"
        )
    };
    let run = Run::find(run)?;
    let (output, path) = run.output(node)?;
    anyhow::ensure!(output.artifact == "model", "`{node}` must be a model, found {}", output.artifact);
    anyhow::ensure!(
        path.exists() || !output.passing,
        "the model of `{node}` was evicted: its loop keeps only the last of these; with `keep: all` in the loop, the next run of the \
         pipeline makes all of them again and keeps them"
    );
    anyhow::ensure!(
        path.exists(),
        "the model of `{node}` is no longer in the cache; run the pipeline again to make it"
    );
    Ok(path)
}

/// A unique stage name for each node.
fn stage_names(judged: &[Judged]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for one in judged {
        let name = stage_name(&one.node);
        let taken = names.iter().filter(|known| known.split("--").next() == Some(&name)).count();
        names.push(if taken == 0 { name } else { format!("{name}--{taken}") });
    }
    names
}

fn stage_name(node: &str) -> String {
    let plain: String =
        node.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let mut name = String::from("of");
    plain.split('-').filter(|part| !part.is_empty()).for_each(|part| name = format!("{name}-{part}"));
    name
}

/// Writes the pipeline of the judge into the run's folder.
fn write(
    run: &Run,
    store: &Store,
    judged: &[Judged],
    names: &[String],
    stage: &Map<String, Value>,
) -> anyhow::Result<PathBuf> {
    let mut stages = Map::new();
    for (one, name) in judged.iter().zip(names) {
        let responses = json!({ "path": store.blob_path(&one.digest) });
        let mut stage = stage.clone();
        if stage["kind"] == "exec" {
            let inputs = stage.entry("inputs").or_insert_with(|| json!({}));
            inputs
                .as_object_mut()
                .context("`inputs` must be a map")?
                .insert("responses.parquet".into(), responses);
        } else {
            stage.insert("data".into(), responses);
        }
        stages.insert(name.clone(), Value::Object(stage));
    }
    let mut pipeline = Map::new();
    pipeline.insert("pipeline".into(), json!(format!("{}{JUDGED}", run.record.pipeline)));
    copy_compute_settings(run, &mut pipeline)?;
    pipeline.insert("stages".into(), Value::Object(stages));
    let path = run.folder.join(JUDGE_FILE);
    // JSON is YAML.
    let text = format!(
        "{JUDGE_MARK}: another judge on the responses of run {}.\n{}\n",
        run.record.run,
        serde_json::to_string_pretty(&Value::Object(pipeline))?
    );
    let is_own = |path: &Path| begins_with(path, JUDGE_MARK.as_bytes());
    Destination::new(&path, "pipeline of `triplay judge`", is_own)?.write_bytes(text.as_bytes())?;
    Ok(path)
}

/// Copies seed, device and dtype of the run: with them the same models give the same answers.
pub(crate) fn copy_compute_settings(run: &Run, pipeline: &mut Map<String, Value>) -> anyhow::Result<()> {
    // A pipeline that extends another inherits keys from it.
    for file in ["extends.yaml", "pipeline.yaml"] {
        let text = run.recorded_text(file)?.unwrap_or_default();
        let original: Value = serde_saphyr::from_str(&text).unwrap_or_default();
        for key in ["seed", "device", "dtype"] {
            original.get(key).map(|value| pipeline.insert(key.into(), value.clone()));
        }
    }
    Ok(())
}

/// Arguments that run `file`, a pipeline that was made from this run.
pub(crate) fn arguments(file: PathBuf, run: &Run) -> RunArgs {
    RunArgs::of(file, run.record.cache.clone())
}

/// The verdicts of each stage.
fn verdicts(folder: &Path, names: &[String]) -> anyhow::Result<BTreeMap<String, Vec<VerdictRow>>> {
    let run = Run::read(folder)?;
    let mut verdicts = BTreeMap::new();
    for name in names {
        let node = run
            .nodes
            .iter()
            .find(|node| node.node == *name)
            .context("the run of the judge did not finish")?;
        let output = node.outputs.iter().find(|output| output.artifact == "verdicts");
        let output = output.with_context(|| {
            format!("the stage of kind `{}` must have an output of type `verdicts`; write `outputs: {{ verdicts: {{ type: verdicts, path: FILE }} }}`", node.kind)
        })?;
        let (_, path) = run.output(&format!("{name}.{}", output.name))?;
        verdicts.insert(name.clone(), data::read(&path)?);
    }
    Ok(verdicts)
}
