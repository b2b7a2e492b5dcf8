//! The values of `--set`: `NAME=VALUE`, or `@FILE` with a YAML map of values.

use std::path::Path;
use std::rc::Rc;

use super::diagnostic::{At, Diagnostic};
use super::errors::Errors;
use super::params::assign;
use super::source::Source;
use super::tree::{Key, Params, Tree, Value};

/// The value of one parameter.
pub(crate) struct Setting {
    pub key: Key,
    value: Tree,
    /// `NAME=VALUE`, as the record of a run keeps it.
    pub text: String,
    /// The same for errors, without the value if no line of its file may be shown.
    shown: String,
    /// The file that it is from. Its lines may be shown.
    file: Option<Rc<Source>>,
}

impl Setting {
    /// Reads what was typed. Reports errors and leaves out what is wrong; `is_foreign` says of which files no line may be shown.
    pub(crate) fn read(errors: &Errors, typed: &[String], is_foreign: fn(&Path) -> bool) -> Vec<Setting> {
        let read = |typed: &String| match typed.strip_prefix('@') {
            Some(path) => from_file(errors, typed, Path::new(path), is_foreign).unwrap_or_default(),
            None => from_text(errors, typed).into_iter().collect(),
        };
        typed.iter().flat_map(read).collect()
    }

    /// Replaces the declared value.
    pub(crate) fn put_into(&self, errors: &Errors, params: &mut Params) {
        let name = self.key.name.as_str();
        let declared = params.get(name.split('.').next().unwrap_or(name));
        let at = declared.map_or(At::default(), |tree| tree.at);
        // An error where the value is used is one of the pipeline.
        let value = self.value.clone().moved_to(at);
        let before = self.file.as_ref().map(|_| params.clone());
        let Err(error) = assign(params, &Key { name: name.into(), at }, &value) else { return };
        let placed = before.and_then(|mut params| assign(&mut params, &self.key, &self.value).err());
        errors.add::<()>(match (&self.file, placed) {
            (Some(file), Some(placed)) => placed.diagnostic(|at, message| file.error(at, message)),
            _ => error.diagnostic(|_, message| of_setting(errors, &self.shown, message)),
        });
    }
}

fn of_setting(errors: &Errors, typed: &str, message: String) -> Diagnostic {
    Diagnostic::of_file(&errors.source.path, format!("--set {typed}: {message}"))
}

fn from_text(errors: &Errors, typed: &str) -> Option<Setting> {
    let Some((name, text)) = typed.split_once('=') else {
        let error = of_setting(errors, typed, "expected name=value".into());
        return errors.add(error);
    };
    match Tree::parse_value(text) {
        Err(message) => errors.add(of_setting(errors, typed, format!("not a YAML value: {message}"))),
        Ok(value) => {
            let key = Key { name: name.into(), at: At::default() };
            Some(Setting { key, value, text: typed.into(), shown: typed.into(), file: None })
        }
    }
}

/// The values in a file, a map from names to values.
fn from_file(
    errors: &Errors,
    typed: &str,
    path: &Path,
    is_foreign: fn(&Path) -> bool,
) -> Option<Vec<Setting>> {
    let fail = |message: String| errors.add(of_setting(errors, typed, message));
    if !path.is_file() {
        return fail(format!("there is no file {}", path.display()));
    }
    const MAP: &str = "the file must be a YAML map from parameters to values";
    let is_shown = !is_foreign(path);
    let source = match Source::read(path) {
        Ok(source) => source,
        Err(error) => return errors.add(error),
    };
    let tree = match Tree::parse(&source) {
        Ok(tree) => tree,
        Err(error) if is_shown => return errors.add(error),
        Err(_) => return fail(MAP.into()),
    };
    let Value::Map(entries) = tree.value else {
        return fail(format!("{MAP}, found {}", tree.value.describe()));
    };
    let source = Rc::new(source);
    let setting = |(key, value): (Key, Tree)| {
        let text = format!("{}={}", key.name, as_typed(&value));
        let shown = if is_shown { text.clone() } else { typed.to_owned() };
        Setting { key, value, text, shown, file: is_shown.then(|| source.clone()) }
    };
    Some(entries.into_iter().map(setting).collect())
}

/// A value as one types it after `NAME=`.
pub(crate) fn as_typed(value: &Tree) -> String {
    let plain = value.to_text();
    match &value.value {
        Value::List(_) | Value::Map(_) => value.as_typed(),
        Value::Text(text) => match Tree::parse_value(&plain) {
            Ok(Tree { value: Value::Text(read), .. }) if read == *text => plain,
            _ => value.as_typed(),
        },
        _ => plain,
    }
}
