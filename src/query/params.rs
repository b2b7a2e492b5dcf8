//! The parameters of variants as columns. A table of rows has a column for each parameter that its query names; `*` adds those
//! that differ between the variants of a pipeline or of a matrix.

use std::collections::{BTreeSet, HashMap, HashSet};

use polars::prelude::{
    Column, DataFrame, IntoLazy, JoinArgs, JoinType, LazyFrame, MaintainOrderJoin, NamedFrom, Series,
    coalesce, col,
};

use runs::ParamRow;

/// The columns that identify a variant, and a node in it.
const VARIANT: [&str; 3] = ["run", "pipeline", "variant"];
const NODE: [&str; 4] = ["run", "pipeline", "variant", "node"];

/// The parameters that a query needs.
pub(crate) struct ParamColumns {
    /// All parameters, for suggestions.
    pub known: Vec<String>,
    names: Vec<String>,
    of_variants: DataFrame,
    of_nodes: DataFrame,
}

/// What a column of parameters holds.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Number,
    Boolean,
    Text,
}

impl ParamColumns {
    pub(crate) fn new(all: &[ParamRow], sql: &str) -> anyhow::Result<ParamColumns> {
        let all = &without_values_of_axes(all);
        let names = wanted(all, sql);
        let kinds: Vec<Kind> = names.iter().map(|name| kind(all, name)).collect();
        let (of_nodes, of_variants): (Vec<&ParamRow>, Vec<&ParamRow>) =
            all.iter().filter(|row| names.contains(&row.name)).partition(|row| !row.node.is_empty());
        let (of_variants, of_nodes) =
            (wide(&of_variants, &VARIANT, &names, &kinds)?, wide(&of_nodes, &NODE, &names, &kinds)?);
        let known: BTreeSet<&String> = all.iter().map(|row| &row.name).collect();
        let known = known.into_iter().cloned().collect();
        Ok(ParamColumns { known, names, of_variants, of_nodes })
    }

    /// A table with these columns after its own. A parameter with the name of one of its columns is only in `params` and `axes`.
    pub(crate) fn beside(&self, mut table: LazyFrame, own: &[&str]) -> LazyFrame {
        let names: Vec<&str> =
            self.names.iter().map(String::as_str).filter(|name| !own.contains(name)).collect();
        if names.is_empty() {
            return table;
        }
        // `\0` is in no name of a parameter.
        let of_node = |name: &str| format!("\0{name}");
        let keyed = |keys: &[&str]| keys.iter().map(|key| col(*key)).collect::<Vec<_>>();
        let args = || JoinArgs { maintain_order: MaintainOrderJoin::Left, ..JoinArgs::new(JoinType::Left) };
        let plain = |name: &&str| col(*name);
        let right = self.of_variants.clone().lazy();
        let right =
            right.select(keyed(&VARIANT).into_iter().chain(names.iter().map(plain)).collect::<Vec<_>>());
        table = table.join(right, keyed(&VARIANT), keyed(&VARIANT), args());
        let renamed = names.iter().map(|name| col(*name).alias(of_node(name)));
        let right = self.of_nodes.clone().lazy();
        let right = right.select(keyed(&NODE).into_iter().chain(renamed).collect::<Vec<_>>());
        table = table.join(right, keyed(&NODE), keyed(&NODE), args());
        let own = own.iter().map(|name| col(*name));
        let both = names.iter().map(|name| coalesce(&[col(of_node(name)), col(*name)]).alias(*name));
        table.select(own.chain(both).collect::<Vec<_>>())
    }
}

/// The rows without lists and maps from which a pipeline takes the values of an axis of the same name: `lr: [1e-3, 1e-2]` and
/// `matrix: { lr: $lr }`. Of these only the values of the axis count.
fn without_values_of_axes(all: &[ParamRow]) -> Vec<ParamRow> {
    let axes: HashSet<(&str, &str)> = all
        .iter()
        .filter(|row| !row.node.is_empty())
        .map(|row| (row.pipeline.as_str(), row.name.as_str()))
        .collect();
    let is_list = |row: &&ParamRow| {
        row.node.is_empty()
            && row.value.starts_with(['[', '{'])
            && axes.contains(&(row.pipeline.as_str(), row.name.as_str()))
    };
    all.iter().filter(|row| !is_list(row)).cloned().collect()
}

/// The parameters that a query names, and with `*` those that differ.
fn wanted(all: &[ParamRow], sql: &str) -> Vec<String> {
    // `a-b.c` may be the parameter of this name, or have three of them.
    let words = |joints: &'static str| sql.split(move |c: char| !c.is_alphanumeric() && !joints.contains(c));
    let words: HashSet<&str> = words("_").chain(words("_-.")).collect();
    let takes_all = sql.replace("(*)", "").contains('*');
    let mut values: HashMap<(&str, &str, bool), HashSet<&str>> = HashMap::new();
    let mut names: Vec<&str> = Vec::new();
    let mut known: HashSet<&str> = HashSet::new();
    for row in all {
        values.entry((&row.pipeline, &row.name, !row.node.is_empty())).or_default().insert(&row.value);
        if known.insert(&row.name) {
            names.push(&row.name);
        }
    }
    let differing: HashSet<&str> =
        values.iter().filter(|(_, values)| values.len() > 1).map(|((_, name, _), _)| *name).collect();
    let is_wanted = |name: &&str| words.contains(name) || takes_all && differing.contains(name);
    names.into_iter().filter(is_wanted).map(str::to_owned).collect()
}

/// The narrowest kind that holds all values of a parameter.
fn kind(all: &[ParamRow], name: &str) -> Kind {
    let values = || all.iter().filter(|row| row.name == name).map(|row| row.value.as_str());
    // `007` is a text.
    let is_padded = |value: &str| {
        let digits = value.trim_start_matches('-');
        digits.starts_with('0') && digits[1..].starts_with(|next: char| next.is_ascii_digit())
    };
    let is_number = |value: &str| value.parse().is_ok_and(f64::is_finite) && !is_padded(value);
    if values().all(|value| value.parse::<i64>().is_ok() && !is_padded(value)) {
        Kind::Integer
    } else if values().all(is_number) {
        Kind::Number
    } else if values().all(|value| matches!(value, "true" | "false")) {
        Kind::Boolean
    } else {
        Kind::Text
    }
}

/// A row for each key, a column for each name.
fn wide(rows: &[&ParamRow], keys: &[&str], names: &[String], kinds: &[Kind]) -> anyhow::Result<DataFrame> {
    let places: HashMap<&str, usize> =
        names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let mut index: HashMap<[&str; 4], usize> = HashMap::new();
    let mut found: Vec<[&str; 4]> = Vec::new();
    let mut values: Vec<Vec<Option<&str>>> = vec![Vec::new(); names.len()];
    for row in rows {
        let key = [row.run.as_str(), &row.pipeline, &row.variant, &row.node];
        let at = *index.entry(key).or_insert(found.len());
        if at == found.len() {
            found.push(key);
            values.iter_mut().for_each(|column| column.push(None));
        }
        values[places[row.name.as_str()]][at] = Some(&row.value);
    }
    let key = |(at, name): (usize, &&str)| -> Column {
        Series::new((*name).into(), found.iter().map(|key| key[at]).collect::<Vec<_>>()).into()
    };
    let mut columns: Vec<Column> = keys.iter().enumerate().map(key).collect();
    for ((name, kind), values) in names.iter().zip(kinds).zip(values) {
        columns.push(series(name, *kind, &values).into());
    }
    Ok(DataFrame::new(found.len(), columns)?)
}

fn series(name: &str, kind: Kind, values: &[Option<&str>]) -> Series {
    fn parsed<T: std::str::FromStr>(values: &[Option<&str>]) -> Vec<Option<T>> {
        values.iter().map(|value| value.and_then(|value| value.parse().ok())).collect()
    }
    match kind {
        Kind::Integer => Series::new(name.into(), parsed::<i64>(values)),
        Kind::Number => Series::new(name.into(), parsed::<f64>(values)),
        Kind::Boolean => Series::new(name.into(), parsed::<bool>(values)),
        Kind::Text => Series::new(name.into(), values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pipeline: &str, node: &str, name: &str, value: &str) -> ParamRow {
        let [run, pipeline, variant, node, name, value] =
            ["1", pipeline, "", node, name, value].map(str::to_owned);
        ParamRow { run, pipeline, variant, node, name, value }
    }

    #[test]
    fn columns_are_the_parameters_that_a_query_names_and_with_a_star_those_that_differ() {
        let all = [
            given("p", "", "steps", "3"),
            given("q", "", "heat", "20"),
            given("p", "a[low]", "fire", "low"),
            given("p", "a[high]", "fire", "high"),
        ];
        assert_eq!(wanted(&all, "SELECT count(*) AS n FROM metrics"), [] as [&str; 0]);
        assert_eq!(wanted(&all, "SELECT * FROM metrics"), ["fire"]);
        assert_eq!(wanted(&all, "SELECT m.steps-1, fires FROM metrics m"), ["steps"]);
        let listed = [
            given("p", "", "heat", "[20, 90]"),
            given("p", "a[20]", "heat", "20"),
            given("q", "", "heat", "[1]"),
        ];
        let left = without_values_of_axes(&listed);
        assert_eq!(left.iter().map(|row| row.value.as_str()).collect::<Vec<_>>(), ["20", "[1]"]);
        assert!(matches!(kind(&all, "steps"), Kind::Integer) && matches!(kind(&all, "fire"), Kind::Text));
    }
}
