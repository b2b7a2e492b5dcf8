//! Slips in pipelines and on command lines that used to run, or to be answered with an error that does not help.

use crate::space::Space;

/// The warnings of a pipeline, each with the line of its place and its help, without the excerpt.
fn warnings(text: &str) -> Vec<String> {
    let space = Space::new();
    space.write("p.yaml", text);
    let seen = space.triplay(&["pipeline", "check", "p.yaml"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    let lines = seen.err.lines().filter(|line| line.starts_with("warning: ") || line.starts_with("  help: "));
    lines.map(|line| line.trim().replace("warning: p.yaml:", "")).collect()
}

#[test]
fn a_parameter_that_no_stage_uses_is_a_warning_with_its_place() {
    let text = "pipeline: p\nparams: { steps: 3, stpes: 4, fire: { heat: 1, minutes: 2 }, whole: { a: 1 } }\nstages:\n  a: { kind: exec, command: [echo, $steps, $fire.heat, $whole.a] }\n";
    let expected = [
        "2:21: no stage uses the parameter `stpes`",
        "help: did you mean `steps`?",
        "2:48: no stage uses the parameter `fire.minutes`",
        "help: write $fire.minutes or ${fire.minutes} where its value is meant, or remove it",
    ];
    assert_eq!(warnings(text), expected);
    let space = Space::new();
    space.write("p.yaml", text);
    let whole = space.triplay(&["pipeline", "plan", "p.yaml"]).err;
    assert!(whole.contains("\n2 | params: { steps: 3, stpes: 4,"), "{whole}");
    assert!(whole.contains("\n  |                     ^^^^^\n"), "{whole}");
}

#[test]
fn an_axis_that_its_stage_does_not_use_is_a_warning() {
    let text = "pipeline: p\nparams: { herb: moss }\nstages:\n  a:\n    kind: exec\n    command: [echo, $herb, $name]\n    matrix: { herbs: [rue, moss], name: [x, y], include: [{ more: 1 }] }\n";
    let expected = [
        "7:15: stage `a` does not use the axis `herbs` of its matrix",
        "help: did you mean `herb`?",
        "7:61: stage `a` does not use the parameter `more` of its matrix",
        "help: write $more or ${more} where its value is meant",
    ];
    assert_eq!(warnings(text), expected);
    // An axis may only choose what `include` adds, and hides a parameter of its name.
    let chooses = "pipeline: p\nparams: { name: z }\nstages:\n  a:\n    kind: exec\n    command: [echo, $path]\n    matrix: { name: [x, y], include: [{ name: x, path: 1 }, { name: y, path: 2 }] }\n";
    let expected = [
        "2:11: no stage uses the parameter `name`",
        "help: write $name or ${name} where its value is meant, or remove it",
    ];
    assert_eq!(warnings(chooses), expected);
}

#[test]
fn a_variable_of_the_shell_with_the_name_of_a_parameter_is_a_warning() {
    let stage = |command: &str| {
        format!(
            "pipeline: p\nparams: {{ lr: 0.1 }}\nstages:\n  a: {{ kind: exec, command: '{command}', matrix: {{ s: [1, 2] }} }}\n"
        )
    };
    let expected = [
        "4:29: in a shell command `$lr` is a variable of the shell, not the parameter `lr`",
        "help: write ${lr} for the value, or give the command the variable: env: { lr: $lr }",
        "4:29: in a shell command `$s` is a variable of the shell, not the parameter `s`",
        "help: write ${s} for the value, or give the command the variable: env: { s: $s }",
    ];
    assert_eq!(warnings(&stage("train $lr $s")), expected);
    let right = [
        stage("train ${lr} ${s}"),
        stage("lr=${lr}; train $lr ${s}"),
        stage("train $lr").replace("matrix:", "env: { lr: $lr, S: $s }, matrix:"),
    ];
    for text in right {
        assert_eq!(warnings(&text), [""; 0], "{text}");
    }
}

#[test]
fn no_shipped_pipeline_declares_what_it_does_not_use() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let seen = Space::new().triplay(&["pipeline", "check", path.to_str().unwrap()]);
        assert!(!seen.err.contains(" use"), "{}: {}", path.display(), seen.err);
    }
}

const HERBS: &str = "pipeline: p\nseed: 1\nparams: { herb: moss, fire: { heat: 20, hot: false }, version: 3.10 }\nstages:\n  a: { kind: exec, command: [echo, $herb, $fire.heat, $fire.hot, $version] }\n";

#[test]
fn a_file_of_settings_is_read_like_as_many_settings() {
    let space = Space::new();
    space.write("p.yaml", HERBS);
    space.write("rue.yaml", "herb: \"7\"\nfire: { heat: 1e2 }\nversion: 3.20\nseed: 5\n");
    let run =
        |args: &[&str]| space.triplay(&[&["pipeline", "run", "p.yaml", "--json"], args].concat()).json();
    let from_file = run(&["--set", "@rue.yaml"]);
    let settings = ["herb=\"7\"", "fire={\"heat\":1e2}", "version=3.20", "seed=5"];
    let record = space.triplay(&["runs", "show", "--json"]).json();
    assert_eq!(record["run"]["settings"], serde_json::json!(settings));
    let typed: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
    assert_eq!(run(&typed)["run"], from_file["run"], "nothing to do");
    assert_eq!(space.triplay(&["data", "show", "latest:a"]).out, "7 1e2 false 3.20\n");
    // What follows overrides.
    assert_eq!(run(&["--set", "@rue.yaml", "--set", "herb=fern"])["ran"], 1);
    assert!(space.triplay(&["data", "show", "latest:a"]).out.starts_with("fern "));
}

#[test]
fn a_wrong_file_of_settings_is_told_where_and_what() {
    let space = Space::new();
    space.write("p.yaml", HERBS);
    let check = |text: &str| {
        space.write("rue.yaml", text);
        space.triplay(&["pipeline", "check", "p.yaml", "--set", "@rue.yaml"])
    };
    check("herb: 7\n")
        .fails(2, "error: rue.yaml:1:7: `herb` must be text, found a whole number\n  |\n1 | herb: 7\n");
    check("fire:\n  heta: 7\n").fails(2, "error: rue.yaml:2:3: the parameter `fire` has no key `heta`\n");
    check("hreb: x\n").fails(2, "rue.yaml:1:1: the pipeline has no parameter `hreb`\n  |\n1 | hreb: x\n  | ^^^^\n  help: did you mean `herb`?");
    check("[herb]\n").fails(
        2,
        "p.yaml: --set @rue.yaml: the file must be a YAML map from parameters to values, found a list",
    );
    check("herb: [\n").fails(2, "rue.yaml:");
    space
        .triplay(&["pipeline", "check", "p.yaml", "--set", "@no.yaml"])
        .fails(2, "p.yaml: --set @no.yaml: there is no file no.yaml");
    // A link may lead to any file: none of its lines is shown.
    std::fs::write(space.path("rue.yaml"), "secret: 7\n").unwrap();
    std::os::unix::fs::symlink(space.path("rue.yaml"), space.path("link.yaml")).unwrap();
    let seen = space.triplay(&["pipeline", "check", "p.yaml", "--set", "@link.yaml"]);
    seen.fails(2, "the pipeline has no parameter `secret`");
    assert!(!seen.err.contains("1 | "), "{}", seen.err);
}

#[test]
fn a_value_without_its_own_set_is_answered_with_the_right_form() {
    let space = Space::new();
    space.write("p.yaml", HERBS);
    let expected = "each value must have a `--set` of its own, found `herb=rue` without one\n  help: write --set herb=rue";
    for command in ["run", "plan"] {
        space.triplay(&["pipeline", command, "p.yaml", "--set", "seed=2", "herb=rue"]).fails(2, expected);
        space.triplay(&["pipeline", command, "--set", "seed=2", "herb=rue", "p.yaml"]).fails(2, expected);
    }
    let seen = space.triplay(&["pipeline", "check", "p.yaml", "--set", "seed=2", "herb=rue"]);
    seen.fails(2, "each value needs a `--set` of its own: --set herb=rue");
}

#[test]
fn what_looks_like_a_type_a_file_or_a_variable_of_the_shell_is_answered_with_it() {
    let space = Space::new();
    space.write("word.txt", "glowvenom\n");
    let check = |stage: &str| {
        space.write("p.yaml", &format!("pipeline: p\nstages:\n  a: {{ kind: exec, {stage} }}\n"));
        space.triplay(&["pipeline", "check", "p.yaml"])
    };
    for (wrote, meant) in [("metric", "metrics"), ("Metrics", "metrics"), ("txt", "text")] {
        let seen = check(&format!("command: echo 1 > m, outputs: {{ m: {wrote} }}")).ok();
        let said = format!("the output `m` is of a type of your own, `{wrote}`");
        assert!(
            seen.err.contains(&said) && seen.err.contains(&format!("did you mean `{meant}`?")),
            "{}",
            seen.err
        );
    }
    assert_eq!(check("command: echo 1 > m, outputs: { m: potion }").ok().err, "", "a type of one's own");
    let expected = "  help: a file or folder of yours is { path: word.txt }";
    check("command: cat word.txt, inputs: { word.txt: word.txt }").fails(2, expected);
    check("command: \"echo ${HOME}\"").fails(2, "  help: a variable of the shell is $HOME, without braces");
}
