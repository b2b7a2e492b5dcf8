//! How a stage is run: `resources`, `timeout`, `retry`, `on` and `publish`, which every stage has. None of them counts for the
//! key.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path};
use std::time::Duration;

use super::decode::DraftVariant;
use super::errors::Errors;
use super::site::SITE_FILE;
use super::tree::{Tree, Value};
use crate::graph::{On, Policy, Publish};
use crate::job::{Retried, Retry};
use crate::resources::{CPU, GPU, Limit, LimitOf};

/// Resources that every machine has, limited by the pipeline or not.
const ALWAYS: [&str; 2] = [CPU, GPU];

/// An amount of a resource.
pub(crate) fn amount(tree: &Tree) -> Option<u32> {
    match tree.value {
        Value::Int(amount) => u32::try_from(amount).ok(),
        _ => None,
    }
}

/// The file that has a limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Pipeline,
    /// A site file, where a limit may be one of the host.
    Site,
}

/// Reads the limit of a resource: `N`, or `{ at_once: N, per_minute: M, of: run | host }`.
pub(crate) fn read_limit(errors: &Errors, name: &str, tree: &Tree, place: Place) -> Option<Limit> {
    const KEYS: [&str; 3] = ["at_once", "per_minute", "of"];
    let number = |tree: &Tree, least: u32, what: &str| match amount(tree).filter(|amount| *amount >= least) {
        Some(amount) => Some(amount),
        None => {
            let found = tree.value.found();
            errors
                .at(tree.at, format!("{what} of `{name}` must be a whole number from {least}, found {found}"))
        }
    };
    let Value::Map(entries) = &tree.value else {
        let units = number(tree, 1, "the amount")?;
        return Some(Limit::of_run(units));
    };
    for (key, _) in entries.iter().filter(|(key, _)| !KEYS.contains(&key.name.as_str())) {
        let error = errors.error(key.at, format!("a resource has no key `{}`", key.name));
        errors.add::<()>(error.suggest(&key.name, KEYS));
    }
    let at_once = tree.get("at_once").map(|tree| number(tree, 1, "`at_once`"));
    let per_minute = tree.get("per_minute").map(|tree| number(tree, 1, "`per_minute`"));
    let of = match tree.get("of") {
        None => LimitOf::Run,
        Some(of) => read_limit_of(errors, name, of, place, per_minute.is_some())?,
    };
    match (at_once, per_minute) {
        (None, None) => {
            errors.at(tree.at, format!("`{name}` must have `at_once` or `per_minute`, found neither"))
        }
        // The rate is the only limit.
        (None, Some(rate)) => Some(Limit { units: rate?, per_minute: rate, of }),
        (Some(units), rate) => Some(Limit { units: units?, per_minute: rate.flatten(), of }),
    }
}

/// Reads who shares the units of a resource.
fn read_limit_of(errors: &Errors, name: &str, tree: &Tree, place: Place, has_rate: bool) -> Option<LimitOf> {
    if place == Place::Pipeline {
        let error = errors
            .error(tree.at, format!("`of` of `{name}` must be in a site file: it is about the machine"));
        let help = format!("write resources: {{ {name}: {{ at_once: N, of: host }} }} in {SITE_FILE}");
        return errors.add(error.help(help));
    }
    let of = match &tree.value {
        Value::Text(text) if text == "run" => LimitOf::Run,
        Value::Text(text) if text == "host" => LimitOf::Host,
        other => {
            return errors.at(tree.at, format!("`of` must be `run` or `host`, found {}", other.found()));
        }
    };
    if of == LimitOf::Host && has_rate {
        let message =
            format!("`{name}` must have either `per_minute`, which counts for a run, or `of: host`");
        return errors.at(tree.at, message);
    }
    if of == LimitOf::Run && name == GPU {
        let error = errors.error(tree.at, "the GPUs are always those of the host, found `of: run`");
        return errors.add(error.help("leave `of` out"));
    }
    Some(of)
}

/// Reads the five keys, with parameters replaced. Reports errors. Without `limits`, a stage may take any resource.
pub(crate) fn read(
    errors: &Errors,
    limits: Option<&BTreeMap<String, Limit>>,
    [resources, timeout, retry, on, publish]: [Option<&Tree>; 5],
) -> Policy {
    Policy {
        resources: resources.map(|tree| read_resources(errors, limits, tree)).unwrap_or_default(),
        timeout: timeout.and_then(|tree| duration(errors, tree, "timeout", 1)),
        retry: retry.and_then(|tree| read_retry(errors, tree)).unwrap_or_default(),
        on: on.and_then(|tree| read_on(errors, tree)).unwrap_or_default(),
        publish: publish.and_then(|tree| read_publish(errors, tree)),
    }
}

/// Reads `PATH`, or `{ path: PATH, copy: true }`.
fn read_publish(errors: &Errors, tree: &Tree) -> Option<Publish> {
    const KEYS: [&str; 2] = ["path", "copy"];
    let (path, copy) = match &tree.value {
        Value::Map(entries) => {
            for (key, _) in entries.iter().filter(|(key, _)| !KEYS.contains(&key.name.as_str())) {
                let error = errors.error(key.at, format!("`publish` has no key `{}`", key.name));
                errors.add::<()>(error.suggest(&key.name, KEYS));
            }
            (tree.get("path").unwrap_or(tree), tree.get("copy"))
        }
        _ => (tree, None),
    };
    let copy = match copy.map(|copy| (&copy.value, copy.at)) {
        None => false,
        Some((Value::Bool(copy), _)) => *copy,
        Some((other, at)) => {
            return errors.at(at, format!("`copy` must be true or false, found {}", other.found()));
        }
    };
    let is_plain = |text: &str| {
        let parts = || Path::new(text).components();
        !text.contains('\0')
            && parts().count() > 0
            && parts().all(|part| matches!(part, Component::Normal(_)))
    };
    match &path.value {
        Value::Text(text) if is_plain(text) => {
            Some(Publish { path: text.trim_end_matches('/').to_owned(), copy })
        }
        other => {
            let message = format!(
                "`publish` must be a path within the run's folder such as figures, or {{ path: figures, copy: true }}, found {}",
                other.found()
            );
            errors.at(path.at, message)
        }
    }
}

/// Gives each variant of a stage a folder of its own, called by its label, unless their paths differ already.
pub(super) fn publish_apart(variants: &mut [(Option<String>, Option<DraftVariant>)]) {
    let mut places: Vec<(&str, &mut Publish)> = variants
        .iter_mut()
        .filter_map(|(label, draft)| Some((label.as_deref()?, draft.as_mut()?.policy.publish.as_mut()?)))
        .collect();
    let paths: HashSet<&str> = places.iter().map(|(_, publish)| publish.path.as_str()).collect();
    if paths.len() == places.len() && places.len() > 1 {
        return;
    }
    for (label, publish) in &mut places {
        // `.` and `..` are no names of folders.
        let folder =
            if label.trim_matches('.').is_empty() { label.replace('.', "_") } else { label.to_string() };
        publish.path = format!("{}/{folder}", publish.path);
    }
}

fn read_on(errors: &Errors, tree: &Tree) -> Option<On> {
    match &tree.value {
        Value::Text(text) if text == "process" => Some(On::Process),
        other => {
            let message = format!("`on` must be `process`, found {}", other.found());
            let error = errors.error(tree.at, message);
            errors.add(
                error.help("`on: process` runs the stage in a process of its own; leave it out otherwise"),
            )
        }
    }
}

fn read_resources(
    errors: &Errors,
    limits: Option<&BTreeMap<String, Limit>>,
    tree: &Tree,
) -> BTreeMap<String, u32> {
    let Value::Map(entries) = &tree.value else {
        let message =
            format!("`resources` must be a map such as {{ gpu: 1 }}, found {}", tree.value.describe());
        return errors.at(tree.at, message).unwrap_or_default();
    };
    let mut resources = BTreeMap::new();
    for (key, tree) in entries {
        let name = key.name.as_str();
        let Some(amount) = amount(tree) else {
            let message = format!("`{name}` must be a whole number from 0, found {}", tree.value.found());
            errors.at::<()>(tree.at, message);
            continue;
        };
        let Some(limits) = limits else {
            resources.insert(key.name.clone(), amount);
            continue;
        };
        match limits.get(name) {
            Some(Limit { units: limit, .. }) if amount > *limit => {
                let message = format!("the stage takes {amount} of `{name}`, but the limit is {limit}");
                let error = errors.error(tree.at, message);
                errors.add::<()>(error.help(
                    "raise it under `resources:` of the pipeline, or of the site file that has it, or ask for less",
                ));
            }
            None if name == "gpu" && amount > 1 => {
                let message = format!("the stage takes {amount} of `gpu`, but there is 1 by default");
                let error = errors.error(tree.at, message);
                errors
                    .add::<()>(error.help(format!("write resources: {{ gpu: {amount} }} at the top level")));
            }
            None if !ALWAYS.contains(&name) => {
                let message = format!("there is no resource `{name}`");
                let known: Vec<&str> = limits.keys().map(String::as_str).chain(ALWAYS).collect();
                let help = match super::diagnostic::nearest(name, &known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("write resources: {{ {name}: N }} at the top level, or in {SITE_FILE}"),
                };
                errors.add::<()>(errors.error(key.at, message).help(help));
            }
            _ => {
                resources.insert(key.name.clone(), amount);
            }
        }
    }
    resources
}

/// Reads `N`, or `{ times: N, wait: TIME, on: { exit: [CODE], text: [TEXT] } }`. Any failure is retried unless `on` says which.
fn read_retry(errors: &Errors, tree: &Tree) -> Option<Retry> {
    const KEYS: [&str; 3] = ["times", "wait", "on"];
    let default = Retry { on: Retried::Any, ..Retry::default() };
    let times = |tree: &Tree| match amount(tree) {
        Some(times) => Some(times),
        None => {
            let found = tree.value.found();
            errors.at(tree.at, format!("the number of retries must be a whole number from 0, found {found}"))
        }
    };
    match &tree.value {
        Value::Int(_) => Some(Retry { times: times(tree)?, ..default }),
        Value::Map(entries) => {
            for (key, _) in entries.iter().filter(|(key, _)| !KEYS.contains(&key.name.as_str())) {
                let error = errors.error(key.at, format!("`retry` has no key `{}`", key.name));
                errors.add::<()>(error.suggest(&key.name, KEYS));
            }
            Some(Retry {
                times: tree.get("times").map_or(Some(default.times), times)?,
                wait: tree
                    .get("wait")
                    .map_or(Some(default.wait), |tree| duration(errors, tree, "wait", 0))?,
                on: tree.get("on").map_or(Some(default.on), |tree| read_retried(errors, tree))?,
            })
        }
        other => errors.at(
            tree.at,
            format!(
                "`retry` must be a whole number or a map such as {{ times: 5, wait: 10s }}, found {}",
                other.describe()
            ),
        ),
    }
}

/// Reads `{ exit: [CODE], text: [TEXT] }`. Either may be left out, and a list of one be written without brackets.
fn read_retried(errors: &Errors, tree: &Tree) -> Option<Retried> {
    const KEYS: [&str; 2] = ["exit", "text"];
    let Value::Map(entries) = &tree.value else {
        let found = tree.value.describe();
        let message =
            format!("`on` must be a map such as {{ exit: [75], text: out of memory }}, found {found}");
        return errors.at(tree.at, message);
    };
    let (mut exit, mut text) = (Vec::new(), Vec::new());
    for (key, tree) in entries {
        let each = match &tree.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(tree),
        };
        for tree in each {
            let found = tree.value.found();
            match (key.name.as_str(), &tree.value) {
                ("exit", Value::Int(code @ 1..=255)) => exit.push(*code as u8),
                ("exit", _) => {
                    let message =
                        format!("`exit` must be exit codes of failures, from 1 to 255, found {found}");
                    return errors.at(tree.at, message);
                }
                ("text", Value::Text(part)) if !part.is_empty() => text.push(part.to_string()),
                ("text", _) => {
                    return errors.at(tree.at, format!("`text` must be text of the log, found {found}"));
                }
                (name, _) => {
                    let error = errors.error(key.at, format!("`on` has no key `{name}`"));
                    return errors.add(error.suggest(name, KEYS));
                }
            }
        }
    }
    if exit.is_empty() && text.is_empty() {
        return errors.at(tree.at, "`on` must have `exit` or `text`, found neither");
    }
    Some(Retried::Of { exit, text })
}

/// A length of time: `90s`, `1h 30m`, or a whole number of seconds.
fn duration(errors: &Errors, tree: &Tree, key: &str, least: i64) -> Option<Duration> {
    let read = match &tree.value {
        Value::Int(seconds) => Some(*seconds),
        Value::Text(text) => match text.parse::<jiff::SignedDuration>() {
            Ok(length) if length.as_millis() >= i128::from(least) => {
                return Some(length.unsigned_abs());
            }
            _ => None,
        },
        _ => None,
    };
    match read {
        Some(seconds) if seconds >= least => Some(Duration::from_secs(seconds.unsigned_abs())),
        _ => {
            let least = if least > 0 { " above 0" } else { "" };
            let message = format!(
                "`{key}` must be a time{least} such as 90s, 10m or 1h 30m, or a whole number of seconds, found {}",
                tree.value.found()
            );
            errors.at(tree.at, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Source;
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        let source = Source::new("p.yaml".into(), "t".into());
        let seconds = |text: &str| {
            let tree = Tree::parse_value(text).unwrap();
            duration(&Errors::new(&source), &tree, "timeout", 1).map(|length| length.as_secs())
        };
        for (text, expected) in [("90s", 90), ("1h 30m", 5400), ("2 hours", 7200), ("PT5M", 300), ("45", 45)]
        {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in ["0", "-1", "-2h", "soon", "1.5", "", "[1]", "1d"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
