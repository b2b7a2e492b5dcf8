//! The first pass over what was typed: parameters substituted, stages decoded into their types, loops
//! counted. Nothing is resolved yet.

use super::input::{self, Use};
use super::source::{At, Diagnostic, Source};
use super::spec::{Item, LoopSpec, Params, StageSpec};
use super::stage::{DecodeError, Decoded, Kind, Registry};
use super::tree::{Key, Tree, Value};

/// Which rounds of a loop keep the bulky artifacts they hand on. The last round always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    All,
    Last,
    Every(usize),
}

/// An entry of `stages:` decoded, its references not yet resolved.
pub enum Draft<'a> {
    Stage { spec: &'a StageSpec, kind: &'static Kind, seed: Option<u64>, variants: Vec<DraftVariant> },
    Loop { spec: &'a LoopSpec, repeat: usize, keep: Keep, body: Vec<Draft<'a>> },
}

pub struct DraftVariant {
    pub label: Option<String>,
    pub decoded: Decoded,
    pub uses: Vec<(Use, At)>,
}

impl Draft<'_> {
    pub fn key(&self) -> &Key {
        match self {
            Draft::Stage { spec, .. } => &spec.name,
            Draft::Loop { spec, .. } => &spec.name,
        }
    }
}

/// Decodes the entries of a `stages:`, and those of the loops among them.
pub fn decode_all<'a>(
    source: &Source,
    registry: &Registry,
    items: &'a [Item],
    params: &Params,
) -> Result<Vec<Draft<'a>>, Diagnostic> {
    Decoder { source, registry }.decode_all(items, params)
}

struct Decoder<'a> {
    source: &'a Source,
    registry: &'a Registry,
}

impl Decoder<'_> {
    fn decode_all<'a>(&self, items: &'a [Item], params: &Params) -> Result<Vec<Draft<'a>>, Diagnostic> {
        items
            .iter()
            .map(|item| match item {
                Item::Stage(spec) => self.decode_stage(spec, params),
                Item::Loop(spec) => self.decode_loop(spec, params),
            })
            .collect()
    }

    fn decode_loop<'a>(&self, spec: &'a LoopSpec, params: &Params) -> Result<Draft<'a>, Diagnostic> {
        let repeat = self.substitute(&spec.repeat, params)?;
        let repeat = match repeat.value {
            Value::Int(count) if (0..=1_000_000).contains(&count) => count as usize,
            _ => {
                return Err(self
                    .source
                    .error(spec.repeat.at, "`repeat` is a whole number from 0 to 1000000"));
            }
        };
        let keep = spec.keep.as_ref().map(|tree| self.keep(tree)).transpose()?.unwrap_or(Keep::Last);
        Ok(Draft::Loop { spec, repeat, keep, body: self.decode_all(&spec.stages, params)? })
    }

    fn keep(&self, tree: &Tree) -> Result<Keep, Diagnostic> {
        match (&tree.value, tree.get("every").map(|every| &every.value)) {
            (Value::Text(text), _) if text == "all" => Ok(Keep::All),
            (Value::Text(text), _) if text == "last" => Ok(Keep::Last),
            (Value::Map(entries), Some(Value::Int(every @ 1..))) if entries.len() == 1 => {
                Ok(Keep::Every(*every as usize))
            }
            _ => Err(self.source.error(tree.at, "`keep` is `last`, `all` or { every: N }")),
        }
    }

    fn decode_stage<'a>(&self, spec: &'a StageSpec, params: &Params) -> Result<Draft<'a>, Diagnostic> {
        let (kind_name, kind_at) = &spec.kind;
        let Some((kind, decode)) = self.registry.find(kind_name) else {
            let error = self.source.error(*kind_at, format!("there is no stage kind `{kind_name}`"));
            return Err(error.suggest(kind_name, self.registry.names()));
        };
        let seed = match &spec.seed {
            None => None,
            Some(tree) => match self.substitute(tree, params)?.value {
                Value::Int(seed @ 0..) => Some(seed as u64),
                _ => return Err(self.source.error(tree.at, "`seed` is a whole number from 0")),
            },
        };
        let mut variants = Vec::new();
        for (label, axes) in combinations(&spec.matrix) {
            let mut params = params.clone();
            params.extend(axes);
            let body = self.substitute(&spec.body, &params)?;
            let decoded = decode(body.to_json()).map_err(|error| self.decode_error(spec, &body, error))?;
            let uses = input::uses(&decoded.params)
                .into_iter()
                .map(|found| {
                    let at = descend(&body, &found.path).map_or(spec.name.at, |tree| tree.at);
                    (found, at)
                })
                .collect();
            variants.push(DraftVariant { label, decoded, uses });
        }
        Ok(Draft::Stage { spec, kind, seed, variants })
    }

    /// A serde error, at the place of the value it is about, in the words of this grammar.
    fn decode_error(&self, spec: &StageSpec, body: &Tree, error: DecodeError) -> Diagnostic {
        let quoted: Vec<&str> = error.message.split('`').skip(1).step_by(2).collect();
        let whole = format!("stage `{}` (kind {})", spec.name.name, spec.kind.0);
        if error.message.starts_with("unknown field") {
            let (given, known) = quoted.split_first().map_or(("", &[][..]), |(given, known)| (*given, known));
            let key = find_key(body, &error.path, given).unwrap_or(spec.name.at);
            return self
                .source
                .error(key, format!("{whole} has no key `{given}`"))
                .suggest(given, known.iter().copied());
        }
        if error.message.starts_with("missing field") {
            let at = descend(body, &error.path)
                .filter(|tree| tree.at != body.at)
                .map_or(spec.name.at, |tree| tree.at);
            return self
                .source
                .error(at, format!("{whole} needs the key `{}`", quoted.first().unwrap_or(&"?")));
        }
        if let Some((given, known)) =
            quoted.split_first().filter(|_| error.message.starts_with("unknown variant"))
        {
            let at =
                find_key(body, &error.path, given).or_else(|| descend(body, &error.path).map(|tree| tree.at));
            return self
                .source
                .error(at.unwrap_or(spec.name.at), format!("`{given}` is not a value of this key"))
                .suggest(given, known.iter().copied());
        }
        let at = descend(body, &error.path)
            .filter(|_| !error.path.is_empty())
            .map_or(spec.name.at, |tree| tree.at);
        let what = if error.path.is_empty() { whole } else { format!("`{}`", error.path.join(".")) };
        self.source.error(at, format!("{what}: {}", error.message))
    }

    /// The tree with every `$name` replaced by its value and every `${name}` inside text by its text.
    fn substitute(&self, tree: &Tree, params: &Params) -> Result<Tree, Diagnostic> {
        let value = match &tree.value {
            Value::Text(text) if text.contains('$') => self.substitute_text(text, tree.at, params)?,
            Value::List(items) => {
                Value::List(items.iter().map(|item| self.substitute(item, params)).collect::<Result<_, _>>()?)
            }
            Value::Map(entries) => Value::Map(
                entries
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), self.substitute(value, params)?)))
                    .collect::<Result<_, Diagnostic>>()?,
            ),
            other => other.clone(),
        };
        Ok(Tree { value, at: tree.at })
    }

    fn substitute_text(&self, text: &str, at: At, params: &Params) -> Result<Value, Diagnostic> {
        let lookup = |name: &str| {
            params.get(name).ok_or_else(|| {
                self.source
                    .error(at, format!("there is no parameter `{name}`"))
                    .suggest(name, params.keys().map(String::as_str))
            })
        };
        if let Some(name) = text.strip_prefix('$').filter(|name| super::reference::is_name(name)) {
            return lookup(name).cloned();
        }
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) =
                after.split_once('}').ok_or_else(|| self.source.error(at, "`${` without `}`"))?;
            out += before;
            match lookup(name)?.to_json() {
                serde_json::Value::String(text) => out += &text,
                other => out += &other.to_string(),
            }
            rest = after;
        }
        Ok(Value::Text(out + rest))
    }
}

/// Every combination of the axes' values, with its label and the parameters it adds.
fn combinations(axes: &[(Key, Vec<Tree>)]) -> Vec<(Option<String>, Params)> {
    let mut all: Vec<(Vec<String>, Params)> = vec![(Vec::new(), Params::new())];
    for (axis, values) in axes {
        all = all
            .iter()
            .flat_map(|(labels, params)| {
                values.iter().map(move |value| {
                    let (mut labels, mut params) = (labels.clone(), params.clone());
                    labels.push(match value.to_json() {
                        serde_json::Value::String(text) => text,
                        other => other.to_string(),
                    });
                    params.insert(axis.name.clone(), value.value.clone());
                    (labels, params)
                })
            })
            .collect();
    }
    all.into_iter().map(|(labels, params)| ((!labels.is_empty()).then(|| labels.join(",")), params)).collect()
}

fn descend<'a>(tree: &'a Tree, path: &[String]) -> Option<&'a Tree> {
    path.iter().try_fold(tree, |tree, step| match &tree.value {
        Value::List(items) => items.get(step.parse::<usize>().ok()?),
        _ => tree.get(step),
    })
}

/// The place of a key named `given`, in the map at `path` or in the one around it.
fn find_key(tree: &Tree, path: &[String], given: &str) -> Option<At> {
    let within = |tree: &Tree| match &tree.value {
        Value::Map(entries) => entries.iter().find(|(key, _)| key.name == given).map(|(key, _)| key.at),
        _ => None,
    };
    let parent = &path[..path.len().saturating_sub(1)];
    descend(tree, path).and_then(within).or_else(|| descend(tree, parent).and_then(within))
}
