//! What names mean where they are used.
//!
//! A name stands for a place in the frame of its scope: the nodes of a scope in the order of its steps, its carried
//! values, and what the loops in it come to. [`super::unroll`] fills frames round by round.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use super::diagnostic::{At, listed};
use super::errors::Errors;
use super::maker::Maker;
use super::reference::Reference;
use crate::kind::{Kind, Output};
use crate::upstream::{Id, MadeBy, Source};

/// A resolved source of an artifact. Scopes are counted from the outermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Output {
        scope: usize,
        node: usize,
        output: usize,
    },
    /// What a loop carries, within it.
    Carried {
        scope: usize,
        value: usize,
    },
    /// What a round of a loop handed on; round 0 is what went in, the last one what comes out.
    Result {
        scope: usize,
        value: usize,
        round: usize,
    },
    File(usize),
    Variable(usize),
}

impl Link {
    /// Whether it is another thing in each round of the scope at this depth.
    pub fn is_within(self, depth: usize) -> bool {
        match self {
            Link::Output { scope, .. } | Link::Carried { scope, .. } | Link::Result { scope, .. } => {
                scope >= depth
            }
            Link::File(_) | Link::Variable(_) => false,
        }
    }

    fn id(self) -> Id {
        match self {
            Link::Output { scope, node, output } => [scope, node, output, 0],
            Link::Carried { scope, value } => [scope, value, 0, 1],
            Link::Result { scope, value, round } => [scope, value, round, 2],
            Link::File(index) => [index, 0, 0, 3],
            Link::Variable(index) => [index, 0, 0, 4],
        }
    }
}

/// A type of artifact; unknown for files from outside.
pub type Artifact = Option<Cow<'static, str>>;

/// What a reference comes to.
#[derive(Clone)]
pub struct Found {
    pub link: Link,
    pub artifact: Artifact,
    /// What it is made by.
    pub made_by: MadeBy,
}

impl Found {
    pub fn outside(link: Link, path: Option<PathBuf>) -> Found {
        Found { link, artifact: None, made_by: path.map_or(MadeBy::Unknown, MadeBy::File) }
    }

    pub fn source(&self) -> Source {
        Source { id: self.link.id(), made_by: self.made_by.clone() }
    }
}

/// A value that a loop hands on from round to round.
pub struct Handed<'a> {
    pub name: &'a str,
    pub artifact: Artifact,
    /// What it is made by before the first round, and after the last.
    pub first: MadeBy,
    pub last: MadeBy,
}

/// What a name means, and the type of artifact behind it.
pub enum Binding<'a> {
    /// Broken, or part of a cycle: reported where it stands, so what refers to it is passed over.
    Unknown,
    Stage {
        kind: &'static Kind,
        first: usize,
        /// The variants by label; `None` for a stage without a matrix.
        labels: Option<HashMap<String, usize>>,
        /// Of each variant.
        makers: Vec<Option<Rc<Maker>>>,
    },
    Carried {
        value: usize,
        artifact: Artifact,
        made_by: MadeBy,
    },
    Loop {
        first: usize,
        repeat: usize,
        results: Vec<Handed<'a>>,
    },
}

#[derive(Default)]
pub struct Scope<'a> {
    parent: Option<&'a Scope<'a>>,
    depth: usize,
    pub names: HashMap<&'a str, Binding<'a>>,
    /// Of stages within the loops of this scope: the loop. They mean nothing here, but are asked for.
    pub within_loops: HashMap<&'a str, &'a str>,
    /// How many nodes and results of loops its frame has so far.
    pub nodes: usize,
    pub results: usize,
}

impl<'a> Scope<'a> {
    /// The scope of a loop in this one, which carries these.
    pub fn within<'s>(&'s self, carried: &[Handed<'s>]) -> Scope<'s> {
        let bind = |(value, handed): (usize, &Handed<'s>)| {
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

    /// Says what a name of this scope means; one that is carried goes on meaning that.
    pub fn bind(&mut self, name: &'a str, binding: Binding<'a>) {
        if matches!(self.names.get(name), None | Some(Binding::Unknown)) {
            self.names.insert(name, binding);
        }
    }

    /// How many scopes are around it.
    pub fn depth(&self) -> usize {
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

    /// What a reference means here. `None` where it means nothing, which is reported.
    pub fn resolve(&self, errors: &Errors, text: &str, at: At) -> Option<Found> {
        let reference = match Reference::parse(text) {
            Ok(reference) => reference,
            Err(message) => return errors.at(at, message),
        };
        let name = &reference.name;
        let error = |message: String| errors.error(at, message);
        let Some((scope, binding)) = self.find(name) else {
            if errors.are_many() {
                return errors.at(at, "unknown");
            }
            if let Some(around) = self.loop_around(name) {
                let help = format!("let the loop carry what comes out of it, and write {around}.NAME");
                return errors.add(error(format!("`{name}` is within the loop `{around}`")).help(help));
            }
            let message = format!("there is no stage or carried value `{name}`");
            return errors.add(error(message).suggest(name, self.all_names()));
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
                    let Handed { artifact, first, last, .. } = &results[index];
                    let made_by = if round == 0 { first } else { last };
                    Some(Found { link, artifact: artifact.clone(), made_by: made_by.clone() })
                }
                None => {
                    let known: Vec<String> =
                        results.iter().map(|result| format!("{name}.{}", result.name)).collect();
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    let help = format!("what a loop gives is what it carries: {}", listed(&known));
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

/// The round of a loop that a reference names, the last by default; else what is wrong, and what to do.
fn round(reference: &Reference, repeat: usize) -> Result<usize, (String, String)> {
    let name = &reference.name;
    let output = reference.output.as_deref().unwrap_or_default();
    let Some(given) = &reference.variant else { return Ok(repeat) };
    match given.parse::<usize>() {
        Ok(round) if round <= repeat => Ok(round),
        _ if given == "*" => Err((
            format!("`{name}[*].{output}` stands for all rounds, but here is room for one"),
            format!("name one, such as {name}[1].{output}, or write {name}.{output} for the last"),
        )),
        _ => {
            let rounds = match repeat {
                0 => "it has none, and 0 is what went in".to_owned(),
                1 => "it has round 1, and 0 is what went in".to_owned(),
                _ => format!("it has rounds 1 to {repeat}, and 0 is what went in"),
            };
            Err((format!("loop `{name}` has no round `{given}`"), rounds))
        }
    }
}

/// The index of the variant that a reference names; else what is wrong, and what to do.
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
        None => Err((format!("`{name}` has a matrix: which of its variants?"), help())),
        Some(label) => match labels.get(label) {
            Some(index) => Ok(*index),
            None if label.contains('*') && label.split(',').all(|part| part == "*") => Err((
                format!("`{name}[{label}]` stands for all variants, but here is room for one"),
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
