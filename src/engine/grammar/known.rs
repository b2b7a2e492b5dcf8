//! The keys that a kind knows, by its schema: what a place takes of a role, and which maps are put together key by key.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::schema;
use super::tree::{Key, Tree, Value};
use crate::stage::Registry;

/// The schema of a kind.
pub(crate) struct KnownKeys(Json);

impl KnownKeys {
    pub(crate) fn of(registry: &Registry, kind: &str) -> KnownKeys {
        KnownKeys(schema::keys_of(registry, kind).unwrap_or_default())
    }

    /// The schemas of the values at a path such as `models.*`.
    fn places(&self, path: &str) -> Vec<&Json> {
        let mut places = vec![&self.0];
        for step in path.split('.').filter(|step| !step.is_empty()) {
            let alternatives = places.into_iter().flat_map(|place| self.alternatives(place));
            let inner = alternatives.map(|one| match step {
                "*" => &one["items"],
                _ => &one["properties"][step],
            });
            places = inner.filter(|inner| inner.is_object()).collect();
        }
        places
    }

    /// The names of the definitions of what takes roles, apart from the stage itself.
    pub(super) fn definitions(&self, roles: &[(&str, &str)]) -> Vec<&str> {
        let places =
            roles.iter().filter(|(path, _)| !path.is_empty()).flat_map(|(path, _)| self.places(path));
        places.filter_map(definition).collect()
    }

    /// The keys of the maps at a path, with their schemas.
    pub(crate) fn keys(&self, path: &str) -> BTreeMap<&str, &Json> {
        let places = self.places(path);
        let maps = places.into_iter().flat_map(|place| self.maps(place)).flatten();
        maps.map(|(key, schema)| (key.as_str(), schema)).collect()
    }

    /// Puts a shared entry below those of a map; `schema` is that of its value. Two maps are put together key by key if one map
    /// may have the keys of both. Otherwise the value above counts whole.
    pub(crate) fn put_below(&self, own: &mut Vec<(Key, Tree)>, entry: &(Key, Tree), schema: Option<&Json>) {
        let Some((_, above)) = own.iter_mut().find(|(known, _)| known.name == entry.0.name) else {
            return own.push(entry.clone());
        };
        if matches!(above.value, Value::Null) {
            above.value = Value::LeftOut;
        }
        let (Value::Map(own), Value::Map(more), Some(schema)) = (&mut above.value, &entry.1.value, schema)
        else {
            return;
        };
        let maps = self.maps(schema);
        let has_all =
            |map: &&&Map<String, Json>| own.iter().chain(more).all(|(key, _)| map.contains_key(&key.name));
        if let Some(known) = maps.iter().find(has_all).or(maps.first().filter(|_| maps.len() == 1)) {
            more.iter().for_each(|entry| self.put_below(own, entry, known.get(&entry.0.name)));
        }
    }

    /// The known keys of the maps that a schema allows.
    fn maps<'s>(&'s self, schema: &'s Json) -> Vec<&'s Map<String, Json>> {
        self.alternatives(schema).into_iter().filter_map(|one| one["properties"].as_object()).collect()
    }

    /// A schema, with those that it refers to or chooses from.
    fn alternatives<'s>(&'s self, schema: &'s Json) -> Vec<&'s Json> {
        let named = definition(schema).map(|name| &self.0["$defs"][name]);
        let choices =
            ["anyOf", "oneOf"].into_iter().flat_map(|key| schema[key].as_array().into_iter().flatten());
        let inner = named.into_iter().chain(choices).flat_map(|inner| self.alternatives(inner));
        std::iter::once(schema).chain(inner).collect()
    }
}

/// The definition that a schema refers to.
fn definition(schema: &Json) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/$defs/")
}
