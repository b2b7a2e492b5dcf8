//! Translates errors of the YAML parser for authors of pipelines.

use super::diagnostic::{At, Diagnostic};
use super::source::Source;

const QUOTE: &str = "close each { and [, and quote text with braces or brackets inside them: \
                     \"others[b].model\", \"${name}\"";

/// A part of a parser's message, the message to show instead, and the help.
const WORDS: &[(&str, &str, &str)] = &[
    (
        "mapping values are not allowed",
        "a second `:` in one line",
        "quote text that holds `: `, and put maps into braces or on lines of their own",
    ),
    (
        "multiple YAML documents",
        "a second document begins here",
        "a pipeline must be one document: remove the `---`",
    ),
    ("recursion limit exceeded", "nested too deeply", ""),
    ("budget breached: Depth", "nested too deeply", ""),
    ("budget breached: Nodes", "more than 250000 values in one file", ""),
    ("budget breached", "too many anchors, aliases or merge keys", ""),
    ("expected string scalar", "a key must be text", ""),
    ("tabs disallowed", "a tab", "indent with spaces"),
    ("while parsing a flow mapping, did not find", "expected `,` or `}`", QUOTE),
    ("while parsing a flow sequence", "expected `,` or `]`", QUOTE),
    ("unclosed bracket '{'", "this `{` is not closed", QUOTE),
    ("unclosed bracket '['", "this `[` is not closed", QUOTE),
    ("unclosed quote", "this quote is not closed", ""),
    (
        "while parsing a block mapping, did not find expected key",
        "expected a key",
        "keys of one map must start in the same column",
    ),
    ("did not find expected '-'", "expected `- `", "items of one list must start in the same column"),
    ("may not precede any of", "a `:` needs a space after it", ""),
    ("simple key expected", "expected `:` after the key", ""),
    ("unknown anchor", "an alias to an unknown anchor", "*name needs an &name before it"),
];

/// A parser's error without its place, and its help.
pub(crate) fn plain(error: &serde_saphyr::Error) -> (String, Option<&'static str>) {
    let text = error.render();
    let message = text.split('\n').next().unwrap_or_default();
    let message = match error.location() {
        Some(at) => message.replace(&format!(" at line {}, column {}", at.line(), at.column()), ""),
        None => message.to_owned(),
    };
    if let Some((_, words, help)) = WORDS.iter().find(|(part, ..)| message.contains(part)) {
        return ((*words).to_owned(), Some(*help).filter(|help| !help.is_empty()));
    }
    if let Some(key) = message.strip_prefix("duplicate mapping key: ") {
        let key = key.split(", set DuplicateKeyPolicy").next().unwrap_or(key);
        return (format!("duplicate key `{key}`"), Some("remove or rename one of them"));
    }
    if let Some(number) = message.strip_prefix("non-finite float ") {
        let number = number.split('`').nth(1).unwrap_or(number);
        return (format!("`{number}` is not a finite number"), Some("quotes make it text"));
    }
    if let Some(character) = message.strip_prefix("unexpected character: ") {
        return (format!("a character that YAML does not allow: {character}"), None);
    }
    (message, None)
}

/// A parser's error at its place.
pub(crate) fn syntax_error(source: &Source, error: &serde_saphyr::Error) -> Diagnostic {
    let (message, help) = plain(error);
    let diagnostic = match error.location() {
        Some(at) => {
            let at = At { line: at.line() as usize, column: at.column() as usize, length: 1 };
            source.error(at, format!("not valid YAML: {message}"))
        }
        None => Diagnostic::of_file(&source.path, format!("not valid YAML: {message}")),
    };
    match help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}
