//! Threads for work beside the scheduler, which gets an event at its end.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

/// Threads that do one kind of work. Their number is the most that had work at the same time.
pub(super) struct Threads<'scope, 'a, T, E> {
    pub scope: &'scope Scope<'scope, 'a>,
    work: Arc<dyn Fn(T) -> E + Send + Sync + 'scope>,
    tasks: Sender<T>,
    queue: Arc<Mutex<Receiver<T>>>,
    events: Sender<E>,
    count: usize,
}

impl<'scope, 'a, T: Send + 'scope, E: Send + 'scope> Threads<'scope, 'a, T, E> {
    pub(crate) fn new(
        scope: &'scope Scope<'scope, 'a>,
        events: &Sender<E>,
        work: impl Fn(T) -> E + Send + Sync + 'scope,
    ) -> Self {
        let (tasks, queue) = channel();
        let (work, queue, events) = (Arc::new(work), Arc::new(Mutex::new(queue)), events.clone());
        Threads { scope, work, tasks, queue, events, count: 0 }
    }

    /// Gives a task to one of at least `threads` threads.
    pub(crate) fn give(&mut self, task: T, threads: usize) {
        while self.count < threads {
            self.count += 1;
            let (queue, events, work) = (self.queue.clone(), self.events.clone(), self.work.clone());
            self.scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(task) = next else { return };
                    // The receiver is gone only when the run has ended.
                    let _ = events.send(work(task));
                }
            });
        }
        // The threads hold the receiver.
        let _ = self.tasks.send(task);
    }
}
