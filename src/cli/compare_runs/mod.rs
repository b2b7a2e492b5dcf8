//! `triplay runs compare`: compares each run with the first. [`nodes`] finds the first nodes that differ,
//! [`crate::analysis::compare`] compares the metrics; [`summary`] prints what matters of them and [`metrics`] everything.

mod metrics;
mod nodes;
mod summary;

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use self::nodes::Nodes;
use super::args::RunsCompareArgs;
use crate::analysis::compare::{CompareOptions, Comparison, Side, compare};
use crate::analysis::{MetricName, named};
use output::println;

/// Prompts that flipped, if their number is not given.
const FLIPS: usize = 10;

pub(crate) fn command(args: &RunsCompareArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let sides = args.runs.iter().map(|run| Side::find(run)).collect::<anyhow::Result<Vec<Side>>>()?;
    let Some((first, others)) = sides.split_first() else { return Ok(ExitCode::from(2)) };
    let is_short = !args.all && args.metric.is_none();
    let most = args.flips.unwrap_or(if is_short { 0 } else { FLIPS });
    // Those of one metric are chosen among all.
    let flips = if args.json || args.metric.is_some() { None } else { Some(most) };
    let wanted = CompareOptions { at: args.at.as_deref(), force: args.force, flips };
    // Compares everything before it prints anything: if one comparison is refused, none is printed.
    let nodes = others.iter().map(|other| Nodes::new(&first.part, &other.part));
    let mut compared: Vec<(Nodes, Comparison)> = nodes.zip(compare(first, others, &wanted)?).collect();
    if args.json {
        println!("{}", object(&compared)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(metric) = &args.metric {
        let all = compared.iter().flat_map(|(_, comparison)| &comparison.metrics);
        let wanted = named(metric, &all.map(|found| found.measure.as_named()).collect())?;
        let wanted: Vec<String> = wanted.iter().map(MetricName::to_string).collect();
        compared.iter_mut().for_each(|(_, comparison)| keep_only(comparison, &wanted, most));
    }
    for (index, (nodes, comparison)) in compared.iter().enumerate() {
        let letter = letter(index + 1);
        if index > 0 {
            println!("\n{}\n", "-".repeat(metrics::WIDTH));
        }
        nodes.print_runs(&letter);
        if is_short {
            nodes.print_short(&letter);
            output::print(&summary::text(comparison, &letter))?;
            if most > 0 {
                output::print(&metrics::flips(comparison, &letter))?;
            }
            continue;
        }
        if args.all {
            nodes.print(&letter);
        }
        output::print(&metrics::text(comparison, &letter))?;
    }
    if is_short && compared.iter().any(|(_, comparison)| !comparison.metrics.is_empty()) {
        println!("\n{}", summary::MORE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps the metrics of these names, and at most so many of the prompts that flipped in them. p-values stay adjusted over all.
fn keep_only(comparison: &mut Comparison, names: &[String], flips: usize) {
    comparison.metrics.retain(|found| names.contains(&found.measure.as_named().to_string()));
    let kept: Vec<String> = comparison.metrics.iter().map(|found| found.metric.clone()).collect();
    comparison.flipped.retain(|flipped| kept.contains(&flipped.metric));
    comparison.flips.retain(|flip| kept.contains(&flip.metric));
    comparison.flips.truncate(flips);
}

/// The label of the run at a place: A is the first.
fn letter(place: usize) -> String {
    match u8::try_from(place) {
        Ok(place) if place < 26 => char::from(b'A' + place).to_string(),
        _ => format!("run {}", place + 1),
    }
}

/// The fields of the first pair, with those of further pairs under `more`.
fn object(compared: &[(Nodes, Comparison)]) -> anyhow::Result<Value> {
    let pair = |(nodes, comparison): &(Nodes, Comparison)| {
        let mut fields: Map<String, Value> = nodes.json();
        if let Value::Object(own) = serde_json::to_value(comparison)? {
            fields.extend(own);
        }
        Ok::<Value, anyhow::Error>(Value::Object(fields))
    };
    let mut pairs = compared.iter().map(pair).collect::<anyhow::Result<Vec<Value>>>()?.into_iter();
    let mut first = pairs.next().unwrap_or_default();
    let more: Vec<Value> = pairs.collect();
    if !more.is_empty() {
        first["more"] = json!(more);
    }
    Ok(first)
}
