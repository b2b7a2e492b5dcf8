//! Converts rows of a node's dataset to rows of a table: adds columns for their origin, and replaces lists by summaries.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array, new_null_array,
};
use arrow_schema::{Schema, SchemaRef};
use serde_json::Value;

use super::variant::after;
use data::cell;

/// Columns of datasets that tables replace.
pub(crate) const TOKENS: &str = "completion_ids";
const LOGPROBS: &str = "logprobs";
pub(crate) const TURNS: &str = "turns";
pub(crate) const NOTES: &str = "notes";

/// Columns of tables that no dataset has.
pub(crate) const TURN: &str = "turn";
pub(crate) const CONVERSATION: &str = "conversation";
pub(crate) const AFTER: &str = "after";

/// The origin of rows: the values of the columns that all tables begin with.
pub(crate) struct Place {
    /// All text columns except the source.
    pub texts: [String; 8],
    pub seed: Option<u64>,
    /// The digest of the dataset that the rows were made from, in hexadecimal.
    pub source: String,
    /// The inputs of the node with their digests. For an earlier turn of an episode, a note names the input that it came from.
    pub inputs: Vec<(String, String)>,
}

/// The rows of a node with the columns of the table. With `lists`, the items of this column, each with the `sample_id` of its
/// row.
pub(crate) fn widened(
    batch: &RecordBatch,
    lists: Option<&str>,
    schema: &SchemaRef,
    place: &Place,
) -> anyhow::Result<RecordBatch> {
    let mut episode = Episode::of(batch, place);
    let items;
    let batch = match lists {
        None => batch,
        Some(lists) => {
            let (found, rows) = unnested(batch, lists)?;
            episode = episode.at(&rows);
            items = found;
            &items
        }
    };
    let rows = batch.num_rows();
    let text = |text: &String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows)))
    };
    let [run, pipeline, ablation, variant, rest @ ..] = &place.texts;
    let mut columns: Vec<ArrayRef> = [run, pipeline, ablation, variant].map(text).into();
    columns.push(Arc::new(UInt64Array::from(vec![place.seed; rows])));
    columns.extend(rest.iter().map(text));
    columns.push(Arc::new(StringArray::from_iter_values(&episode.source)));
    for field in schema.fields().iter().skip(columns.len()) {
        let column: Option<ArrayRef> = match field.name().as_str() {
            "tokens" => batch.column_by_name(TOKENS).map(lengths),
            "logprob" => batch.column_by_name(LOGPROBS).map(sums),
            AFTER => Some(places(batch, &place.texts[4])),
            TURN => Some(Arc::new(UInt32Array::from(episode.turn.clone()))),
            CONVERSATION => Some(Arc::new(StringArray::from(episode.conversation.clone()))),
            name => batch.column_by_name(name).cloned(),
        };
        // Runs of earlier versions lack some columns.
        let column = column.filter(|column| column.data_type() == field.data_type());
        columns.push(column.unwrap_or_else(|| new_null_array(field.data_type(), rows)));
    }
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// For each row its place in the order of the run.
fn places(batch: &RecordBatch, node: &str) -> ArrayRef {
    let numbers = |name: &str| {
        batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<UInt32Type>().cloned())
    };
    let phases = batch.column_by_name("phase").and_then(|column| column.as_string_opt::<i32>());
    let (iterations, steps) = (numbers("iteration"), numbers("step"));
    let number = |column: &Option<UInt32Array>, row| column.as_ref().map_or(0, |column| column.value(row));
    let place = |row| {
        let phase = phases.map_or("", |phases| phases.value(row));
        after(node, phase, (number(&iterations, row), number(&steps, row)))
    };
    Arc::new(StringArray::from_iter_values((0..batch.num_rows()).map(place)))
}

/// For each row: its turn of an episode, the earlier turns as text, and the dataset that it was made from.
struct Episode {
    turn: Vec<u32>,
    conversation: Vec<Option<String>>,
    source: Vec<String>,
}

impl Episode {
    fn of(batch: &RecordBatch, place: &Place) -> Episode {
        let rows = batch.num_rows();
        let short = |digest: &str| digest.get(..16).unwrap_or_default().to_owned();
        let mut episode = Episode {
            turn: vec![1; rows],
            conversation: vec![None; rows],
            source: vec![short(&place.source); rows],
        };
        if let Some(turns) = batch.column_by_name(TURNS) {
            for row in 0..rows {
                let Value::Array(turns) = cell(turns, row) else { continue };
                if !turns.is_empty() {
                    episode.turn[row] = turns.len() as u32 + 1;
                    episode.conversation[row] = Some(conversation(&turns));
                }
            }
        }
        if let Some(notes) = batch.column_by_name(NOTES) {
            for row in 0..rows {
                let notes = cell(notes, row);
                let note = |name: &str| {
                    let mut notes = notes.as_array()?.iter();
                    notes.find(|note| note["name"] == name)?["value"].as_str()
                };
                episode.turn[row] = note("turn").and_then(|turn| turn.parse().ok()).unwrap_or(1);
                let input = note("input");
                if let Some((_, digest)) = place.inputs.iter().find(|(path, _)| Some(path.as_str()) == input)
                {
                    episode.source[row] = short(digest);
                }
            }
        }
        episode
    }

    /// The same for these rows.
    fn at(&self, rows: &[usize]) -> Episode {
        Episode {
            turn: rows.iter().map(|row| self.turn[*row]).collect(),
            conversation: rows.iter().map(|row| self.conversation[*row].clone()).collect(),
            source: rows.iter().map(|row| self.source[*row].clone()).collect(),
        }
    }
}

/// The speakers and their texts, a line each.
fn conversation(turns: &[Value]) -> String {
    let text = |turn: &Value, key: &str| turn[key].as_str().unwrap_or_default().to_owned();
    let lines = turns.iter().map(|turn| {
        let [attack, defender, response] = ["attack", "defender", "response"].map(|key| text(turn, key));
        format!("attacker: {attack}\n{defender}: {response}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The items of a column of lists of structs, each with the `sample_id` of its row, and the row of each. Both are empty if there
/// is no such column.
fn unnested(batch: &RecordBatch, lists: &str) -> anyhow::Result<(RecordBatch, Vec<usize>)> {
    let of = |name: &str| batch.column_by_name(name);
    let lists = of(lists).and_then(|lists| lists.as_list_opt::<i32>());
    let ids = of("sample_id").and_then(|ids| ids.as_primitive_opt::<UInt32Type>());
    let items = lists.and_then(|lists| lists.values().as_struct_opt());
    let (Some(lists), Some(ids), Some(items)) = (lists, ids, items) else {
        return Ok((RecordBatch::new_empty(Arc::new(Schema::empty())), Vec::new()));
    };
    let offsets = lists.value_offsets();
    let (first, last) = (offsets[0] as usize, offsets[lists.len()] as usize);
    let items = items.slice(first, last - first);
    let rows = 0..lists.len();
    let rows: Vec<usize> =
        rows.flat_map(|row| std::iter::repeat_n(row, lists.value_length(row) as usize)).collect();
    let id: ArrayRef = Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| ids.value(*row))));
    let columns = items.column_names().into_iter().map(str::to_owned).zip(items.columns().iter().cloned());
    let columns: Vec<(String, ArrayRef)> =
        [("sample_id".to_owned(), id)].into_iter().chain(columns).collect();
    Ok((RecordBatch::try_from_iter(columns)?, rows))
}

fn lengths(lists: &ArrayRef) -> ArrayRef {
    let lists = lists.as_list_opt::<i32>();
    Arc::new(UInt32Array::from_iter_values(
        lists.into_iter().flat_map(|lists| (0..lists.len()).map(|row| lists.value_length(row) as u32)),
    ))
}

fn sums(lists: &ArrayRef) -> ArrayRef {
    let sum = |list: Option<ArrayRef>| {
        let list = list?;
        let values = list.as_primitive_opt::<Float32Type>()?;
        Some(values.values().iter().map(|value| f64::from(*value)).sum::<f64>())
    };
    let lists = lists.as_list_opt::<i32>();
    Arc::new(lists.into_iter().flat_map(|lists| lists.iter().map(sum)).collect::<Float64Array>())
}
