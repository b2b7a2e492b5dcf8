//! Jinja templates that a stranger may have written, of prompts and of chats: what they may take of time and memory.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

/// What rendering a text may take, in instructions; one more for each 64 bytes that it makes.
const FUEL: u64 = 500_000;

/// A template with so much fuel can put lists into lists, which functions that call themselves write and drop: room for as
/// many calls, in bytes. The system gives it as it is used.
const STACK: usize = 256 << 20;

/// Templates as transformers reads them: blocks trimmed, its `tojson`; and with bounds.
pub fn environment<'source>() -> Result<Environment<'source>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", to_json);
    Ok(environment)
}

/// Renders where there is room for what a template does. An error of minijinja holds values of the template: it has to be
/// made into a text within.
pub fn with_room<T: Send>(render: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, render)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// The reason and what lies below it, on one line.
pub fn describe(error: &Error) -> String {
    let mut text = match error.kind() {
        ErrorKind::OutOfFuel => format!(
            "{error}: a text must take at most {FUEL} instructions of the template, and one more for each 64 bytes"
        ),
        _ => error.to_string(),
    };
    let mut below = std::error::Error::source(error);
    while let Some(cause) = below {
        text += &format!(": {cause}");
        below = cause.source();
    }
    text
}

/// Spaces by which `tojson` may indent: each level of each line has so many more.
const MOST_INDENTED: usize = 16;

/// json.dumps of Python, which keeps other letters than ASCII and separates by ", " and ": ".
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if indent.is_some_and(|indent| indent > MOST_INDENTED) {
        let message = format!("tojson's indent must be at most {MOST_INDENTED}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    // Accepted for templates that name them; non-ASCII is kept and order is the template's in any case.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    if value.kind() == ValueKind::Undefined {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson of an undefined value"));
    }
    let invalid = |reason: String| Error::new(ErrorKind::BadSerialization, reason);
    // A list that holds another one twice, which holds a third twice, takes little memory as long as it is not written out.
    let mut written = Json::default();
    serde_json::to_writer(&mut written, &value).map_err(|error| invalid(error.to_string()))?;
    let json = serde_json::from_slice(&written.0).map_err(|error| invalid(error.to_string()))?;
    let mut out = Json::default();
    write_json(&json, indent, 0, &mut out).map_err(|error| invalid(error.to_string()))?;
    String::from_utf8(out.0).map_err(|error| invalid(error.to_string()))
}

/// JSON that a template writes, in bytes at the most.
const MOST_JSON: usize = 16 << 20;

#[derive(Default)]
struct Json(Vec<u8>);

impl Write for Json {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_JSON {
            return Err(io::Error::other("tojson must write at most 16 MiB, found more"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_json(
    value: &serde_json::Value,
    indent: Option<usize>,
    depth: usize,
    out: &mut Json,
) -> io::Result<()> {
    let line = |out: &mut Json, depth: usize| match indent {
        Some(width) => write!(out, "\n{:1$}", "", width * depth),
        None => Ok(()),
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            write!(out, "[")?;
            for (index, item) in items.iter().enumerate() {
                write!(out, "{}", if index > 0 { comma } else { "" })?;
                line(out, depth + 1)?;
                write_json(item, indent, depth + 1, out)?;
            }
            line(out, depth)?;
            write!(out, "]")
        }
        serde_json::Value::Object(entries) if !entries.is_empty() => {
            write!(out, "{{")?;
            for (index, (key, item)) in entries.iter().enumerate() {
                write!(out, "{}", if index > 0 { comma } else { "" })?;
                line(out, depth + 1)?;
                write!(out, "{}: ", serde_json::Value::from(key.as_str()))?;
                write_json(item, indent, depth + 1, out)?;
            }
            line(out, depth)?;
            write!(out, "}}")
        }
        other => write!(out, "{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, String> {
        let render = || environment().unwrap().render_str(source, ()).map_err(|error| describe(&error));
        with_room(render).unwrap()
    }

    #[test]
    fn a_template_that_would_fill_the_memory_fails_and_says_why() {
        let twice = "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
        for (source, expected) in [
            ("{{ [1] | tojson(indent=1000000000) }}", "tojson's indent must be at most 16"),
            (&*format!("{twice}{{{{ ns.x | tojson }}}}"), "tojson must write at most 16 MiB"),
            (&*format!("{twice}{{{{ ns.x | tojson(indent=16) }}}}"), "tojson must write at most 16 MiB"),
            (
                "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
                "fuel",
            ),
            ("{{ 'x' * 10000000000 }}", "fuel"),
            (
                "{% set ns = namespace(x='x') %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
                "fuel",
            ),
            (
                "{% set ns = namespace(x='x') %}{% for i in range(40000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
                "recursion limit",
            ),
        ] {
            let error = render(source).unwrap_err();
            assert!(error.contains(expected), "{source}: {error}");
        }
    }

    #[test]
    fn json_is_that_of_python() {
        let source = "{{ {'a': [1, 'ü<'], 'b': {}} | tojson }} {{ [1] | tojson(indent=1) }}";
        assert_eq!(render(source).unwrap(), "{\"a\": [1, \"ü<\"], \"b\": {}} [\n 1\n]");
    }
}
