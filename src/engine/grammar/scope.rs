//! Resolves names where they are used.
//!
//! A name stands for a place in the frame of its scope. A frame has the nodes of a scope in the order of its steps, its carried
//! values, and the results of the loops in it. [`super::unroll`] fills frames round by round.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::diagnostic::{At, listed};
use super::errors::Errors;
use super::producer::Producer;
use super::reference::Reference;
use crate::kind::{Kind, Output};
use crate::upstream::{Id, MadeBy, Source};

/// A resolved source of an artifact. Scopes are numbered from the outermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Output {
        scope: usize,
        node: usize,
        output: usize,
    },
    /// A value that a loop carries, used inside the loop.
    Carried {
        scope: usize,
        value: usize,
    },
    /// The value that a loop carries after a round; after round 0 it is the initial value.
    Result {
        scope: usize,
        value: usize,
        round: usize,
    },
    File(usize),
    Variable(usize),
    Served(usize),
}

impl Link {
    /// Whether it differs between the rounds of the scope at this depth.
    pub(crate) fn is_within(self, depth: usize) -> bool {
        match self {
            Link::Output { scope, .. } | Link::Carried { scope, .. } | Link::Result { scope, .. } => {
                scope >= depth
            }
            Link::File(_) | Link::Variable(_) | Link::Served(_) => false,
        }
    }

    fn id(self) -> Id {
        match self {
            Link::Output { scope, node, output } => [scope, node, output, 0],
            Link::Carried { scope, value } => [scope, value, 0, 1],
            Link::Result { scope, value, round } => [scope, value, round, 2],
            Link::File(index) => [index, 0, 0, 3],
            Link::Variable(index) => [index, 0, 0, 4],
            Link::Served(index) => [index, 0, 0, 5],
        }
    }
}

/// A type of artifact; unknown for files from outside.
pub(crate) type Artifact = Option<Cow<'static, str>>;

/// A resolved reference.
#[derive(Clone)]
pub(crate) struct Found {
    pub link: Link,
    pub artifact: Artifact,
    /// The stage or file that makes it.
    pub made_by: MadeBy,
}

impl Found {
    pub(crate) fn outside(link: Link, path: Option<PathBuf>) -> Found {
        Found { link, artifact: None, made_by: path.map_or(MadeBy::Unknown, MadeBy::File) }
    }

    pub(crate) fn source(&self) -> Source {
        Source { id: self.link.id(), made_by: self.made_by.clone() }
    }
}

/// A value that a loop hands on from round to round.
pub(crate) struct CarriedValue<'a> {
    pub name: &'a str,
    pub artifact: Artifact,
    /// What makes it before the first round, and after the last.
    pub first: MadeBy,
    pub last: MadeBy,
}

/// The meaning of a name, and its type of artifact.
pub(crate) enum Binding<'a> {
    /// Broken, or part of a cycle: that was reported, so references to it are not checked.
    Unknown,
    Stage {
        kind: &'static Kind,
        first: usize,
        /// The variants by label; `None` for a stage without a matrix.
        labels: Option<HashMap<String, usize>>,
        /// The makers of the variants.
        makers: Vec<Option<Rc<Producer>>>,
    },
    Carried {
        value: usize,
        artifact: Artifact,
        made_by: MadeBy,
    },
    Loop {
        first: usize,
        repeat: usize,
        results: Vec<CarriedValue<'a>>,
    },
}

#[derive(Default)]
pub(crate) struct Scope<'a> {
    parent: Option<&'a Scope<'a>>,
    depth: usize,
    pub names: HashMap<&'a str, Binding<'a>>,
    /// Stages inside the loops of this scope, with their loop. References to them are errors, which name the loop.
    pub within_loops: HashMap<&'a str, &'a str>,
    /// The numbers of nodes and of loop results that its frame has so far.
    pub nodes: usize,
    pub results: usize,
}

impl<'a> Scope<'a> {
    /// The scope of a loop in this one that carries these values.
    pub(crate) fn within<'s>(&'s self, carried: &[CarriedValue<'s>]) -> Scope<'s> {
        let bind = |(value, handed): (usize, &CarriedValue<'s>)| {
            let (artifact, made_by) = (handed.artifact.clone(), handed.first.clone());
            (handed.name, Binding::Carried { value, artifact, made_by })
        };
        Scope {
            parent: Some(self),
            depth: self.depth + 1,
            names: carried.iter().enumerate().map(bind).collect(),
            within_loops: HashMap::new(),
            nodes: 0,
            results: 0,
        }
    }

    /// Binds a name of this scope, except one of a carried value, which keeps its meaning.
    pub(crate) fn bind(&mut self, name: &'a str, binding: Binding<'a>) {
        if matches!(self.names.get(name), None | Some(Binding::Unknown)) {
            self.names.insert(name, binding);
        }
    }

    /// The number of scopes around it.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    fn find(&self, name: &str) -> Option<(usize, &Binding<'a>)> {
        match self.names.get(name) {
            Some(binding) => Some((self.depth, binding)),
            None => self.parent?.find(name),
        }
    }

    fn loop_around(&self, name: &str) -> Option<&str> {
        self.within_loops.get(name).copied().or_else(|| self.parent?.loop_around(name))
    }

    fn all_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names.keys().copied().collect();
        names.extend(self.parent.iter().flat_map(|parent| parent.all_names()));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Resolves a reference here. Returns `None` after a reported error.
    pub(crate) fn resolve(&self, errors: &Errors, text: &str, at: At) -> Option<Found> {
        let reference = match Reference::parse(text) {
            Ok(reference) => reference,
            Err(message) => {
                let error = errors.error(at, message);
                return errors.add(match text.contains('/') {
                    true => error.help(format!("a file or folder of yours is {{ path: {text} }}")),
                    false => error,
                });
            }
        };
        let name = &reference.name;
        let error = |message: String| errors.error(at, message);
        let Some((scope, binding)) = self.find(name) else {
            if errors.are_many() {
                return errors.at(at, "unknown");
            }
            if let Some(around) = self.loop_around(name) {
                let help =
                    format!("add its output to `carry` and `next` of the loop, and write {around}.NAME");
                return errors.add(error(format!("`{name}` is within the loop `{around}`")).help(help));
            }
            let message = format!("there is no stage or carried value `{name}`");
            let error = error(message);
            return errors.add(match Path::new(text).exists() {
                true => error.help(format!("a file or folder of yours is {{ path: {text} }}")),
                false => error.suggest(name, self.all_names()),
            });
        };
        match binding {
            Binding::Unknown => None,
            Binding::Stage { kind, first, labels, makers } => {
                let variant = match variant(&reference, labels.as_ref()) {
                    Ok(variant) => variant,
                    Err((message, help)) => return errors.add(error(message).help(help)),
                };
                let maker = makers.get(variant).and_then(Option::as_ref);
                let outputs: &[Output] = match maker {
                    Some(maker) => maker.call.outputs(),
                    _ if kind.outputs.is_empty() => return None,
                    _ => kind.outputs,
                };
                let Some(output) = output(&reference, outputs) else {
                    let wanted = reference.output.as_deref().unwrap_or_default();
                    let message = format!("`{name}` (kind {}) has no output `{wanted}`", kind.name);
                    let names = outputs.iter().map(|output| &*output.name);
                    return errors.add(error(message).suggest(wanted, names));
                };
                let artifact = outputs.get(output).map(|output| output.artifact.clone());
                let made_by = maker.map_or(MadeBy::Unknown, |maker| MadeBy::Stage(maker.clone(), output));
                Some(Found { link: Link::Output { scope, node: first + variant, output }, artifact, made_by })
            }
            Binding::Carried { value, artifact, made_by } => match (&reference.variant, &reference.output) {
                (None, None) => {
                    let link = Link::Carried { scope, value: *value };
                    Some(Found { link, artifact: artifact.clone(), made_by: made_by.clone() })
                }
                _ => errors.at(at, format!("`{name}` is a carried value: write just `{name}`")),
            },
            Binding::Loop { first, repeat, results } => match &reference.output {
                Some(output) => {
                    let Some(index) = results.iter().position(|result| result.name == output) else {
                        let names = results.iter().map(|result| result.name);
                        let message = format!("loop `{name}` does not carry `{output}`");
                        return errors.add(error(message).suggest(output, names));
                    };
                    let round = match round(&reference, *repeat) {
                        Ok(round) => round,
                        Err((message, help)) => return errors.add(error(message).help(help)),
                    };
                    let link = Link::Result { scope, value: first + index, round };
                    let CarriedValue { artifact, first, last, .. } = &results[index];
                    let made_by = if round == 0 { first } else { last };
                    Some(Found { link, artifact: artifact.clone(), made_by: made_by.clone() })
                }
                None => {
                    let known: Vec<String> =
                        results.iter().map(|result| format!("{name}.{}", result.name)).collect();
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    let help = format!("name a value that it carries: {}", listed(&known));
                    errors.add(error(format!("`{text}` is a loop")).help(help))
                }
            },
        }
    }
}

/// The index of the output that a reference names, or of the first.
fn output(reference: &Reference, outputs: &[Output]) -> Option<usize> {
    match &reference.output {
        None => Some(0),
        Some(wanted) => outputs.iter().position(|output| output.name == *wanted),
    }
}

/// The round of a loop that a reference names, the last by default; else the message and the help.
fn round(reference: &Reference, repeat: usize) -> Result<usize, (String, String)> {
    let name = &reference.name;
    let output = reference.output.as_deref().unwrap_or_default();
    let Some(given) = &reference.variant else { return Ok(repeat) };
    match given.parse::<usize>() {
        Ok(round) if round <= repeat => Ok(round),
        _ if given == "*" => Err((
            format!("`{name}[*].{output}` stands for all rounds, but this input takes one"),
            format!("name one, such as {name}[1].{output}, or write {name}.{output} for the last"),
        )),
        _ => {
            let rounds = match repeat {
                0 => "it has no rounds; 0 is the initial value".to_owned(),
                1 => "it has round 1; 0 is the initial value".to_owned(),
                _ => format!("it has rounds 1 to {repeat}; 0 is the initial value"),
            };
            Err((format!("loop `{name}` has no round `{given}`"), rounds))
        }
    }
}

/// The index of the variant that a reference names; else the message and the help.
fn variant(
    reference: &Reference,
    labels: Option<&HashMap<String, usize>>,
) -> Result<usize, (String, String)> {
    let name = &reference.name;
    let Some(labels) = labels else {
        return match &reference.variant {
            None => Ok(0),
            Some(_) => {
                Err((format!("`{name}` has no variants"), "it has no matrix: drop the brackets".into()))
            }
        };
    };
    let help = || {
        let mut known: Vec<(&str, usize)> =
            labels.iter().map(|(label, index)| (label.as_str(), *index)).collect();
        known.sort_by_key(|(_, index)| *index);
        let known: Vec<&str> = known.iter().map(|(label, _)| *label).collect();
        let near = reference.variant.as_deref().and_then(|given| super::diagnostic::nearest(given, &known));

        match near {
            Some(near) => format!("did you mean `{name}[{near}]`?"),
            None => format!("`{name}` has the variants {}: write {name}[{}]", listed(&known), first(labels)),
        }
    };
    match &reference.variant {
        None => Err((format!("`{name}` must name one of its variants: it has a matrix"), help())),
        Some(label) => match labels.get(label) {
            Some(index) => Ok(*index),
            None if label.contains('*') && label.split(',').all(|part| part == "*") => Err((
                format!("`{name}[{label}]` stands for all variants, but this input takes one"),
                format!("name one, such as {name}[{}]", first(labels)),
            )),
            None => Err((format!("`{name}` has no variant `{label}`"), help())),
        },
    }
}

/// The label of the first variant.
fn first(labels: &HashMap<String, usize>) -> &str {
    labels.iter().find(|(_, index)| **index == 0).map_or("", |(label, _)| label)
}
