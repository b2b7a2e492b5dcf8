//! Does jobs on threads of this process, or each in a process of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::thread::Scope;
use std::time::Instant;

use super::execute::{Executor, JobOutcome, Task};
use super::threads::Threads;
use super::worker::Program;
use store::{Claim, Claimed, Digest, Error as StoreError, Pins};

/// The events that the scheduler waits for.
pub(super) enum Event {
    Ended {
        key: Digest,
        ended: JobOutcome,
        /// Outputs that were placed here are claimed until they are recorded.
        claim: Option<Claim>,
        seconds: f64,
    },
    Recorded {
        key: Digest,
        /// The pins keep its outputs until they are counted.
        recorded: anyhow::Result<Pins>,
    },
    /// Another process is done with the key, or the run ends and the wait with it.
    Unclaimed { key: Digest, claimed: Result<Claimed, StoreError> },
}

/// Does jobs, each on a thread that does it itself or waits for the process that does. It sends an event when a job ends; what
/// counts is the record.
pub(super) struct Runner<'scope, 'env> {
    threads: Threads<'scope, 'env, (Task, Claim), Event>,
    running: Arc<AtomicUsize>,
}

impl<'scope, 'env> Runner<'scope, 'env> {
    /// Does jobs in this process.
    pub(crate) fn here(
        scope: &'scope Scope<'scope, 'env>,
        events: &Sender<Event>,
        executor: Executor<'scope>,
    ) -> Self {
        Runner::new(scope, events, move |task| executor.execute(task))
    }

    /// Does each job in a process of its own, which takes over the claim and holds the key as long as it lives.
    pub(crate) fn processes(
        scope: &'scope Scope<'scope, 'env>,
        events: &Sender<Event>,
        executor: Executor<'scope>,
        program: Option<Program>,
    ) -> Self {
        Runner::new(scope, events, move |task| match &program {
            Some(program) => program.run(task, &executor),
            None => {
                JobOutcome::Failed(anyhow::anyhow!("there is no program for jobs in processes of their own"))
            }
        })
    }

    fn new(
        scope: &'scope Scope<'scope, 'env>,
        events: &Sender<Event>,
        work: impl Fn(&Task) -> JobOutcome + Send + Sync + 'scope,
    ) -> Self {
        let running = Arc::new(AtomicUsize::new(0));
        let at_work = running.clone();
        let threads = Threads::new(scope, events, move |(task, claim): (Task, Claim)| {
            let begun = Instant::now();
            let ended = work(&task);
            at_work.fetch_sub(1, Ordering::SeqCst);
            // A key that this process does not record is free again.
            let claim = matches!(ended, JobOutcome::Placed(_)).then_some(claim);
            Event::Ended { key: task.key, ended, claim, seconds: begun.elapsed().as_secs_f64() }
        });
        Runner { threads, running }
    }

    /// Starts a job whose key was claimed.
    pub(crate) fn start(&mut self, task: Task, claim: Claim) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.threads.give((task, claim), running);
    }
}
