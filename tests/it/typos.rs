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
    let text = "pipeline: p\nparams: { steps: 3, stpes: 4, fire: { heat: 1, minutes: 2 }, whole: { a: 1 } }\nstages:\n  a: { kind: exec, command: [echo, $steps, $fire.heat, $whole] }\n";
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
