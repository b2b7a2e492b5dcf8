//! What the server counts, as Prometheus reads it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Upper bounds of the histogram of seconds.
const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Upper bounds of the histogram of batch sizes.
const ROWS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

#[derive(Default)]
pub(crate) struct Metrics {
    /// Answers by route and status.
    answers: Mutex<BTreeMap<(String, u16), u64>>,
    pub prompt_tokens: AtomicU64,
    pub completion_tokens: AtomicU64,
    /// Rows that wait to join the batch.
    pub waiting: AtomicUsize,
    /// Rows that draw tokens.
    pub running: AtomicUsize,
    /// Rows that ended before they were finished because their client had gone.
    pub gone: AtomicU64,
    pub first_token: Histogram<12>,
    pub row: Histogram<12>,
    pub batch: Histogram<10>,
}

/// Counts by upper bound, the last beyond all of them, and the sum.
#[derive(Default)]
pub(crate) struct Histogram<const BOUNDS: usize>(Mutex<(Vec<u64>, f64)>);

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    fn add(&self, value: f64, bounds: &[f64; BOUNDS]) {
        let mut counts = self.0.lock().unwrap_or_else(|error| error.into_inner());
        counts.0.resize(BOUNDS + 1, 0);
        let at = bounds.iter().position(|bound| value <= *bound).unwrap_or(BOUNDS);
        counts.0[at] += 1;
        counts.1 += value;
    }

    fn write(&self, name: &str, help: &str, bounds: &[f64; BOUNDS], text: &mut String) {
        let (mut counts, sum) = self.0.lock().unwrap_or_else(|error| error.into_inner()).clone();
        counts.resize(BOUNDS + 1, 0);
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut total = 0;
        for (bound, count) in bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(&counts) {
            total += count;
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {total}");
    }

    /// The mean of all values, if there are any.
    fn mean(&self) -> Option<f64> {
        let counts = self.0.lock().unwrap_or_else(|error| error.into_inner());
        let count: u64 = counts.0.iter().sum();
        (count > 0).then(|| counts.1 / count as f64)
    }
}

impl Metrics {
    pub(crate) fn answered(&self, route: &str, status: u16) {
        let mut answers = self.answers.lock().unwrap_or_else(|error| error.into_inner());
        *answers.entry((route.to_owned(), status)).or_default() += 1;
    }

    pub(crate) fn first_token_after(&self, time: Duration) {
        self.first_token.add(time.as_secs_f64(), &SECONDS);
    }

    pub(crate) fn row_took(&self, time: Duration) {
        self.row.add(time.as_secs_f64(), &SECONDS);
    }

    pub(crate) fn batch_had(&self, rows: usize) {
        self.batch.add(rows as f64, &ROWS);
    }

    /// Seconds until the rows that wait have probably begun.
    pub(crate) fn patience(&self) -> u64 {
        let (waiting, running) =
            (self.waiting.load(Ordering::Relaxed) as f64, self.running.load(Ordering::Relaxed).max(1) as f64);
        let seconds = self.row.mean().unwrap_or(1.0) * waiting / running;
        (seconds.ceil() as u64).clamp(1, 60)
    }

    /// All of it in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let requests = "triplay_requests_total";
        let _ = writeln!(text, "# HELP {requests} Answers by route and status\n# TYPE {requests} counter");
        for ((route, status), count) in self.answers.lock().unwrap_or_else(|error| error.into_inner()).iter()
        {
            let _ = writeln!(text, "{requests}{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        let mut number = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        number(
            "triplay_prompt_tokens_total",
            "counter",
            "Tokens of prompts that were read",
            of(&self.prompt_tokens),
        );
        number(
            "triplay_completion_tokens_total",
            "counter",
            "Tokens that were drawn",
            of(&self.completion_tokens),
        );
        number("triplay_rows_abandoned_total", "counter", "Rows whose client had gone", of(&self.gone));
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed) as u64;
        number("triplay_rows_waiting", "gauge", "Rows that wait to join the batch", of(&self.waiting));
        number("triplay_rows_running", "gauge", "Rows that draw tokens", of(&self.running));
        let help = "Seconds from a request to the first token of a row";
        self.first_token.write("triplay_time_to_first_token_seconds", help, &SECONDS, &mut text);
        self.row.write(
            "triplay_row_seconds",
            "Seconds from a request to the end of a row",
            &SECONDS,
            &mut text,
        );
        self.batch.write("triplay_batch_rows", "Rows of a decoding step", &ROWS, &mut text);
        text
    }
}
