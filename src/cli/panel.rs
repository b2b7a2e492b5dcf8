//! `triplay results panel`: evaluates the final models of a run's ablations against the same opponents. Like `triplay judge` it
//! runs a pipeline of its own, so its results are cached, kept and shown like those of any other pipeline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

use super::args::RunCacheArgs;
use super::league::{LeagueDisplay, show};
use super::{judge, pipeline};
use crate::analysis::{self, Panel};
use crate::runs::{PANEL, PANEL_FILE, PANEL_MARK, Run};
use crate::store::{Digest, Store};
use output::{Destination, begins_with, eprintln, println, several};

/// The name of the pipeline's only stage.
const STAGE: &str = "panel";

/// The random seed of the stage, fixed so that the same models always give the same results.
const SEED: u64 = 77;

/// The arguments of `results panel`.
#[derive(Args)]
pub(crate) struct PanelArgs {
    /// The run with the ablations
    #[arg(default_value = "latest")]
    run: String,
    /// The number of attacks by each attacker on each held-out hazard
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    group: u32,
    /// Judge with this model instead of the world's oracle: its folder or file, or RUN:NODE
    #[arg(long, value_name = "MODEL")]
    with: Option<String>,
    /// Print Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: RunCacheArgs,
}

pub(crate) fn command(args: &PanelArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let run = Run::find(&args.run)?;
    anyhow::ensure!(
        run.ablation.is_none(),
        "RUN must be a whole run, not one of its ablations or seeds, found {}",
        args.run
    );
    let gone = || {
        format!(
            "the cache {} of run {} is gone, and with it the models",
            run.record.cache.display(),
            run.title()
        )
    };
    let store = run.record.store()?.with_context(gone)?;
    let (panels, notes) = analysis::panel(&run, &store)?;
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    if run.record.status != "done" {
        eprintln!(
            "note: run {} is {}: the panel has the models that it made so far",
            run.title(),
            run.record.status
        );
    }
    let judge = args.with.as_deref().map(judge::model).transpose()?;
    let file = write(&run, &store, &panels, args.group, judge.as_deref())?;
    let mut arguments = judge::arguments(file, &run);
    if !is_plain(&panels) {
        arguments.pipeline.ablations.push("all".into());
    }
    let (code, folder) = pipeline::execute(&arguments, true)?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    let path = Run::read(&folder)?.recorded("metrics.parquet")?;
    let rows = analysis::read(&path.context("the run of the panel did not finish")?)?;
    let leagues = analysis::leagues(rows.iter().map(|row| (0, row)));
    let more = json!({ "run": run.title(), "with": args.with, "panel": folder });
    let (markdown, json) = (args.markdown, args.json);
    if !markdown && !json {
        let most = |of: fn(&Panel) -> usize| panels.iter().map(of).max().unwrap_or(0);
        println!(
            "{} played {} of {}, {}",
            several(most(|panel| panel.attackers.len()), "attacker"),
            several(most(|panel| panel.defenders.len()), "defender"),
            run.title(),
            match &args.with {
                None => "the world's oracle judged".to_owned(),
                Some(judge) => format!("{judge} judged"),
            }
        );
        println!("panel: {}", folder.display());
    }
    show(&leagues, LeagueDisplay { markdown, json, more })
}

/// Whether the run has a single seed, so that names of nodes contain none.
fn is_plain(panels: &[Panel]) -> bool {
    panels.iter().all(|panel| panel.seed.is_none())
}

/// Writes the pipeline of the panel into the run's folder. It has one stage and, if the run has several seeds, one variant for
/// each seed, named as in a run: models play only models of their own seed.
fn write(
    run: &Run,
    store: &Store,
    panels: &[Panel],
    group: u32,
    judge: Option<&Path>,
) -> anyhow::Result<PathBuf> {
    let mut stage = json!({
        "kind": "cross_play",
        "attackers": "$attackers",
        "defenders": "$defenders",
        "seeds": "$hazards",
        "sampling": "$sampling",
        "group": group,
        "seed": SEED,
    });
    match judge {
        None => stage["world"] = json!("$world"),
        Some(judge) => stage["judge"] = json!({ "path": judge }),
    }
    let params = |panel: &Panel| params(store, panel, judge.is_none());
    let mut pipeline = Map::new();
    pipeline.insert("pipeline".into(), json!(format!("{}{PANEL}", run.record.pipeline)));
    judge::copy_compute_settings(run, &mut pipeline)?;
    pipeline.insert("stages".into(), json!({ STAGE: stage }));
    // Every seed has the same parameter names, so that its ablation can replace the declared values.
    let declared = panels.first().map(params).transpose()?;
    pipeline.insert("params".into(), Value::Object(declared.unwrap_or_default()));
    if !is_plain(panels) {
        let variants = panels.iter().map(|panel| {
            let name = panel.seed.map_or_else(|| "own".to_owned(), |seed| format!("s{seed}"));
            Ok((name, Value::Object(params(panel)?)))
        });
        let variants: anyhow::Result<Map<String, Value>> = variants.collect();
        pipeline.insert("ablations".into(), Value::Object(variants?));
    }
    let path = run.folder.join(PANEL_FILE);
    // JSON is YAML.
    let text = format!(
        "{PANEL_MARK}: the final models of each ablation of run {}, against all of them.\n{}\n",
        run.record.run,
        serde_json::to_string_pretty(&Value::Object(pipeline))?
    );
    let is_own = |path: &Path| begins_with(path, PANEL_MARK.as_bytes());
    Destination::new(&path, "pipeline of `triplay results panel`", is_own)?.write_bytes(text.as_bytes())?;
    Ok(path)
}

/// The models and data of one seed's panel, as parameters of the pipeline.
fn params(store: &Store, panel: &Panel, by_oracle: bool) -> anyhow::Result<Map<String, Value>> {
    let place = |digest: &Digest| -> anyhow::Result<Value> {
        let path = store.blob_path(digest);
        anyhow::ensure!(
            path.exists(),
            "the panel needs {}, which is no longer in the cache; run the pipeline again to make it",
            digest.short()
        );
        Ok(json!({ "path": path }))
    };
    let models = |models: &BTreeMap<String, Digest>| -> anyhow::Result<Value> {
        let each = models.iter().map(|(name, digest)| Ok((name.clone(), place(digest)?)));
        Ok(Value::Object(each.collect::<anyhow::Result<Map<String, Value>>>()?))
    };
    let mut params = Map::new();
    params.insert("attackers".into(), models(&panel.attackers)?);
    params.insert("defenders".into(), models(&panel.defenders)?);
    params.insert("hazards".into(), place(&panel.seeds)?);
    params.insert("sampling".into(), panel.sampling.clone());
    if by_oracle {
        params.insert("world".into(), place(&panel.world)?);
    }
    Ok(params)
}
