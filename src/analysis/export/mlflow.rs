//! Runs in the layout of MLflow's file store, for `mlflow ui --backend-store-uri DIR`: an experiment for each pipeline, and a run
//! for each variant of a run, with parameters, the history of metrics, and tags.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::scalars::{Scalar, scalars};
use super::{Source, create};
use store::Digest;

/// Writes below `folder`, which is moved to `place` afterwards.
pub(crate) fn write(sources: &[Source], folder: &Path, place: &Path) -> anyhow::Result<()> {
    for source in sources {
        let record = &source.run.record;
        let experiment = experiment(folder, place, source)?;
        let mut curves = scalars(source)?;
        for (variant, params) in &record.params {
            let curves = curves.remove(variant).unwrap_or_default();
            run(&folder.join(&experiment), &place.join(&experiment), source, variant, params, &curves)?;
        }
    }
    Ok(())
}

/// Creates the experiment of a run's pipeline, if it is missing, and returns its number.
fn experiment(folder: &Path, place: &Path, source: &Source) -> anyhow::Result<String> {
    let record = &source.run.record;
    // MLflow's experiments have numbers; this one is a hash of the name, so that two exports agree.
    let digest = Digest::of_bytes(record.pipeline.as_bytes()).to_string();
    let number = u64::from_str_radix(&digest[..14], 16).unwrap_or(1) + 1;
    let id = number.to_string();
    let path = folder.join(&id).join("meta.yaml");
    if !path.exists() {
        let time = began(source);
        let meta = yaml(&[
            ("artifact_location", address(&place.join(&id)).into()),
            ("creation_time", time.into()),
            ("experiment_id", id.as_str().into()),
            ("last_update_time", time.into()),
            ("lifecycle_stage", "active".into()),
            ("name", record.pipeline.as_str().into()),
        ]);
        create(&path, meta.as_bytes())?;
    }
    Ok(id)
}

fn run(
    folder: &Path,
    place: &Path,
    source: &Source,
    variant: &str,
    params: &Value,
    curves: &[Scalar],
) -> anyhow::Result<()> {
    let record = &source.run.record;
    let title = if variant.is_empty() { record.run.clone() } else { format!("{}@{variant}", record.run) };
    let id = Digest::of_bytes(format!("{}/{title}", record.pipeline).as_bytes()).to_string()[..32].to_owned();
    let own = folder.join(&id);
    let experiment = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let start = began(source);
    // MLflow's codes: 1 running, 3 finished, 4 failed, 5 killed.
    let status = match record.status.as_str() {
        "done" => 3,
        "running" => 1,
        "failed" => 4,
        _ => 5,
    };
    let end = if status == 1 { Value::Null } else { (start + (record.seconds * 1e3) as i64).into() };
    let meta = yaml(&[
        ("artifact_uri", address(&place.join(&id).join("artifacts")).into()),
        ("end_time", end),
        ("entry_point_name", "".into()),
        ("experiment_id", experiment.into()),
        ("lifecycle_stage", "active".into()),
        ("run_id", id.as_str().into()),
        ("run_name", title.as_str().into()),
        ("run_uuid", id.as_str().into()),
        ("source_name", "".into()),
        ("source_type", 4.into()),
        ("source_version", "".into()),
        ("start_time", start.into()),
        ("status", status.into()),
        ("tags", Value::Array(Vec::new())),
        ("user_id", "".into()),
    ]);
    create(&own.join("meta.yaml"), meta.as_bytes())?;
    // Without these MLflow does not recognise the folder as a run.
    for name in ["artifacts", "metrics", "params", "tags"] {
        fs::create_dir_all(own.join(name))?;
    }
    for (name, typed) in record.typed_params(variant) {
        let text = params[name].as_str().unwrap_or(&typed);
        create(&own.join("params").join(allowed(name)), text.as_bytes())?;
    }
    let mut histories: BTreeMap<String, String> = BTreeMap::new();
    for curve in curves {
        // MLflow parses numbers as Python does, including `NaN` and `inf`.
        writeln!(
            histories.entry(allowed(&curve.tag)).or_default(),
            "{} {} {}",
            curve.time,
            curve.value,
            curve.step
        )?;
    }
    for (name, history) in &histories {
        create(&own.join("metrics").join(file_name(name, &histories)), history.as_bytes())?;
    }
    let nodes = format!("{} of {}", source.run.nodes.len(), record.nodes);
    let tags = [
        ("mlflow.runName", title.as_str()),
        ("mlflow.source.type", "LOCAL"),
        ("triplay.run", &record.run),
        ("triplay.pipeline", &record.pipeline),
        ("triplay.variant", variant),
        ("triplay.status", &record.status),
        ("triplay.nodes", &nodes),
        ("triplay.version", &record.triplay),
    ];
    tags.iter().try_for_each(|(name, value)| create(&own.join("tags").join(name), value.as_bytes()))
}

/// The file of a curve; inside the folder of its name if other curves need that folder.
fn file_name(name: &str, all: &BTreeMap<String, String>) -> String {
    let inside = format!("{name}/");
    let is_folder = all.range(inside.clone()..).next().is_some_and(|(other, _)| other.starts_with(&inside));
    if is_folder { inside + "value" } else { name.to_owned() }
}

fn began(source: &Source) -> i64 {
    source.run.record.began.parse::<jiff::Timestamp>().map_or(0, |moment| moment.as_millisecond())
}

/// A name with only the characters that MLflow allows: letters, digits and `_-. :/`. It cannot lead to another folder.
fn allowed(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-. :".contains(c) { c } else { '_' };
    let part = |part: &str| {
        let text: String = part.chars().map(plain).collect();
        if text.trim_matches(['.', ' ']).is_empty() { "_".to_owned() } else { text }
    };
    name.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// A path as a URL, with special characters encoded.
fn address(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut text = String::from("file://");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b"/._-~".contains(byte) => text.push(char::from(*byte)),
            byte => text += &format!("%{byte:02X}"),
        }
    }
    text
}

/// One level of YAML: values in JSON are valid YAML.
fn yaml(fields: &[(&str, Value)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_of_a_curve_is_a_folder_of_others() {
        let all = ["a/b", "a/b!c", "a/b/c", "a/bc"].map(|name| (name.to_owned(), String::new()));
        let all = BTreeMap::from(all);
        let files = all.keys().map(|name| file_name(name, &all)).collect::<Vec<_>>();
        assert_eq!(files, ["a/b/value", "a/b!c", "a/b/c", "a/bc"]);
    }
}
