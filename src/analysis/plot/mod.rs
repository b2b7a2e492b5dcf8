//! Curves of a metric over phases, for each ablation the mean over seeds with its 95 % interval: as SVG (`svg`), as a PNG of
//! the SVG (`png`), and in the terminal (`terminal`).

mod png;
mod svg;
mod terminal;

pub use png::{is_png, png};
pub use svg::{is_svg, svg};
pub use terminal::terminal;

use std::collections::{HashMap, HashSet};

use super::denominator::Denominator;
use super::series::{Measure, Series};
use super::statistics::Estimate;
use super::table::is_share;

/// A metric's curves and their axes.
pub struct Picture<'a> {
    measure: &'a Measure,
    /// The observations behind the values.
    denominator: Option<Denominator>,
    /// The largest number of seeds of an ablation.
    seeds: usize,
    /// Whether the values are shown in percent.
    share: bool,
    axes: Axes,
    curves: Vec<Curve<'a>>,
}

struct Curve<'a> {
    /// Its index among the curves, which selects its style.
    number: usize,
    name: &'a str,
    /// By the index of the phase on the axis.
    points: Vec<(usize, Estimate)>,
}

/// The ranges of the axes.
struct Axes {
    phases: Vec<String>,
    /// The distance between labelled values.
    step: f64,
    low: f64,
    high: f64,
}

impl<'a> Picture<'a> {
    /// Lays out a measure's curves, one for each ablation, on common axes.
    pub fn new(measure: &'a Measure, series: &'a [Series], denominator: Option<Denominator>) -> Picture<'a> {
        // A metric that has a share's name but not its range is drawn as it is.
        let means = || series.iter().flat_map(Series::phases).map(|(_, found)| found.mean);
        let share = is_share(&measure.metric) && means().all(|mean| (0.0..=1.0).contains(&mean));
        let of_phase =
            |(phase, found): (String, Estimate)| (phase, if share { found.of_shares() } else { found });
        let phases: Vec<Vec<(String, Estimate)>> =
            series.iter().map(|series| series.phases().into_iter().map(of_phase).collect()).collect();
        let axes = axes(&phases, share);
        let places: HashMap<&str, usize> =
            axes.phases.iter().enumerate().map(|(place, phase)| (phase.as_str(), place)).collect();
        let place = |phase: &str| places.get(phase).copied().unwrap_or_default();
        let curves = (series.iter().zip(&phases).enumerate())
            .map(|(number, (series, phases))| Curve {
                number,
                name: &series.ablation,
                points: phases.iter().map(|(phase, estimate)| (place(phase), *estimate)).collect(),
            })
            .collect();
        let seeds = series.iter().map(|series| series.samples.len()).max().unwrap_or(0);
        drop(places);
        Picture { measure, denominator, seeds, share, axes, curves }
    }

    fn title(&self) -> String {
        let Measure { subject, metric } = self.measure;
        let interval = if self.seeds > 1 { " and 95 % interval" } else { "" };
        let s = if self.seeds == 1 { "" } else { "s" };
        format!("{metric} of {subject}, mean{interval} over {} seed{s}", self.seeds)
    }

    /// The observations behind the values, and the undetermined share.
    fn subtitle(&self) -> String {
        self.denominator.map_or(String::new(), |denominator| denominator.line())
    }

    /// The names of the curves. If one is longer than `room` characters, the words that all begin with are left out, so that
    /// they differ where they are cut.
    fn names(&self, room: usize) -> Vec<String> {
        let names: Vec<&str> = self.curves.iter().map(|curve| curve.name).collect();
        let common = match (names.iter().any(|name| name.chars().count() > room), &names[..]) {
            (true, [first, rest @ ..]) if !rest.is_empty() => common_words(first, rest),
            _ => 0,
        };
        let short =
            |name: &&str| if common > 0 { format!("…{}", &name[common..]) } else { (*name).to_owned() };
        names.iter().map(short).collect()
    }

    /// The label of the value axis, with its unit.
    fn label(&self) -> String {
        let metric = &self.measure.metric;
        let unit = match metric.as_str() {
            _ if self.share => ", percent",
            "kl" => ", nats",
            _ if metric.ends_with("entropy") || metric == "nll" => ", nats",
            _ => "",
        };
        format!("{metric}{unit}")
    }

    /// The label of the phase axis.
    fn places(&self) -> &'static str {
        let all = |is: fn(&str) -> bool| self.axes.phases.iter().all(|phase| is(phase));
        match (all(is_step), all(|phase| phase.starts_with("step "))) {
            (true, _) => "iteration.step",
            (_, true) => "step",
            _ => "after phase",
        }
    }

    /// The labelled values, with their labels.
    fn ticks(&self) -> Vec<(f64, String)> {
        let Axes { step, low, high, .. } = &self.axes;
        let scale = if self.share { 100.0 } else { 1.0 };
        let decimals = (-(step * scale).log10().floor()).clamp(0.0, 17.0) as usize;
        let count = ((high - low) / step).round() as usize;
        let tick = |index: usize| {
            let value = low + step * index as f64;
            // Not `-0`.
            let shown = if (scale * value).abs() < 1e-9 { 0.0 } else { scale * value };
            (value, format!("{shown:.decimals$}"))
        };
        (0..=count).map(tick).collect()
    }
}

/// All phases in the order of the longest curve, and round values around all bands. Shares stay within 0 and 1.
fn axes(curves: &[Vec<(String, Estimate)>], share: bool) -> Axes {
    let mut longest: Vec<&Vec<(String, Estimate)>> = curves.iter().collect();
    longest.sort_by_key(|points| std::cmp::Reverse(points.len()));
    let mut known: HashSet<&str> = HashSet::new();
    let new = longest.into_iter().flatten().filter(|(phase, _)| known.insert(phase));
    let phases: Vec<String> = new.map(|(phase, _)| phase.clone()).collect();
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (_, estimate) in curves.iter().flatten() {
        let (least, most) =
            estimate.interval.map_or((estimate.mean, estimate.mean), |found| (found.low, found.high));
        (low, high) = (low.min(least), high.max(most));
    }
    if !low.is_finite() || !high.is_finite() || high - low < 1e-9_f64.max(low.abs() * 1e-9) {
        let middle = if low.is_finite() { low } else { 0.0 };
        // A margin that does not vanish beside a large value.
        let margin = 0.05_f64.max(middle.abs() * 1e-3);
        (low, high) = (middle - margin, middle + margin);
        if share {
            (low, high) = (low.max(0.0), high.min(1.0));
        }
    }
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    Axes { phases, step, low: (low / step).floor() * step, high: (high / step).ceil() * step }
}

/// The bytes of the words that all of these names begin with. Each name keeps at least one.
fn common_words(first: &str, others: &[&str]) -> usize {
    let is_common = |end: &usize| {
        others
            .iter()
            .all(|other| other.len() > *end && other.as_bytes().starts_with(&first.as_bytes()[..*end]))
    };
    let ends = first.char_indices().filter(|(_, c)| !c.is_alphanumeric() && *c != '.');
    let ends = ends.map(|(at, c)| if c == '[' { at } else { at + c.len_utf8() });
    ends.filter(|end| *end < first.len()).take_while(is_common).last().unwrap_or(0)
}

/// Whether a phase is a training step, such as `1.12`.
fn is_step(phase: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    phase.split_once('.').is_some_and(|(iteration, step)| is_number(iteration) && is_number(step))
}
