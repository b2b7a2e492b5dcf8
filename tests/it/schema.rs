//! `pipeline schema` and `pipeline kinds`: the schema accepts the shipped pipelines, rejects wrong ones, and describes every key.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::space::Space;

fn schema(space: &Space) -> Value {
    space.triplay(&["pipeline", "schema"]).json()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn errors(validator: &jsonschema::Validator, document: &Value) -> Vec<String> {
    let place = |error: jsonschema::ValidationError| format!("{}: {error}", error.instance_path());
    validator.iter_errors(document).map(place).collect()
}

#[test]
fn every_shipped_pipeline_holds_to_the_schema() {
    let validator = jsonschema::draft202012::new(&schema(&Space::new())).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shipped = fs::read_dir(root.join("pipelines")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    for path in shipped.chain([root.join("tests/it/small.yaml")]) {
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let errors = errors(&validator, &yaml(&fs::read_to_string(&path).unwrap()));
            assert!(errors.is_empty(), "{}:\n{}", path.display(), errors.join("\n"));
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

/// One change of small.yaml, and the error that the schema should give, if any.
const CHANGES: &[(&str, &str, Option<&str>)] = &[
    ("kind: sandbox", "kind: sandbox, seed: 3, timeout: 90, retry: 2, resources: { gpu: 1 }", None),
    ("kind: sandbox", "kind: sandbox, publish: data", None),
    ("kind: sandbox", "kind: sandbox, publish: { path: data, copy: true }", None),
    ("kind: sandbox", "kind: sandbox, publish: { copy: true }", Some("path")),
    ("kind: sandbox", "kind: sandbox, timeout: 2h, retry: { times: 1, wait: 30s }", None),
    ("steps: 60", "steps: $steps", None),
    ("init: {", "init: $sizes\n    subset: {", Some("/stages/warmup/subset")),
    ("init: { hidden: 32, layers: 1, heads: 2, positions: 96 }", "init: $sizes", None),
    (
        "matrix: { profile: [b, c] }",
        "matrix: { profile: { weak: b, strong: c }, exclude: [{ profile: weak }] }",
        None,
    ),
    ("matrix: { profile: [b, c] }", "matrix: { profile: $profiles }", None),
    ("repeat: $rounds", "repeat: 3\n    keep: { every: 2 }", None),
    (
        "params: {",
        "resources: { gpu: 2 }\nablations: { plain: {}, no-diversity: { diversity: 0 } }\nparams: {",
        None,
    ),
    ("seed: 5", "seeds: [1, 2]", None),
    ("seed: 5", "seeds: [1, 1]", Some("/seeds")),
    ("seed: 5", "extends: other.yaml", Some("is not allowed")),
    ("data: world.sft\n", "data: { path: glowvenom.parquet }\n", None),
    ("data: world.sft\n", "data: \"others[$label].model\"\n", None),
    ("pipeline: small", "pipeline: 7", Some("/pipeline")),
    ("pipeline: small", "pipelines: small", Some("'pipelines' was unexpected")),
    ("seed: 5", "seed: -5", Some("/seed")),
    ("label: mini", "seed: 3", Some("/params")),
    ("label: mini", "label: { a: 1 }", None),
    ("label: mini", "label: null", Some("/params/label")),
    ("kind: sandbox", "kind: sandbx", Some("/stages/world/kind")),
    ("kind: sandbox", "knd: sandbox", Some("\"kind\" is a required property")),
    ("kind: sandbox", "kind: sandbox, sfts: 3", Some("'sfts' was unexpected")),
    ("kind: sandbox", "kind: sandbox, timeout: soon", Some("/stages/world/timeout")),
    ("kind: sandbox", "kind: sandbox, retry: -1", Some("/stages/world/retry")),
    ("kind: sandbox", "kind: sandbox, resources: { gpu: one }", Some("/stages/world/resources/gpu")),
    ("matrix: { profile: [b, c] }", "matrix: { profile: b }", Some("/stages/others/matrix/profile")),
    ("steps: 60", "steps: many", Some("/stages/warmup/steps")),
    ("steps: 60", "steps: 1.5", Some("/stages/warmup/steps")),
    // Without a value, a key leaves out what roles and defaults have.
    ("steps: 60", "steps: null\n    timeout: null\n    retry: null", None),
    ("data: world.sft\n", "data: null\n", None),
    ("hidden: 32", "hidden: null", None),
    ("kind: sandbox", "kind: sandbox, publish: null", Some("/stages/world/publish")),
    // Defaults may give it; whether they do is for `pipeline check`.
    ("steps: 60\n", "\n", None),
    ("seed: 5", "seed: 5\nroles: { attacker: { chat: true } }\ndefaults: { sft: { steps: 60 } }", None),
    ("seed: 5", "seed: 5\nroles: { attacker: yes }", Some("/roles/attacker")),
    ("seed: 5", "seed: 5\ndefaults: { sfd: {} }", Some("sfd")),
    ("heads: 2", "head: 2", Some("'head' was unexpected")),
    ("algorithm: word_level", "algorithm: word", Some("/stages/vocabulary/algorithm")),
    ("data: world.sft\n", "data: world sft\n", Some("/stages/warmup/data")),
    ("data: world.sft\n", "data: { file: a }\n", Some("/stages/warmup/data")),
    ("repeat: $rounds", "repeat: twice", Some("/stages/play/repeat")),
    ("repeat: $rounds", "repeat: 2\n    keep: some", Some("/stages/play/keep")),
    ("repeat: $rounds", "repeat: 2\n    kind: sft", Some("'kind' was unexpected")),
    ("{ success: {", "{ succes: {", Some("'succes' was unexpected")),
    ("weight: 0.3", "weight: heavy", Some("/rewards/terms/1/weight")),
    ("grpo: { lr: 4e-4", "grpo: { lr: fast", Some("/update/algorithm")),
];

#[test]
fn wrong_pipelines_are_told_from_right_ones() {
    let validator = jsonschema::draft202012::new(&schema(&Space::new())).unwrap();
    for (from, to, expected) in CHANGES {
        let text = include_str!("small.yaml").replacen(from, to, 1);
        assert_ne!(text, include_str!("small.yaml"), "{from}");
        let errors = errors(&validator, &yaml(&text));
        match expected {
            None => assert!(errors.is_empty(), "{to}:\n{}", errors.join("\n")),
            Some(expected) => {
                assert!(errors.iter().any(|error| error.contains(expected)), "{to}:\n{}", errors.join("\n"));
            }
        }
    }
    let extension =
        json!({ "pipeline": "p", "extends": "q.yaml", "params": { "a.b": 1 }, "ablations": ["full"] });
    assert!(validator.is_valid(&extension));
    for document in
        [json!(null), json!([]), json!({ "pipeline": "p" }), json!({ "pipeline": "p", "stages": {} })]
    {
        assert!(!validator.is_valid(&document), "{document}");
    }
}

#[test]
fn every_kind_and_every_key_is_explained() {
    let space = Space::new();
    let schema = schema(&space);
    let kinds = space.triplay(&["pipeline", "kinds"]);
    let names = kinds.out.lines().filter_map(|line| line.split(' ').next());
    let names: Vec<&str> = names.filter(|name| !name.is_empty() && !name.starts_with('`')).collect();
    assert!(names.contains(&"sandbox") && names.contains(&"update") && names.len() >= 12, "{names:?}");
    assert_eq!(schema["$defs"]["step"]["else"]["properties"]["kind"]["enum"], json!(names));
    for name in names {
        assert!(schema["$defs"][format!("stage.{name}")].is_object(), "{name}");
        let page = space.triplay(&["pipeline", "kinds", name]);
        assert_eq!(page.code, Some(0), "{}", page.err);
        assert!(page.out.starts_with(&format!("{name}: ")), "{}", page.out);
        let wide: Vec<&str> = page.out.lines().filter(|line| line.chars().count() > 100).collect();
        assert!(wide.is_empty(), "{wide:#?}");
    }
    let mut bare = Vec::new();
    find_bare(&schema, "#", &mut bare);
    assert!(bare.is_empty(), "without a description:\n{}", bare.join("\n"));
}

/// Finds keys without a description, except in conditions.
fn find_bare(schema: &Value, at: &str, bare: &mut Vec<String>) {
    let Some(fields) = schema.as_object() else { return };
    for (name, key) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if key["description"].as_str().is_none_or(str::is_empty) {
            bare.push(format!("{at}/{name}"));
        }
    }
    for (name, inner) in fields.iter().filter(|(name, _)| *name != "if") {
        match inner {
            Value::Array(items) => {
                items.iter().for_each(|item| find_bare(item, &format!("{at}/{name}"), bare))
            }
            _ => find_bare(inner, &format!("{at}/{name}"), bare),
        }
    }
}

#[test]
fn a_page_of_a_kind_says_what_it_takes_and_makes() {
    let space = Space::new();
    let page = space.triplay(&["pipeline", "kinds", "judge"]);
    assert!(page.out.contains(JUDGE), "{}", page.out);
    space.triplay(&["pipeline", "kinds", "jugde"]).fails(2, "help: did you mean `judge`?");
    space.triplay(&["pipeline", "kinds", "glowvenom"]).fails(2, "help: the kinds are: sandbox, tokenizer, ");
    let out = space.triplay(&["pipeline", "schema", "--out", "schema.json"]);
    assert!(out.out.contains("# yaml-language-server: $schema=schema.json"), "{}{}", out.out, out.err);
    let written: Value =
        serde_json::from_str(&fs::read_to_string(space.path("schema.json")).unwrap()).unwrap();
    assert_eq!(written, schema(&space));
}

const JUDGE: &str = "\
outputs
  verdicts  verdicts (the stage's name alone means this output)

keys
  data: an input of type responses or labels, required
      What to judge: responses, or labelled pairs to train the evaluator on.
  model: an input of type model, required
      The evaluator.
  group: a whole number, by default 1
      Verdicts on each pair; together they are one group of GRPO when the
      evaluator is trained.
  sampling: a map, by default { temperature: 0, max_new_tokens: 3 }
      How verdicts are sampled: greedily by default. To train the evaluator,
      sample at temperature 1.
      temperature: a number, by default 1
          Logits are divided by it before sampling; 0 takes the most probable
          token.
";
