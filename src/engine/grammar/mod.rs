//! From YAML to the graph.
//!
//! [`source`]/[`tree`] (located values) → [`spec`] (what was typed) → [`params`] (`--set`, ablations, `$name`)
//! → [`decode`] (typed, with its [`matrix`] and [`policy`]) → [`compile`] ([`order`]ed, resolved in its [`scope`])
//! → [`unroll`] (the [`super::graph`]). What is wrong on the way is gathered in [`diagnostic::Errors`], so that all of it
//! is said at once; what has no end when it is written out ends by its [`budget`]. [`outline`] and [`schema`] show the
//! same to people and to editors.

mod budget;
mod compile;
mod decode;
mod diagnostic;
mod matrix;
mod order;
mod outline;
mod params;
mod policy;
mod reference;
pub mod schema;
mod scope;
mod source;
mod spec;
mod syntax;
mod tree;
mod unroll;
mod wording;

pub use diagnostic::{Diagnostic, Diagnostics, nearest};
pub use outline::{Edge, EdgeRole, Frame, Outline, OutlineNode, Shape, Tail, outline, outline_unrolled};
pub use reference::is_name;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use super::graph::{Graph, GraphVariant};
use super::stage::Registry;
use crate::store::Digest;
use budget::Budget;
use compile::{Outside, Program};
use diagnostic::Errors;
use source::{At, Source};
use spec::Ablation;

/// What the command line adds to a pipeline file.
pub struct LoadOptions<'a> {
    /// The `--set name=value`s.
    pub settings: &'a [String],
    /// The `--ablation`s; without any, the pipeline as it stands in the file.
    pub ablations: &'a [String],
    /// The content digest of a file or folder that the pipeline names.
    pub digest: &'a dyn Fn(&Path) -> io::Result<Digest>,
    /// Whether the files that the pipeline names must be there.
    pub look: bool,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        LoadOptions { settings: &[], ablations: &[], digest: &Digest::of_path, look: true }
    }
}

/// A checked pipeline: its program with each set of parameters that was asked for, loops not yet unrolled.
struct Compiled {
    source: Source,
    name: String,
    resources: BTreeMap<String, u32>,
    programs: Vec<(Program, GraphVariant)>,
    outside: Outside,
}

/// Reads and checks a pipeline file. Of what is wrong all is said, in ablations that were not asked for too.
fn compiled(path: &Path, options: &LoadOptions, registry: &Registry) -> Result<Compiled, Diagnostics> {
    let source = Source::read(path)?;
    let tree = tree::Tree::parse(&source)?;
    if matches!(tree.value, tree::Value::Null) {
        let error = Diagnostic::of_file(path, "the file is empty");
        return Err(error.help("a pipeline has at least `pipeline: NAME` and `stages:`").into());
    }
    let errors = Errors::new(&source);
    let spec = spec::Pipeline::read(&errors, &tree);
    let asked = params::chosen(&errors, &spec.ablations, options.ablations);
    let (mut outside, budget) = (Outside::new(options.look), Budget::default());
    let program = |ablation: Option<&Ablation>, outside: &mut Outside| {
        errors.in_ablation(ablation.map(|ablation| ablation.name.name.as_str()));
        // Each goes through the whole file.
        budget.take(
            &errors,
            ablation.map_or(At::default(), |ablation| ablation.name.at),
            source.text.len(),
        )?;
        let mut params = spec.params.clone();
        ablation.iter().for_each(|ablation| params::ablate(&errors, &mut params, ablation));
        params::set(&errors, &mut params, options.settings);
        let program = compile::compile(&errors, &spec, &params, registry, outside, &budget);
        let ablation = ablation.map(|ablation| ablation.name.name.clone());
        Some((program, GraphVariant { ablation, params: params::to_json(&params) }))
    };
    let mut programs: Vec<(Program, GraphVariant)> = program(None, &mut outside).into_iter().collect();
    if !asked.is_empty() {
        outside = Outside::new(options.look);
        programs = asked.iter().map_while(|ablation| program(Some(ablation), &mut outside)).collect();
    }
    let asked: HashSet<&str> = asked.iter().map(|ablation| ablation.name.name.as_str()).collect();
    for ablation in spec.ablations.iter().filter(|ablation| !asked.contains(ablation.name.name.as_str())) {
        if program(Some(ablation), &mut Outside::new(options.look)).is_none() {
            break;
        }
    }
    errors.in_ablation(None);
    errors.finish()?;
    Ok(Compiled { name: spec.name, resources: spec.resources, programs, outside, source })
}

/// Reads, checks and unrolls a pipeline file: everything that can be known before anything runs.
pub fn load(path: &Path, options: &LoadOptions, registry: &Registry) -> Result<Graph, Diagnostics> {
    let Compiled { source, name, resources, programs, outside } = compiled(path, options, registry)?;
    let size = programs.iter().map(|(program, _)| unroll::size(&program.steps)).sum::<unroll::Size>();
    if let Some(most) = size.beyond() {
        let message = format!("the pipeline unrolls to more than {most}");
        return Err(Diagnostic::of_file(path, message).help("lower a `repeat`").into());
    }
    let errors = Errors::new(&source);
    let mut graph = Graph { pipeline: name, resources, ..Graph::default() };
    for (path, at) in outside.files {
        match (options.digest)(&path) {
            Ok(digest) => graph.files.push((path, digest)),
            Err(error) => errors.at(at, unreadable(&path, &error)).unwrap_or_default(),
        }
    }
    errors.finish()?;
    let value = |name: String| {
        let value = std::env::var(&name).ok();
        (name, value)
    };
    graph.variables = outside.variables.into_iter().map(value).collect();
    for (program, variant) in programs {
        let prefix = variant.ablation.as_ref().map_or(String::new(), |name| format!("{name}/"));
        unroll::unroll(&program, &prefix, &mut graph);
        graph.variants.push(variant);
    }
    Ok(graph)
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("there is no file {} (paths are relative to the working directory)", path.display())
        }
        _ => format!("cannot read {}: {error}", path.display()),
    }
}
