//! The machine that a run was made on.

use serde::{Deserialize, Serialize};

use store::read::{self, MAX_TEXT_BYTES};

/// Facts that may explain why two runs differ in time, or in their last bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The host's name.
    pub host: String,
    /// The operating system and the processor's architecture.
    pub system: String,
    /// The processor's model.
    pub processor: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Bytes.
    pub memory: u64,
}

impl Machine {
    /// This machine, as far as the system describes it.
    pub fn here() -> Machine {
        let read = |path: &str| read::text(path.as_ref(), MAX_TEXT_BYTES).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let kibibytes = field(&read("/proc/meminfo"), "MemTotal");
        let kibibytes: u64 = kibibytes.trim_end_matches(" kB").parse().unwrap_or(0);
        Machine {
            host: read("/proc/sys/kernel/hostname").trim().to_owned(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory: kibibytes << 10,
        }
    }
}
