//! How fast a server is asked: how many requests at once, and how many requests and tokens in a minute.
//!
//! The number at once begins small. It grows while the server answers more rows a second for it, and is halved when the server
//! refuses or does not answer in time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Where the number at once begins.
const FIRST: f64 = 4.0;
/// A step up must bring so much more throughput to be kept.
const GAIN: f64 = 1.05;
/// Throughput is measured over at least this long.
const SPAN: Duration = Duration::from_millis(100);
/// Rounds without a step up after one that brought nothing.
const HOLD: u32 = 10;

/// The pace of requests to one server.
pub(crate) struct Pace {
    most: f64,
    state: Mutex<State>,
    /// Wakes those that wait for their turn.
    free: Notify,
}

struct State {
    at_once: f64,
    under_way: usize,
    /// The most there were under way, in all and in this round.
    peak: usize,
    round_peak: usize,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    /// This round: since when, and how many answers. A round is a measurement of the throughput.
    since: Instant,
    answered: u32,
    /// The throughput before the last step up, and the number at once then.
    trial: Option<(f64, f64)>,
    /// Rounds until the next step up.
    hold: u32,
    /// When the number at once was last halved: requests from before say nothing new.
    halved: Option<Instant>,
}

/// Tokens or requests that flow in at a rate. It may be in debt: what is taken is known only afterwards.
struct Bucket {
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn per_minute(rate: f64) -> Bucket {
        let per_second = rate / 60.0;
        Bucket { per_second, level: per_second.max(1.0), at: Instant::now() }
    }

    /// How long until something may be taken.
    fn wait(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        // A second's worth at most is saved up.
        self.level = (self.level + passed * self.per_second).min(self.per_second.max(1.0));
        Duration::try_from_secs_f64((1.0 - self.level) / self.per_second).unwrap_or(Duration::ZERO)
    }
}

impl State {
    fn begin_round(&mut self, now: Instant) {
        (self.since, self.answered, self.round_peak) = (now, 0, self.under_way);
    }

    /// Decides on the number at once from the throughput of a round.
    fn step(&mut self, rate: f64, most: f64) {
        match self.trial.take() {
            Some((before, at_once)) if rate < before * GAIN => {
                self.at_once = at_once;
                self.hold = HOLD;
            }
            _ if self.hold > 0 => self.hold -= 1,
            _ => {
                self.trial = Some((rate, self.at_once));
                let more = if self.halved.is_some() { self.at_once + 1.0 } else { self.at_once * 2.0 };
                self.at_once = more.min(most);
            }
        }
    }
}

/// The right to have a request under way.
pub(crate) struct Turn<'a> {
    pace: &'a Pace,
    pub begun: Instant,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.state().under_way -= 1;
        self.pace.free.notify_one();
    }
}

impl Pace {
    pub(crate) fn new(most: usize, requests_per_minute: Option<f64>, tokens_per_minute: Option<f64>) -> Pace {
        let state = State {
            at_once: FIRST.min(most as f64),
            under_way: 0,
            peak: 0,
            round_peak: 0,
            requests: requests_per_minute.map(Bucket::per_minute),
            tokens: tokens_per_minute.map(Bucket::per_minute),
            since: Instant::now(),
            answered: 0,
            trial: None,
            hold: 0,
            halved: None,
        };
        Pace { most: most as f64, state: Mutex::new(state), free: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn of a request of about so many tokens.
    pub(crate) async fn turn(&self, tokens: f64) -> Turn<'_> {
        loop {
            let free = self.free.notified();
            let wait = {
                let mut state = self.state();
                let now = Instant::now();
                if state.under_way as f64 >= state.at_once.floor() {
                    None
                } else {
                    let of = |bucket: &mut Option<Bucket>| {
                        bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.wait(now))
                    };
                    let wait = of(&mut state.requests).max(of(&mut state.tokens));
                    if wait.is_zero() {
                        if let Some(bucket) = &mut state.requests {
                            bucket.level -= 1.0;
                        }
                        if let Some(bucket) = &mut state.tokens {
                            bucket.level -= tokens;
                        }
                        state.under_way += 1;
                        state.peak = state.peak.max(state.under_way);
                        state.round_peak = state.round_peak.max(state.under_way);
                        return Turn { pace: self, begun: now };
                    }
                    Some(wait)
                }
            };
            match wait {
                None => free.await,
                Some(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// An answer came; it took so many tokens, where about `expected` had been counted.
    pub(crate) fn answered(&self, turn: &Turn, expected: f64, tokens: u64) {
        let mut state = self.state();
        if let (Some(bucket), true) = (&mut state.tokens, tokens > 0) {
            bucket.level += expected - tokens as f64;
        }
        if state.halved.is_some_and(|at| turn.begun < at) {
            return;
        }
        state.answered += 1;
        let now = Instant::now();
        let span = now.saturating_duration_since(state.since);
        // Each of the requests at once was answered about once.
        if span < SPAN || f64::from(state.answered) < state.at_once {
            return;
        }
        let rate = f64::from(state.answered) / span.as_secs_f64();
        // If fewer were under way than could have been, the round says nothing of their number.
        let is_full = state.round_peak as f64 >= state.at_once.floor();
        state.begin_round(now);
        if is_full {
            state.step(rate, self.most);
            drop(state);
            self.free.notify_waiters();
        }
    }

    /// The server refused a request, or did not answer in time: fewer at once.
    pub(crate) fn overloaded(&self, turn: &Turn) {
        let mut state = self.state();
        if state.halved.is_some_and(|at| turn.begun < at) {
            return;
        }
        let now = Instant::now();
        state.at_once = (state.at_once / 2.0).max(1.0);
        (state.halved, state.trial, state.hold) = (Some(now), None, 1);
        state.begin_round(now);
    }

    /// How many requests are under way, and the most there were.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let state = self.state();
        (state.under_way, state.peak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pace: &Pace) -> MutexGuard<'_, State> {
        pace.state()
    }

    #[test]
    fn the_number_at_once_grows_while_throughput_does_and_steps_back_otherwise() {
        let pace = Pace::new(64, None, None);
        let mut state = state(&pace);
        for (rate, at_once) in [(100.0, 8.0), (190.0, 16.0), (380.0, 32.0), (385.0, 16.0), (400.0, 16.0)] {
            state.step(rate, 64.0);
            assert_eq!(state.at_once, at_once, "after {rate}/s");
        }
        (0..HOLD).for_each(|_| state.step(400.0, 64.0));
        assert_eq!(state.at_once, 32.0, "another step is tried later");
        (0..100).for_each(|round| state.step(f64::from(round) * 1e3, 64.0));
        assert_eq!(state.at_once, 64.0, "never above the limit");
    }

    #[test]
    fn refusals_halve_it_once_a_round() {
        crate::http::runtime().block_on(async {
            let pace = Pace::new(64, None, None);
            let turns = [pace.turn(1.0).await, pace.turn(1.0).await, pace.turn(1.0).await];
            turns.iter().for_each(|turn| pace.overloaded(turn));
            assert_eq!(state(&pace).at_once, FIRST / 2.0);
            drop(turns);
            for _ in 0..9 {
                let turn = pace.turn(1.0).await;
                pace.overloaded(&turn);
            }
            assert_eq!(state(&pace).at_once, 1.0, "one is always under way");
        });
    }

    #[test]
    fn a_minute_takes_no_more_than_its_limits() {
        crate::http::runtime().block_on(async {
            // 20 a second, one second's worth at once.
            let pace = Pace::new(1000, Some(1200.0), None);
            let begun = Instant::now();
            for _ in 0..30 {
                drop(pace.turn(1.0).await);
            }
            assert!(begun.elapsed() > Duration::from_millis(450), "{:?}", begun.elapsed());
            let pace = Pace::new(1000, None, Some(60_000.0));
            let begun = Instant::now();
            for _ in 0..3 {
                let turn = pace.turn(100.0).await;
                pace.answered(&turn, 100.0, 700);
            }
            assert!(begun.elapsed() > Duration::from_millis(350), "{:?}", begun.elapsed());
        });
    }
}
