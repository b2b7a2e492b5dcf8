//! Redaction: texts of made-up worlds may leave the machine as they are, others only if the user says so.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::folder::Run;

/// How texts of prompts and models are shown to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// As they are.
    Revealed,
    /// `[redacted: 12 characters]`.
    Redacted,
}

/// The columns of tables that hold texts of prompts and models.
const COLUMNS: [&str; 7] = ["seed", "text", "attack", "response", "prompt", "completion", "answer"];

impl Texts {
    /// The default for a run. The built-in world is made up, so nothing in it is harmful. If a user's own data, world or command
    /// takes part, the texts may be harmful.
    pub fn of(run: &Run) -> Texts {
        // Records of earlier versions do not name the kinds.
        let runs_command =
            run.record.kinds.contains_key("exec") || run.nodes.iter().any(|node| node.kind == "exec");
        let mut found = Found { foreign: runs_command, ..Found::default() };
        for (name, needed) in [("pipeline.yaml", true), ("extends.yaml", false)] {
            match run.recorded_text(name) {
                Ok(Some(text)) => found.look_through(&text),
                Ok(None) => found.foreign |= needed,
                Err(_) => found.foreign = true,
            }
        }
        // Values from the command line.
        run.record.params.values().for_each(|params| found.walk(params, Keys::Free));
        if found.sandbox && !found.foreign { Texts::Revealed } else { Texts::Redacted }
    }

    /// A text as others see it. An empty text stays empty.
    pub fn show<'t>(self, text: &'t str) -> Cow<'t, str> {
        match self {
            Texts::Redacted => redacted(text).into(),
            Texts::Revealed => text.into(),
        }
    }

    /// Whether a column of a table holds such texts.
    pub fn are_in(column: &str) -> bool {
        COLUMNS.contains(&column)
    }
}

/// The facts of a pipeline that decide.
#[derive(Default)]
struct Found {
    /// A stage expands the built-in world.
    sandbox: bool,
    /// A source of unknown texts: another world, a command, or a file that is not a model.
    foreign: bool,
}

/// Inputs of stages that are models, and maps of models.
const MODELS: [&str; 9] =
    ["model", "attacker", "defender", "evaluator", "judge", "embedder", "reference", "previous", "tokenizer"];
const MAPS_OF_MODELS: [&str; 2] = ["attackers", "defenders"];

/// The meaning of a map's keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// Keys of a stage.
    Inputs,
    /// Names of stages.
    Stages,
    /// Free names, as of parameters and carried values, which may be used anywhere.
    Free,
}

impl Found {
    fn look_through(&mut self, yaml: &str) {
        match serde_saphyr::from_str::<Value>(yaml) {
            Ok(pipeline) => self.walk(&pipeline, Keys::Inputs),
            Err(_) => self.foreign = true,
        }
    }

    fn walk(&mut self, value: &Value, keys: Keys) {
        match value {
            Value::Object(fields) => {
                match fields.get("kind").and_then(Value::as_str) {
                    Some("sandbox") if fields.get("spec").is_none_or(Value::is_null) => self.sandbox = true,
                    Some("sandbox" | "exec") => self.foreign = true,
                    _ => {}
                }
                self.foreign |= fields.contains_key("path");
                for (name, value) in fields {
                    match (keys, name.as_str()) {
                        (Keys::Stages, _) => self.walk(value, Keys::Inputs),
                        (Keys::Free, _) => self.walk(value, Keys::Free),
                        (_, "stages") => self.walk(value, Keys::Stages),
                        (_, "params" | "ablations" | "carry" | "next" | "matrix") => {
                            self.walk(value, Keys::Free)
                        }
                        // The origin of a model says nothing about the texts.
                        (_, name) if MODELS.contains(&name) && is_path(value) => {}
                        (_, name) if MAPS_OF_MODELS.contains(&name) => {
                            let models = value.as_object().into_iter().flatten();
                            for (_, other) in models.filter(|(_, model)| !is_path(model)) {
                                self.walk(other, Keys::Inputs);
                            }
                        }
                        _ => self.walk(value, keys),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.walk(item, keys)),
            _ => {}
        }
    }
}

/// `{ path: … }`, a file from outside.
fn is_path(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.len() == 1 && fields.contains_key("path"))
}

/// The replacement of a redacted text.
pub fn redacted(text: &str) -> String {
    match text.chars().count() {
        0 => String::new(),
        1 => "[redacted: 1 character]".into(),
        count => format!("[redacted: {count} characters]"),
    }
}

/// A path for others to see: relative to the working directory or to home, whose names are private.
pub fn shown(path: &Path) -> String {
    if let Ok(here) = std::env::current_dir()
        && let Ok(rest) = path.strip_prefix(&here)
    {
        return rest.display().to_string();
    }
    match std::env::var_os("HOME").and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(rest) => Path::new("~").join(rest).display().to_string(),
        None => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_s_own_data_beside_the_sandbox_is_not_of_the_sandbox() {
        let reveals = |stages: &str| {
            let mut found = Found::default();
            found.look_through(&format!("pipeline: p\nstages:\n{stages}"));
            found.sandbox && !found.foreign
        };
        let world = "  world: { kind: sandbox, sft: 60 }\n";
        let and = |stage: &str| reveals(&format!("{world}  other: {stage}\n"));
        assert!(reveals(world));
        assert!(and("{ kind: generate, model: { path: my/model }, data: world.seeds }"));
        assert!(and("{ kind: respond, data: a, models: [{ model: { path: my/model } }] }"));
        assert!(and("{ kind: cross_play, attackers: { b: { path: my/model } }, seeds: world.seeds }"));
        assert!(!reveals("  answers: { kind: respond, data: a }\n"), "no world");
        assert!(!reveals("  world: { kind: sandbox, spec: mine.yaml }\n"));
        assert!(!and("{ kind: sandbox, spec: $spec }"));
        assert!(!and("{ kind: generate, model: w.model, data: { path: mine.parquet } }"));
        assert!(!and("{ kind: measure, verdicts: [v.verdicts, { path: mine.parquet }] }"));
        assert!(!and("{ repeat: 2, carry: { model: { path: mine.parquet } }, stages: {} }"));
        assert!(!and("{ repeat: 2, stages: { say: { kind: exec, command: cat } } }"));
        assert!(!and(
            "{ kind: reward, data: { path: mine.parquet }, terms: [{ overlong: { free: 1, longest: 2 } }] }"
        ));
        let named = "  attackers: { kind: generate, data: { path: mine.parquet } }\n";
        assert!(!reveals(&format!("{world}{named}")), "a stage's name says nothing");
        assert!(!reveals(&format!("{world}params: {{ model: {{ path: mine.parquet }} }}\n")));
        assert!(!reveals("  - : ["), "what cannot be read");
    }

    #[test]
    fn a_text_that_is_redacted_says_how_long_it_was() {
        assert_eq!(Texts::Redacted.show("wörter"), "[redacted: 6 characters]");
        assert_eq!((redacted("?").as_str(), redacted("")), ("[redacted: 1 character]", String::new()));
        assert_eq!(Texts::Revealed.show("wörter"), "wörter");
        assert!(Texts::are_in("response") && !Texts::are_in("class"));
    }
}
