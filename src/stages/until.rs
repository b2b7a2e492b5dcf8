//! `until`: decides whether a loop has another round, by comparing one metric with a bound. The engine acts on the decision.

use anyhow::{Context as _, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::Metrics;
use data::MetricRow;
use engine::{CheckError, Context, DECISION, Input, Kind, Output, Stage, write_decision};

/// Decides after each round of a loop whether there is another.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Until {
    /// The metrics of a stage in the loop.
    metric: Vec<Input<Metrics>>,
    /// The name of the metric, such as `attack_success`.
    name: String,
    /// Its subject, if several have such a metric: a role or the name of a model.
    #[serde(default)]
    subject: Option<String>,
    /// Its phase, if several have such a metric: the `phase` of that stage, or `update`.
    #[serde(default)]
    phase: Option<String>,
    /// Stop if the metric is greater than this. Give either this or `below`.
    #[serde(default)]
    above: Option<f64>,
    /// Stop if the metric is less than this. Give either this or `above`.
    #[serde(default)]
    below: Option<f64>,
}

impl Stage for Until {
    const KIND: Kind = Kind {
        name: "until",
        version: 1,
        outputs: &[Output::new("decision", DECISION), Output::new("why", "text")],
        numerics: false,
        draws: false,
        excluded_from_key: &[],
    };

    fn check(&self) -> Result<(), CheckError> {
        match (self.above, self.below) {
            (Some(bound), None) | (None, Some(bound)) if bound.is_finite() => Ok(()),
            (Some(_), Some(_)) => {
                Err(CheckError::at("below", "`below` must be left out where `above` is given"))
            }
            (None, None) => Err("`above` or `below` must be a number, found neither".into()),
            (Some(bound), None) => Err(CheckError::at("above", expected(bound))),
            (None, Some(bound)) => Err(CheckError::at("below", expected(bound))),
        }
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let mut values = Vec::with_capacity(self.metric.len());
        for input in &self.metric {
            let path = &context.input(input)?.path;
            let rows = data::metrics(path, self.subject.as_deref().unwrap_or_default())?;
            values.push(self.value(&rows).with_context(|| input.text().to_owned())?);
        }
        let (word, bound) = match (self.above, self.below) {
            (Some(above), _) => ("above", above),
            (None, Some(below)) => ("below", below),
            (None, None) => bail!("`above` or `below` must be a number, found neither"),
        };
        // NaN is neither above nor below.
        let holds = |value: &f64| if word == "above" { *value > bound } else { *value < bound };
        let stop = values.iter().all(holds);
        let of = self.subject.as_ref().map_or(String::new(), |subject| format!(" of {subject}"));
        let told: Vec<String> = values.iter().map(f64::to_string).collect();
        let is = if stop { "" } else { "not " };
        let why = format!("{}{of} is {}, {is}{word} {bound}", self.name, told.join(", "));
        std::fs::write(context.output("why"), format!("{why}\n"))?;
        write_decision(&context.output("decision"), stop)?;
        context.progress(1, 1, if stop { format!("stop: {why}") } else { format!("go on: {why}") });
        Ok(())
    }
}

fn expected(found: f64) -> String {
    format!("the bound must be a finite number, found {found}")
}

impl Until {
    /// The value of the metric that is meant.
    fn value(&self, rows: &[MetricRow]) -> anyhow::Result<f64> {
        let is_it = |row: &&MetricRow| {
            let fits = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|it| it == found);
            row.metric == self.name && fits(&self.subject, &row.subject) && fits(&self.phase, &row.phase)
        };
        let found: Vec<&MetricRow> = rows.iter().filter(is_it).collect();
        match found[..] {
            [row] => Ok(row.value),
            [] => {
                // Metrics of this name first, whatever their subject.
                let named = rows.iter().filter(|row| row.metric == self.name);
                let of_name: Vec<&MetricRow> = named.collect();
                let near = if of_name.is_empty() { rows.iter().collect() } else { of_name };
                bail!("`until` must name one of its metrics, found none that fits\n  help: {}", listed(&near))
            }
            _ => bail!(
                "`until` must name one of its metrics, found {} that fit\n  help: choose one with `subject` and `phase`; {}",
                found.len(),
                listed(&found)
            ),
        }
    }
}

/// The names of the metrics that there are, at most 12.
fn listed(rows: &[&MetricRow]) -> String {
    const MOST: usize = 12;
    let name = |row: &&MetricRow| format!("{} (subject {}, phase {})", row.metric, row.subject, row.phase);
    let mut names: Vec<String> = rows.iter().map(name).collect();
    names.dedup();
    let more = names.len().saturating_sub(MOST);
    names.truncate(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match names.is_empty() {
        true => "there are no metrics in it".into(),
        false => format!("there are {}{more}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::Position;

    fn row(phase: &str, subject: &str, metric: &str, value: f64) -> MetricRow {
        let (phase, subject, metric) = (phase.into(), subject.into(), metric.into());
        MetricRow {
            phase,
            subject,
            metric,
            value,
            count: 1,
            at: Position { iteration: 0, step: 0, rng_seed: String::new() },
        }
    }

    fn until(text: &str) -> Until {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn one_metric_is_meant_and_what_fits_none_or_several_is_said_with_what_there_is() {
        let rows = [
            row("red", "defender", "attack_success", 0.25),
            row("red", "other", "attack_success", 0.5),
            row("red", "defender", "refusals", 0.75),
        ];
        let value = |name: &str, more: &str| {
            let stage = until(&format!(r#"{{ "metric": [], "name": "{name}", "above": 1{more} }}"#));
            stage.value(&rows).map_err(|error| error.to_string())
        };
        assert_eq!(value("attack_success", r#", "subject": "other""#), Ok(0.5));
        assert_eq!(value("refusals", ""), Ok(0.75));
        let both = "attack_success (subject defender, phase red), attack_success (subject other, phase red)";
        assert_eq!(
            value("attack_success", ""),
            Err(format!(
                "`until` must name one of its metrics, found 2 that fit\n  help: choose one with `subject` and `phase`; there are {both}"
            ))
        );
        assert_eq!(
            value("attack_success", r#", "phase": "blue""#),
            Err(format!(
                "`until` must name one of its metrics, found none that fits\n  help: there are {both}"
            ))
        );
        let all = format!("{both}, refusals (subject defender, phase red)");
        assert_eq!(
            value("success", ""),
            Err(format!(
                "`until` must name one of its metrics, found none that fits\n  help: there are {all}"
            ))
        );
    }

    #[test]
    fn a_bound_is_one_of_two() {
        let check = |more: &str| {
            let stage = until(&format!(r#"{{ "metric": [], "name": "x"{more} }}"#));
            stage.check().map_err(|error| error.message)
        };
        assert_eq!(check(r#", "below": 0.5"#), Ok(()));
        assert_eq!(check(""), Err("`above` or `below` must be a number, found neither".into()));
        assert_eq!(
            check(r#", "below": 0.5, "above": 0.5"#),
            Err("`below` must be left out where `above` is given".into())
        );
    }
}
