//! Progress for people: on a terminal a bar and a line for each running node, elsewhere plain lines. It goes to standard error,
//! so that standard output contains only results. Bars bypass [`output`], so this file escapes foreign text in them itself.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::engine::progress::{Outcome, Progress};
use output::{one_line, several, visible};

/// A bar if standard error is a terminal and `CI` is not set, otherwise plain lines.
pub(crate) fn reporter() -> Box<dyn Progress> {
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    if is_on_terminal() && !ci {
        Box::new(Terminal::new())
    } else {
        Box::new(Lines::new(Box::new(output::stderr())))
    }
}

/// Whether a person reads standard error as it is written.
pub(crate) fn is_on_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Whether a person reads standard output as it is written.
pub(crate) fn prints_to_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// One bar for the run, one line for each running node.
struct Terminal {
    bars: MultiProgress,
    run: ProgressBar,
    lanes: Mutex<Vec<NodeLine>>,
    /// After an interrupt, worker threads continue for a moment and must not draw any more.
    over: AtomicBool,
}

/// How often bars are drawn at most.
const FRAMES_PER_SECOND: u8 = 20;

/// A terminal whose last columns stay free. A terminal echoes Ctrl-C as `^C`; in a full line that would wrap, and the bars above it would
/// not be cleared.
#[derive(Debug)]
struct Narrow(Term);

/// Columns of `^C`, and one so that the cursor does not stand at the edge.
const FREE: u16 = 3;

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        TermLike::width(&self.0).saturating_sub(FREE)
    }

    fn height(&self) -> u16 {
        TermLike::height(&self.0)
    }

    fn move_cursor_up(&self, n: usize) -> std::io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> std::io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> std::io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> std::io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, line: &str) -> std::io::Result<()> {
        self.0.write_line(line)
    }

    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> std::io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// A line that shows one node after the other.
struct NodeLine {
    bar: ProgressBar,
    node: Option<String>,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Terminal {
    fn new() -> Terminal {
        let target =
            ProgressDrawTarget::term_like_with_hz(Box::new(Narrow(Term::stderr())), FRAMES_PER_SECOND);
        let bars = MultiProgress::with_draw_target(target);
        let run = bars.add(ProgressBar::new(0));
        run.set_style(style("{prefix} {wide_bar} {pos}/{len} nodes {elapsed}{msg}"));
        Terminal { bars, run, lanes: Mutex::default(), over: AtomicBool::new(false) }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<NodeLine>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

impl Progress for Terminal {
    fn run_started(&self, pipeline: &str, total: usize) {
        self.run.set_prefix(one_line(pipeline).into_owned());
        self.run.set_length(total as u64);
        self.run.enable_steady_tick(Duration::from_millis(200));
    }

    fn node_started(&self, node: &str, _: &str, _: bool) {
        if self.is_over() {
            return;
        }
        let mut lanes = self.lanes();
        let index = lanes.iter().position(|lane| lane.node.is_none()).unwrap_or_else(|| {
            let bar = self.bars.add(ProgressBar::new(0));
            lanes.push(NodeLine { bar, node: None });
            lanes.len() - 1
        });
        let lane = &mut lanes[index];
        lane.node = Some(node.to_owned());
        lane.bar.reset();
        lane.bar.set_style(style("  {prefix} {elapsed}  {wide_msg}"));
        lane.bar.set_length(0);
        lane.bar.set_prefix(one_line(node).into_owned());
        lane.bar.set_message("");
    }

    fn node_progress(&self, node: &str, done: u64, total: u64, note: &str) {
        if self.is_over() {
            return;
        }
        if let Some(lane) = self.lanes().iter().find(|lane| lane.node.as_deref() == Some(node)) {
            // Without a total, the line keeps showing the elapsed time.
            if total > 1 {
                lane.bar.set_style(style("  {prefix} {pos}/{len} left {eta}  {wide_msg}"));
            }
            lane.bar.set_length(total);
            lane.bar.set_position(done);
            lane.bar.set_message(one_line(note).into_owned());
        }
    }

    fn node_finished(&self, node: &str, outcome: Outcome, _: f64) {
        if outcome != Outcome::Again {
            self.run.inc(1);
        }
        self.node_set_aside(node);
        if outcome == Outcome::Failed {
            self.message(&format!("failed: {node}"));
        }
    }

    fn node_set_aside(&self, node: &str) {
        if let Some(lane) = self.lanes().iter_mut().find(|lane| lane.node.as_deref() == Some(node)) {
            lane.node = None;
            lane.bar.finish_and_clear();
        }
    }

    fn time_left(&self, seconds: f64) {
        let left = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.run.set_message(format!(", about {} left", HumanDuration(left)));
    }

    fn nodes_cached(&self, count: usize) {
        self.run.inc(count as u64);
    }

    fn nodes_unreached(&self, count: usize) {
        self.run.dec_length(count as u64);
    }

    fn message(&self, text: &str) {
        // Fails only if the terminal is gone, and then nobody reads it.
        let _ = self.bars.println(visible(text));
    }

    fn run_finished(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.run.disable_steady_tick();
        self.run.finish_and_clear();
        self.lanes().iter().for_each(|lane| lane.bar.finish_and_clear());
        // Fails only if the terminal is gone, and then there is nothing to clear.
        let _ = self.bars.clear();
        // A worker thread that was about to draw draws nothing.
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// Least time between two lines about nodes in loops.
const EVERY: Duration = Duration::from_secs(5);

/// Plain lines, few of them: a loop has hundreds of nodes, and most lines would say nothing new.
struct Lines {
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    total: usize,
    done: usize,
    /// Cached nodes that no line has reported yet.
    cached: usize,
    /// The last note of each running node.
    notes: BTreeMap<String, String>,
    last: Option<Instant>,
}

impl Lines {
    fn new(out: Box<dyn Write + Send>) -> Lines {
        let state = State { out, total: 0, done: 0, cached: 0, notes: BTreeMap::new(), last: None };
        Lines { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn line(&mut self, text: &str) {
        // A closed standard error is no reason to stop the work.
        let _ = writeln!(self.out, "{text}");
    }

    fn tell_cached(&mut self) {
        if self.cached > 0 {
            let text = format!("[{}/{}] {} cached", self.done, self.total, several(self.cached, "node"));
            self.cached = 0;
            self.line(&text);
        }
    }
}

impl Progress for Lines {
    fn run_started(&self, pipeline: &str, total: usize) {
        let mut state = self.lock();
        state.total = total;
        state.last = Some(Instant::now());
        state.line(&format!("{pipeline}: {}", several(total, "node")));
    }

    fn node_started(&self, _: &str, _: &str, _: bool) {
        self.lock().tell_cached();
    }

    fn node_progress(&self, node: &str, done: u64, total: u64, note: &str) {
        let mut state = self.lock();
        let note = if done < total { format!("{done}/{total} {note}") } else { note.to_owned() };
        if done < total && state.last.is_some_and(|last| last.elapsed() >= EVERY) {
            state.last = Some(Instant::now());
            state.line(&format!("  {node} {note}"));
        }
        state.notes.insert(node.to_owned(), note);
    }

    fn nodes_cached(&self, count: usize) {
        let mut state = self.lock();
        state.done += count;
        state.cached += count;
    }

    fn nodes_unreached(&self, count: usize) {
        let mut state = self.lock();
        state.total = state.total.saturating_sub(count);
    }

    fn node_finished(&self, node: &str, outcome: Outcome, seconds: f64) {
        let mut state = self.lock();
        state.done += usize::from(outcome != Outcome::Again);
        let note = state.notes.remove(node).unwrap_or_default();
        let due = state.last.is_none_or(|last| last.elapsed() >= EVERY);
        match outcome {
            Outcome::Cached => state.cached += 1,
            // Nodes outside loops are few, so each has a line.
            Outcome::Ran if due || !node.contains("]/") => {
                state.last = Some(Instant::now());
                let text = format!("[{}/{}] {node} {seconds:.2} s  {note}", state.done, state.total);
                state.line(text.trim_end());
            }
            Outcome::Ran | Outcome::Again => {}
            Outcome::Failed => {
                let text = format!("[{}/{}] {node} failed", state.done, state.total);
                state.line(&text);
            }
        }
    }

    fn message(&self, text: &str) {
        self.lock().line(text);
    }

    fn run_finished(&self) {
        self.lock().tell_cached();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn plain_lines_tell_of_top_level_nodes_failures_and_bursts_of_cached_ones() {
        let buffer = Buffer::default();
        let lines = Lines::new(Box::new(buffer.clone()));
        lines.run_started("quick", 6);
        lines.nodes_cached(2);
        lines.node_started("others[b]", "sft", false);
        lines.node_progress("others[b]", 3, 3, "loss 0.2");
        lines.node_finished("others[b]", Outcome::Ran, 1.5);
        lines.node_finished("play[1]/red[1]/attacks", Outcome::Ran, 0.1);
        lines.node_finished("play[1]/red[1]/responses", Outcome::Failed, 0.1);
        lines.node_finished("bench", Outcome::Cached, 0.0);
        lines.run_finished();
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "quick: 6 nodes\n[2/6] 2 nodes cached\n[3/6] others[b] 1.50 s  loss 0.2\n\
             [5/6] play[1]/red[1]/responses failed\n[6/6] 1 node cached\n"
        );
    }
}
