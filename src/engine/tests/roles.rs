//! `roles:`, `defaults:` and the site file: what stages and their entries take, and what is wrong in them.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::Site;

/// Singers and a judge, who take roles. Each of them knows `word`, and the stage knows `tone`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Sing {
    #[serde(default)]
    singers: Vec<Singer>,
    #[serde(default)]
    choirs: Choirs,
    #[serde(default)]
    by: Option<By>,
    #[serde(default)]
    tone: Tone,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Singer {
    name: String,
    #[serde(default)]
    word: String,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Choirs {
    high: Vec<Singer>,
    low: Vec<Singer>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    Judge(Judge),
    Lot(Lot),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Judge {
    name: String,
    #[serde(default)]
    word: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lot {
    sides: u8,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Tone {
    pitch: u8,
    volume: u8,
}

impl Stage for Sing {
    const KIND: Kind = Kind {
        name: "sing",
        version: 1,
        outputs: &[Output::new("song", "text")],
        numerics: false,
        draws: true,
        excluded_from_key: &[],
    };

    const ROLES: &'static [(&'static str, &'static str)] = &[
        ("singers.*", "singer"),
        ("choirs.high.*", "singer"),
        ("choirs.low.*", "singer"),
        ("by.judge", "arbiter"),
    ];

    fn run(&self, _: &mut Context) -> anyhow::Result<()> {
        unreachable!("no test sings")
    }
}

/// A pipeline with one stage that sings.
fn pipeline(head: &str, stage: &str) -> String {
    format!("pipeline: test\n{head}\nstages:\n  a: {{ kind: sing, {stage} }}\n")
}

/// The values of the stage under these keys.
fn sung(head: &str, stage: &str, path: &str) -> Value {
    let graph = Space::new().load(&pipeline(head, stage), &[]).unwrap_or_else(|error| panic!("{error}"));
    graph.nodes[0].call.decoded.params.pointer(path).unwrap().clone()
}

const SINGERS: &str = "roles: { calm: { word: hm, tone: { pitch: 2, volume: 8 } }, loud: { word: ho, tone: { pitch: 2, volume: 64 } }, hoarse: { word: hr } }";

#[test]
fn entries_must_leave_the_same_to_their_stage() {
    let two = |one: &str, other: &str| format!("singers: [{{ name: x, {one} }}, {{ name: y, {other} }}]");
    let error = |stage: &str| Space::new().error(&pipeline(SINGERS, stage), &[]);
    let (calm, loud, hoarse, none) = ("role: calm", "role: loud", "role: hoarse", "role: null");
    // What differs is an error, in either order, even if the stage has another part of the map.
    for (stage, found) in [
        (two(calm, loud), "8 from the role `calm` and 64 from the role `loud`"),
        (two(loud, calm), "64 from the role `loud` and 8 from the role `calm`"),
        (two(calm, loud) + ", tone: { pitch: 5 }", "8 from the role `calm` and 64 from the role `loud`"),
    ] {
        let error = error(&stage);
        let expected =
            format!("stage `a` (kind sing) must have one `tone.volume` for all its entries, found {found}\n");
        assert!(error.starts_with("p.yaml:2:") && error.contains(&expected), "{error}");
        assert!(error.ends_with("help: write `tone.volume` into the stage"), "{error}");
    }
    // So is what only some entries have.
    for (other, from) in [(none, "entries without a role"), (hoarse, "the role `hoarse`")] {
        let error = error(&two(calm, other));
        let expected = format!(
            "one `tone` for all its entries, found a map from the role `calm` and nothing from {from}\n"
        );
        assert!(error.contains(&expected), "{error}");
    }
    // What the stage has, or the roles agree on, is none.
    let tone = |stage: String| sung(SINGERS, &stage, "/tone");
    assert_eq!(tone(two(calm, loud) + ", tone: { volume: 5 }"), json!({ "pitch": 2, "volume": 5 }));
    assert_eq!(tone(two(calm, none) + ", tone: { pitch: 1, volume: 5 }"), json!({ "pitch": 1, "volume": 5 }));
    assert_eq!(tone(two(calm, none) + ", tone: null"), json!({ "pitch": 0, "volume": 0 }));
    let same = "roles: { calm: { tone: { pitch: 2 } }, cool: { tone: { pitch: 2 } } }";
    let stage = two("role: calm", "role: cool");
    assert_eq!(sung(same, &stage, "/tone"), json!({ "pitch": 2, "volume": 0 }));
}

#[test]
fn entries_of_the_defaults_take_roles_whatever_else_the_stage_has() {
    let head = "roles: { singer: { word: la } }\ndefaults: { sing: { choirs: { high: [{ name: x }, { name: z, role: null }] } } }";
    let high = json!([{ "name": "x", "word": "la" }, { "name": "z", "word": "" }]);
    assert_eq!(sung(head, "", "/choirs/high"), high);
    assert_eq!(sung(head, "choirs: { low: [{ name: y }] }", "/choirs/high"), high);
    assert_eq!(sung(head, "choirs: { low: [{ name: y }] }", "/choirs/low/0/word"), "la");
    assert_eq!(sung(head, "choirs: { high: [] }", "/choirs/high"), json!([]), "a list counts whole");
}

#[test]
fn a_map_of_the_defaults_may_name_its_role() {
    let head = "roles: { strict: { word: no } }\ndefaults: { sing: { by: { judge: { role: strict, name: d, word: hm } } } }";
    let judge = |stage: &str| sung(head, stage, "/by");
    // Own keys, then the role's, then the defaults'.
    assert_eq!(judge(""), json!({ "judge": { "name": "d", "word": "no" } }));
    assert_eq!(judge("by: { judge: { name: x } }"), json!({ "judge": { "name": "x", "word": "no" } }));
    assert_eq!(judge("by: { judge: { word: aye } }"), json!({ "judge": { "name": "d", "word": "aye" } }));
    assert_eq!(judge("by: { judge: { role: null } }"), json!({ "judge": { "name": "d", "word": "hm" } }));
    assert_eq!(judge("by: { lot: { sides: 6 } }"), json!({ "lot": { "sides": 6 } }));
    let usual =
        "roles: { arbiter: { word: no } }\ndefaults: { sing: { by: { judge: { name: d, word: hm } } } }";
    assert_eq!(sung(usual, "", "/by/judge/word"), "no");
}

#[test]
fn a_key_without_a_value_leaves_out_what_is_shared_and_nothing_else() {
    let head = "resources: { api: 4 }\nroles: { singer: { word: la, tone: { pitch: 2 } }, arbiter: { word: no, tone: { pitch: 2 } } }\n\
                defaults: { sing: { tone: { volume: 3 }, by: { judge: { name: d } }, timeout: 9, seed: 5, resources: { api: 2 } } }";
    let of = |stage: &str| {
        Space::new().load(&pipeline(head, stage), &[]).unwrap_or_else(|error| panic!("{error}"))
    };
    let params = |stage: &str| of(stage).nodes[0].call.decoded.params.clone();
    let one = "singers: [{ name: x }]";
    assert_eq!(params(one)["tone"], json!({ "pitch": 2, "volume": 3 }));
    assert_eq!(
        params("singers: [{ name: x, word: null }], tone: { volume: null }"),
        json!({
            "singers": [{ "name": "x", "word": "" }],
            "choirs": { "high": [], "low": [] },
            "by": { "judge": { "name": "d", "word": "no" } },
            "tone": { "pitch": 2, "volume": 0 },
        })
    );
    assert_eq!(params("singers: [{ name: x }], tone: null, by: null")["by"], Value::Null);
    // A role leaves out what the defaults have.
    let role = head.replace("tone: { pitch: 2 }", "tone: null");
    assert_eq!(sung(&role, one, "/tone"), json!({ "pitch": 0, "volume": 0 }));
    let shared = of(one);
    let policy = &shared.nodes[0].call.policy;
    assert_eq!((policy.timeout, policy.resources.len()), (Some(Duration::from_secs(9)), 1));
    let without = of("timeout: null, resources: null, seed: null");
    let policy = &without.nodes[0].call.policy;
    assert_eq!((policy.timeout, policy.resources.len()), (None, 0));
    assert_ne!(shared.nodes[0].seed, without.nodes[0].seed);
    for (key, found) in [("retry", "`retry` must be"), ("choirs", "`choirs` must be a map, found nothing")] {
        let error = Space::new().error(&pipeline(head, &format!("{key}: null")), &[]);
        assert!(error.contains(found), "{error}");
    }
}

#[test]
fn what_an_ablation_takes_is_taken() {
    let space = Space::new();
    let head = "params: { who: calm }\nablations: { other: { who: loud } }";
    let yaml = pipeline(&format!("{head}\n{SINGERS}"), "singers: [{ name: x, role: $who }]");
    for ablations in [&[][..], &["other"], &["all"]] {
        let graph = space.load_ablations(&yaml, &[], ablations).unwrap_or_else(|error| panic!("{error}"));
        let warnings: Vec<&str> =
            graph.warnings.iter().filter_map(|warning| warning.lines().next()).collect();
        assert!(
            !warnings.iter().any(|warning| warning.contains("`calm`") || warning.contains("`loud`")),
            "{warnings:?}"
        );
        assert_eq!(
            warnings.iter().filter(|warning| warning.ends_with("no stage takes the role `hoarse`")).count(),
            1,
            "{warnings:?}"
        );
    }
}

/// An endpoint.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Well {
    url: String,
    budget: Option<u64>,
}

#[test]
fn endpoints_of_another_type_are_told_in_words_of_the_file() {
    let space = Space::new();
    let registry = Registry::default().with_endpoints::<Well>(|well| match well.url.as_str() {
        "" => Err(CheckError::at("url", "`url` must not be empty")),
        _ => Ok(()),
    });
    let path = space.folder.path().join("site.yaml");
    for (entry, expected) in [
        ("5", "1:14: endpoint `t` must be a map, found a whole number"),
        ("", "1:14: endpoint `t` must be a map, found nothing"),
        ("{ url: 3 }", "1:24: `url` must be text, found a whole number"),
        ("{ url: x, budget: 1.5 }", "1:35: `budget` must be a whole number from 0, found 1.5"),
        ("{ url: x, budgt: 1 }", "1:27: endpoint `t` has no key `budgt`"),
        ("{ budget: 1 }", "1:14: endpoint `t` needs the key `url`"),
        ("{ url: '' }", "1:24: `url` must not be empty"),
    ] {
        fs::write(&path, format!("endpoints: {{ t: {entry} }}\n")).unwrap();
        let error = Site::read(&path, &registry).unwrap_err().to_string();
        assert!(error.contains(&format!("site.yaml:{expected}\n")), "{error}");
    }
    fs::write(&path, "endpoints: { t: { url: x } }\n").unwrap();
    assert_eq!(Site::read(&path, &registry).unwrap().endpoints["t"], json!({ "url": "x" }));
}

#[test]
fn the_schema_lets_shared_keys_be_null() {
    let document = schema::document(&registry());
    let keys = &document["$defs"]["stage.sing"]["properties"];
    assert_eq!(keys["singers"]["type"], json!(["array", "string", "null"]));
    assert_eq!(keys["tone"]["if"], json!({ "type": "null" }));
    assert_eq!(keys["tone"]["else"]["$ref"], "#/$defs/Tone");
    assert_eq!(
        document["$defs"]["Tone"]["properties"]["pitch"]["type"],
        json!(["integer", "string", "null"])
    );
    assert_eq!(keys["timeout"]["type"], json!(["number", "string", "null"]));
    assert_eq!(keys["publish"]["if"], Value::Null, "no default gives it");
}
