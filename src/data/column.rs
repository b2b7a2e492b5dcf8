//! How a Rust field becomes an Arrow column and back, and the macro that makes a row type of a struct.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, ListArray, StringArray, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field};

/// The columns of a file by name, as they are read.
pub struct Columns {
    pub names: Vec<(String, ArrayRef)>,
    pub rows: usize,
}

/// Why a column could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Mismatch {
    Missing { column: String },
    Type { column: String, expected: DataType, found: DataType },
    Null { column: String, row: usize },
}

/// A type that a field of a row can have: one column, or the columns of a row type within.
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
}

/// Makes row types: the documentation of each field becomes the description of its column, and a field
/// whose type is a row type stands for that type's columns.
macro_rules! row_types {
    ($(
        $(#[$meta:meta])*
        $name:ident = $schema:literal {
            $( $(#[doc = $doc:literal])* $field:ident: $type:ty, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
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

    /// The column's values through `convert`, which knows the types it can read without loss.
    fn values<T>(
        &self,
        name: &str,
        expected: DataType,
        convert: impl FnOnce(&ArrayRef) -> Option<Vec<Option<T>>>,
    ) -> Result<Vec<Option<T>>, Mismatch> {
        let array = self.find(name)?;
        convert(array).ok_or_else(|| Mismatch::Type {
            column: name.to_owned(),
            expected,
            found: array.data_type().clone(),
        })
    }
}

fn no_nulls<T>(values: Vec<Option<T>>, name: &str) -> Result<Vec<T>, Mismatch> {
    let null = |row| Mismatch::Null { column: name.to_owned(), row };
    values.into_iter().enumerate().map(|(row, value)| value.ok_or_else(|| null(row))).collect()
}

fn texts(array: &ArrayRef) -> Option<Vec<Option<String>>> {
    let own = |text: Option<&str>| text.map(str::to_owned);
    match array.data_type() {
        DataType::Utf8 => Some(array.as_string::<i32>().iter().map(own).collect()),
        DataType::LargeUtf8 => Some(array.as_string::<i64>().iter().map(own).collect()),
        DataType::Utf8View => Some(array.as_string_view().iter().map(own).collect()),
        DataType::Null => Some(vec![None; array.len()]),
        _ => None,
    }
}

/// Whole numbers of any width; a negative one is not read.
fn whole(array: &ArrayRef) -> Option<Vec<Option<u64>>> {
    let signed = |values: Vec<Option<i64>>| {
        values.into_iter().map(|value| value.map(u64::try_from).transpose().ok()).collect::<Option<Vec<_>>>()
    };
    match array.data_type() {
        DataType::UInt32 => {
            Some(array.as_primitive::<UInt32Type>().iter().map(|v| v.map(u64::from)).collect())
        }
        DataType::UInt64 => Some(array.as_primitive::<UInt64Type>().iter().collect()),
        DataType::Int32 => {
            signed(array.as_primitive::<Int32Type>().iter().map(|v| v.map(i64::from)).collect())
        }
        DataType::Int64 => signed(array.as_primitive::<Int64Type>().iter().collect()),
        _ => None,
    }
}

fn numbers(array: &ArrayRef) -> Option<Vec<Option<f64>>> {
    match array.data_type() {
        DataType::Float64 => Some(array.as_primitive::<Float64Type>().iter().collect()),
        DataType::Float32 => {
            Some(array.as_primitive::<Float32Type>().iter().map(|v| v.map(f64::from)).collect())
        }
        DataType::Null => Some(vec![None; array.len()]),
        _ => whole(array).map(|values| values.into_iter().map(|v| v.map(|v| v as f64)).collect()),
    }
}

/// Lists, each turned into a vector by `items`.
fn lists<T>(
    array: &ArrayRef,
    items: impl Fn(&ArrayRef) -> Option<Vec<Option<T>>>,
) -> Option<Vec<Option<Vec<T>>>> {
    let inner = |list: Option<ArrayRef>| match list {
        None => Some(None),
        Some(list) => items(&list)?.into_iter().collect::<Option<Vec<T>>>().map(Some),
    };
    match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().iter().map(inner).collect(),
        DataType::LargeList(_) => array.as_list::<i64>().iter().map(inner).collect(),
        _ => None,
    }
}

/// One column type: its Arrow type, whether it may be null, how it is built and how it is read.
macro_rules! column {
    ($type:ty, $data_type:expr, nullable: $nullable:literal, $build:expr, $convert:expr, $finish:expr) => {
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
                $finish(values, name)
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
    |array| array.as_boolean_opt().map(|values| values.iter().collect()),
    no_nulls
);
column!(
    u32,
    DataType::UInt32,
    nullable: false,
    |values| Arc::new(UInt32Array::from_iter_values(values.iter().map(|&&value| value))),
    |array| whole(array)?.into_iter().map(|v| v.map(u32::try_from).transpose().ok()).collect(),
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
    no_nulls
);
column!(
    Option<f64>,
    DataType::Float64,
    nullable: true,
    |values| Arc::new(Float64Array::from_iter(values.iter().copied().copied())),
    numbers,
    keep_nulls
);
column!(
    Vec<u32>,
    list_of(DataType::UInt32),
    nullable: false,
    |values| {
        let items = |list: &&Vec<u32>| Some(list.iter().copied().map(Some).collect::<Vec<_>>());
        Arc::new(ListArray::from_iter_primitive::<UInt32Type, _, _>(values.iter().map(items)))
    },
    |array| lists(array, |items| {
        whole(items)?.into_iter().map(|v| v.map(u32::try_from).transpose().ok()).collect()
    }),
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
        Some(numbers(items)?.into_iter().map(|v| v.map(|v| v as f32)).collect())
    }),
    no_nulls
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
