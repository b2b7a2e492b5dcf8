//! Removes traces of Rust from the schemas that schemars generates.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

pub(crate) fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().with(|settings| settings.meta_schema = None).into_generator()
}

/// Removes null from optional values, sizes from numbers, and line breaks from paragraphs.
pub(crate) fn tidy(mut schema: Value) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    object.remove("format");
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    match object.get_mut("default") {
        Some(Value::Null) => drop(object.remove("default")),
        Some(Value::Object(fields)) => fields.retain(|_, value| !value.is_null()),
        _ => {}
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            object["type"] = only.clone();
        }
    }
    if let Some(Value::Array(branches)) = object.get_mut("anyOf") {
        branches.retain(|branch| branch["type"] != "null");
        if let [Value::Object(only)] = &branches[..] {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
    describe_variants(object);
    each_inner(object, &mut |inner| *inner = tidy(inner.take()));
    schema
}

/// Gives the only key of a variant `{ name: … }` the description of the variant.
fn describe_variants(object: &mut Map<String, Value>) {
    for branch in object.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        let description = branch["description"].clone();
        let keys = branch.get_mut("properties").and_then(Value::as_object_mut);
        for (_, key) in keys.into_iter().flatten() {
            if let Some(key) = key.as_object_mut().filter(|_| description.is_string()) {
                key.entry("description").or_insert(description.clone());
            }
        }
    }
}

/// Calls `change` with the schemas directly inside one: those of values, not those of alternatives' constants.
pub(crate) fn each_inner(object: &mut Map<String, Value>, change: &mut dyn FnMut(&mut Value)) {
    for key in ["items", "additionalProperties"] {
        object.get_mut(key).filter(|inner| inner.is_object()).into_iter().for_each(&mut *change);
    }
    for key in ["properties", "$defs"] {
        let inner = object.get_mut(key).and_then(Value::as_object_mut);
        inner.into_iter().flatten().for_each(|(_, inner)| change(inner));
    }
    for key in ["prefixItems", "oneOf", "anyOf"] {
        let inner = object.get_mut(key).and_then(Value::as_array_mut);
        let values = inner.into_iter().flatten().filter(|inner| inner.get("const").is_none());
        values.for_each(&mut *change);
    }
}
