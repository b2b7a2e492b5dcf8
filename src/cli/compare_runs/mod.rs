//! `triplay runs compare`: compares each run with the first. [`nodes`] finds the first nodes that differ,
//! [`crate::analysis::compare`] compares the metrics; this file prints both.

mod metrics;
mod nodes;

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use self::nodes::Nodes;
use super::args::RunsCompareArgs;
use crate::analysis::compare::{CompareOptions, Comparison, Side, compare};
use output::println;

pub(crate) fn command(args: &RunsCompareArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let sides = args.runs.iter().map(|run| Side::find(run)).collect::<anyhow::Result<Vec<Side>>>()?;
    let Some((first, others)) = sides.split_first() else { return Ok(ExitCode::from(2)) };
    let flips = if args.json { None } else { Some(args.flips) };
    let wanted = CompareOptions { at: args.at.as_deref(), force: args.force, flips };
    // Compares everything before it prints anything: if one comparison is refused, none is printed.
    let nodes = others.iter().map(|other| Nodes::new(&first.part, &other.part));
    let compared: Vec<(Nodes, Comparison)> = nodes.zip(compare(first, others, &wanted)?).collect();
    if args.json {
        println!("{}", object(&compared)?);
        return Ok(ExitCode::SUCCESS);
    }
    for (index, (nodes, comparison)) in compared.iter().enumerate() {
        let letter = letter(index + 1);
        if index > 0 {
            println!("\n{}\n", "-".repeat(metrics::WIDTH));
        }
        nodes.print(&letter);
        output::print(&metrics::text(comparison, &letter))?;
    }
    Ok(ExitCode::SUCCESS)
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
