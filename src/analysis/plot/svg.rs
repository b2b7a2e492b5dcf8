//! Curves as SVG: the mean over seeds and its 95 % interval as a band.
//!
//! The colours are those of Okabe and Ito, which people with colour blindness can distinguish, with lighter ones of the same hues
//! on a dark page. Each curve has its name at its end.

use std::fmt::Write;

use super::{Axes, Curve, Picture};
use crate::statistics::Interval;

/// Size of the picture and margins around the curves, in pixels.
const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 66.0;

/// The least distance of curve names, and the mean distance of phase labels, in pixels.
const LINE: f64 = 15.0;
const LABEL: f64 = 52.0;

/// The characters of a curve's name right of the curves.
const NAME: usize = 22;

/// For a light page and for a dark one.
const COLOURS: [(&str, &str); 7] = [
    ("#0072b2", "#5bb0ea"),
    ("#d55e00", "#ff8c4a"),
    ("#009e73", "#2fc99b"),
    ("#b8578f", "#e59ac6"),
    ("#b07a00", "#f0bb45"),
    ("#3a8fc4", "#9ad2f5"),
    ("#6b6b6b", "#b5b5b5"),
];

/// Curves beyond the colours are dashed.
const DASHES: [&str; 4] = ["none", "7 3", "2 3", "7 3 2 3"];

/// The colour class of a curve.
fn class(curve: &Curve) -> usize {
    curve.number % COLOURS.len()
}

fn dash(curve: &Curve) -> &'static str {
    DASHES[curve.number / COLOURS.len() % DASHES.len()]
}

fn start() -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">"
    )
}

/// Whether a file's beginning is that of such a picture.
pub fn is_svg(beginning: &[u8]) -> bool {
    beginning.starts_with(start().as_bytes())
}

/// Width and height in pixels.
pub(super) const SIZE: (f64, f64) = (WIDTH, HEIGHT);

/// The picture as an SVG.
pub fn svg(picture: &Picture) -> String {
    let mut svg = head(picture);
    frame(&mut svg, picture);
    let (axes, curves) = (&picture.axes, &picture.curves);
    curves.iter().for_each(|curve| band(&mut svg, axes, curve));
    curves.iter().for_each(|curve| line(&mut svg, axes, curve));
    names(&mut svg, picture);
    svg + "</svg>\n"
}

impl Axes {
    fn x(&self, place: usize) -> f64 {
        let width = WIDTH - LEFT - RIGHT;
        match self.phases.len() {
            0 | 1 => LEFT + width / 2.0,
            count => LEFT + width * place as f64 / (count - 1) as f64,
        }
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value.clamp(self.low, self.high))
            / (self.high - self.low)
    }
}

fn head(picture: &Picture) -> String {
    let mut style = String::from(
        "text{font:12px sans-serif;fill:#333}.title{font-size:14px;font-weight:600}.axis{stroke:#888}.grid{stroke:#ddd}\n",
    );
    let mut dark = String::from("text{fill:#ddd}.axis{stroke:#999}.grid{stroke:#444}");
    for (class, (on_light, on_dark)) in COLOURS.iter().enumerate() {
        for (style, colour) in [(&mut style, on_light), (&mut dark, on_dark)] {
            let _ = write!(style, ".l{class}{{stroke:{colour}}}.f{class}{{fill:{colour}}}");
        }
    }
    let (title, subtitle) = (escape(&picture.title()), escape(&picture.subtitle()));
    let start = start();
    format!(
        "{start}\n\
         <title>{title}</title>\n\
         <style>\n{style}\n@media (prefers-color-scheme:dark){{{dark}}}\n</style>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"20\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"36\">{subtitle}</text>\n"
    )
}

/// Axes with their units, and grid lines at the labelled values.
fn frame(svg: &mut String, picture: &Picture) {
    let axes = &picture.axes;
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for (value, shown) in picture.ticks() {
        let y = axes.y(value);
        let _ =
            writeln!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{shown}</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    let _ =
        writeln!(svg, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>");
    let most = ((right - LEFT) / LABEL).floor().max(1.0) as usize;
    let every = axes.phases.len().div_ceil(most).max(1);
    for (place, phase) in axes.phases.iter().enumerate().step_by(every) {
        let x = axes.x(place);
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 5.0,
            bottom + 20.0,
            escape(phase)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (LEFT + right) / 2.0,
        bottom + 46.0,
        picture.places()
    );
    let middle = (TOP + bottom) / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"18\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {middle:.1})\">{}</text>",
        escape(&picture.label())
    );
}

/// The interval, if there are several seeds.
fn band(svg: &mut String, axes: &Axes, curve: &Curve) {
    let edge = |end: fn(Interval) -> f64| {
        curve.points.iter().filter_map(move |(place, estimate)| Some((*place, end(estimate.interval?))))
    };
    let around: Vec<(usize, f64)> =
        edge(|interval| interval.high).chain(edge(|interval| interval.low).rev()).collect();
    if around.len() > 3 {
        let _ = writeln!(
            svg,
            "<polygon class=\"f{}\" fill-opacity=\"0.15\" points=\"{}\"/>",
            class(curve),
            points(axes, around.into_iter())
        );
    }
}

fn line(svg: &mut String, axes: &Axes, curve: &Curve) {
    let means = || curve.points.iter().map(|(place, estimate)| (*place, estimate.mean));
    let _ = writeln!(
        svg,
        "<polyline class=\"l{}\" fill=\"none\" stroke-width=\"2\" stroke-dasharray=\"{}\" points=\"{}\"/>",
        class(curve),
        dash(curve),
        points(axes, means())
    );
    // Single points would hide a long curve.
    if curve.points.len() <= 40 {
        for (place, value) in means() {
            let (x, y) = (axes.x(place), axes.y(value));
            let _ =
                writeln!(svg, "<circle class=\"f{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>", class(curve));
        }
    }
}

/// The name of each curve at its end, or as near as there is space.
fn names(svg: &mut String, picture: &Picture) {
    let (axes, shown) = (&picture.axes, picture.names(NAME));
    let mut ends: Vec<(f64, &Curve)> = (picture.curves.iter())
        .filter(|curve| !curve.name.is_empty())
        .filter_map(|curve| Some((axes.y(curve.points.last()?.1.mean), curve)))
        .collect();
    ends.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut free = TOP;
    let room = HEIGHT - BOTTOM - LINE * ends.len() as f64;
    for (index, (end, curve)) in ends.into_iter().enumerate() {
        // Leaves space for the names below.
        let y = end.min(room + LINE * (index + 1) as f64).max(free);
        free = y + LINE;
        let (x, end_x) = (WIDTH - RIGHT + 18.0, axes.x(curve.points.last().map_or(0, |point| point.0)));
        let _ = writeln!(
            svg,
            "<line class=\"l{0}\" stroke-opacity=\"0.5\" x1=\"{1:.1}\" y1=\"{end:.1}\" x2=\"{2:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"f{0}\" x=\"{x:.1}\" y=\"{3:.1}\">{4}</text>",
            class(curve),
            end_x + 5.0,
            x - 4.0,
            y + 4.0,
            escape(&shown[curve.number])
        );
    }
}

fn points(axes: &Axes, values: impl Iterator<Item = (usize, f64)>) -> String {
    let point = |(place, value): (usize, f64)| format!("{:.1},{:.1}", axes.x(place), axes.y(value));
    values.map(point).collect::<Vec<_>>().join(" ")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::super::denominator::Denominator;
    use super::super::super::series::series;
    use super::super::super::series::tests::{measure, row};
    use super::*;

    #[test]
    fn a_curve_has_a_band_where_there_are_seeds_and_a_name_where_it_ends() {
        let mut rows = Vec::new();
        for (seed, shift) in [(1, 0.0), (2, 0.1)] {
            rows.push(row(&format!("full-s{seed}/before"), 0, "warm-up", 0.4 + shift));
            rows.push(row(&format!("full-s{seed}/play[1]/after"), 1, "a<b", 0.1 + shift));
        }
        rows.push(row("flat/before", 0, "warm-up", 0.4));
        let runs = [rows];
        let measure = measure(&runs, "attack_success").unwrap();
        let svg =
            super::svg(&Picture::new(&measure, &series(&runs, &measure), Denominator::of(&runs, &measure)));
        assert_eq!((svg.matches("<polygon").count(), svg.matches("<polyline").count()), (1, 2));
        assert!(svg.contains(">full</text>") && svg.contains(">1 a&lt;b</text>"), "{svg}");
        assert!(svg.contains("attack_success of defender, mean and 95 % interval over 2 seeds"), "{svg}");
        assert!(svg.contains(">100</text>") && !svg.contains("NaN"), "shares stay in 0 to 100: {svg}");
    }

    #[test]
    fn names_that_would_cover_each_other_are_moved_apart() {
        let rows: Vec<_> =
            (0..12).map(|i| row(&format!("a{i}/before"), 0, "warm-up", 0.5 + f64::from(i) * 1e-4)).collect();
        let runs = [rows];
        let measure = measure(&runs, "attack_success").unwrap();
        let svg =
            super::svg(&Picture::new(&measure, &series(&runs, &measure), Denominator::of(&runs, &measure)));
        let mut heights: Vec<f64> = svg
            .lines()
            .filter_map(|line| line.split("y2=\"").nth(1).filter(|_| line.contains("stroke-opacity")))
            .filter_map(|rest| rest.split('"').next()?.parse().ok())
            .collect();
        heights.sort_by(f64::total_cmp);
        assert_eq!(heights.len(), 12);
        assert!(heights.windows(2).all(|pair| pair[1] - pair[0] >= LINE - 0.2), "{heights:?}");
    }
}
