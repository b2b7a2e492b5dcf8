//! A timeline of a run's nodes in Chrome's trace format: open the file in `chrome://tracing` or ui.perfetto.dev.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use output::{Destination, begins_with};
use serde_json::{Value, json};

use crate::engine::Graph;

pub(crate) struct Trace {
    place: Destination,
    begun: Instant,
    state: Mutex<State>,
}

/// The beginning of every trace, by which an earlier trace is recognised.
const HEAD: &str = r#"{"displayTimeUnit":"ms","traceEvents":"#;

#[derive(Default)]
struct State {
    events: Vec<Value>,
    /// The running nodes: kind, lane, and start in microseconds since the beginning of the run.
    open: BTreeMap<String, (String, usize, u64)>,
    /// The lane of the critical path, and its seconds.
    critical: Option<(u64, f64)>,
}

impl Trace {
    /// A trace to be written to `path`, which must be new or an earlier trace.
    pub(crate) fn new(path: &Path, begun: Instant) -> anyhow::Result<Trace> {
        let place = Destination::new(path, "trace of triplay", |path| begins_with(path, HEAD.as_bytes()))?;
        Ok(Trace { place, begun, state: Mutex::default() })
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    /// Adds a phase of triplay's own work that just ended, such as planning.
    pub(crate) fn phase(&self, name: &str, began: Instant) {
        let start = began.duration_since(self.begun).as_micros() as u64;
        let event = complete(name, "triplay", 0, start, self.now(), json!({}));
        self.lock().events.push(event);
    }

    pub(crate) fn begin(&self, node: &str, kind: &str) {
        let now = self.now();
        let mut state = self.lock();
        // The lowest lane that is free; lane 0 is the program's own.
        let lane = (1..).find(|lane| state.open.values().all(|(_, taken, _)| taken != lane)).unwrap_or(1);
        state.open.insert(node.to_owned(), (kind.to_owned(), lane, now));
    }

    pub(crate) fn end(&self, node: &str, outcome: &str) {
        let now = self.now();
        let mut state = self.lock();
        if let Some((kind, lane, start)) = state.open.remove(node) {
            state.events.push(complete(node, &kind, lane, start, now, json!({ "outcome": outcome })));
        }
    }

    /// Adds a lane with the critical path: the chain of nodes, each fed by the one before, that took longest. Only faster nodes
    /// on this path make the run shorter.
    pub(crate) fn show_critical_path(&self, graph: &Graph) {
        let mut state = self.lock();
        let mut took: BTreeMap<&str, (u64, &Value)> = BTreeMap::new();
        for event in state.events.iter().filter(|event| event["tid"] != 0) {
            if let (Some(name), Some(duration)) = (event["name"].as_str(), event["dur"].as_u64()) {
                took.insert(name, (duration, event));
            }
        }
        let seconds =
            |id| took.get(graph.node(id).name.as_str()).map_or(0.0, |(micros, _)| *micros as f64 / 1e6);
        let (path, length) = graph.critical_path(seconds);
        let lane = state.events.iter().filter_map(|event| event["tid"].as_u64()).max().unwrap_or(0) + 1;
        let on_path = path.iter().filter_map(|id| took.get(graph.node(*id).name.as_str()));
        let mut events: Vec<Value> = on_path.map(|(_, event)| (*event).clone()).collect();
        // A node may begin while the one before it is still being recorded; the lane must not overlap.
        let starts: Vec<u64> = events.iter().filter_map(|event| event["ts"].as_u64()).skip(1).collect();
        for (index, event) in events.iter_mut().enumerate() {
            let (start, duration) = (event["ts"].as_u64().unwrap_or(0), event["dur"].as_u64().unwrap_or(0));
            let next = starts.get(index).map_or(u64::MAX, |next| next.saturating_sub(start));
            event["dur"] = duration.min(next).into();
            event["tid"] = lane.into();
        }
        state.events.extend(events);
        state.critical = Some((lane, length));
    }

    /// Writes the file. Nodes that are still running end now.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let now = self.now();
        let state = self.lock();
        let unfinished = state.open.iter().map(|(node, (kind, lane, start))| {
            complete(node, kind, *lane, *start, now, json!({ "outcome": "cut" }))
        });
        let mut events: Vec<Value> = state.events.iter().cloned().chain(unfinished).collect();
        let lanes: std::collections::BTreeSet<u64> =
            events.iter().filter_map(|event| event["tid"].as_u64()).collect();
        for lane in lanes {
            let name = match state.critical {
                Some((critical, seconds)) if critical == lane => format!("critical path ({seconds:.1} s)"),
                _ if lane == 0 => "triplay".to_owned(),
                _ => format!("lane {lane}"),
            };
            let args = json!({ "name": name });
            events.push(json!({ "name": "thread_name", "ph": "M", "pid": 1, "tid": lane, "args": args }));
        }
        self.place.write_bytes(format!("{HEAD}{}}}", Value::from(events)).as_bytes())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A complete event (`ph: X`); times in microseconds.
fn complete(name: &str, category: &str, lane: usize, start: u64, end: u64, args: Value) -> Value {
    let duration = end.saturating_sub(start);
    json!({ "name": name, "cat": category, "ph": "X", "pid": 1, "tid": lane, "ts": start, "dur": duration, "args": args })
}
