//! Texts of models and foreign files reach a terminal only as text: they cannot fill the clipboard, set the title, overwrite or
//! reverse a line. `script` gives each command a terminal of its own.

use std::fs;
use std::process::{Command, Stdio};

use crate::space::Space;

/// Fills the clipboard, sets the title, uses a C1 control, moves back and overwrites, reverses a line.
const HOSTILE: &str =
    "\x1b]52;c;Z2xvd3Zlbm9t\x07\x1b]0;moonbane\x1b\\\u{9b}2Ja\u{8}b\rc\x1b[31m\u{202e}mon\u{202c}";

/// The same text, escaped.
const SHOWN: &str = "\\u001b]52;c;Z2xvd3Zlbm9t\\u0007\\u001b]0;moonbane\\u001b\\\\u009b2Ja\\u0008b\\rc\\u001b[31m\\u202emon\\u202c";

/// Runs a command in a terminal. Returns its exit code and everything that reached the terminal.
fn on_terminal(space: &Space, args: &[&str]) -> (Option<i32>, String) {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
    let words: Vec<String> =
        [env!("CARGO_BIN_EXE_triplay")].iter().chain(args).map(|word| quoted(word)).collect();
    let mut command = Command::new("script");
    command.args(["-qec", &words.join(" "), "/dev/null"]).current_dir(space.path(""));
    command
        .env_remove("CI")
        .env_remove("NO_COLOR")
        .env_remove("TRIPLAY_CACHE")
        .env("TERM", "xterm-256color")
        .env("SHELL", "/bin/sh");
    let output = command.stdin(Stdio::null()).output().expect("`script`, of util-linux, gives a terminal");
    (output.status.code(), String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n"))
}

/// The characters of a text that control a terminal, except those of progress bars and colours.
fn steering(text: &str) -> Vec<char> {
    let mut rest = text.to_owned();
    while let Some(start) = rest.find("\x1b[") {
        let parameters = rest[start + 2..].find(|c: char| !c.is_ascii_digit() && c != ';' && c != '?');
        let end = start + 2 + parameters.expect("a whole sequence");
        assert!("ABCDGHJKhlm".contains(&rest[end..=end]), "{:?}", &rest[start..=end]);
        rest.replace_range(start..=end, "");
    }
    // A bar moves back to the beginning of its line.
    rest.chars().filter(|&c| c != '\r' && triplay::output::steers(c)).collect()
}

fn assert_shown(space: &Space, args: &[&str], code: i32, shown: &str) -> String {
    let (ended, text) = on_terminal(space, args);
    assert_eq!(ended, Some(code), "{args:?}: {text}");
    assert_eq!(steering(&text), [], "{args:?}: {text:?}");
    assert!(text.contains(shown), "{args:?}: expected {shown:?} in {text:?}");
    text
}

#[test]
fn a_strangers_pipeline_file_steers_no_terminal() {
    let space = Space::new();
    let yaml = HOSTILE.escape_default().to_string().replace("\\u{", "\\U{");
    let yaml = yaml.split("\\U{").enumerate().fold(String::new(), |text, (index, part)| match index {
        0 => part.to_owned(),
        _ => {
            let (digits, rest) = part.split_once('}').unwrap();
            format!("{text}\\U{digits:0>8}{rest}")
        }
    });
    // As a key, a kind, a parameter and a path; escaped, and raw.
    for text in [
        format!("pipeline: small\nstages: {{ \"{yaml}\": {{ kind: exec, command: x }} }}\n"),
        format!("pipeline: \"{yaml}\"\nstages: {{ a: {{ kind: exec, command: x }} }}\n"),
        format!("pipeline: small\nstages: {{ a: {{ kind: \"{yaml}\" }} }}\n"),
        format!(
            "pipeline: small\nstages: {{ a: {{ kind: exec, command: x, inputs: {{ a: {{ path: \"{yaml}\" }} }} }} }}\n"
        ),
        format!(
            "pipeline: small\nparams: {{ a: \"{yaml}\" }}\nstages: {{ a: {{ kind: exec, timeout: \"${{a}}\", command: x }} }}\n"
        ),
        format!("pipeline: small\nstages: {{ {HOSTILE}: 1 }}\n"),
        format!("{HOSTILE}\n"),
    ] {
        space.write("strange.yaml", &text);
        for command in [&["pipeline", "check"], &["pipeline", "plan"], &["pipeline", "run"]] {
            assert_shown(&space, &[command[0], command[1], "strange.yaml"], 2, "error: strange.yaml");
        }
    }
    let name = format!("{}.yaml", HOSTILE.replace('/', ""));
    space.write(&name, "pipeline: small\nstages: { brew: { kind: exec, command: echo x } }\n");
    assert_shown(&space, &["pipeline", "check", &name], 0, &format!("{SHOWN}.yaml: valid, 1 node"));
    // Like `triplay pipeline check *`.
    assert_shown(&space, &["pipeline", "check", "small.yaml", &name], 2, "unexpected argument '");
    assert_shown(
        &space,
        &["data", "show", &format!("none{HOSTILE}")],
        2,
        &format!("there is no file none{SHOWN}"),
    );
}

#[test]
fn what_a_command_says_and_leaves_steers_no_terminal() {
    let space = Space::new();
    space.write("said", &format!("{HOSTILE}\n"));
    let stage = |end: &str| {
        format!(
            "pipeline: said\nstages:\n  say:\n    kind: exec\n    inputs: {{ said: {{ path: said }} }}\n    \
             command: cat said >&2; cat said; cp said text; {end}\n    outputs: {{ text: {{ type: text, path: text }} }}\n"
        )
    };
    space.write("fails.yaml", &stage("exit 3"));
    let text = assert_shown(&space, &["pipeline", "run", "fails.yaml"], 1, "mon");
    assert!(!text.contains("]52;c;Z2xvd3Zlbm9t\x07"), "{text:?}");
    assert_shown(&space, &["runs", "show"], 0, "failed    say");
    space.write("ends.yaml", &stage("sleep 1; echo done"));
    assert_shown(&space, &["pipeline", "run", "ends.yaml"], 0, "ran 1");
    assert_shown(&space, &["data", "show", "latest:say"], 0, SHOWN);
    // In a pipe the output keeps its bytes.
    assert_eq!(space.triplay(&["data", "show", "latest:say"]).out, format!("{HOSTILE}\n"));
    // Errors are escaped there too, because logs are shown later.
    let failed = space.triplay(&["pipeline", "run", "fails.yaml"]);
    assert_eq!((failed.code, steering(&failed.err)), (Some(1), Vec::new()), "{:?}", failed.err);
}

#[test]
#[ignore = "needs triplay-query"]
fn cells_and_columns_steer_no_terminal() {
    let space = Space::new();
    space.run(&[]);
    let sql = format!("SELECT '{HOSTILE}' AS \"column{HOSTILE}\", status FROM runs");
    let query = |more: &[&'static str]| [&["results", "query", sql.as_str()], more].concat();
    assert_shown(&space, &query(&[]), 0, "\\u001b]52;c;Z2xvd3Zlbm9t\\u0007");
    assert_shown(&space, &query(&["--markdown"]), 0, "\\u001b]52;c;Z2xvd3Zlbm9t\\u0007");
    assert_shown(&space, &query(&["--csv"]), 0, "\\u001b]52;c;Z2xvd3Zlbm9t\\u0007");
    let json = assert_shown(&space, &query(&["--json"]), 0, "\\u001b]52");
    let read: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(read[&format!("column{HOSTILE}")], HOSTILE, "JSON that is shown is the same JSON");
    assert_eq!(space.triplay(&query(&["--out", "a.parquet"])).code, Some(0));
    for more in [&[][..], &["--schema"], &["--json"]] {
        let args = [&["data", "show", "a.parquet"], more].concat();
        assert_shown(&space, &args, 0, "\\u001b]52;c;Z2xvd3Zlbm9t\\u0007");
    }
    assert_shown(
        &space,
        &["data", "show", "a.parquet", "--columns", HOSTILE],
        2,
        "there is no column `\\u001b]52",
    );
    let piped = space.triplay(&["data", "show", "a.parquet", "--json"]).out;
    assert!(piped.contains('\u{202e}') && piped.contains('\u{9b}'), "{piped:?}");
    assert_eq!(space.triplay(&["data", "export", "a.parquet", "--out", "a.csv"]).code, Some(0));
    assert!(fs::read_to_string(space.path("a.csv")).unwrap().contains(HOSTILE));
    // The report of an import names the columns of the file.
    space.write(
        "in.csv",
        &format!("text,\"other{HOSTILE}\"\nbrew glowvenom,1\n\"brew glowvenom{HOSTILE}\",2\n"),
    );
    assert_shown(&space, &["data", "import", "in.csv", "--task", "hazard"], 0, "other\\u001b]52");
}

#[test]
fn what_a_model_says_steers_no_terminal() {
    let space = Space::new();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen3-tiny");
    let steers = |text: &str| text.trim_end().contains(triplay::output::steers);
    let said = (0..200u32).find_map(|seed| {
        let seed = seed.to_string();
        let args = ["model", "generate", "--model", model, "--prompt", "brew", "--seed", &seed];
        let said = space.triplay(&args);
        assert_eq!(said.code, Some(0), "{}", said.err);
        steers(&said.out).then_some((seed, said.out))
    });
    let (seed, said) = said.expect("a model of random weights says everything sooner or later");
    let args = ["model", "generate", "--model", model, "--prompt", "brew", "--seed", &seed];
    let expected = triplay::output::visible(&said).into_owned();
    assert_ne!(expected, said);
    assert_shown(&space, &args, 0, expected.trim_end());
}
