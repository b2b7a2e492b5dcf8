//! Which files of a user's folder count: neither those that no reader of the folder opens, nor those that are ignored.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use super::read::{self, MAX_TEXT_BYTES};

/// The file beside a pipeline that lists what is ignored in all folders of its commands.
const FILE: &str = ".triplayignore";

/// Ignored wherever there are rules, besides hidden files: Python writes it beside each module that it imports.
const ALWAYS: &str = "__pycache__";

/// The files of a user's folder that count. Hidden files do not, unless a rule says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selection {
    /// Names, or `*.` and an extension: see [`is_among`]. If it is empty, every file counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// What is ignored; the first rules that have a pattern for a file decide. Unless it is empty, `__pycache__` is too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<IgnoreRules>,
}

/// Patterns in the syntax of `.gitignore`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IgnoreRules {
    /// The folder that a pattern with a `/` is relative to, without links; `None` is the folder that is read.
    pub folder: Option<PathBuf>,
    /// The patterns, a line each.
    pub patterns: Vec<String>,
}

impl IgnoreRules {
    /// The rules beside a pipeline file, if there are any.
    pub fn beside(pipeline: &Path) -> io::Result<Option<IgnoreRules>> {
        let folder = pipeline.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")))?;
        let path = read::inside(&folder, FILE)?;
        let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let text = match read::text(&path, MAX_TEXT_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(about)?,
        };
        let patterns = text.lines().map(str::to_owned).collect();
        let rules = IgnoreRules { folder: Some(folder.clone()), patterns };
        rules.compile().map_err(about)?;
        Ok(Some(rules))
    }

    /// Checks the patterns.
    pub fn check(&self) -> io::Result<()> {
        self.compile().map(drop)
    }

    fn compile(&self) -> io::Result<Vec<Pattern>> {
        let parse = |line: &String| {
            let parsed = Pattern::parse(line);
            parsed.map_err(|error| io::Error::other(format!("{error}, found `{line}`"))).transpose()
        };
        self.patterns.iter().filter_map(parse).collect()
    }
}

/// Whether a file, by its path in the folder, is among `files`. Those are names, or `*.` and an extension, which stands for files
/// directly in the folder. If `files` is empty, every file is.
pub fn is_among<T: AsRef<str>>(files: &[T], name: &str) -> bool {
    let is = |file: &str| match file.strip_prefix('*') {
        Some(ending) => name.ends_with(ending) && !name.contains('/'),
        None => name == file,
    };
    files.is_empty() || files.iter().any(|file| is(file.as_ref()))
}

/// A selection for one folder.
pub(super) struct Selected<'a> {
    files: &'a [String],
    /// Patterns, and what comes before a path in the folder for them. If the folder lies elsewhere that is `//`, which no pattern
    /// with a `/` begins with.
    rules: Vec<(Vec<Pattern>, String)>,
}

impl Selected<'_> {
    pub(super) fn in_folder<'a>(selection: &'a Selection, folder: &Path) -> io::Result<Selected<'a>> {
        let rules = selection.ignore.iter().map(|rules| {
            let before = match &rules.folder {
                None => String::new(),
                Some(around) => {
                    let real = fs::canonicalize(folder)?;
                    match real.strip_prefix(around).ok().and_then(Path::to_str) {
                        Some("") => String::new(),
                        Some(inside) => format!("{inside}/"),
                        None => "//".to_owned(),
                    }
                }
            };
            Ok((rules.compile()?, before))
        });
        Ok(Selected { files: &selection.files, rules: rules.collect::<io::Result<_>>()? })
    }

    /// Whether a file, or something in a folder, by its path in the folder, may be read by someone.
    pub(super) fn is_read(&self, name: &str, is_folder: bool) -> bool {
        let leads_there = |file: &String| is_folder && file.starts_with(&format!("{name}/"));
        is_among(self.files, name) || self.files.iter().any(leads_there)
    }

    /// Whether a file or a folder is ignored, as long as the folders around it are not.
    pub(super) fn is_ignored(&self, name: &str, is_folder: bool) -> bool {
        let last = |(patterns, before): &(Vec<Pattern>, String)| {
            let path = format!("{before}{name}");
            let pattern = patterns.iter().rfind(|pattern| pattern.is_of(&path, is_folder))?;
            Some(!pattern.keeps)
        };
        let own = name.rsplit('/').next().unwrap_or(name);
        let by_itself = || own.starts_with('.') || own == ALWAYS && !self.rules.is_empty();
        self.rules.iter().find_map(last).unwrap_or_else(by_itself)
    }
}
