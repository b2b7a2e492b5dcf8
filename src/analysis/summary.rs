//! Ablations side by side, as a table: for each measure the mean over seeds and its 95 % interval.

use std::collections::{HashMap, HashSet};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::columns::{aligned, markdown};
use super::denominator::{Denominator, footnotes};
use super::headings::{heading, is_usual};
use super::number::{number, percent, with_interval};
use super::series::{Measure, Series, differences, series};
use super::statistics::{Estimate, estimate};
use super::table::are_shares;
use data::RunMetricRow;
use game::{UNDETERMINED, undetermined};

/// The quantity in a line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// The value after the last evaluation.
    Last,
    /// The change from the first evaluation to the last.
    Gain,
    /// The difference from the first ablation after the last evaluation, seed by seed.
    Difference,
    /// The value after a phase.
    Phase,
    /// The change in a phase, seed by seed.
    Change,
}

/// A line: a quantity of an ablation, with an estimate for each measure that it has.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The quantity that the line is about.
    pub aspect: Aspect,
    /// Empty without an ablation.
    pub ablation: String,
    /// Its values of [`Summary::params`], as typed; in JSON a number is a number.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub params: Vec<(String, String)>,
    /// The phase, if the line is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// One for each of [`Summary::measures`]; `None` where the line lacks the measure.
    pub estimates: Vec<Option<Estimate>>,
}

/// The whole table. `lines` are sorted by aspect, then in the order of the run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Whether some lines are combinations of a matrix.
    #[serde(skip)]
    labelled: bool,
    /// The parameters that differ between the lines: columns before the measures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<String>,
    /// The columns of the table.
    pub measures: Vec<Measure>,
    /// The observations behind the values of each measure, and the undetermined ones.
    pub denominators: Vec<Option<Denominator>>,
    /// The rows of the table.
    pub lines: Vec<Line>,
}

/// The longest value of a parameter that is a column, in characters; JSON has longer ones.
const LONGEST: usize = 24;

/// The parameters of series by the names of these, as typed.
pub type SeriesParams = HashMap<String, Vec<(String, String)>>;

fn as_map<S: Serializer>(params: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    let value = |text: &String| match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::String(text.clone()),
    };
    let map: Map<String, Value> = params.iter().map(|(name, text)| (name.clone(), value(text))).collect();
    map.serialize(serializer)
}

/// The measures, each followed by its undetermined share if there is one.
fn with_undetermined(runs: &[Vec<RunMetricRow>], measures: Vec<Measure>) -> Vec<Measure> {
    let mut all: Vec<Measure> = Vec::new();
    for measure in measures {
        let unknown = Measure { metric: undetermined(&measure.metric), ..measure.clone() };
        let is_there = Denominator::of(runs, &measure).is_some_and(|found| found.undetermined.most > 0.0);
        for own in [Some(measure), is_there.then_some(unknown)].into_iter().flatten() {
            if !all.contains(&own) {
                all.push(own);
            }
        }
    }
    all
}

fn summary(
    runs: &[Vec<RunMetricRow>],
    measures: Vec<Measure>,
    all: &[Vec<Series>],
    lines: Vec<Line>,
) -> Summary {
    let denominators = measures.iter().map(|measure| Denominator::of(runs, measure)).collect();
    let labelled = all.iter().flatten().any(|series| series.labelled);
    let mut summary = Summary { labelled, params: Vec::new(), measures, denominators, lines };
    for column in (0..summary.measures.len()).filter(|column| summary.is_share(*column)).collect::<Vec<_>>() {
        for line in &mut summary.lines {
            let within = match line.aspect {
                Aspect::Last | Aspect::Phase => Estimate::of_shares,
                Aspect::Gain | Aspect::Difference | Aspect::Change => Estimate::of_changes,
            };
            line.estimates[column] = line.estimates[column].map(within);
        }
    }
    summary
}

/// Summarises runs by these measures.
pub fn summarise(runs: &[Vec<RunMetricRow>], measures: Vec<Measure>) -> Summary {
    let measures = with_undetermined(runs, measures);
    let all: Vec<Vec<Series>> = measures.iter().map(|measure| series(runs, measure)).collect();
    let ablations = ablations(&all);
    let places: Vec<HashMap<&str, usize>> = all.iter().map(|series| places(series)).collect();
    let mut lines = Vec::new();
    type Values = fn(&Series, first: Option<&Series>) -> Vec<f64>;
    let aspects: [(Aspect, Values); 3] = [
        (Aspect::Last, |own, _| own.last().into_values().collect()),
        (Aspect::Gain, |own, _| own.gain().into_values().collect()),
        (Aspect::Difference, |own, first| {
            first.map_or(Vec::new(), |first| differences(&own.last(), &first.last()))
        }),
    ];
    for (aspect, values) in aspects {
        for (index, ablation) in ablations.iter().enumerate() {
            let value = |(series, places): (&Vec<Series>, &HashMap<&str, usize>)| {
                let first = ablations.first().and_then(|first| places.get(first));
                estimate(&values(&series[*places.get(ablation)?], first.map(|first| &series[*first])))
            };
            if aspect != Aspect::Difference || index > 0 {
                let estimates: Vec<Option<Estimate>> = all.iter().zip(&places).map(value).collect();
                // With one evaluation there is no change, and variants of different stages have no difference.
                if aspect != Aspect::Last && estimates.iter().all(Option::is_none) {
                    continue;
                }
                let (ablation, params) = ((*ablation).to_owned(), Vec::new());
                lines.push(Line { aspect, ablation, params, phase: None, estimates });
            }
        }
    }
    summary(runs, measures, &all, lines)
}

/// Summarises runs phase by phase.
pub fn summarise_phases(runs: &[Vec<RunMetricRow>], measures: Vec<Measure>) -> Summary {
    let measures = with_undetermined(runs, measures);
    let all: Vec<Vec<Series>> = measures.iter().map(|measure| series(runs, measure)).collect();
    let places: Vec<HashMap<&str, usize>> = all.iter().map(|series| places(series)).collect();
    let mut lines = Vec::new();
    for ablation in ablations(&all) {
        let place = all.iter().zip(&places).map(|(series, places)| Some(&series[*places.get(ablation)?]));
        let own: Vec<Option<&Series>> = place.collect();
        let phases =
            own.iter().flatten().map(|series| series.names()).max_by_key(Vec::len).unwrap_or_default();
        let values: Vec<_> = own.iter().map(|series| series.map(Series::by_phase)).collect();
        for aspect in [Aspect::Phase, Aspect::Change] {
            for (index, phase) in phases.iter().enumerate() {
                let value = |values: &Option<HashMap<&str, _>>| {
                    let values = values.as_ref()?;
                    let after = values.get(phase)?;
                    match index.checked_sub(1).map(|index| phases[index]) {
                        Some(before) if aspect == Aspect::Change => {
                            estimate(&differences(after, values.get(before)?))
                        }
                        _ => estimate(&after.values().copied().collect::<Vec<_>>()),
                    }
                };
                if aspect == Aspect::Phase || index > 0 {
                    let (ablation, phase) = (ablation.to_owned(), Some((*phase).to_owned()));
                    let estimates = values.iter().map(value).collect();
                    lines.push(Line { aspect, ablation, params: Vec::new(), phase, estimates });
                }
            }
        }
    }
    summary(runs, measures, &all, lines)
}

/// The ablations that have any measure, in the order of the run.
fn ablations(all: &[Vec<Series>]) -> Vec<&str> {
    let mut known = HashSet::new();
    let names = all.iter().flatten().map(|series| series.ablation.as_str());
    names.filter(|name| known.insert(*name)).collect()
}

/// The series by their names.
fn places(series: &[Series]) -> HashMap<&str, usize> {
    series.iter().enumerate().map(|(place, series)| (series.ablation.as_str(), place)).collect()
}

impl Summary {
    /// Adds the parameters that differ between its lines. With phases, each ablation has tables of its own.
    pub fn with_params(mut self, of: &SeriesParams) -> Summary {
        let mut names: Vec<&str> = Vec::new();
        let mut values: HashMap<&str, HashSet<&str>> = HashMap::new();
        let shown: HashSet<&str> = self.lines.iter().map(|line| line.ablation.as_str()).collect();
        let shown: Vec<&Vec<(String, String)>> = shown.iter().filter_map(|name| of.get(*name)).collect();
        for line in &self.lines {
            for (name, value) in of.get(&line.ablation).into_iter().flatten() {
                if !values.contains_key(name.as_str()) {
                    names.push(name);
                }
                values.entry(name).or_default().insert(value);
            }
        }
        let differs = |name: &&str| {
            let have = shown.iter().filter(|params| params.iter().any(|(own, _)| own == name)).count();
            values[*name].len() > 1 || have < shown.len()
        };
        self.params = names.into_iter().filter(differs).map(str::to_owned).collect();
        for line in self.lines.iter_mut().filter(|line| line.phase.is_none()) {
            let own = of.get(&line.ablation).into_iter().flatten();
            line.params = own.filter(|(name, _)| self.params.contains(name)).cloned().collect();
        }
        self
    }

    fn title(&self, line: &Line) -> String {
        let is_own = !self.measures.iter().any(|measure| is_usual(&measure.subject, &measure.metric));
        match line.aspect {
            Aspect::Last if is_own => "last values".into(),
            Aspect::Last => "after the last evaluation".into(),
            Aspect::Gain if is_own => "change from the first values to the last".into(),
            Aspect::Gain => "change from the first evaluation to the last".into(),
            Aspect::Difference => {
                let first = name(self.lines.first().map_or("", |line| line.ablation.as_str()));
                let of = if is_own { "of the last values" } else { "after the last evaluation" };
                format!("difference from {first} {of}")
            }
            Aspect::Phase => format!("{}, after each phase", name(&line.ablation)),
            Aspect::Change => format!("{}, change in each phase", name(&line.ablation)),
        }
    }

    /// Whether a column is shown in percent. A metric of one's own may have the name of a share and be in percent already.
    fn is_share(&self, column: usize) -> bool {
        let values = self.lines.iter().filter_map(|line| line.estimates.get(column)?.as_ref());
        are_shares(&self.measures[column].metric, values.map(|estimate| estimate.mean))
    }

    /// The parameters that are columns of a line's part: the short ones, in the first part.
    fn params_beside(&self, line: &Line) -> Vec<&String> {
        let is_short = |name: &&String| {
            let mut values = self.lines.iter().flat_map(|line| &line.params).filter(|(own, _)| own == *name);
            values.all(|(_, value)| value.chars().count() <= LONGEST)
        };
        let params = self.params.iter().filter(|_| line.aspect == Aspect::Last);
        params.filter(is_short).collect()
    }

    /// A title for each part, and its rows of cells, the first of which is the heading.
    fn parts(&self) -> Vec<(String, Vec<Vec<String>>)> {
        let mut parts: Vec<(String, Vec<Vec<String>>)> = Vec::new();
        let mut beside = Vec::new();
        let shares: Vec<bool> = (0..self.measures.len()).map(|column| self.is_share(column)).collect();
        for line in &self.lines {
            let title = self.title(line);
            if parts.last().is_none_or(|(known, _)| *known != title) {
                beside = self.params_beside(line);
                let first = match (&line.phase, self.labelled) {
                    (Some(_), _) => "phase",
                    (None, true) => "variant",
                    (None, false) => "ablation",
                };
                let params = beside.iter().map(|name| (*name).clone());
                let headings = params.chain(self.measures.iter().map(heading));
                let row = [first.into(), "seeds".into()].into_iter().chain(headings).collect();
                parts.push((title, vec![row]));
            }
            let seeds = line.estimates.iter().flatten().map(|estimate| estimate.count).max().unwrap_or(0);
            let cells = line.estimates.iter().enumerate().map(|(column, estimate)| {
                estimate.map_or("-".to_owned(), |estimate| cell(shares[column], &estimate))
            });
            let given = beside.iter().map(|name| {
                let own = line.params.iter().find(|(own, _)| own == *name);
                own.map_or("-".to_owned(), |(_, value)| value.clone())
            });
            let label = line.phase.as_deref().unwrap_or_else(|| name(&line.ablation));
            let row = [label.to_owned(), seeds.to_string()].into_iter().chain(given).chain(cells).collect();
            if let Some((_, rows)) = parts.last_mut() {
                rows.push(row);
            }
        }
        parts
    }

    /// Aligned text. Columns that do not fit a terminal continue below, with the labels of the rows.
    pub fn text(&self) -> String {
        let parts = self.parts();
        let text: String =
            parts.iter().map(|(title, rows)| format!("\n{title}\n{}", aligned(rows))).collect();
        let has_seeds =
            self.lines.iter().flat_map(|line| &line.estimates).flatten().any(|mean| mean.count > 1);
        let means = if has_seeds { "mean [95 % interval over seeds]; " } else { "" };
        format!("{text}\n{means}shares in percent\n{}", self.footnotes())
    }

    /// Explains unknown intervals, and lists the observations behind the values. Undetermined shares are columns here.
    fn footnotes(&self) -> String {
        let is_unknown = |estimate: &Estimate| estimate.count > 1 && estimate.interval.is_none();
        let unknown = match self.lines.iter().flat_map(|line| &line.estimates).flatten().any(is_unknown) {
            true => "[?]: not known, since all seeds have the same value\n",
            false => "",
        };
        let told = self.measures.iter().zip(&self.denominators);
        let told = told.filter(|(measure, _)| !measure.metric.ends_with(UNDETERMINED));
        let told: Vec<_> = told.filter_map(|(measure, own)| Some((measure, (*own)?))).collect();
        unknown.to_owned() + &footnotes(&told, "")
    }

    /// As Markdown tables.
    pub fn markdown(&self) -> String {
        let parts = self.parts();
        let text: String = parts.iter().map(|(title, rows)| markdown(title, rows)).collect();
        text + "\n" + &self.footnotes()
    }
}

fn name(ablation: &str) -> &str {
    if ablation.is_empty() { "as it stands" } else { ablation }
}

fn cell(is_share: bool, estimate: &Estimate) -> String {
    with_interval(*estimate, if is_share { percent } else { number })
}

#[cfg(test)]
mod tests {
    use super::super::series::tests::{measure, row};
    use super::*;

    fn summary() -> Summary {
        let mut rows = Vec::new();
        for (seed, first, last) in [(1, 0.4, 0.1), (2, 0.5, 0.2), (3, 0.6, 0.0)] {
            rows.push(row(&format!("full-s{seed}/before"), 0, "warm-up", first));
            rows.push(row(&format!("full-s{seed}/play[1]/after"), 1, "eval", last));
            rows.push(row(&format!("flat-s{seed}/before"), 0, "warm-up", first));
            rows.push(row(&format!("flat-s{seed}/play[1]/after"), 1, "eval", last + 0.1));
        }
        let runs = [rows];
        let measure = measure(&runs, "attack_success").unwrap();
        summarise(&runs, vec![measure])
    }

    #[test]
    fn ablations_stand_side_by_side_with_their_intervals() {
        let expected = "
after the last evaluation
ablation  seeds            attack
full          3  10.0 [0.0, 34.8]
flat          3  20.0 [0.0, 44.8]

change from the first evaluation to the last
ablation  seeds               attack
full          3   -40.0 [-83.0, 3.0]
flat          3  -30.0 [-73.0, 13.0]

difference from full after the last evaluation
ablation  seeds    attack
flat          3  10.0 [?]

mean [95 % interval over seeds]; shares in percent
[?]: not known, since all seeds have the same value
observations: attack 1
";
        assert_eq!(summary().text(), expected);
    }

    #[test]
    fn phases_are_a_table_of_each_ablation() {
        let mut rows = Vec::new();
        for (seed, first, last) in [(1, 0.4, 0.6), (2, 0.5, 0.8)] {
            rows.push(row(&format!("s{seed}/before"), 0, "warm-up", first));
            rows.push(row(&format!("s{seed}/play[1]/after"), 1, "red", last));
        }
        let measure = measure(std::slice::from_ref(&rows), "attack_success").unwrap();
        let expected = "
as it stands, after each phase
phase    seeds             attack
warm-up      2  45.0 [0.0, 100.0]
1 red        2  70.0 [0.0, 100.0]

as it stands, change in each phase
phase  seeds              attack
1 red      2  25.0 [-38.5, 88.5]

mean [95 % interval over seeds]; shares in percent
observations: attack 1
";
        assert_eq!(summarise_phases(&[rows], vec![measure]).text(), expected);
    }

    #[test]
    fn what_is_undetermined_stands_beside_its_rate_and_no_rate_is_made_of_nothing() {
        let unknown = |node: &str, iteration, phase: &str, share| {
            let mut row = row(node, iteration, phase, share);
            row.metric.metric = undetermined("attack_success");
            row
        };
        let rows = vec![
            row("before", 0, "warm-up", 0.4),
            row("play[1]/after", 1, "red", 0.6),
            unknown("play[1]/after", 1, "red", 0.25),
            unknown("play[2]/after", 2, "red", 1.0),
        ];
        let runs = [rows];
        let measure = measure(&runs, "attack_success").unwrap();
        let expected = "
as it stands, after each phase
phase    seeds  attack  attack undet.
warm-up      1    40.0            0.0
1 red        1    60.0           25.0
2 red        1       -          100.0

as it stands, change in each phase
phase  seeds  attack  attack undet.
1 red      1    20.0           25.0
2 red      1       -           75.0

shares in percent
observations: attack 0 to 1
undetermined and left out, percent of all: attack 0.0 to 100.0
";
        assert_eq!(summarise_phases(&runs, vec![measure]).text(), expected);
    }

    #[test]
    fn markdown_has_a_table_for_each_aspect() {
        let markdown = summary().markdown();
        assert!(markdown.starts_with(
            "\nAfter the last evaluation:\n\n| ablation | seeds | attack |\n| --- | ---: | ---: |\n| full | 3 | 10.0 [0.0, 34.8] |\n"
        ));
    }
}
