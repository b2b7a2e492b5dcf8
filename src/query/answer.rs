//! The result of a query, batch by batch. The query runs in a thread of its own and waits for its reader, so that only a few
//! batches are in memory.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use polars::prelude::{
    AnyValue, DataFrame, DataType, Engine, LazyFrame, PlanCallback, PolarsResult, SchemaRef, Series,
};
use serde_json::{Number, Value};

use crate::trouble::{ErrorExplainer, Failure, PanicHookGuard};

/// The number of batches that may wait for the reader.
const WAITING: usize = 2;

/// A column of an answer.
pub(crate) struct Heading {
    pub name: String,
    /// Whether its values are numbers.
    pub numeric: bool,
}

/// A running query.
pub(crate) struct Answer {
    pub headings: Vec<Heading>,
    pub schema: SchemaRef,
    batches: Option<Receiver<DataFrame>>,
    work: Option<JoinHandle<Result<(), Failure>>>,
    trouble: ErrorExplainer,
}

impl Answer {
    pub(crate) fn begin(
        frame: LazyFrame,
        schema: SchemaRef,
        trouble: ErrorExplainer,
        quiet: PanicHookGuard,
    ) -> Answer {
        let headings = schema
            .iter()
            .map(|(name, data_type)| Heading { name: name.to_string(), numeric: data_type.is_numeric() });
        let headings = headings.collect();
        let (sender, receiver) = sync_channel(WAITING);
        let work = std::thread::spawn(move || {
            quiet.guarded(|| {
                // Stops once the reader is gone.
                let give = PlanCallback::new(move |batch: DataFrame| Ok(sender.send(batch).is_err()));
                frame.sink_batches(give, true, None)?.collect_with_engine(Engine::Streaming).map(drop)
            })
        });
        Answer { headings, schema, batches: Some(receiver), work: Some(work), trouble }
    }

    /// The next rows; `None` after the last.
    pub(crate) fn batch(&mut self) -> anyhow::Result<Option<Batch>> {
        let Some(batches) = &self.batches else { return Ok(None) };
        if let Ok(frame) = batches.recv() {
            return Ok(Some(Batch::new(frame)));
        }
        self.batches = None;
        match self.work.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(None),
            Some(Ok(Err(failure))) => Err(self.trouble.explain(failure)),
            // A panic outside of Polars is a defect of triplay.
            Some(Err(_)) => Err(self.trouble.explain(Failure::Panic("the query ended early".into()))),
        }
    }
}

impl Drop for Answer {
    /// Ends the query if the reader needs no more rows.
    fn drop(&mut self) {
        self.batches = None;
        if let Some(work) = self.work.take() {
            drop(work.join());
        }
    }
}

/// Some rows of an answer.
pub(crate) struct Batch {
    pub frame: DataFrame,
    columns: Vec<Series>,
}

impl Batch {
    fn new(frame: DataFrame) -> Batch {
        let columns = frame.columns().iter().map(|column| shown(column.as_materialized_series()));
        let columns = columns.collect();
        Batch { frame, columns }
    }

    pub(crate) fn rows(&self) -> usize {
        self.frame.height()
    }

    /// The values of a row as JSON; NaN and infinity become null.
    pub(crate) fn json(&self, row: usize) -> impl Iterator<Item = Value> {
        self.columns.iter().map(move |column| json(&column.get(row).unwrap_or(AnyValue::Null)))
    }

    /// The same, with `NaN` and `inf` as texts: for formats that only have texts.
    pub(crate) fn cells(&self, row: usize) -> impl Iterator<Item = Value> {
        self.columns.iter().map(move |column| {
            let value = column.get(row).unwrap_or(AnyValue::Null);
            match &value {
                AnyValue::Float32(number) if !number.is_finite() => number.to_string().into(),
                AnyValue::Float64(number) if !number.is_finite() => number.to_string().into(),
                other => json(other),
            }
        })
    }
}

/// Converts types without a JSON form, such as dates, to the text that Polars gives them. In one chunk, since cells are looked up
/// by row.
fn shown(column: &Series) -> Series {
    let data_type = column.dtype();
    let plain = data_type.is_primitive_numeric()
        || matches!(data_type, DataType::String | DataType::Boolean | DataType::List(_) | DataType::Null);
    let cast: PolarsResult<Series> = if plain { Ok(column.clone()) } else { column.cast(&DataType::String) };
    cast.unwrap_or_else(|_| column.clone()).rechunk()
}

fn json(value: &AnyValue) -> Value {
    match value {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(value) => (*value).into(),
        AnyValue::String(text) => (*text).into(),
        AnyValue::StringOwned(text) => text.as_str().into(),
        AnyValue::UInt8(value) => (*value).into(),
        AnyValue::UInt16(value) => (*value).into(),
        AnyValue::UInt32(value) => (*value).into(),
        AnyValue::UInt64(value) => (*value).into(),
        AnyValue::Int8(value) => (*value).into(),
        AnyValue::Int16(value) => (*value).into(),
        AnyValue::Int32(value) => (*value).into(),
        AnyValue::Int64(value) => (*value).into(),
        AnyValue::Int128(value) => Number::from_i128(*value).map_or(Value::Null, Value::Number),
        AnyValue::UInt128(value) => Number::from_u128(*value).map_or(Value::Null, Value::Number),
        AnyValue::Float32(value) => f64::from(*value).into(),
        AnyValue::Float64(value) => (*value).into(),
        AnyValue::List(items) => {
            (0..items.len()).map(|row| json(&items.get(row).unwrap_or(AnyValue::Null))).collect()
        }
        other => other.to_string().into(),
    }
}
