//! Conversion between Rust fields and Arrow columns, and the macro that makes a struct a row type.

use std::ops::Deref;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, ListArray, StringArray, StructArray, UInt32Array,
    UInt64Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Fields};

/// The columns of a file by name, as they are read.
pub struct Columns {
    pub names: Vec<(String, ArrayRef)>,
    pub rows: usize,
    /// Whether NaN and infinity are accepted.
    pub any_number: bool,
}

/// Why a column could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Mismatch {
    Missing {
        column: String,
    },
    Type {
        column: String,
        expected: DataType,
        found: DataType,
    },
    /// One of its values; `what` continues the message "column C, row R: …".
    Value {
        column: String,
        row: usize,
        what: String,
    },
}

/// The problem of a column that has no name yet.
enum ColumnProblem {
    /// Another type.
    Type,
    Value {
        row: usize,
        what: String,
    },
}

type Values<T> = Result<Vec<Option<T>>, ColumnProblem>;

/// A type that a field of a row can have: one column, or the columns of a nested row type.
pub trait Column: Sized {
    /// Adds the Arrow fields; `doc` becomes their description.
    fn fields(name: &str, doc: &str, fields: &mut Vec<Field>);
    /// Adds the Arrow arrays that hold `values`.
    fn arrays(values: &[&Self], arrays: &mut Vec<ArrayRef>);
    /// Reads the column of this name.
    fn read(columns: &Columns, name: &str) -> Result<Vec<Self>, Mismatch>;
}

/// A type whose values are the rows of a dataset.
pub trait Row: Column {
    /// The name of the schema, written into each file.
    const NAME: &'static str;
    /// Whether its numbers may be NaN or infinite, such as the loss of a diverged step.
    const ANY_NUMBER: bool;
}

/// Defines row types. The doc comment of each field becomes the description of its column. A field whose type is a row type
/// stands for that type's columns.
macro_rules! row_types {
    ($(
        $(#[$meta:meta])*
        $name:ident = $schema:literal $(with $any:literal)? {
            $( $(#[doc = $doc:literal])* $field:ident: $type:ty, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        // The columns of a nested row type have the descriptions, not the field that stands for them.
        #[allow(missing_docs)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl $crate::column::Column for $name {
            fn fields(_: &str, _: &str, fields: &mut Vec<arrow_schema::Field>) {
                $( <$type as $crate::column::Column>::fields(
                    stringify!($field), concat!($($doc,)* "").trim(), fields,
                ); )*
            }

            fn arrays(values: &[&Self], arrays: &mut Vec<arrow_array::ArrayRef>) {
                $( <$type as $crate::column::Column>::arrays(
                    &values.iter().map(|row| &row.$field).collect::<Vec<_>>(), arrays,
                ); )*
            }

            fn read(
                columns: &$crate::column::Columns,
                _: &str,
            ) -> Result<Vec<Self>, $crate::column::Mismatch> {
                $( let mut $field =
                    <$type as $crate::column::Column>::read(columns, stringify!($field))?.into_iter(); )*
                Ok((0..columns.rows).map_while(|_| Some($name { $( $field: $field.next()?, )* })).collect())
            }
        }

        impl $crate::column::Row for $name {
            const NAME: &'static str = $schema;
            const ANY_NUMBER: bool = !<[&str]>::is_empty(&[$($any)?]);
        }
    )*};
}
pub(super) use row_types;

fn field(name: &str, doc: &str, data_type: DataType, nullable: bool) -> Field {
    let metadata = std::collections::HashMap::from([("description".to_owned(), doc.to_owned())]);
    Field::new(name, data_type, nullable).with_metadata(metadata)
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

impl Columns {
    fn find(&self, name: &str) -> Result<&ArrayRef, Mismatch> {
        let found = self.names.iter().find(|(known, _)| known == name).map(|(_, array)| array);
        found.ok_or_else(|| Mismatch::Missing { column: name.to_owned() })
    }

    /// The column's values through `convert`, which accepts the types that it can read without loss.
    fn values<T>(
        &self,
        name: &str,
        expected: DataType,
        convert: impl FnOnce(&ArrayRef) -> Values<T>,
    ) -> Result<Vec<Option<T>>, Mismatch> {
        let array = self.find(name)?;
        let column = || name.to_owned();
        convert(array).map_err(|wrong| match wrong {
            ColumnProblem::Type => {
                Mismatch::Type { column: column(), expected, found: array.data_type().clone() }
            }
            ColumnProblem::Value { row, what } => Mismatch::Value { column: column(), row, what },
        })
    }

    /// Checks that each token of a completion has a log-probability.
    pub fn check_logprob_lengths(&self) -> Result<(), Mismatch> {
        let lengths = |name: &str| -> Option<Vec<i64>> {
            let array = self.find(name).ok()?;
            let rows = 0..array.len();
            Some(match array.data_type() {
                DataType::List(_) => {
                    rows.map(|row| array.as_list::<i32>().value_length(row).into()).collect()
                }
                DataType::LargeList(_) => rows.map(|row| array.as_list::<i64>().value_length(row)).collect(),
                DataType::FixedSizeList(_, length) => vec![i64::from(*length); rows.len()],
                _ => return None,
            })
        };
        let (Some(tokens), Some(numbers)) = (lengths("completion_ids"), lengths("logprobs")) else {
            return Ok(());
        };
        match tokens.iter().zip(&numbers).position(|(tokens, numbers)| tokens != numbers) {
            Some(row) => {
                let (tokens, numbers) = (tokens[row], numbers[row]);
                let what = format!("must have as many items as `completion_ids` ({tokens}), found {numbers}");
                Err(Mismatch::Value { column: "logprobs".into(), row, what })
            }
            None => Ok(()),
        }
    }

    /// Checks that a column has only finite numbers, unless others are accepted.
    fn finite<T: Number>(&self, values: &[T], name: &str) -> Result<(), Mismatch> {
        let found = values.iter().enumerate().find_map(|(row, value)| Some((row, value.non_finite()?)));
        match found.filter(|_| !self.any_number) {
            Some((row, what)) => Err(Mismatch::Value { column: name.to_owned(), row, what }),
            None => Ok(()),
        }
    }
}

/// A value that may hold NaN or infinite numbers.
trait Number {
    /// A message about its first such number.
    fn non_finite(&self) -> Option<String>;
}

impl Number for f64 {
    fn non_finite(&self) -> Option<String> {
        (!self.is_finite()).then(|| format!("must be a finite number, found {self}"))
    }
}

impl Number for Option<f64> {
    fn non_finite(&self) -> Option<String> {
        self.as_ref().and_then(Number::non_finite)
    }
}

impl Number for Vec<f32> {
    fn non_finite(&self) -> Option<String> {
        let (at, value) = self.iter().enumerate().find(|(_, value)| !value.is_finite())?;
        Some(format!("must be a finite number, found {value} in item {at}"))
    }
}

fn no_nulls<T>(values: Vec<Option<T>>, name: &str) -> Result<Vec<T>, Mismatch> {
    let null =
        |row| Mismatch::Value { column: name.to_owned(), row, what: "must have a value, found none".into() };
    values.into_iter().enumerate().map(|(row, value)| value.ok_or_else(|| null(row))).collect()
}

fn texts(array: &ArrayRef) -> Values<String> {
    let own = |text: Option<&str>| text.map(str::to_owned);
    match array.data_type() {
        DataType::Utf8 => Ok(array.as_string::<i32>().iter().map(own).collect()),
        DataType::LargeUtf8 => Ok(array.as_string::<i64>().iter().map(own).collect()),
        DataType::Utf8View => Ok(array.as_string_view().iter().map(own).collect()),
        DataType::Null => Ok(vec![None; array.len()]),
        _ => Err(ColumnProblem::Type),
    }
}

/// Integers of any width, which must fit into `T`.
fn whole<T: TryFrom<i128>>(array: &ArrayRef) -> Values<T> {
    fn fit<A: ArrowPrimitiveType, T: TryFrom<i128>>(array: &ArrayRef) -> Values<T>
    where
        i128: From<A::Native>,
    {
        let number = |(row, value): (usize, Option<A::Native>)| {
            let value = value.map(i128::from);
            let fitted = value.map(T::try_from).transpose();
            fitted.map_err(|_| ColumnProblem::Value {
                row,
                what: format!(
                    "must be a whole number from 0 that fits {1} bits, found {0}",
                    value.unwrap_or_default(),
                    size_of::<T>() * 8
                ),
            })
        };
        array.as_primitive::<A>().iter().enumerate().map(number).collect()
    }
    match array.data_type() {
        DataType::UInt8 => fit::<UInt8Type, T>(array),
        DataType::UInt16 => fit::<UInt16Type, T>(array),
        DataType::UInt32 => fit::<UInt32Type, T>(array),
        DataType::UInt64 => fit::<UInt64Type, T>(array),
        DataType::Int8 => fit::<Int8Type, T>(array),
        DataType::Int16 => fit::<Int16Type, T>(array),
        DataType::Int32 => fit::<Int32Type, T>(array),
        DataType::Int64 => fit::<Int64Type, T>(array),
        _ => Err(ColumnProblem::Type),
    }
}

fn numbers(array: &ArrayRef) -> Values<f64> {
    match array.data_type() {
        DataType::Float64 => Ok(array.as_primitive::<Float64Type>().iter().collect()),
        DataType::Float32 => {
            Ok(array.as_primitive::<Float32Type>().iter().map(|v| v.map(f64::from)).collect())
        }
        DataType::Null => Ok(vec![None; array.len()]),
        _ => Ok(whole::<i64>(array)?.into_iter().map(|v| v.map(|v| v as f64)).collect()),
    }
}

/// Lists of values without nulls, each converted to a vector by `items`.
fn lists<T>(array: &ArrayRef, items: impl Fn(&ArrayRef) -> Values<T>) -> Values<Vec<T>> {
    of_lists(array, |list| {
        let items = items(list)?;
        match items.iter().position(Option::is_none) {
            Some(row) => Err(ColumnProblem::Value { row, what: "must have a value, found none".into() }),
            None => Ok(items.into_iter().flatten().collect()),
        }
    })
}

/// Lists, each converted to a vector by `items`.
fn of_lists<T>(
    array: &ArrayRef,
    items: impl Fn(&ArrayRef) -> Result<Vec<T>, ColumnProblem>,
) -> Values<Vec<T>> {
    let inner = |(row, list): (usize, Option<ArrayRef>)| {
        let Some(list) = list else { return Ok(None) };
        items(&list).map(Some).map_err(|wrong| match wrong {
            ColumnProblem::Type => ColumnProblem::Type,
            ColumnProblem::Value { row: at, what } => {
                ColumnProblem::Value { row, what: format!("{what} in item {at}") }
            }
        })
    };
    match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().iter().enumerate().map(inner).collect(),
        DataType::LargeList(_) => array.as_list::<i64>().iter().enumerate().map(inner).collect(),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().iter().enumerate().map(inner).collect(),
        _ => Err(ColumnProblem::Type),
    }
}

/// Implements a column type: its Arrow type, whether it may be null, and how it is built, read and checked.
macro_rules! column {
    (
        $type:ty, $data_type:expr, nullable: $nullable:literal, $build:expr, $convert:expr, $finish:expr
        $(, $check:ident)?
    ) => {
        impl Column for $type {
            fn fields(name: &str, doc: &str, fields: &mut Vec<Field>) {
                fields.push(field(name, doc, $data_type, $nullable));
            }

            fn arrays(values: &[&Self], arrays: &mut Vec<ArrayRef>) {
                let build: fn(&[&Self]) -> ArrayRef = $build;
                arrays.push(build(values));
            }

            fn read(columns: &Columns, name: &str) -> Result<Vec<Self>, Mismatch> {
                let values = columns.values(name, $data_type, $convert)?;
                let values = $finish(values, name)?;
                $( columns.$check(&values, name)?; )?
                Ok(values)
            }
        }
    };
}

fn keep_nulls<T>(values: Vec<Option<T>>, _: &str) -> Result<Vec<Option<T>>, Mismatch> {
    Ok(values)
}

column!(
    String,
    DataType::Utf8,
    nullable: false,
    |values| Arc::new(StringArray::from_iter_values(values)),
    texts,
    no_nulls
);
column!(
    Option<String>,
    DataType::Utf8,
    nullable: true,
    |values| Arc::new(StringArray::from_iter(values.iter().map(|value| value.as_deref()))),
    texts,
    keep_nulls
);
column!(
    bool,
    DataType::Boolean,
    nullable: false,
    |values| Arc::new(BooleanArray::from_iter(values.iter().map(|&&value| Some(value)))),
    |array| array.as_boolean_opt().map(|values| values.iter().collect()).ok_or(ColumnProblem::Type),
    no_nulls
);
column!(
    u32,
    DataType::UInt32,
    nullable: false,
    |values| Arc::new(UInt32Array::from_iter_values(values.iter().map(|&&value| value))),
    whole,
    no_nulls
);
column!(
    u64,
    DataType::UInt64,
    nullable: false,
    |values| Arc::new(UInt64Array::from_iter_values(values.iter().map(|&&value| value))),
    whole,
    no_nulls
);
column!(
    f64,
    DataType::Float64,
    nullable: false,
    |values| Arc::new(Float64Array::from_iter_values(values.iter().map(|&&value| value))),
    numbers,
    no_nulls,
    finite
);
column!(
    Option<f64>,
    DataType::Float64,
    nullable: true,
    |values| Arc::new(Float64Array::from_iter(values.iter().copied().copied())),
    numbers,
    keep_nulls,
    finite
);
column!(
    Vec<u32>,
    list_of(DataType::UInt32),
    nullable: false,
    |values| {
        let items = |list: &&Vec<u32>| Some(list.iter().copied().map(Some).collect::<Vec<_>>());
        Arc::new(ListArray::from_iter_primitive::<UInt32Type, _, _>(values.iter().map(items)))
    },
    |array| lists(array, whole),
    no_nulls
);
column!(
    Vec<f32>,
    list_of(DataType::Float32),
    nullable: false,
    |values| {
        let items = |list: &&Vec<f32>| Some(list.iter().copied().map(Some).collect::<Vec<_>>());
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(values.iter().map(items)))
    },
    |array| lists(array, |items| {
        Ok(numbers(items)?.into_iter().map(|v| v.map(|v| v as f32)).collect())
    }),
    no_nulls,
    finite
);
column!(
    Vec<String>,
    list_of(DataType::Utf8),
    nullable: false,
    |values| {
        let mut builder = ListBuilder::new(StringBuilder::new());
        values.iter().for_each(|list| builder.append_value(list.iter().map(Some)));
        Arc::new(builder.finish())
    },
    |array| lists(array, texts),
    no_nulls
);

/// A list of rows in an optional column. The column is written only if at least one list is not empty, and a file without it is
/// read as empty lists. So datasets that never need the column have the same bytes as before it existed.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse<R>(pub Vec<R>);

impl<R> Default for Sparse<R> {
    fn default() -> Sparse<R> {
        Sparse(Vec::new())
    }
}

impl<R> Deref for Sparse<R> {
    type Target = Vec<R>;

    fn deref(&self) -> &Vec<R> {
        &self.0
    }
}

/// The key of a field's metadata that marks an optional column. It is never written to a file.
pub(crate) const SPARSE: &str = "sparse";

impl<R: Row> Column for Sparse<R> {
    fn fields(name: &str, doc: &str, fields: &mut Vec<Field>) {
        let mut field = field(name, doc, list_of(structs::<R>()), true);
        field.metadata_mut().insert(SPARSE, "");
        fields.push(field);
    }

    fn arrays(values: &[&Self], arrays: &mut Vec<ArrayRef>) {
        let rows: Vec<&R> = values.iter().flat_map(|list| list.iter()).collect();
        let mut children = Vec::new();
        R::arrays(&rows, &mut children);
        let mut fields = Vec::new();
        R::fields("", "", &mut fields);
        let rows = StructArray::new(Fields::from(fields), children, None);
        let item = Arc::new(Field::new("item", structs::<R>(), true));
        let offsets = OffsetBuffer::from_lengths(values.iter().map(|list| list.len()));
        let empty: NullBuffer = values.iter().map(|list| !list.is_empty()).collect();
        arrays.push(Arc::new(ListArray::new(item, offsets, Arc::new(rows), Some(empty))));
    }

    fn read(columns: &Columns, name: &str) -> Result<Vec<Self>, Mismatch> {
        if columns.find(name).is_err() {
            return Ok((0..columns.rows).map(|_| Sparse::default()).collect());
        }
        let any_number = columns.any_number;
        let convert = |array: &ArrayRef| of_lists(array, |rows| read_structs::<R>(rows, any_number));
        let lists = columns.values(name, list_of(structs::<R>()), convert)?;
        Ok(lists.into_iter().map(|list| Sparse(list.unwrap_or_default())).collect())
    }
}

/// The Arrow type of a row.
fn structs<R: Row>() -> DataType {
    let mut fields = Vec::new();
    R::fields("", "", &mut fields);
    DataType::Struct(Fields::from(fields))
}

/// The rows of an array of structs.
fn read_structs<R: Row>(array: &ArrayRef, any_number: bool) -> Result<Vec<R>, ColumnProblem> {
    let rows = array.as_struct_opt().ok_or(ColumnProblem::Type)?;
    let names = rows.column_names().into_iter().map(str::to_owned);
    let columns =
        Columns { names: names.zip(rows.columns().iter().cloned()).collect(), rows: rows.len(), any_number };
    R::read(&columns, "").map_err(|mismatch| match mismatch {
        Mismatch::Value { column, row, what } => {
            ColumnProblem::Value { row, what: format!("{what} in `{column}`") }
        }
        Mismatch::Missing { .. } | Mismatch::Type { .. } => ColumnProblem::Type,
    })
}
