//! Leagues: the success of attackers against defenders, as a table with the means of rows and columns. All displays of
//! `cross_play` are computed here: at a run's end, in `results table --league`, in `results panel` and in reports.

use std::collections::BTreeMap;

use serde::Serialize;

use super::columns::{aligned, markdown};
use super::denominator::{Denominator, Span};
use super::number::{interval, percent, with_interval};
use super::series::SampleId;
use super::statistics::{Estimate, estimate};
use data::RunMetricRow;
use game::undetermined;
use runs::variant;

/// The metric of a pair. Its phase is the attacker's name, its subject the defender's.
const METRIC: &str = "cross_success";

/// The result of a `cross_play` stage of an ablation, over its seeds.
///
/// A mean is over a row, a column or the whole table, with equal weights, seed by seed. A seed in which one of these cells is
/// missing or entirely undetermined has no such mean: it would be a mean over other opponents.
#[derive(Clone, Debug, Serialize)]
pub struct League {
    /// Empty without an ablation.
    pub ablation: String,
    /// The stage, without ablation and seed.
    pub node: String,
    /// Names of the attackers: the rows of the table.
    pub attackers: Vec<String>,
    /// Names of the defenders: the columns of the table.
    pub defenders: Vec<String>,
    /// By attacker and defender: the share of successful attacks.
    pub success: Vec<Vec<Option<Estimate>>>,
    /// Observations behind each cell, over all seeds.
    pub counts: Vec<Vec<u64>>,
    /// Undetermined observations, which are not in `counts`.
    pub undetermined: Vec<Vec<u64>>,
    /// The mean of each attacker over all defenders.
    pub attacker_means: Vec<Option<Estimate>>,
    /// The mean of each defender over all attackers.
    pub defender_means: Vec<Option<Estimate>>,
    /// The mean over all cells.
    pub mean: Option<Estimate>,
    /// For one cell in one seed.
    #[serde(skip)]
    denominator: Denominator,
}

/// A cell in one seed: the share, its number of observations, and the number of undetermined ones.
#[derive(Clone, Copy, Default)]
struct Cell {
    success: Option<f64>,
    count: u64,
    undetermined: u64,
}

impl Cell {
    fn share_undetermined(&self) -> f64 {
        match self.count + self.undetermined {
            0 => 0.0,
            all => self.undetermined as f64 / all as f64,
        }
    }
}

/// The rows of one stage of one ablation; names in the order of their first row.
#[derive(Default)]
struct Gathered<'r> {
    attackers: Vec<&'r str>,
    defenders: Vec<&'r str>,
    /// By attacker and defender.
    seeds: BTreeMap<SampleId, BTreeMap<(usize, usize), Cell>>,
}

impl<'r> Gathered<'r> {
    fn add(&mut self, sample: SampleId, row: &'r RunMetricRow) {
        let attacker = place(&mut self.attackers, &row.metric.phase);
        let defender = place(&mut self.defenders, &row.metric.subject);
        let cell = self.seeds.entry(sample).or_default().entry((attacker, defender)).or_default();
        match row.metric.metric == METRIC {
            true => (cell.success, cell.count) = (Some(row.metric.value), row.metric.count),
            // The share times the number of all observations.
            false => cell.undetermined = (row.metric.value * row.metric.count as f64).round() as u64,
        }
    }

    /// The estimate over seeds of each seed's mean of these cells; seeds that lack one are left out.
    fn mean(&self, cells: impl Iterator<Item = (usize, usize)> + Clone) -> Option<Estimate> {
        let of_seed = |seed: &BTreeMap<(usize, usize), Cell>| {
            let values: Option<Vec<f64>> = cells.clone().map(|cell| seed.get(&cell)?.success).collect();
            Some(estimate(&values?)?.mean)
        };
        estimate(&self.seeds.values().filter_map(of_seed).collect::<Vec<f64>>()).map(Estimate::of_shares)
    }

    fn league(&self, ablation: &str, node: &str) -> Option<League> {
        let (attackers, defenders) = (0..self.attackers.len(), 0..self.defenders.len());
        let all = attackers.clone().flat_map(|row| defenders.clone().map(move |column| (row, column)));
        let sum = |of: fn(&Cell) -> u64| -> Vec<Vec<u64>> {
            let of_cell = |cell| self.seeds.values().filter_map(|seed| Some(of(seed.get(&cell)?))).sum();
            let of_row = |row| defenders.clone().map(|column| of_cell((row, column))).collect();
            attackers.clone().map(of_row).collect()
        };
        let cells = || self.seeds.values().flat_map(BTreeMap::values);
        Some(League {
            ablation: ablation.to_owned(),
            node: node.to_owned(),
            attackers: self.attackers.iter().map(|name| (*name).to_owned()).collect(),
            defenders: self.defenders.iter().map(|name| (*name).to_owned()).collect(),
            success: attackers
                .clone()
                .map(|row| {
                    defenders.clone().map(|column| self.mean(std::iter::once((row, column)))).collect()
                })
                .collect(),
            counts: sum(|cell| cell.count),
            undetermined: sum(|cell| cell.undetermined),
            attacker_means: attackers
                .clone()
                .map(|row| self.mean(defenders.clone().map(|column| (row, column))))
                .collect(),
            defender_means: defenders
                .clone()
                .map(|column| self.mean(attackers.clone().map(|row| (row, column))))
                .collect(),
            mean: self.mean(all),
            denominator: Denominator {
                count: Span::of(cells().map(|cell| cell.count))?,
                undetermined: Span::of(cells().map(Cell::share_undetermined))?,
            },
        })
    }
}

fn place<'r>(names: &mut Vec<&'r str>, name: &'r str) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

/// Every `cross_play` of these rows, each with the index of its run: one for each ablation and stage, in the order of the rows.
pub fn leagues<'r>(rows: impl IntoIterator<Item = (usize, &'r RunMetricRow)>) -> Vec<League> {
    let unknown = undetermined(METRIC);
    let mut found: Vec<((&str, &str), Gathered)> = Vec::new();
    for (run, row) in rows {
        if row.metric.metric != METRIC && row.metric.metric != unknown {
            continue;
        }
        let (ablation, seed, node) = variant(&row.node);
        let of = (ablation, node);
        let place = found.iter().position(|(known, _)| *known == of).unwrap_or(found.len());
        if place == found.len() {
            found.push((of, Gathered::default()));
        }
        found[place].1.add((run, seed), row);
    }
    found.iter().filter_map(|((ablation, node), gathered)| gathered.league(ablation, node)).collect()
}

impl League {
    /// Its name, such as `full/league`.
    pub fn name(&self) -> String {
        match self.ablation.as_str() {
            "" => self.node.clone(),
            ablation => format!("{ablation}/{}", self.node),
        }
    }

    fn title(&self) -> String {
        format!("{}: attack success, percent", self.name())
    }

    /// Cells in percent. The mean of a row follows its name, the means of columns are below the rows. With several seeds, their
    /// intervals follow.
    fn rows(&self) -> Vec<Vec<String>> {
        let shown = |found: &Option<Estimate>| found.map_or("-".to_owned(), |found| percent(found.mean));
        let row = |label: &str, mean: String, cells: &mut dyn Iterator<Item = String>| -> Vec<String> {
            [label.to_owned(), mean].into_iter().chain(cells).collect()
        };
        let mut rows = vec![row("attacker \\ defender", "mean".into(), &mut self.defenders.iter().cloned())];
        for (place, attacker) in self.attackers.iter().enumerate() {
            let mean = self.attacker_means[place].map_or("-".to_owned(), |mean| with_interval(mean, percent));
            rows.push(row(attacker, mean, &mut self.success[place].iter().map(shown)));
        }
        let mean = self.mean.map_or("-".to_owned(), |mean| with_interval(mean, percent));
        rows.push(row("mean", mean, &mut self.defender_means.iter().map(shown)));
        if self.defender_means.iter().flatten().any(|mean| mean.count > 1) {
            let interval =
                |mean: &Option<Estimate>| mean.map_or(String::new(), |mean| interval(mean, percent));
            rows.push(row("", String::new(), &mut self.defender_means.iter().map(interval)));
        }
        rows
    }

    fn seeds(&self) -> usize {
        self.success.iter().flatten().flatten().map(|found| found.count).max().unwrap_or(0)
    }
}

/// Leagues for people, within 80 columns; empty without leagues.
pub fn leagues_text(leagues: &[League]) -> String {
    let text: String =
        leagues.iter().map(|own| format!("\n{}\n{}", own.title(), aligned(&own.rows()))).collect();
    text + &notes(leagues)
}

/// Leagues as Markdown tables.
pub fn leagues_markdown(leagues: &[League]) -> String {
    let text: String = leagues
        .iter()
        .map(|own| markdown(&format!("attack success in percent, {}", own.name()), &own.rows()))
        .collect();
    text + &notes(leagues)
}

fn notes(leagues: &[League]) -> String {
    let Some(denominator) = Denominator::together(leagues.iter().map(|own| own.denominator)) else {
        return String::new();
    };
    let most = leagues.iter().map(League::seeds).max().unwrap_or(0);
    let over = match most {
        0 | 1 => "mean: of the row, the column or the table, all cells with the same weight\n".to_owned(),
        seeds => format!(
            "mean: of the row, the column or the table, all cells with the same weight;\n\
             in brackets its 95 % interval over {seeds} seeds\n"
        ),
    };
    format!("\n{over}observations per cell and seed: {}\n", denominator.line())
}

#[cfg(test)]
mod tests {
    use super::super::series::tests::row;
    use super::*;

    fn pair(node: &str, attacker: &str, defender: &str, value: f64) -> RunMetricRow {
        let mut row = row(node, 0, attacker, value);
        (row.metric.subject, row.metric.metric) = (defender.into(), METRIC.into());
        row.metric.count = 80;
        row
    }

    fn of(rows: &[RunMetricRow]) -> Vec<League> {
        leagues(rows.iter().map(|row| (0, row)))
    }

    #[test]
    fn every_attacker_meets_every_defender_and_rows_and_columns_have_means() {
        let rows = [
            pair("league", "round 0", "round 0", 0.5),
            pair("league", "round 0", "round 1", 0.0),
            pair("league", "round 1", "round 0", 0.75),
            pair("league", "round 1", "round 1", 0.25),
            pair("flat/league", "round 0", "round 0", 1.0),
        ];
        let expected = "
league: attack success, percent
attacker \\ defender  mean  round 0  round 1
round 0              25.0     50.0      0.0
round 1              50.0     75.0     25.0
mean                 37.5     62.5     12.5

flat/league: attack success, percent
attacker \\ defender   mean  round 0
round 0              100.0    100.0
mean                 100.0    100.0

mean: of the row, the column or the table, all cells with the same weight
observations per cell and seed: of 80
";
        assert_eq!(leagues_text(&of(&rows)), expected);
        assert_eq!(leagues_text(&of(&[])), "");
        assert!(leagues_markdown(&of(&rows)).starts_with(
            "\nAttack success in percent, league:\n\n| attacker \\ defender | mean | round 0 | round 1 |\n| --- | ---: | ---: | ---: |\n| round 0 | 25.0 | 50.0 | 0.0 |\n"
        ));
    }

    #[test]
    fn intervals_are_over_seeds_of_each_seeds_own_mean() {
        let seed = |node: &str, first: f64, second: f64| {
            [pair(node, "full", "warm-up", first), pair(node, "full", "full", second)]
        };
        // Means of 40 and 60 %: t with one degree of freedom is 12.706, the deviation over √2 10 %.
        let rows = [seed("s1/panel", 0.6, 0.2), seed("s2/panel", 0.9, 0.3)].concat();
        let [league] = &of(&rows)[..] else { panic!("seeds are of one league") };
        let mean = league.attacker_means[0].unwrap();
        assert_eq!(mean.count, 2);
        assert!((mean.mean - 0.5).abs() < 1e-12, "{mean:?}");
        let ends = mean.interval.unwrap();
        assert_eq!((ends.low, ends.high), (0.0, 1.0), "Student's is wider than any share");
        assert_eq!((league.mean, league.counts[0][0]), (Some(mean), 160), "of all seeds");
        let expected = "
panel: attack success, percent
attacker \\ defender               mean       warm-up         full
full                 50.0 [0.0, 100.0]          75.0         25.0
mean                 50.0 [0.0, 100.0]          75.0         25.0
                                        [0.0, 100.0]  [0.0, 88.5]

mean: of the row, the column or the table, all cells with the same weight;
in brackets its 95 % interval over 2 seeds
observations per cell and seed: of 80
";
        assert_eq!(leagues_text(&of(&rows)), expected);
    }

    #[test]
    fn a_mean_is_never_of_other_opponents() {
        // Round 1 against round 1 was entirely undetermined, 20 attacks.
        let mut unknown = pair("league", "round 1", "round 1", 1.0);
        unknown.metric.metric = undetermined(METRIC);
        unknown.metric.count = 20;
        let rows = [
            pair("league", "round 0", "round 0", 0.5),
            pair("league", "round 0", "round 1", 0.25),
            pair("league", "round 1", "round 0", 0.75),
            unknown,
        ];
        let [league] = &of(&rows)[..] else { panic!("one stage is one league") };
        let means = |found: &[Option<Estimate>]| -> Vec<Option<f64>> {
            found.iter().map(|found| found.map(|found| found.mean)).collect()
        };
        assert_eq!(means(&league.attacker_means), [Some(0.375), None]);
        assert_eq!(means(&league.defender_means), [Some(0.625), None]);
        assert_eq!((league.mean, league.undetermined[1][1], league.counts[1][1]), (None, 20, 0));
        let text = leagues_text(&of(&rows));
        assert!(text.contains("round 1                 -     75.0        -\n"), "{text}");
        assert!(
            text.ends_with("cell and seed: of 0 to 80; 0.0 to 100.0 % undetermined, left out\n"),
            "{text}"
        );
    }
}
