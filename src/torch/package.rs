//! The worker's Python package, which is part of the program: another version of it cannot be started by accident.

use std::io;
use std::path::Path;

macro_rules! sources {
    ($($name:literal),*) => {
        &[$(($name, include_str!(concat!("../../trainers/torch/triplay_torch/", $name)))),*]
    };
}

const SOURCES: &[(&str, &str)] =
    sources!["__init__.py", "__main__.py", "batch.py", "decoder.py", "job.py", "losses.py"];

/// Writes the package into a folder, for PYTHONPATH.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let package = folder.join("triplay_torch");
    std::fs::create_dir(&package)?;
    SOURCES.iter().try_for_each(|(name, text)| std::fs::write(package.join(name), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_of_the_package_is_written_and_they_agree_on_the_protocol() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../trainers/torch/triplay_torch");
        let is_source = |name: &String| name.ends_with(".py");
        let names =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(is_source).collect();
        names.sort();
        assert_eq!(names, SOURCES.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
        let protocol = format!("PROTOCOL = {}\n", crate::answer::PROTOCOL);
        assert!(SOURCES[0].1.ends_with(&protocol));
    }
}
