//! Jinja templates of prompts and chats, with limits on time and memory, because a stranger may have written them.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

/// Most instructions for rendering a text; each 64 bytes that it makes count as one more.
const FUEL: u64 = 500_000;

/// Bytes of stack. With this much fuel, a template can nest lists deeply, and recursive functions write and drop them. The
/// system allocates the stack as it is used.
const STACK: usize = 256 << 20;

/// The environment of templates as transformers has it, with trimmed blocks and its `tojson`, and with limits.
pub fn environment<'source>() -> Result<Environment<'source>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", to_json);
    Ok(environment)
}

/// Runs `render` on a thread with a large enough stack. An error of minijinja holds values of the template, so `render` must
/// turn it into text itself.
pub fn with_large_stack<T: Send>(render: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, render)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// The error and its causes, on one line.
pub fn describe(error: &Error) -> String {
    let mut text = match error.kind() {
        ErrorKind::OutOfFuel => format!(
            "{error}: a text must take at most {FUEL} instructions of the template, where 64 bytes of text count as one"
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

/// Most spaces by which `tojson` may indent each level: every line has them.
const MOST_INDENTED: usize = 16;

/// Python's json.dumps, with `ensure_ascii=False` and the separators ", " and ": ".
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if let Some(indent) = indent.filter(|indent| *indent > MOST_INDENTED) {
        let message = format!("tojson's indent must be at most {MOST_INDENTED}, found {indent}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    // Accepted for templates that name them, but without effect: other letters than ASCII and the order of keys are kept.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    if value.kind() == ValueKind::Undefined {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson of an undefined value"));
    }
    let invalid = |reason: String| Error::new(ErrorKind::BadSerialization, reason);
    // A list that holds another list twice, which holds a third twice, takes little memory until it is written out.
    let mut written = Json::default();
    serde_json::to_writer(&mut written, &value).map_err(|error| invalid(error.to_string()))?;
    let json = serde_json::from_slice(&written.0).map_err(|error| invalid(error.to_string()))?;
    let mut out = Json::default();
    write_json(&json, indent, 0, &mut out).map_err(|error| invalid(error.to_string()))?;
    String::from_utf8(out.0).map_err(|error| invalid(error.to_string()))
}

/// Most bytes of JSON that a template writes.
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
        with_large_stack(render).unwrap()
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
