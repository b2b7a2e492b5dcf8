//! How league tables are shown: as text, as Markdown or as JSON.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::analysis::{self, League};
use output::println;

/// The form in which league tables are shown.
pub(crate) struct LeagueDisplay {
    pub markdown: bool,
    pub json: bool,
    /// Further fields of the JSON object.
    pub more: Value,
}

pub(crate) fn show(leagues: &[League], how: LeagueDisplay) -> anyhow::Result<ExitCode> {
    if how.json {
        let mut object = how.more;
        object["leagues"] = json!(leagues);
        println!("{object}");
    } else if how.markdown {
        output::print(&analysis::leagues_markdown(leagues))?;
    } else {
        output::print(&analysis::leagues_text(leagues))?;
    }
    Ok(ExitCode::SUCCESS)
}
