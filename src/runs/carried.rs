//! The values that loops of a run handed on, by the names that the pipeline gives them: `play[2].attacker` is the attacker after
//! round 2 of the loop `play`, `play.attacker` after its last round.

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use super::folder::{Run, bare_rounds};

/// A block of stages, and what the names of its nodes begin with.
#[derive(Clone)]
struct Scope<'p> {
    stages: &'p Map<String, Value>,
    /// The loop that the block belongs to, with its round; `None` for the pipeline itself.
    round: Option<(&'p Value, u32)>,
    prefix: String,
}

/// How deep references may lead, as in a file that names itself.
const DEEPEST: usize = 256;

/// The node and output that `text` names as a value of a loop, such as `update` and `model`; `None` if it is not of this form or
/// the run's pipeline has no such loop. The output is `None` if the first one is meant.
pub(super) fn node_of(run: &Run, text: &str) -> anyhow::Result<Option<(String, Option<String>)>> {
    let Some((place, value)) = text.rsplit_once('.') else { return Ok(None) };
    let Some(pipeline) = run.recorded_text("pipeline.yaml")? else { return Ok(None) };
    let Ok(pipeline) = serde_saphyr::from_str::<Value>(&pipeline) else { return Ok(None) };
    let Some(stages) = pipeline["stages"].as_object() else { return Ok(None) };
    let mut scopes = vec![Scope { stages, round: None, prefix: String::new() }];
    let mut parts = place.split('/').peekable();
    while let Some(part) = parts.next() {
        let (name, round) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((name, round)) => (name, Some(round)),
            None => (part, None),
        };
        let scope = &scopes[scopes.len() - 1];
        let Some(step) = scope.stages.get(name).filter(|step| is_loop(step)) else { return Ok(None) };
        let path = format!("{}{name}", scope.prefix);
        let last = last_round(run, &path);
        let round = match round {
            None => last.with_context(|| {
                format!("run {} has no finished node of the loop `{path}`", run.record.run)
            })?,
            Some(round) => match round.parse::<u32>() {
                Ok(round) if round >= 1 && Some(round) <= last => round,
                _ => bail!(
                    "the loop `{path}` has rounds 1 to {} in run {}, found `{round}`",
                    last.unwrap_or(0),
                    run.record.run
                ),
            },
        };
        let Some(inner) = inner(&path, step, round) else { return Ok(None) };
        if parts.peek().is_none() {
            scopes.push(inner);
            return after_round(run, &scopes, value, 0).map(Some);
        }
        scopes.push(inner);
    }
    Ok(None)
}

fn is_loop(step: &Value) -> bool {
    step["stages"].is_object()
}

fn inner<'p>(path: &str, step: &'p Value, round: u32) -> Option<Scope<'p>> {
    let stages = step["stages"].as_object()?;
    Some(Scope { stages, round: Some((step, round)), prefix: format!("{path}[{round}]/") })
}

/// The greatest round of a loop of which a node has finished.
fn last_round(run: &Run, path: &str) -> Option<u32> {
    let beginning = format!("{}[", bare_rounds(path));
    let round = |name: &str| {
        let bare = bare_rounds(name);
        bare.strip_prefix(&beginning)?.split(']').next()?.parse().ok()
    };
    run.nodes.iter().filter_map(|node| round(&node.node)).max()
}

/// What the innermost loop's value `name` is after its round.
fn after_round(
    run: &Run,
    scopes: &[Scope],
    name: &str,
    depth: usize,
) -> anyhow::Result<(String, Option<String>)> {
    let Some((step, _)) = scopes[scopes.len() - 1].round else { bail!("`{name}` is not carried by a loop") };
    match (step["next"][name].as_str(), step["carry"][name].as_str()) {
        (Some(next), _) => referred(run, scopes, next, depth + 1),
        (None, Some(first)) => referred(run, &scopes[..scopes.len() - 1], first, depth + 1),
        (None, None) => {
            let known = step["carry"].as_object().into_iter().flat_map(Map::keys);
            let known: Vec<&str> = known.map(String::as_str).collect();
            bail!("the loop carries only {}, found `{name}`", known.join(", "))
        }
    }
}

/// What a reference means within these scopes.
fn referred(
    run: &Run,
    scopes: &[Scope],
    reference: &str,
    depth: usize,
) -> anyhow::Result<(String, Option<String>)> {
    let Some((scope, outer)) = scopes.split_last().filter(|_| depth < DEEPEST) else {
        bail!("the pipeline has no `{reference}` that could be found here: name a node instead")
    };
    // A label such as `[0.5]` may hold a dot.
    let cut = reference.rfind('.').filter(|dot| !reference[*dot..].contains(']'));
    let (head, output) =
        cut.map_or((reference, None), |cut| (&reference[..cut], Some(&reference[cut + 1..])));
    let stage = head.split('[').next().unwrap_or(head);
    match (scope.stages.get(stage), output) {
        (Some(step), Some(value)) if is_loop(step) => {
            let path = format!("{}{stage}", scope.prefix);
            let round = last_round(run, &path);
            let round = round.with_context(|| format!("no node of the loop `{path}` has finished"))?;
            let inner = inner(&path, step, round).context("a loop has stages")?;
            let scopes: Vec<Scope> = scopes.iter().cloned().chain([inner]).collect();
            return after_round(run, &scopes, value, depth + 1);
        }
        (Some(step), _) if !is_loop(step) => {
            return Ok((format!("{}{head}", scope.prefix), output.map(str::to_owned)));
        }
        _ => {}
    }
    // A value that the loop carries, before this round.
    if let (Some((step, round)), None) = (scope.round, output)
        && let Some(first) = step["carry"].get(reference)
    {
        if round == 1 || step["next"].get(reference).is_none() {
            return referred(run, outer, first.as_str().unwrap_or_default(), depth + 1);
        }
        let path = scope.prefix.strip_suffix(&format!("[{round}]/")).unwrap_or(&scope.prefix);
        let before = inner(path, step, round - 1).context("a loop has stages")?;
        let scopes: Vec<Scope> = outer.iter().cloned().chain([before]).collect();
        return after_round(run, &scopes, reference, depth + 1);
    }
    referred(run, outer, reference, depth + 1)
}
