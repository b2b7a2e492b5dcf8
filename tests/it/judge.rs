//! `judge`: another judge on the responses of a run.

use serde_json::Value;
use triplay::data::{self, VerdictRow};

use crate::space::Space;

/// The agreement of two judges.
fn pair<'a>(said: &'a Value, a: &str, b: &str) -> &'a Value {
    let pairs = said["agreement"]["pairs"].as_array().unwrap();
    pairs.iter().find(|pair| pair["a"] == a && pair["b"] == b).unwrap_or_else(|| panic!("{a}, {b}: {said}"))
}

#[test]
fn another_judge_says_what_it_thinks_and_nothing_is_generated_again() {
    let space = Space::new();
    let run = space.run(&["--set", "seed=6"]);
    let run = run["run"].as_str().unwrap();

    // A model that the run made.
    let said = space.triplay(&["judge", run, "--with", "latest:warmup", "--json"]).json();
    let agreement = &said["agreement"];
    let judges: Vec<&str> = agreement["judges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|judge| judge["judge"].as_str().unwrap())
        .collect();
    assert_eq!(judges, ["truth", "stored", "again"], "{said}");
    assert_eq!(agreement["nodes"][0]["node"], "after", "evaluations are judged: {said}");
    let responses = agreement["responses"].as_u64().unwrap();
    for judge in agreement["judges"].as_array().unwrap() {
        let classes = ["negative", "rejective", "positive", "undetermined"];
        assert_eq!(
            classes.iter().map(|class| judge[class].as_u64().unwrap()).sum::<u64>(),
            responses,
            "{judge}"
        );
    }
    let nodes =
        std::fs::read_to_string(space.path(said["verdicts"].as_str().unwrap()).join("nodes.jsonl")).unwrap();
    assert!(nodes.lines().all(|line| line.contains("\"kind\":\"judge\"")), "{nodes}");

    // The same verdicts again, from a command, which gets numbers as they are typed.
    let export = ["data", "export", &format!("{run}:after.verdicts"), "-o", "given.parquet"];
    assert_eq!(space.triplay(&export).code, Some(0));
    space.write(
        "echo.yaml",
        "kind: exec\ncommand: test $VERSION = 3.10 && cp given.parquet verdicts.parquet\npass: [PATH]\n\
         env: { VERSION: 3.10 }\n\
         inputs: { given.parquet: { path: given.parquet } }\n\
         outputs: { verdicts: { type: verdicts, path: verdicts.parquet } }\n",
    );
    let echoed = space.triplay(&["judge", run, "--with", "echo.yaml", "--json"]).json();
    let same = pair(&echoed, "stored", "again");
    assert_eq!(
        (same["both"].as_u64(), &same["kappa"]["value"]),
        (same["agree"].as_u64(), &Value::from(1.0)),
        "{same}"
    );
    assert_eq!(pair(&echoed, "truth", "stored")["agree"], pair(&said, "truth", "stored")["agree"]);

    // Undetermined verdicts are in no share.
    space.write(
        "mute.yaml",
        "kind: exec\ncommand: cp none.parquet verdicts.parquet\npass: [PATH]\n\
         inputs: { none.parquet: { path: none.parquet } }\noutputs: { verdicts: { type: verdicts, path: verdicts.parquet } }\n",
    );
    let mut rows: Vec<VerdictRow> = data::read(&space.path("given.parquet")).unwrap();
    rows.iter_mut().for_each(|row| row.class = "undetermined".into());
    rows[0].class = "negative".into();
    data::write(&space.path("none.parquet"), &rows).unwrap();
    let mute = space.triplay(&["judge", run, "--with", "mute.yaml", "--json"]).json();
    assert_eq!(mute["agreement"]["nodes"][0]["negative"]["again"], 1.0, "{mute}");
    let text = space.triplay(&["judge", run, "--with", "mute.yaml"]).out;
    assert!(text.contains("again") && text.contains("100.0 %      0.0 %      0.0 %"), "{text}");

    // Responses of training, on request.
    let red = space.triplay(&["judge", run, "--with", "echo.yaml", "--node", "play[1]/rde"]);
    red.fails(2, "has no responses of a node `play[1]/rde`");
    let of_red = ["judge", run, "--with", &format!("{run}:warmup"), "--node", "play[1]/red", "--json"];
    let of_red = space.triplay(&of_red).json();
    assert_eq!(of_red["agreement"]["nodes"].as_array().unwrap().len(), 2, "{of_red}");
    let text = space.triplay(&["judge", run, "--with", &format!("{run}:warmup")]);
    assert!(text.out.contains("Krippendorff's α of all: "), "{}{}", text.out, text.err);
    assert!(text.out.lines().all(|line| line.chars().count() <= 80), "{}", text.out);
}

#[test]
fn what_is_no_judge_is_refused_in_words() {
    let space = Space::new();
    space.run(&[]);
    space.triplay(&["judge", "--with", "nobody"]).fails(2, "there is no model nobody");
    space.triplay(&["judge", "--with", "latest:world"]).fails(2, "`world` must be a model, found ");
    space.write("pool.yaml", "kind: pool\n");
    space
        .triplay(&["judge", "--with", "pool.yaml"])
        .fails(2, "pool.yaml: `kind` must be `judge` or `exec`, found \"pool\"");
    space.write("data.yaml", "kind: judge\ndata: x\n");
    space.triplay(&["judge", "--with", "data.yaml"]).fails(2, "`data` must be left out");
    space.write("list.yaml", "- judge\n");
    space.triplay(&["judge", "--with", "list.yaml"]).fails(2, "list.yaml must hold the keys of a stage");
    space.write("empty.yaml", "kind: judge\n");
    space.triplay(&["judge", "--with", "empty.yaml"]).fails(2, "model");
}
