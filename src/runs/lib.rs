//! Reading what runs left: the folder of each with its record (`folder`) and its cache (`cache`), the events of a run under way
//! (`events`), what its datasets were made from (`lineage`), and the rows of all its nodes together as tables (`tables`).

mod cache;
mod carried;
mod events;
mod folder;
mod lineage;
mod machine;
mod removal;
mod served;
mod tables;
mod texts;
mod variant;
mod widen;

pub use cache::{CACHE_VARIABLE, prefer_cache, read_from};
pub use events::{AtWork, Event, EventLog, Events};
pub use folder::{
    JUDGE_FILE, JUDGE_MARK, JUDGED, MainMetric, PANEL, PANEL_FILE, PANEL_MARK, PUBLISHED, Run, RunFolder,
    RunRecord, bare_rounds, digests, hint_for_node, recorded_at, write_record,
};
pub use lineage::{Lineage, manifest};
pub use machine::Machine;
pub use removal::Removal;
pub use served::ServedModel;
pub use tables::{AXES, LAYOUT, ParamRow, TABLES, Table, Tables, layout};
pub use texts::{Texts, redacted, shown};
pub use variant::{after, repeated, rounds, stage, told_by, variant};
