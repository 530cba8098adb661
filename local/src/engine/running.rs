//! One statement seen from outside: waiting, running on a thread, to be ended, done. It never runs anything itself.

use super::connections::Engine;
use super::exception::{Exception, raise};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

/// What others can see of a statement and do to it.
#[derive(Default)]
pub struct Statement(Mutex<State>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Waiting,
    Running(Running),
    Cancelled,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    /// The thread's number in the operating system, where it has one.
    thread: Option<u64>,
    /// As on a server, what changes something runs to its end even if nobody waits for it.
    only_reads: bool,
}

impl Statement {
    /// Runs `work` where it can be ended, unless it was ended before.
    pub fn run<T>(&self, only_reads: bool, work: impl FnOnce() -> Result<T, Exception>) -> Result<T, Exception> {
        {
            let mut state = self.state();
            if *state == State::Cancelled {
                return Err(raise::QUERY_WAS_CANCELLED("Query was cancelled"));
            }
            *state = State::Running(Running { thread: thread_number(), only_reads });
        }
        let result = work();
        *self.state() = State::Waiting;
        result
    }

    pub fn cancel(&self) {
        let mut state = self.state();
        if *state == State::Waiting {
            *state = State::Cancelled;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `order` with the thread it runs on, which can't go on to another statement meanwhile.
    pub fn on_thread(&self, order: impl FnOnce(u64)) {
        let state = self.state();
        if let State::Running(Running { thread: Some(thread), .. }) = *state {
            order(thread);
        }
    }

    /// The thread it runs on, or has run on by the time this is looked at.
    pub fn thread(&self) -> Option<u64> {
        match *self.state() {
            State::Running(running) => running.thread,
            _ => None,
        }
    }

    /// Whether it should be ended because its client is gone.
    fn is_abandoned(&self) -> bool {
        match *self.state() {
            State::Waiting => true,
            State::Running(running) => running.only_reads,
            State::Cancelled | State::Done => false,
        }
    }

    pub fn is_done(&self) -> bool {
        *self.state() == State::Done
    }
}

/// `/proc/thread-self` → `<process>/task/<thread>`; elsewhere statements end only when their answer can't be written.
fn thread_number() -> Option<u64> {
    std::fs::read_link("/proc/thread-self").ok()?.file_name()?.to_str()?.parse().ok()
}

/// Held as long as a client waits for a statement: dropped early, it ends the statement.
pub struct Client {
    pub engine: Arc<Engine>,
    pub statement: Arc<Statement>,
}

impl Drop for Client {
    fn drop(&mut self) {
        let runtime = Handle::try_current().ok().filter(|_| self.statement.is_abandoned());
        if let Some(runtime) = runtime {
            runtime.spawn(Arc::clone(&self.engine).cancel(Arc::clone(&self.statement)));
        }
    }
}

/// A statement's entry among those that can be ended.
pub struct Watched {
    pub engine: Arc<Engine>,
    pub number: u64,
    pub statement: Arc<Statement>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        *self.statement.state() = State::Done;
        self.engine.forget(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_cancelled_before_it_ran_never_runs() {
        let statement = Statement::default();
        statement.cancel();
        let error = statement.run(true, || -> Result<(), Exception> { panic!("it ran") }).unwrap_err();
        assert_eq!(error.code, 394);
    }

    #[test]
    fn what_changes_something_is_not_ended_because_its_client_went() {
        let statement = Statement::default();
        let abandoned = |only_reads| statement.run(only_reads, || Ok(statement.is_abandoned()));
        assert_eq!((abandoned(true), abandoned(false)), (Ok(true), Ok(false)));
    }
}
