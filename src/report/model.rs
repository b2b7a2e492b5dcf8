//! The data of a report. The page in `page/` draws these data and computes nothing itself, so that the report of a finished run
//! and the live page of a running one are the same page over the same data.
//!
//! All texts are raw; the page shows them as text and never as markup.

use serde::Serialize;

/// A report on one run or several.
#[derive(Default, Serialize)]
pub struct Report {
    /// Such as `quickstart 20261125-101112`.
    pub title: String,
    /// The version of triplay that made it.
    pub triplay: String,
    /// The time (RFC 3339).
    pub made: String,
    /// Whether texts of prompts and models are left out.
    pub redacted: bool,
    /// Notices for the reader, for example that a run is half-finished.
    pub notices: Vec<String>,
    /// In the order of the command line.
    pub runs: Vec<RunInfo>,
    /// One for each run.
    pub graphs: Vec<Graph>,
    /// The metrics at the top of the page.
    pub headline: Headline,
    /// The charts, in the order of the page.
    pub panels: Vec<Panel>,
    /// The tables, in the order of the page.
    pub matrices: Vec<Matrix>,
    /// All models of the runs.
    pub checkpoints: Vec<Checkpoint>,
    /// The newest lines of the log; only in a live page.
    pub log: Vec<String>,
}

/// What was run, where, and how to run it again.
#[derive(Serialize)]
pub struct RunInfo {
    /// Such as `20261125-101112`.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The path of the pipeline file.
    pub file: String,
    /// `running`, `done`, `failed`, `interrupted` or `killed`.
    pub status: String,
    /// When it began (RFC 3339).
    pub began: String,
    /// The run's duration.
    pub seconds: f64,
    /// All nodes.
    pub nodes: usize,
    /// Executed nodes.
    pub ran: usize,
    /// Nodes whose outputs were in the cache.
    pub cached: usize,
    /// Nodes that failed.
    pub failed: usize,
    /// Nodes that were not executed because one that feeds them failed.
    pub skipped: usize,
    /// The version of triplay that ran it.
    pub triplay: String,
    /// Name and value, such as `processor`.
    pub machine: Vec<(String, String)>,
    /// The ablations and seeds with their parameters, each a name and a value; the pipeline without an ablation has the empty
    /// name.
    pub variants: Vec<(String, Vec<(String, String)>)>,
    /// The pipeline file at the time of the run.
    pub pipeline_yaml: String,
    /// The commands that reproduce it, one a line.
    pub reproduce: Vec<String>,
}

/// A run's pipeline: the stages of the file, with loops not unrolled.
#[derive(Serialize)]
pub struct Graph {
    /// As in [`RunInfo::run`].
    pub run: String,
    /// A loop comes before the stages in it.
    pub stages: Vec<Stage>,
    /// From and to, as indices of stages, without edges back to the next round of a loop.
    pub edges: Vec<(usize, usize)>,
}

/// A stage, or a loop around stages.
#[derive(Serialize)]
pub struct Stage {
    /// Such as `play/red/update`.
    pub id: String,
    /// The last part of `id`.
    pub label: String,
    /// The stage's kind, or `loop`.
    pub kind: String,
    /// The loop around it.
    pub parent: Option<usize>,
    /// `waiting`, `running`, `done`, `cached`, `failed` or `skipped`.
    pub state: String,
    /// The number of its finished nodes, and of all.
    pub done: usize,
    /// All of its nodes, finished or not.
    pub total: usize,
    /// Seconds of work.
    pub seconds: f64,
}

/// The most important metrics, for each ablation.
#[derive(Default, Serialize)]
pub struct Headline {
    /// The compared runs or ablations, such as `full`.
    pub columns: Vec<String>,
    /// The number of seeds of each column.
    pub seeds: Vec<usize>,
    /// One for each metric.
    pub rows: Vec<HeadlineRow>,
    /// Explains the intervals.
    pub note: String,
}

/// One metric of all columns.
#[derive(Serialize)]
pub struct HeadlineRow {
    /// A label such as `attacks that succeed`.
    pub label: String,
    /// The model or role, such as `defender`.
    pub subject: String,
    /// The metric's name, such as `attack_success`.
    pub metric: String,
    /// `share` (0 to 1, shown as percent), `nats`, `tokens`, `words` or `number`.
    pub unit: String,
    /// `up` or `down` if one of them is better for safety, otherwise none.
    pub better: Option<String>,
    /// One for each column; none where the column lacks the metric.
    pub cells: Vec<Option<HeadlineCell>>,
}

/// One metric of one column.
#[derive(Serialize)]
pub struct HeadlineCell {
    /// At the first evaluation, at the last, and the change.
    pub first: Interval,
    /// At the last evaluation.
    pub last: Interval,
    /// Last minus first; none with one evaluation.
    pub change: Option<Interval>,
}

/// A value and its 95 % interval, if it has one.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Interval {
    /// None if everything is undetermined.
    pub value: Option<f64>,
    /// The lower end.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
    /// The observations behind it; 0 for a change.
    pub count: u64,
    /// Observations that are undetermined and left out.
    pub undetermined: u64,
}

/// A chart of curves.
#[derive(Serialize)]
pub struct Panel {
    /// `training`, `evaluation` or `diversity`.
    pub section: String,
    /// Its role: `attacker`, `defender`, `evaluator`, or empty.
    pub role: String,
    /// The heading of the chart.
    pub title: String,
    /// As in [`HeadlineRow`].
    pub unit: String,
    /// The label of the x-axis, such as `step of training` or `after phase`.
    pub x_label: String,
    /// The names of the places on the x-axis.
    pub ticks: Vec<String>,
    /// The curves, one for each ablation or run.
    pub series: Vec<Curve>,
}

/// One line of a chart.
#[derive(Serialize)]
pub struct Curve {
    /// The label at the end of the curve.
    pub name: String,
    /// The place on the x-axis, and the value there.
    pub points: Vec<(usize, Interval)>,
}

/// A table of values by two names: a confusion matrix, cross-play, a coverage map.
#[derive(Clone, Default, Serialize)]
pub struct Matrix {
    /// `confusion`, `cross_play` or `coverage`.
    pub section: String,
    /// The heading of the table.
    pub title: String,
    /// The labels of rows and columns, such as `truth` and `verdict`.
    pub rows_label: String,
    /// The label of the columns.
    pub columns_label: String,
    /// The names of the rows.
    pub rows: Vec<String>,
    /// The names of the columns.
    pub columns: Vec<String>,
    /// As in [`HeadlineRow`]; in a confusion matrix `share` of the row.
    pub unit: String,
    /// By row and column; none where nothing was observed.
    pub values: Vec<Vec<Option<f64>>>,
    /// Observations behind each value.
    pub counts: Vec<Vec<u64>>,
    /// Observations that are undetermined and left out; empty if they have a column of their own.
    pub undetermined: Vec<Vec<u64>>,
    /// The means of each row, of each column and of all, with their intervals over seeds; none if a cell is unknown. Empty if
    /// such means have no meaning.
    pub row_means: Vec<Interval>,
    /// As `row_means`, of the columns.
    pub column_means: Vec<Interval>,
    /// As `row_means`, of all cells.
    pub mean: Option<Interval>,
}

/// A model of a run, with its origin.
#[derive(Serialize)]
pub struct Checkpoint {
    /// The run and the node, such as `20261125-101112:play[1]/red[03]/update`: the page's anchor.
    pub id: String,
    /// As in [`RunInfo::run`].
    pub run: String,
    /// The name of the node that made it.
    pub node: String,
    /// The kind of its stage.
    pub kind: String,
    /// Key of the node and digest of the model, in hexadecimal.
    pub key: String,
    /// The digest of the model.
    pub digest: String,
    /// The size of its files.
    pub bytes: u64,
    /// Its path, if it is still in the cache.
    pub path: Option<String>,
    /// The duration of the node's work.
    pub seconds: f64,
    /// The checkpoint that training started from.
    pub parent: Option<String>,
    /// The other nodes that it was made from.
    pub inputs: Vec<String>,
}

/// Attacks and responses, a row for each response. Texts are indices of `strings`; −1 is none.
#[derive(Default, Serialize)]
pub struct Samples {
    /// All texts, each once.
    pub strings: Vec<String>,
    /// Rows of one attack have the same number.
    pub attack_number: Vec<u32>,
    /// As in [`RunInfo::run`].
    pub run: Vec<i32>,
    /// Ablation and seed, such as `full-s1`; empty without both.
    pub variant: Vec<i32>,
    /// The loop round or evaluation that made it, such as `play[1]/red[03]` or `play[1]/after_red`.
    pub scope: Vec<i32>,
    /// Round of the outermost loop, from 1; 0 outside loops.
    pub iteration: Vec<u32>,
    /// Round of the loop within, from 1; 0 where there is none.
    pub step: Vec<u32>,
    /// The id of the seed prompt.
    pub seed_id: Vec<i32>,
    /// The category of the seed prompt.
    pub category: Vec<i32>,
    /// `hazard`, `benign` or `arithmetic`.
    pub task: Vec<i32>,
    /// `train` or `heldout`.
    pub split: Vec<i32>,
    /// The technique of the attack, where it is known.
    pub technique: Vec<i32>,
    /// The text of the seed prompt.
    pub seed: Vec<i32>,
    /// The earlier turns of its episode, a line for each text.
    pub conversation: Vec<i32>,
    /// The text of the attack.
    pub attack: Vec<i32>,
    /// The model that responded.
    pub defender: Vec<i32>,
    /// The text of the response.
    pub response: Vec<i32>,
    /// The evaluator's class.
    pub verdict: Vec<i32>,
    /// The true class, if the oracle of a world was asked.
    pub truth: Vec<i32>,
    /// The label of the experts, who may err.
    pub label: Vec<i32>,
    /// The role that learnt from this row: `attacker`, `defender`, `evaluator`, or none.
    pub learner: Vec<i32>,
    /// The reward of the learner's completion.
    pub reward: Vec<Option<f32>>,
    /// Relative to the completions of its group.
    pub advantage: Vec<Option<f32>>,
    /// Components of the attacker's reward: names, and a column for each.
    pub components: Vec<(String, Vec<Option<f32>>)>,
    /// The names of the checkpoint ([`Checkpoint::id`]) that wrote the attack, and of the one that responded.
    pub attacker_checkpoint: Vec<i32>,
    /// As `attacker_checkpoint`, of the model that responded.
    pub defender_checkpoint: Vec<i32>,
}
