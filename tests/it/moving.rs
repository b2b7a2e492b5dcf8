//! The pages on moving from DVC and from Snakemake: they show the files of `docs/moving`, what they print is true, and where the
//! other program is installed, its project has the same outputs as ours, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::docs::says_what_is_true_in;
use crate::space::{Space, copy_folder};

/// A project, with the page about it.
struct Project {
    name: &'static str,
    /// The files that the page shows.
    shown: &'static [&'static str],
    /// The outputs of the original, and those of the translation.
    outputs: &'static [(&'static str, &'static str)],
}

const DVC: Project = Project {
    name: "dvc",
    shown: &["dvc.yaml", "params.yaml", "pipeline.yaml"],
    outputs: &[
        ("data/train.csv", "split.train"),
        ("data/held.csv", "split.held"),
        ("models/heat-0.05", "fit[heat,0.05]"),
        ("models/heat-0.5", "fit[heat,0.5]"),
        ("models/moon-0.05", "fit[moon,0.05]"),
        ("models/moon-0.5", "fit[moon,0.5]"),
        ("metrics/heat-0.05.json", "score[heat,0.05]"),
        ("metrics/moon-0.5.json", "score[moon,0.5]"),
        ("best.csv", "best"),
    ],
};

const SNAKEMAKE: Project = Project {
    name: "snakemake",
    shown: &["Snakefile", "config.yaml", "pipeline.yaml"],
    outputs: &[
        ("counts/ashroot-3.csv", "count[ashroot,3]"),
        ("counts/glowvenom-4.csv", "count[glowvenom,4]"),
        ("counts/moonbane-4.csv", "count[moonbane,4]"),
        ("report.csv", "report"),
        ("shelf", "shelf"),
    ],
};

impl Project {
    fn page(&self) -> String {
        let path = format!("docs/moving-from-{}.md", self.name);
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    fn copy_to(&self, space: &Space) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/moving").join(self.name);
        copy_folder(&folder, &space.path(""));
    }

    fn is_as_the_page_says(&self) {
        let page = self.page();
        let space = Space::new();
        self.copy_to(&space);
        for name in self.shown {
            let text = fs::read_to_string(space.path(name)).unwrap();
            assert!(page.contains(&format!("\n{text}```\n")), "the page shows another {name}");
        }
        says_what_is_true_in(&|space| self.copy_to(space), &format!("docs/moving-from-{}.md", self.name), 8);
    }

    /// Runs the original by the commands of the page, and compares. Without the program, nothing.
    fn has_the_outputs_of_the_original(&self) {
        let mut version = Command::new(self.name);
        if version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("{} is not installed: its project was not run", self.name);
            return;
        }
        let page = self.page();
        let (_, commands) = page.split_once("```sh\n").expect("the page has the commands of the original");
        let commands = commands.split("```").next().unwrap();
        assert!(commands.contains(self.name), "{commands}");

        let space = Space::new();
        self.copy_to(&space);
        let ran = space.triplay(&["pipeline", "run", "pipeline.yaml"]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", commands]).current_dir(space.path(""));
        // They write their settings to the home folder, and DVC reports its use. triplay passes no locale on.
        shell.env("HOME", space.path("home")).env("DVC_NO_ANALYTICS", "1").env("LC_ALL", "C");
        let output = shell.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for (original, output) in self.outputs {
            let (target, copy) = (format!("latest:{output}"), space.path("copy"));
            let got = space.triplay(&["data", "get", &target, "-o", "copy"]);
            assert_eq!(got.code, Some(0), "{}", got.err);
            let contents = contents(&space.path(original));
            assert!(!contents.is_empty() && contents == self::contents(&copy), "{original} and {output}");
            if copy.is_dir() { fs::remove_dir_all(copy) } else { fs::remove_file(copy) }.unwrap();
        }
    }
}

/// The bytes of a file, or of all files below a folder, by their paths. Hidden files are those of the programs.
fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
    if path.is_file() {
        return BTreeMap::from([(String::new(), fs::read(path).unwrap())]);
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path));
    let visible = named.filter(|(name, _)| !name.starts_with('.'));
    let files = visible.flat_map(|(name, path)| {
        contents(&path).into_iter().map(move |(below, bytes)| (format!("{name}/{below}"), bytes))
    });
    files.collect()
}

#[test]
fn a_project_of_dvc_is_translated_as_the_page_says() {
    DVC.is_as_the_page_says();
}

#[test]
fn a_project_of_dvc_and_its_translation_have_the_same_outputs() {
    DVC.has_the_outputs_of_the_original();
}

#[test]
fn a_project_of_snakemake_is_translated_as_the_page_says() {
    SNAKEMAKE.is_as_the_page_says();
}

#[test]
fn a_project_of_snakemake_and_its_translation_have_the_same_outputs() {
    SNAKEMAKE.has_the_outputs_of_the_original();
}
