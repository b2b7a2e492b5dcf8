//! Curves in the terminal, drawn with Braille dots. Each curve has a letter, at its points and before its name, to distinguish
//! curves without colours.

use console::Style;
use output::one_line;

use super::{Curve, Picture};

/// The size of the plot in characters of 2 by 4 dots.
const WIDTH: usize = 50;
const HEIGHT: usize = 16;

/// The most characters right of the plot: with the values left of it, 80 columns in all.
const NAME: usize = 20;

/// Points are marked unless there are more than this.
const MOST_POINTS: usize = 25;

/// A character of the field.
#[derive(Clone, Copy, Default)]
struct Cell {
    /// Braille dots, as the bits of U+2800.
    dots: u8,
    letter: Option<char>,
    /// The last curve drawn here.
    curve: usize,
}

/// The picture as text, in colours if wanted.
pub fn terminal(picture: &Picture, colours: bool) -> String {
    let field = field(picture);
    let labels = labels(picture);
    let (names, are_whole) = names(picture);
    let mut text = format!("{}\n{}\n\n", one_line(&picture.title()), picture.subtitle());
    for (row, cells) in field.iter().enumerate() {
        let mut line = format!("{:>8} │", labels[row]);
        for cell in cells {
            let shown = match cell {
                Cell { letter: Some(letter), .. } => letter.to_string(),
                Cell { dots: 0, .. } => " ".into(),
                Cell { dots, .. } => char::from_u32(0x2800 + u32::from(*dots)).unwrap_or(' ').to_string(),
            };
            line += &painted(&shown, cell.curve, colours && shown != " ");
        }
        if let Some((curve, name)) = &names[row] {
            line += " ";
            line += &painted(name, *curve, colours);
        }
        text += line.trim_end();
        text.push('\n');
    }
    text += &format!("{:>8} └{}\n", "", "─".repeat(WIDTH));
    text += &phases(picture);
    text += &format!("\n{:>10}{} over {}\n", "", one_line(&picture.label()), picture.places());
    if !are_whole {
        text.push('\n');
        for curve in &picture.curves {
            text += &painted(&format!("{} {}", letter(curve), one_line(name(curve))), curve.number, colours);
            text.push('\n');
        }
    }
    text
}

fn painted(text: &str, curve: usize, colours: bool) -> String {
    // The colours of Okabe and Ito among the 256 colours of terminals.
    const COLOURS: [u8; 7] = [32, 208, 36, 175, 178, 74, 246];
    match colours {
        true => Style::new()
            .color256(COLOURS[curve % COLOURS.len()])
            .force_styling(true)
            .apply_to(text)
            .to_string(),
        false => text.to_owned(),
    }
}

fn letter(curve: &Curve) -> char {
    char::from(b"abcdefghijklmnopqrstuvwxyz"[curve.number % 26])
}

/// In dots from the top left.
fn x(picture: &Picture, place: usize) -> usize {
    let last = 2 * WIDTH - 1;
    match picture.axes.phases.len() {
        0 | 1 => last / 2,
        count => last * place / (count - 1),
    }
}

fn y(picture: &Picture, value: f64) -> usize {
    let axes = &picture.axes;
    let share = (axes.high - value.clamp(axes.low, axes.high)) / (axes.high - axes.low);
    (share * (4 * HEIGHT - 1) as f64).round() as usize
}

fn field(picture: &Picture) -> Vec<Vec<Cell>> {
    let mut field = vec![vec![Cell::default(); WIDTH]; HEIGHT];
    let points = |curve: &Curve| -> Vec<(usize, usize)> {
        curve.points.iter().map(|(place, estimate)| (x(picture, *place), y(picture, estimate.mean))).collect()
    };
    for curve in &picture.curves {
        for pair in points(curve).windows(2) {
            let ((from_x, from_y), (to_x, to_y)) = (pair[0], pair[1]);
            let steps = from_x.abs_diff(to_x).max(from_y.abs_diff(to_y)).max(1);
            for step in 0..=steps {
                let between = |from: usize, to: usize| {
                    (from as f64 + (to as f64 - from as f64) * step as f64 / steps as f64).round() as usize
                };
                dot(&mut field, between(from_x, to_x), between(from_y, to_y), curve.number);
            }
        }
    }
    // After all lines, which would hide the letters.
    for curve in picture.curves.iter().filter(|curve| curve.points.len() <= MOST_POINTS) {
        for (x, y) in points(curve) {
            let cell = &mut field[y / 4][x / 2];
            (cell.letter, cell.curve) = (Some(letter(curve)), curve.number);
        }
    }
    field
}

fn dot(field: &mut [Vec<Cell>], x: usize, y: usize, curve: usize) {
    // The bits of a Braille character, by row and column.
    const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
    let cell = &mut field[y / 4][x / 2];
    cell.dots |= BITS[y % 4][x % 2];
    cell.curve = curve;
}

/// The values of the axis, by rows.
fn labels(picture: &Picture) -> Vec<String> {
    let mut labels = vec![String::new(); HEIGHT];
    for (value, shown) in picture.ticks() {
        labels[y(picture, value) / 4] = shown;
    }
    labels
}

/// The whole name of a curve.
fn name<'a>(curve: &Curve<'a>) -> &'a str {
    if curve.name.is_empty() { "as it stands" } else { curve.name }
}

/// The names of the curves, each in the row of its end or as near as there is space; and whether all are there and none is cut.
fn names(picture: &Picture) -> (Vec<Option<(usize, String)>>, bool) {
    const ROOM: usize = NAME - 3;
    let (shown, mut are_whole) = (picture.names(ROOM), true);
    let mut names: Vec<Option<(usize, String)>> = vec![None; HEIGHT];
    let several = picture.curves.len() > 1;
    for curve in picture.curves.iter().filter(|_| several) {
        let Some((_, last)) = curve.points.last() else { continue };
        let end = y(picture, last.mean) / 4;
        let nearest = (0..HEIGHT).filter(|row| names[*row].is_none()).min_by_key(|row| row.abs_diff(end));
        let Some(row) = nearest else {
            are_whole = false;
            continue;
        };
        let shown = if curve.name.is_empty() { name(curve) } else { &shown[curve.number] };
        let whole = one_line(shown);
        let name = console::truncate_str(&whole, ROOM, "…");
        are_whole &= name == whole;
        names[row] = Some((curve.number, format!("{} {name}", letter(curve))));
    }
    (names, are_whole)
}

/// As many phase labels below the axis as there is space for.
fn phases(picture: &Picture) -> String {
    let mut line = vec![' '; 10 + WIDTH + NAME];
    let mut free = 0;
    for (place, phase) in picture.axes.phases.iter().enumerate() {
        let phase = one_line(phase);
        let middle = 10 + x(picture, place) / 2;
        let length = phase.chars().count();
        let start = (middle + 1).saturating_sub(length.div_ceil(2));
        if start >= free && start + length <= line.len() {
            phase.chars().enumerate().for_each(|(index, letter)| line[start + index] = letter);
            free = start + length + 1;
        }
    }
    line.into_iter().collect::<String>().trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::super::denominator::Denominator;
    use super::super::super::series::series;
    use super::super::super::series::tests::{measure, row};
    use super::*;

    #[test]
    fn a_value_of_any_size_has_its_axis() {
        for value in [1e18, -1e18, 1e-300, 1e308, 0.0] {
            let runs = [vec![row("before", 0, "warm-up", value), row("play[1]/after", 1, "red", value)]];
            let measure = measure(&runs, "attack_success").unwrap();
            let series = series(&runs, &measure);
            let picture = Picture::new(&measure, &series, None);
            assert!(terminal(&picture, false).contains("warm-up"), "{value}");
            assert!(super::super::svg(&picture).contains("warm-up"), "{value}");
        }
    }

    #[test]
    fn curves_rise_and_fall_and_are_told_apart_by_letters() {
        let mut rows = Vec::new();
        for (ablation, values) in [("full", [0.2, 0.8]), ("flat", [0.5, 0.5])] {
            rows.push(row(&format!("{ablation}/before"), 0, "warm-up", values[0]));
            rows.push(row(&format!("{ablation}/play[1]/after"), 1, "red", values[1]));
        }
        let runs = [rows];
        let measure = measure(&runs, "attack_success").unwrap();
        let text = terminal(
            &Picture::new(&measure, &series(&runs, &measure), Denominator::of(&runs, &measure)),
            false,
        );
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| console::measure_text_width(line) <= 80), "{text}");
        let row_of = |end: &str| lines.iter().position(|line| line.ends_with(end)).expect(end);
        assert!(row_of("a full") < row_of("b flat"), "the higher one ends higher: {text}");
        assert!(lines.iter().any(|line| line.contains("warm-up") && line.contains("1 red")), "{text}");
        assert!(!text.contains('\u{1b}'), "no colours unless wanted");
    }

    #[test]
    fn names_that_begin_alike_are_told_apart() {
        let picture = |nodes: &[&str]| {
            let rows =
                nodes.iter().zip(1u8..).map(|(node, at)| row(node, 0, "warm-up", f64::from(at) / 10.0));
            let runs = [rows.collect::<Vec<_>>()];
            let measure = measure(&runs, "attack_success").unwrap();
            terminal(&Picture::new(&measure, &series(&runs, &measure), None), false)
        };
        let text = picture(&["20261130-213721-brew/before", "20261130-213721-2/before"]);
        assert!(text.contains(" a …brew\n") && text.contains(" b …2\n"), "{text}");
        let text = picture(&["of 20261130-213721/brew[0.5]", "of 20261130-213721/brew[0.25]"]);
        assert!(text.contains(" a …[0.5]\n") && text.contains(" b …[0.25]\n"), "{text}");
        // What does not fit is below.
        let long = "an-ablation-with-a-long-name";
        let text = picture(&[&format!("{long}/before"), "full/before"]);
        assert!(text.contains(" a an-ablation-with…\n"), "{text}");
        assert!(text.ends_with(&format!("\na {long}\nb full\n")), "{text}");
    }
}
