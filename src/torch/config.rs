//! What the site file says under `torch:`. Nothing of it counts for a key.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Python and the devices of the worker.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The Python that has PyTorch: a program on PATH, or a path; `~/` is the home folder.
    pub python: String,
    /// Where it computes; `auto` takes a GPU if there is one.
    pub device: Device,
    /// The number of processes, one for each GPU. They spread the model among them (FSDP), and each computes a part of the batch.
    pub processes: usize,
}

/// Where the worker computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A GPU if there is one.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, or one of AMD.
    Cuda,
    /// The GPU of a Mac.
    Mps,
}

impl Default for Config {
    fn default() -> Config {
        Config { python: "python3".into(), device: Device::Auto, processes: 1 }
    }
}

impl Config {
    /// Checks what types cannot express. The error has the key and the rule.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.python.trim().is_empty() {
            return Err((
                "python",
                "`python` must be a program, such as python3, found an empty text".into(),
            ));
        }
        match self.processes {
            0 => Err(("processes", "`processes` must be at least 1, found 0".into())),
            _ => Ok(()),
        }
    }

    /// The program's name or path.
    pub(crate) fn program(&self) -> String {
        let home = || std::env::var_os("HOME").map(PathBuf::from);
        match self.python.strip_prefix("~/").zip(home()) {
            Some((rest, home)) => home.join(rest).display().to_string(),
            None => self.python.clone(),
        }
    }

    pub(crate) fn device(&self) -> &'static str {
        match self.device {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
            Device::Mps => "mps",
        }
    }
}
