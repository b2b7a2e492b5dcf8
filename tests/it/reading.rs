//! Foreign files: targets of their links are neither shown nor embedded, endless files do not block, and all files are opened in
//! one place.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use triplay::data::TableWriter;

use crate::space::{Seen, Space};

/// A secret that only its owner may see.
const SECRET: &str = "moonbane-7777";

/// Typical files of a home folder, each with the secret.
const FILES: [(&str, &str); 5] = [
    ("credentials", "[default]\naws_secret_access_key = moonbane-7777\n"),
    ("hosts.yml", "github.com:\n    oauth_token: moonbane-7777\n    user: brewer\n"),
    ("config.json", "{\"auths\": {\"registry\": {\"auth\": \"moonbane-7777\"}}}\n"),
    ("id_key", "-----BEGIN KEY-----\nmoonbane-7777\n-----END KEY-----\n"),
    ("ci.yml", "stages: [build, test]\nvariables: { TOKEN: moonbane-7777, TOKEN: moonbane-7777 }\n"),
];

/// A space with the secrets in a home folder.
fn space() -> Space {
    let space = Space::new();
    fs::create_dir(space.path("home")).unwrap();
    for (name, text) in FILES {
        space.write(&format!("home/{name}"), text);
    }
    space
}

fn fails_in_silence(seen: &Seen, expected: &str) {
    seen.fails(2, expected);
    assert!(!seen.err.contains("moonbane") && !seen.out.contains("moonbane"), "{}{}", seen.out, seen.err);
}

#[test]
fn of_a_file_that_is_no_pipeline_no_line_is_shown_whatever_leads_to_it() {
    let space = space();
    for (name, _) in FILES {
        let base = format!("home/{name}");
        space.write("stranger.yaml", &format!("pipeline: p\nextends: {base}\n"));
        let _ = fs::remove_file(space.path("linked.yaml"));
        symlink(&base, space.path("linked.yaml")).unwrap();
        for command in ["check", "plan", "graph", "run"] {
            let seen = space.triplay(&["pipeline", command, "stranger.yaml"]);
            fails_in_silence(&seen, &format!("stranger.yaml:2:10: {base} is not a pipeline\n"));
            let seen = space.triplay(&["pipeline", command, "linked.yaml"]);
            fails_in_silence(&seen, "linked.yaml: a link leads to it, and it is not a pipeline\n");
        }
    }
    // A link below the working directory may be foreign; a link above it is not.
    symlink("home", space.path("pipes")).unwrap();
    let absolute = space.path("pipes/credentials");
    for path in ["pipes/credentials", absolute.to_str().unwrap()] {
        let seen = space.triplay(&["pipeline", "check", path]);
        fails_in_silence(&seen, &format!("{path}: a link leads to it, and it is not a pipeline\n"));
    }
    fs::create_dir(space.path("pipes/work")).unwrap();
    let mut command = space.command(&["pipeline", "check", absolute.to_str().unwrap()]);
    let seen: Seen = command.current_dir(space.path("home/work")).output().unwrap().into();
    assert!(seen.code == Some(2) && seen.err.contains(SECRET), "one's own: {}", seen.err);
    space.write("stranger.yaml", "pipeline: p\nextends: /proc/self/environ\n");
    let mut command = space.command(&["pipeline", "check", "stranger.yaml"]);
    let seen: Seen = command.env("TOKEN", SECRET).output().unwrap().into();
    fails_in_silence(&seen, "stranger.yaml:2:10: /proc/self/environ is not a pipeline\n");
}

#[test]
fn the_lines_of_a_pipeline_with_mistakes_are_shown_wherever_it_lies() {
    let space = Space::new();
    space.write("base.yaml", "pipeline: base\nstages: { a: { kind: exec, comand: ls } }\n");
    space.write("own.yaml", "pipeline: own\nextends: base.yaml\n");
    symlink("base.yaml", space.path("linked.yaml")).unwrap();
    for name in ["own.yaml", "linked.yaml"] {
        space.triplay(&["pipeline", "check", name]).fails(2, "2 | stages: { a: { kind: exec, comand: ls } }");
    }
    space.write("base.yaml", "pipeline: base\nstages: { a: { kind: exec\n");
    space.triplay(&["pipeline", "check", "own.yaml"]).fails(2, "2 | stages: { a: { kind: exec\n");
    // An error quotes a file that the user named directly.
    space.write("mine.yaml", "stagse: {}\n");
    space.triplay(&["pipeline", "check", "mine.yaml"]).fails(2, "1 | stagse: {}\n");
}

#[test]
fn a_prompt_that_is_no_template_shows_no_line_of_its_file() {
    let space = space();
    for (name, _) in FILES {
        let stage = format!(
            "kind: generate, model: {{ path: model }}, data: w.seeds, prompts: 2, sampling: {{ max_new_tokens: 4 }}, prompt: {{ file: home/{name} }}"
        );
        space.write(
            "p.yaml",
            &format!("pipeline: p\nstages:\n  w: {{ kind: sandbox }}\n  a: {{ {stage} }}\n"),
        );
        fails_in_silence(&space.triplay(&["pipeline", "check", "p.yaml"]), &format!("home/{name}"));
    }
}

const FOLDER: &str = "pipeline: folder\nstages:\n  read: { kind: exec, command: \"cat model/*/* model/*.json > out\", inputs: { model: { path: model } }, outputs: { out: text } }\n";

#[test]
fn a_link_in_a_folder_that_leads_out_of_it_is_refused_by_name() {
    let space = space();
    fs::create_dir_all(space.path("model/deep")).unwrap();
    space.write("model/deep/weights", "glowvenom");
    space.write("folder.yaml", FOLDER);
    symlink("deep/weights", space.path("model/own.json")).unwrap();
    assert_eq!(space.triplay(&["pipeline", "run", "folder.yaml"]).code, Some(0), "it leads into the folder");
    let absolute = space.path("home/credentials");
    for (name, target) in [
        ("config.json", Path::new("../home/credentials")),
        ("deep/more", Path::new("../../home")),
        ("a.json", &absolute),
        ("environ", Path::new("/proc/self/environ")),
    ] {
        let link = space.path("model").join(name);
        symlink(target, &link).unwrap();
        for command in ["check", "plan", "run"] {
            let seen = space.triplay(&["pipeline", command, "folder.yaml"]);
            let expected = format!(
                "cannot read model: model/{name}: it is a symbolic link to {}, which leads out of the folder: put a copy in its place",
                target.display()
            );
            fails_in_silence(&seen, &expected);
        }
        fs::remove_file(link).unwrap();
    }
    symlink("nowhere", space.path("model/gone.json")).unwrap();
    let seen = space.triplay(&["pipeline", "check", "folder.yaml"]);
    seen.fails(2, "model/gone.json is a link to nowhere, which does not exist");
}

#[test]
fn a_snapshot_in_a_cache_of_hugging_face_is_a_folder_whose_files_lie_in_its_repository() {
    let space = space();
    let repository = space.path("hub/models--witch--brewer");
    fs::create_dir_all(repository.join("snapshots/main/deep")).unwrap();
    fs::create_dir_all(repository.join("blobs")).unwrap();
    fs::write(repository.join("blobs/aa"), "glowvenom").unwrap();
    symlink("../../blobs/aa", repository.join("snapshots/main/config.json")).unwrap();
    symlink("../../../blobs/aa", repository.join("snapshots/main/deep/more")).unwrap();
    space.write(
        "folder.yaml",
        &FOLDER.replace("path: model", "path: hub/models--witch--brewer/snapshots/main"),
    );
    assert_eq!(space.triplay(&["pipeline", "run", "folder.yaml"]).code, Some(0));
    assert_eq!(space.triplay(&["data", "show", "latest:read"]).out, "glowvenomglowvenom");
    fs::remove_file(repository.join("blobs/aa")).unwrap();
    symlink(space.path("home/credentials"), repository.join("blobs/aa")).unwrap();
    let seen = space.triplay(&["pipeline", "run", "folder.yaml"]);
    fails_in_silence(&seen, "../blobs/aa, which leads out of the folder: put a copy in its place");
}

/// A finished run, and its folder.
fn finished(space: &Space) -> PathBuf {
    space.write("base.yaml", "pipeline: base\nparams: { word: glowvenom }\nstages: { say: { kind: exec, command: \"echo ${word} > out\", outputs: { out: text } } }\n");
    space.write("brew.yaml", "pipeline: brew\nextends: base.yaml\nparams: { word: moonmint }\n");
    let summary = space.triplay(&["pipeline", "run", "brew.yaml", "--json"]).json();
    space.path(summary["results"].as_str().unwrap())
}

#[test]
fn a_report_embeds_what_the_run_recorded_and_nothing_that_a_link_leads_to() {
    let space = space();
    let folder = finished(&space);
    let report = |more: &[&str]| space.triplay(&[&["report", "-o", "page.html"], more].concat());
    assert_eq!(report(&["--redact"]).code, Some(0));
    let page = || fs::read_to_string(space.path("page.html")).unwrap();
    assert!(page().contains("extends: base.yaml") && page().contains("echo ${word}"));
    let put = |name: &str, target: &Path| {
        let kept = folder.join(format!("{name}.kept"));
        fs::rename(folder.join(name), &kept).unwrap();
        symlink(target, folder.join(name)).unwrap();
        kept
    };
    let back = |name: &str, kept: &Path| {
        fs::remove_file(folder.join(name)).unwrap();
        fs::rename(kept, folder.join(name)).unwrap();
    };
    let secret = space.path("home/credentials");
    for name in ["pipeline.yaml", "extends.yaml"] {
        let kept = put(name, &secret);
        for more in [["--redact"], ["--reveal"]] {
            assert_eq!(report(&more).code, Some(0));
            assert!(!page().contains("moonbane"));
            let link = format!("results/brew/{}/{name}", folder.file_name().unwrap().display());
            let expected =
                format!("its {name} is left out: {link} is a symbolic link, which may lead anywhere");
            assert!(page().contains(&expected), "{expected}");
        }
        back(name, &kept);
    }
    for name in ["nodes.jsonl", "run.json", "metrics.parquet", "tables"] {
        let kept = put(name, &secret);
        let expected =
            format!("{name} is a symbolic link, which may lead anywhere: put the file itself there");
        fails_in_silence(&report(&[]), &expected);
        back(name, &kept);
    }
    // Somebody who can write there can also replace a file, which is no error.
    let own = fs::read_to_string(folder.join("pipeline.yaml")).unwrap();
    fs::write(folder.join("pipeline.yaml"), own.replace("moonmint", "thornmint")).unwrap();
    assert_eq!(report(&[]).code, Some(0));
    assert!(page().contains("pipeline.yaml is damaged or was edited") && !page().contains("thornmint"));
    fs::write(folder.join("pipeline.yaml"), own).unwrap();
    assert_eq!(report(&[]).code, Some(0));
    assert!(!page().contains("left out:"));
}

#[test]
fn a_dataset_of_a_run_is_what_was_recorded_and_not_what_lies_in_its_place() {
    let space = space();
    finished(&space);
    assert_eq!(space.triplay(&["data", "show", "latest:say"]).out, "moonmint\n");
    let blob = |shelf: PathBuf| fs::read_dir(shelf).unwrap().next().unwrap().unwrap().path();
    let shelves = fs::read_dir(space.path(".triplay/blobs")).unwrap().map(|shelf| shelf.unwrap().path());
    for path in shelves.filter(|shelf| fs::read_dir(shelf).unwrap().next().is_some()).map(blob) {
        fs::remove_file(&path).unwrap();
        symlink(space.path("home/credentials"), &path).unwrap();
    }
    fails_in_silence(
        &space.triplay(&["data", "show", "latest:say"]),
        "is damaged: it must be a file or a folder, found a symbolic link",
    );
}

#[test]
fn a_record_that_names_a_folder_as_its_cache_makes_none_of_it() {
    let space = space();
    let folder = finished(&space);
    let text = fs::read(folder.join("run.json")).unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&text).unwrap();
    record["cache"] = space.path("home").to_str().unwrap().into();
    record.as_object_mut().unwrap().remove("check");
    fs::write(folder.join("run.json"), triplay::store::seal_file(&record).unwrap()).unwrap();
    let seen = space.triplay(&["report", "-o", "page.html"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    assert!(seen.out.contains("its cache ") && seen.out.contains(" is gone"), "{}", seen.out);
    assert_eq!(fs::read_dir(space.path("home")).unwrap().count(), FILES.len());
}

#[test]
fn what_has_no_end_is_neither_waited_for_nor_read() {
    let space = Space::new();
    assert!(Command::new("mkfifo").arg(space.path("pipe.yaml")).status().unwrap().success());
    for ending in ["csv", "jsonl", "parquet"] {
        assert!(
            Command::new("mkfifo").arg(space.path(&format!("pipe.{ending}"))).status().unwrap().success()
        );
        File::create(space.path(&format!("sparse.{ending}"))).unwrap().set_len(1 << 40).unwrap();
        symlink("/dev/zero", space.path(&format!("zero.{ending}"))).unwrap();
    }
    let import = |name: &str| space.limited(&["data", "import", name, "-o", "out.parquet"]);
    for (name, expected) in [
        ("pipe.csv", "it must be a regular file, found a pipe"),
        ("pipe.jsonl", "it must be a regular file, found a pipe"),
        ("pipe.parquet", "it must be a regular file, found a pipe"),
        ("zero.csv", "it must be a regular file, found a device"),
        ("zero.jsonl", "it must be a regular file, found a device"),
        ("sparse.csv", "a row must have at most 16 MiB, found more"),
        ("sparse.jsonl", "it must have at most 2048 MiB, found 1048576 MiB"),
        ("sparse.parquet", "is not a readable Parquet file"),
    ] {
        import(name).fails(2, expected);
    }
    space.triplay(&["data", "show", "pipe.parquet"]).fails(2, "it must be a regular file, found a pipe");
    let pipe = "pipe.yaml: cannot read the pipeline: it must be a regular file, found a pipe";
    space.triplay(&["pipeline", "check", "pipe.yaml"]).fails(2, pipe);
    for (base, expected) in [
        ("pipe.yaml", pipe),
        ("/dev/zero", "/dev/zero: cannot read the pipeline: it must be a regular file, found a device"),
        ("sparse.csv", "sparse.csv: it must have at most 1 MiB, found 1048576 MiB"),
    ] {
        space.write("own.yaml", &format!("pipeline: own\nextends: {base}\n"));
        space.limited(&["pipeline", "check", "own.yaml"]).fails(2, expected);
    }
    let stage = "kind: generate, model: { path: small.yaml }, data: w.seeds, prompts: 2, sampling: { max_new_tokens: 4 }";
    for (prompt, expected) in [
        ("pipe.yaml", "it must be a regular file, found a pipe"),
        ("sparse.csv", "it must have at most 16 MiB, found 1048576 MiB"),
    ] {
        space.write(
            "p.yaml",
            &format!("pipeline: p\nstages: {{ w: {{ kind: sandbox }}, a: {{ {stage}, prompt: {{ file: {prompt} }} }} }}\n"),
        );
        space.limited(&["pipeline", "check", "p.yaml"]).fails(2, expected);
    }
}

#[test]
fn a_table_with_200_000_columns_is_refused_by_their_number() {
    let space = Space::new();
    let names: Vec<String> = (0..200_000).map(|number| format!("c{number}")).collect();
    space.write("wide.csv", &format!("{}\n", names.join(",")));
    let object: Vec<String> = names.iter().map(|name| format!("\"{name}\":1")).collect();
    space.write("wide.jsonl", &format!("{{{}}}\n", object.join(",")));
    for name in ["wide.csv", "wide.jsonl"] {
        let seen = space.triplay(&["data", "import", name, "-o", "out.parquet"]);
        seen.fails(2, &format!("{name}: it must have at most 1000 columns, found 200000"));
        assert!(seen.err.len() < 1_000);
    }
    let fields: Vec<Field> = names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    let schema = Arc::new(Schema::new(fields));
    TableWriter::create(&space.path("wide.parquet"), "wide", schema).unwrap().close().unwrap();
    space
        .triplay(&["data", "show", "wide.parquet"])
        .fails(2, "wide.parquet must have at most 10000 columns, found 200000");
}

#[test]
fn three_rows_of_a_small_file_with_gigabytes_in_it_take_no_gigabyte() {
    let space = Space::new();
    let text = "glowvenom ".repeat(1_000);
    let batch = |count: usize| {
        let column: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&text, count)));
        RecordBatch::try_from_iter([("text", column)]).unwrap()
    };
    let (rows, at_once) = (420_000, 10_000);
    let mut writer = TableWriter::create(&space.path("big.parquet"), "texts", batch(0).schema()).unwrap();
    let rows_at_once = batch(at_once);
    (0..rows / at_once).for_each(|_| writer.write(&rows_at_once).unwrap());
    writer.close().unwrap();
    let bytes = fs::metadata(space.path("big.parquet")).unwrap().len();
    assert!(bytes < 4 << 20, "its 4.2 GB of texts are 420,000 times one");
    // All texts together exceed the memory limit of the process.
    let seen = space.limited(&["data", "show", "big.parquet", "--rows", "3"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    assert_eq!(seen.out.lines().next(), Some("big.parquet: texts, 420000 rows"));
    assert_eq!(seen.out.lines().count(), 5);
    let last = space.limited(&["data", "show", "big.parquet", "--skip", "419999", "--json"]);
    assert_eq!(last.out.lines().count(), 1, "{}", last.err);
}

#[test]
fn a_prompt_is_the_same_whatever_editor_wrote_its_file() {
    let space = Space::new();
    space.run(&[]);
    let run = fs::read_dir(space.path("results/small")).unwrap().next().unwrap().unwrap().path();
    symlink(fs::canonicalize(run.join("models/warmup")).unwrap(), space.path("model")).unwrap();
    let unix = "say it\nin other words: {{ seed }}\n";
    let mut made = Vec::new();
    for text in [unix.to_owned(), format!("\u{feff}{}", unix.replace('\n', "\r\n")), unix.replace('\n', "\r")]
    {
        space.write("prompt.jinja", &text);
        space.write(
            "p.yaml",
            "pipeline: p\nstages:\n  w: { kind: sandbox, sft: 10, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }\n  a: { kind: generate, model: { path: model }, data: w.seeds, prompts: 2, prompt: { file: prompt.jinja }, sampling: { max_new_tokens: 8 } }\n",
        );
        let summary = space.triplay(&["pipeline", "run", "p.yaml", "--json"]).json();
        assert!(summary["ran"].as_u64().unwrap() >= 1, "another file, another key");
        made.push(space.digests(&summary)["a.attacks"].clone());
    }
    assert!(made.iter().all(|digest| *digest == made[0]), "{made:?}");
}

/// The files other than `store/read.rs` that open files to read, and why.
const OTHERS: &[(&str, &str)] = &[
    ("src/analysis/statistics/fixtures.rs", "fixtures of tests"),
    ("src/hub/file.rs", "the file that it downloads, to add to it and to check it"),
    ("src/endpoint/journal.rs", "the answers that it keeps, to add to them and to make them durable"),
    ("src/engine/resources.rs", "a lock for each unit of the host's resources"),
    ("src/output/place.rs", "the beginning of what is to be replaced, once it is known to be a file"),
    ("src/report/html.rs", "the system's random numbers"),
    ("src/store/disk.rs", "files and folders of the cache, to make them durable and to protect them"),
    ("src/store/publish.rs", "a folder, to make it durable"),
    ("src/store/records.rs", "a folder, to see whether something came into it"),
    ("src/store/roots.rs", "a folder, to share it"),
    ("src/store/session.rs", "a folder, to lock it"),
    ("src/store/sharing.rs", "a folder, to share it"),
    ("src/torch/pipes.rs", "two pipes that it made, with a bound"),
];

#[test]
fn only_one_place_reads_files() {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true if !path.ends_with("tests") => sources(&path, found),
                false
                    if path.extension().is_some_and(|ending| ending == "rs")
                        && !path.ends_with("tests.rs") =>
                {
                    found.push(path);
                }
                _ => {}
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let ways = ["fs::read(", "fs::read_to_string(", "File::open(", ".read(true)"];
    let (mut wrong, mut used) = (String::new(), Vec::new());
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        let lines = code.lines().filter(|line| ways.iter().any(|way| line.contains(way)));
        let lines: Vec<&str> = lines.filter(|line| !line.trim_start().starts_with("//")).collect();
        if lines.is_empty() || name == "src/store/read.rs" {
            continue;
        }
        match OTHERS.iter().any(|(other, _)| *other == name) {
            true => used.push(name),
            false => lines.iter().for_each(|line| wrong += &format!("\n{name}: {}", line.trim())),
        }
    }
    assert!(
        wrong.is_empty(),
        "read with store::read, which opens regular files alone and has a bound:{wrong}"
    );
    let idle: Vec<&str> =
        OTHERS.iter().map(|(name, _)| *name).filter(|name| !used.iter().any(|used| used == name)).collect();
    assert!(idle.is_empty(), "these read nothing any more: {idle:?}");
}
