//! Columns of a run's tables by name, without copies: a comparison may involve many prompts with long texts.

use anyhow::Context;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};

pub(crate) struct Columns<'b>(pub &'b RecordBatch);

impl<'b> Columns<'b> {
    fn column(&self, name: &str) -> anyhow::Result<&'b ArrayRef> {
        self.0.column_by_name(name).with_context(|| format!("the run's table has no column `{name}`"))
    }

    pub(crate) fn text(&self, name: &str) -> anyhow::Result<&'b StringArray> {
        self.column(name)?.as_string_opt().with_context(|| wrong(name, "text"))
    }

    pub(crate) fn number(&self, name: &str) -> anyhow::Result<&'b Float64Array> {
        self.column(name)?.as_primitive_opt::<Float64Type>().with_context(|| wrong(name, "numbers"))
    }

    pub(crate) fn whole(&self, name: &str) -> anyhow::Result<&'b UInt32Array> {
        self.column(name)?.as_primitive_opt::<UInt32Type>().with_context(|| wrong(name, "whole numbers"))
    }

    pub(crate) fn long(&self, name: &str) -> anyhow::Result<&'b UInt64Array> {
        self.column(name)?.as_primitive_opt::<UInt64Type>().with_context(|| wrong(name, "whole numbers"))
    }
}

fn wrong(name: &str, expected: &str) -> String {
    format!("column `{name}` of the run's table must hold {expected}")
}
