//! Reads, checks and unrolls a pipeline file: everything that can be known before anything runs.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use super::{decode, params, unroll};

use super::budget::Budget;
use super::compile::{self, Outside, Program, unreadable};
use super::diagnostic::{At, Diagnostic, Diagnostics};
use super::errors::Errors;
use super::extends::Extension;
use super::roles::Filling;
use super::sections::Section;
use super::settings::Setting;
use super::site::Site;
use super::source::Source;
use super::spec::{self, Ablation};
use super::tree::{Tree, Value};
use crate::graph::{CarriedValue, Graph, GraphVariant, InputBinding};
use crate::job::UserFile;
use crate::resources::Limit;
use crate::stage::Registry;
use store::{Digest, IgnoreRules, Selection};

/// What the command line adds to a pipeline file.
pub struct LoadOptions<'a> {
    /// The `--set`s: `name=value`, or `@file` with a YAML map of values.
    pub settings: &'a [String],
    /// The `--ablation`s; without any, the pipeline as it stands in the file.
    pub ablations: &'a [String],
    /// The `--seeds`; without any, those of the file.
    pub seeds: &'a [u64],
    /// Computes the content digest of a file that the pipeline names, or of what counts of a folder.
    pub digest: &'a dyn Fn(&Path, &Selection) -> io::Result<Digest>,
    /// Whether the files that the pipeline names must exist.
    pub look: bool,
    /// What the place has. If that is not known, stages may take any resource.
    pub site: Option<&'a Site>,
    /// Read instead of the file that the pipeline extends: a run keeps a copy of it.
    pub base: Option<&'a Path>,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        LoadOptions {
            settings: &[],
            ablations: &[],
            seeds: &[],
            digest: &Digest::of_input,
            look: true,
            site: Some(Site::BARE),
            base: None,
        }
    }
}

/// A checked pipeline: its program with each requested set of parameters, loops not yet unrolled.
pub(crate) struct Compiled {
    pub source: Source,
    /// The parts of the file that has the stages.
    pub sections: Vec<Section>,
    pub name: String,
    text: String,
    extends: Option<String>,
    resources: BTreeMap<String, Limit>,
    endpoints: BTreeMap<String, serde_json::Value>,
    torch: Option<serde_json::Value>,
    /// The `--set`s, those of files too, as `name=value`.
    settings: Vec<String>,
    pub programs: Vec<(Program, GraphVariant)>,
    /// What no program takes, of the roles and defaults.
    warnings: Vec<Diagnostic>,
    pub outside: Outside,
}

/// The help for a file that is not a pipeline: errors show lines of such a file only if the user named it.
const NEEDED: &str = "a pipeline has at least `pipeline: NAME` and `stages:`";

/// Whether a file is meant as a pipeline, whatever its errors. Only of such a file may errors show lines: a stranger's
/// `extends:`, or a link, may lead to any file that the user can read.
fn is_meant_as_pipeline(source: &Source, tree: Option<&Tree>) -> bool {
    let has = |key: &str| match tree {
        Some(tree) => tree.get(key).is_some(),
        None => {
            source.text.lines().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))
        }
    };
    has("pipeline") && (has("stages") || has("extends"))
}

/// Whether a path is a symbolic link, or leads through one in the working directory, which may be a stranger's. Links in
/// other folders of the machine are trusted.
pub(super) fn is_linked(path: &Path) -> bool {
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    let is_here = |link: &Path| {
        let around = link.parent().filter(|around| !around.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match (around.canonicalize(), &here) {
            (Ok(around), Ok(here)) => around.starts_with(here),
            _ => true,
        }
    };
    path.is_symlink() || path.ancestors().any(|part| part.is_symlink() && is_here(part))
}

/// Reads a file as YAML. Returns `None` if it is not meant as a pipeline and the user did not name it.
fn read(path: &Path, is_named: bool) -> Result<Option<(Source, Tree)>, Diagnostics> {
    let source = Source::read(path)?;
    let tree = Tree::parse(&source);
    if !is_named && !is_meant_as_pipeline(&source, tree.as_ref().ok()) {
        return Ok(None);
    }
    let tree = tree?;
    if matches!(tree.value, Value::Null) {
        let error = Diagnostic::of_file(path, "the file is empty");
        return Err(error.help(NEEDED).into());
    }
    Ok(Some((source, tree)))
}

/// Reads the file that the user named.
fn read_own(path: &Path) -> Result<(Source, Tree), Diagnostics> {
    read(path, !is_linked(path))?.ok_or_else(|| {
        Diagnostic::of_file(path, "a link leads to it, and it is not a pipeline").help(NEEDED).into()
    })
}

/// Reads the file that another extends.
fn read_base(
    source: &Source,
    extension: &Extension,
    kept: Option<&Path>,
) -> Result<(Source, Tree), Diagnostics> {
    let (path, at) = &extension.base;
    let path = kept.unwrap_or(path);
    if !path.exists() {
        let message = match store::dangling(path) {
            Some(message) => format!("{} {message}", path.display()),
            None => format!("there is no file {}", path.display()),
        };
        let error = source.error(*at, message);
        return Err(error.help("`extends` is relative to the folder of its file").into());
    }
    let Some((base, tree)) = read(path, false)? else {
        let error = source.error(*at, format!("{} is not a pipeline", path.display()));
        return Err(error.help(NEEDED).into());
    };
    if tree.get("extends").is_some() {
        let error = source.error(*at, format!("{} must not extend another pipeline itself", path.display()));
        return Err(error.help("extend the pipeline that has the stages").into());
    }
    Ok((base, tree))
}

/// Reads and checks a pipeline file. Reports all errors, also in ablations that were not requested.
pub(crate) fn compiled(
    path: &Path,
    options: &LoadOptions,
    registry: &Registry,
) -> Result<Compiled, Diagnostics> {
    let (own, own_tree) = read_own(path)?;
    // Errors of the file itself and the command line. `errors` are those of the file that has the stages.
    let own_errors = Errors::new(&own);
    let extension = Extension::read(&own_errors, &own_tree);
    own_errors.finish()?;
    let base = extension.as_ref().map(|extension| read_base(&own, extension, options.base)).transpose()?;
    let (source, tree) = base.as_ref().map_or((&own, &own_tree), |(source, tree)| (source, tree));
    let errors = Errors::new(source);
    let sections = Section::all(tree);
    errors.share(sections.iter().filter(|section| section.is_shared()).cloned().collect());
    let mut spec = spec::Pipeline::read(&errors, tree);
    spec.resources = options.site.and_then(|site| {
        let of_site = site.resources.clone();
        Some(spec.resources.take()?.into_iter().chain(of_site).collect())
    });
    spec.endpoints = options.site.map(|site| site.endpoints.clone());
    if let Some(trainer) = options.site.and_then(|site| site.trainer.as_ref()) {
        spec.shared.add_of_site("trainer", trainer);
    }
    let mut ablations = Cow::Borrowed(options.ablations);
    if let Some(extension) = &extension {
        extension.put_into(&own_errors, &mut spec);
        if ablations.is_empty() {
            ablations = Cow::Owned(extension.ablations(&own_errors, &spec.ablations));
        }
    }
    let asked = params::chosen(&own_errors, &spec.ablations, &ablations);
    let settings = Setting::read(&own_errors, options.settings, is_linked);
    let sets_seed = settings.iter().any(|setting| setting.key.name == "seed");
    if sets_seed && !options.seeds.is_empty() {
        let message = "--set seed=… and --seeds must not be given together";
        own_errors.add::<()>(Diagnostic::of_file(path, message));
    }
    let seeds = |ablation: Option<&Ablation>| -> Vec<Option<u64>> {
        let is_set = sets_seed || ablation.is_some_and(Ablation::sets_seed);
        let seeds = match (options.seeds, &spec.seeds) {
            ([], Some(seeds)) if !is_set => seeds,
            ([], _) => return vec![None],
            (seeds, _) => seeds,
        };
        seeds.iter().map(|seed| Some(*seed)).collect()
    };
    let (mut outside, budget) = (Outside::new(options.look), Budget::default());
    let filling = Filling::new(&errors, registry, &spec.shared);
    let program = |ablation: Option<&Ablation>, seed: Option<u64>, outside: &mut Outside| {
        errors.in_ablation(ablation.map(|ablation| ablation.name.name.as_str()));
        // Each program reads the whole file.
        let at = ablation.map_or(At::default(), |ablation| ablation.name.at);
        budget.take(&errors, at, source.text.len())?;
        let mut params = spec.params.clone();
        ablation.iter().for_each(|ablation| params::ablate(&errors, &mut params, ablation));
        settings.iter().for_each(|setting| setting.put_into(&own_errors, &mut params));
        if let (Some(seed), Some(declared)) = (seed, params.get_mut("seed")) {
            *declared = Tree::new(Value::Int(seed as i64), declared.at);
        }
        let program = compile::compile(&errors, &spec, &params, &filling, outside, &budget);
        let ablation = ablation.map(|ablation| ablation.name.name.clone());
        let typed = params::as_typed(&params);
        Some((program, GraphVariant { ablation, seed, params: params::to_json(&params), typed }))
    };
    let mut programs: Vec<(Program, GraphVariant)> = program(None, None, &mut outside).into_iter().collect();
    let each_seed = |ablation| seeds(ablation).into_iter().map(move |seed| (ablation, seed));
    let variants: Vec<(Option<&Ablation>, Option<u64>)> = match &asked[..] {
        [] => each_seed(None).collect(),
        asked => asked.iter().flat_map(|ablation| each_seed(Some(*ablation))).collect(),
    };
    let mut named: HashMap<String, Option<&Ablation>> = HashMap::new();
    for (ablation, seed) in &variants {
        let name = ablation.map(|ablation| ablation.name.name.clone());
        let variant = GraphVariant { ablation: name, seed: *seed, ..GraphVariant::default() };
        let Some(name) = variant.name() else { continue };
        if let Some(other) = named.insert(name.clone(), *ablation) {
            let message = format!("two of the requested variants are called `{name}`");
            let error = match ablation.or(other) {
                Some(ablation) => errors.error(ablation.name.at, message),
                None => Diagnostic::of_file(path, message),
            };
            own_errors.add::<()>(error.help("a variant is called NAME, sSEED or NAME-sSEED: rename an ablation, or request each seed once"));
        }
    }
    if !matches!(variants[..], [(None, None)]) {
        outside = Outside::new(options.look);
        programs =
            variants.iter().map_while(|(ablation, seed)| program(*ablation, *seed, &mut outside)).collect();
    }
    let asked: HashSet<&str> = asked.iter().map(|ablation| ablation.name.name.as_str()).collect();
    for ablation in spec.ablations.iter().filter(|ablation| !asked.contains(ablation.name.name.as_str())) {
        if program(Some(ablation), None, &mut Outside::new(options.look)).is_none() {
            break;
        }
    }
    errors.in_ablation(None);
    let warnings = filling.finish();
    match (own_errors.finish(), errors.finish()) {
        (Ok(()), Ok(())) => {}
        (Err(Diagnostics(own)), Err(Diagnostics(more))) => {
            return Err(Diagnostics(own.into_iter().chain(more).collect()));
        }
        (wrong, Ok(())) | (Ok(()), wrong) => wrong?,
    }
    let (name, resources) = (spec.name, spec.resources.unwrap_or_default());
    let endpoints = spec.endpoints.unwrap_or_default();
    let text = own.text.clone();
    let extends = base.as_ref().map(|(source, _)| source.text.clone());
    let source = base.map_or(own, |(source, _)| source);
    let settings = settings.into_iter().map(|setting| setting.text).collect();
    let torch = options.site.and_then(|site| site.torch.clone());
    Ok(Compiled {
        source,
        sections,
        name,
        text,
        extends,
        resources,
        endpoints,
        torch,
        settings,
        programs,
        warnings,
        outside,
    })
}

/// Reads the keys of a stage from a file of its own, to be put into a pipeline. Under verbatim keys scalars are text.
pub fn read_stage(text: &str, registry: &Registry) -> Result<serde_json::Value, String> {
    let tree = Tree::parse_value(text)?;
    let kind = tree.get("kind").and_then(|kind| registry.find(&kind.to_text()));
    Ok(decode::json(&tree, kind.map_or(&[], |(_, _, verbatim)| verbatim)))
}

/// Reads, checks and unrolls a pipeline file: everything that can be known before anything runs.
pub fn load(path: &Path, options: &LoadOptions, registry: &Registry) -> Result<Graph, Diagnostics> {
    unrolled(path, options, compiled(path, options, registry)?)
}

/// Unrolls a checked pipeline.
pub(crate) fn unrolled(path: &Path, options: &LoadOptions, compiled: Compiled) -> Result<Graph, Diagnostics> {
    let Compiled {
        source,
        name,
        text,
        extends,
        resources,
        endpoints,
        torch,
        settings,
        programs,
        warnings,
        outside,
        ..
    } = compiled;
    let size = programs.iter().map(|(program, _)| unroll::size(&program.steps)).sum::<unroll::Size>();
    let too_much = |most: String| {
        let message = format!("the pipeline must unroll to at most {most}, found more");
        Diagnostic::of_file(path, message).help("lower a `repeat`")
    };
    if let Some(most) = size.beyond() {
        return Err(too_much(most).into());
    }
    let errors = Errors::new(&source);
    let mut graph = Graph { pipeline: name, text, extends, resources, settings, ..Graph::default() };
    graph.warnings = warnings.iter().map(ToString::to_string).collect();
    let value = |name: String| {
        let value = std::env::var(&name).ok();
        (name, value)
    };
    graph.variables = outside.variables.into_iter().map(value).collect();
    (graph.served, graph.endpoints, graph.torch) = (outside.served, endpoints, torch);
    for (program, variant) in programs {
        let prefix = variant.name().map_or(String::new(), |name| format!("{name}/"));
        if let Some(most) = unroll::unroll(&program, &prefix, &mut graph).beyond() {
            return Err(too_much(most).into());
        }
        for warning in program.warnings.iter().map(ToString::to_string) {
            if !graph.warnings.contains(&warning) {
                graph.warnings.push(warning);
            }
        }
        graph.variants.push(variant);
    }
    check_published(&graph).map_err(|message| {
        Diagnostic::of_file(path, message).help("give one of the stages another `publish`")
    })?;
    let ignore = IgnoreRules::beside(path)
        .map_err(|error| Diagnostic::of_file(path, format!("what it ignores cannot be read: {error}")))?;
    hash_files(&mut graph, &outside.files, ignore.as_ref(), &errors, options);
    errors.finish()?;
    Ok(graph)
}

/// Returns an error if two outputs are published at the same path, or one within another.
fn check_published(graph: &Graph) -> Result<(), String> {
    let mut paths: Vec<(String, &str)> = Vec::new();
    for node in &graph.nodes {
        paths.extend(node.published().into_iter().map(|(_, path)| (path, node.name.as_str())));
    }
    // With this order of bytes, a path comes right before those within it.
    paths.sort_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
    for pair in paths.windows(2) {
        let [(first, by), (second, also)] = pair else { continue };
        let is_within =
            second.strip_prefix(first).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_within {
            return Err(format!(
                "{by} and {also} must publish at different paths, found `{first}` and `{second}`"
            ));
        }
    }
    Ok(())
}

/// Hashes the files that a pipeline names. A folder is hashed once for each selection of its files that counts for a reader
/// (`Use::selection`), directly or through a loop. `ignore` are rules for all stages that ignore files. Feeds then refer to the
/// hashed files instead of to `named`.
fn hash_files(
    graph: &mut Graph,
    named: &[(PathBuf, At)],
    ignore: Option<&IgnoreRules>,
    errors: &Errors,
    options: &LoadOptions,
) {
    let mut hashed: Vec<Vec<(Selection, usize)>> = vec![Vec::new(); named.len()];
    let readers = graph.nodes.iter().flat_map(|node| node.feeds.iter().zip(&node.call.decoded.uses));
    for (feed, used) in readers.filter(|(feed, _)| !matches!(feed, InputBinding::Output { .. })) {
        for feed in graph.alternatives(*feed) {
            if let InputBinding::File(file) = feed
                && !hashed[file].iter().any(|(selection, _)| *selection == used.selection)
            {
                hashed[file].push((used.selection.clone(), 0));
            }
        }
    }
    for ((path, at), choices) in named.iter().zip(&mut hashed) {
        if choices.is_empty() {
            // No node reads it, but it must be readable.
            choices.push((Selection::default(), 0));
        }
        for (selection, number) in choices {
            let mut selection = selection.clone();
            if !selection.ignore.is_empty() {
                selection.ignore.extend(ignore.cloned());
            }
            match (options.digest)(path, &selection) {
                Ok(digest) => {
                    *number = graph.files.len();
                    graph.files.push(UserFile { path: path.clone(), selection, digest });
                }
                Err(error) => {
                    errors.at::<()>(*at, unreadable(path, &error));
                    break;
                }
            }
        }
    }
    let number = |file: usize, selection: &Selection| {
        let choice = hashed[file].iter().find(|(known, _)| known == selection);
        choice.map_or(0, |(_, number)| *number)
    };
    let count = graph.handed.len() as u32;
    let mut handed: HashMap<Selection, Vec<u32>> = HashMap::new();
    let mut nodes = std::mem::take(&mut graph.nodes);
    for node in &mut nodes {
        for (feed, used) in node.feeds.iter_mut().zip(&node.call.decoded.uses) {
            match feed {
                InputBinding::File(file) => *file = number(*file, &used.selection),
                InputBinding::Carried { value, .. } => {
                    let values = handed.entry(used.selection.clone()).or_insert_with(|| {
                        hand_on_files(graph, count, &|file| number(file, &used.selection))
                    });
                    *value = values[*value as usize];
                }
                _ => {}
            }
        }
    }
    graph.nodes = nodes;
}

/// Copies those of the first `count` values of loops that contain files, with other numbers of the files. Returns which value
/// replaces which.
fn hand_on_files(graph: &mut Graph, count: u32, number: &dyn Fn(usize) -> usize) -> Vec<u32> {
    let mut instead: Vec<u32> = Vec::with_capacity(count as usize);
    for value in 0..count {
        let changed = |feed: &InputBinding| match *feed {
            InputBinding::File(file) => InputBinding::File(number(file)),
            // A value refers only to values before it.
            InputBinding::Carried { value, round } => {
                InputBinding::Carried { value: instead[value as usize], round }
            }
            other => other,
        };
        let CarriedValue { by, rounds } = &graph.handed[value as usize];
        let has_files =
            rounds.iter().any(|feed| matches!(feed, InputBinding::File(_)) || changed(feed) != *feed);
        if !has_files {
            instead.push(value);
            continue;
        }
        let handed = CarriedValue { by: *by, rounds: rounds.iter().map(changed).collect() };
        instead.push(graph.handed.len() as u32);
        graph.handed.push(handed);
    }
    instead
}
