//! The results of runs: the metrics of a run in one table, links to the models that it kept, and summaries over seeds and
//! ablations as tables and curves.

mod collect;
mod columns;
pub mod compare;
mod denominator;
pub mod export;
mod halted;
mod headings;
mod league;
mod named;
mod number;
mod panel;
mod plot;
mod rejudge;
mod series;
pub mod statistics;
mod summary;
mod table;
mod unchanged;

pub use collect::{collect, link_in_run, link_models, read, write};
pub use denominator::{Denominator, Span};
pub use halted::{IN_A_ROW, LIMIT, PHASE, halted, halted_line, tripped};
pub use headings::{is_usual, main_metric, shown, usual};
pub use league::{League, leagues, leagues_markdown, leagues_text};
pub use named::{MetricName, named, select};
pub use panel::{Panel, panel};
pub use plot::{Picture, is_png, is_svg, png, svg, terminal};
pub use rejudge::{Agreement, Judged, agreement, judged};
pub use series::{Measure, SCORE, Series, after, name_of, phase, phase_of, series};
pub use statistics::{Estimate, estimate};
pub use summary::{Aspect, Line, SeriesParams, Summary, summarise, summarise_phases};
pub use table::{is_share, of_main, table};
pub use unchanged::{FLAT_GROUPS, GRAD_NORM, PASSED_THROUGH, UPDATE_NORM, flat, unchanged, with_any_rounds};
