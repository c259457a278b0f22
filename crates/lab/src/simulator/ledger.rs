//! The ground truth: what really happened to every run, dispatch and hit.
//!
//! It is separate from the engine's own guard. Runners themselves record each
//! execution, so a second execution of a run shows up even if the guard fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::changes::Changes;
use super::clock::Clock;
use super::options::RunnerKind;
use super::record::{Counters, DispatchRecord, Report, RunRecord, StartKind};
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::{RunId, SnapshotId};

#[derive(Debug, Default)]
struct Book {
    /// Shared with reports: a record that changes while a report exists is copied first.
    runs: Vec<Arc<RunRecord>>,
    index: HashMap<RunId, usize>,
    counters: Counters,
}

impl Book {
    /// The one place that changes a record, so that the counts derived from records stay correct.
    fn change(&mut self, run: &RunId, change: impl FnOnce(&mut RunRecord, &mut Counters)) {
        let Some(record) = self.index.get(run).and_then(|index| self.runs.get_mut(*index)) else { return };
        let record = Arc::make_mut(record);
        self.counters.lost -= u64::from(record.is_lost());
        change(record, &mut self.counters);
        self.counters.lost += u64::from(record.is_lost());
    }
}

/// The ledger and its clock.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) clock: Clock,
    book: Mutex<Book>,
    changes: Arc<Changes>,
}

impl Ledger {
    pub(super) fn new(clock: Clock, changes: Arc<Changes>) -> Self {
        Self { clock, book: Mutex::default(), changes }
    }

    pub(super) fn counters(&self) -> Counters {
        self.book().counters
    }

    pub(super) fn report(&self) -> Report {
        let book = self.book();
        Report {
            started_at: self.clock.started_at,
            now_ms: self.clock.now_ms(),
            counters: book.counters,
            runs: book.runs.clone(),
        }
    }

    pub(super) fn run(&self, run: &RunId) -> Option<Arc<RunRecord>> {
        let book = self.book();
        book.index.get(run).and_then(|index| book.runs.get(*index)).map(Arc::clone)
    }

    /// The run's position in the order of queueing.
    pub(super) fn place(&self, run: &RunId) -> u64 {
        self.book().index.get(run).map_or(0, |place| *place as u64)
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        self.write(|book| change(&mut book.counters));
    }

    pub(super) fn queued(&self, run: &RunId) {
        let record = Arc::new(RunRecord::queued(run, self.clock.now_ms()));
        self.write(|book| {
            book.counters.queued += 1;
            book.index.insert(run.clone(), book.runs.len());
            book.runs.push(record);
        });
    }

    pub(super) fn dequeued(&self, run: &RunId, snapshot: &SnapshotId) {
        let dispatch = DispatchRecord::dequeued(snapshot, self.clock.now_ms());
        self.write(|book| {
            book.counters.dequeued += 1;
            book.change(run, |record, _| record.dispatches.push(dispatch));
        });
    }

    /// The broker wrote this many copies of a dispatch.
    pub(super) fn hit(&self, dispatch: &Dispatch, kind: Option<RunnerKind>, copies: u32) {
        let now_ms = self.clock.now_ms();
        self.write(|book| {
            book.counters.hits += 1;
            book.counters.duplicate_deliveries += u64::from(copies.saturating_sub(1));
            book.change(&dispatch.run_id, |record, _| {
                if let Some(dispatch) = record.dispatch(&dispatch.snapshot_id) {
                    dispatch.given(kind, copies, now_ms);
                }
            });
        });
    }

    /// One copy reached no runner that could act on it.
    pub(super) fn copy_lost(&self, dispatch: &Dispatch) {
        self.write(|book| {
            book.change(&dispatch.run_id, |record, counters| {
                if let Some(dispatch) = record.dispatch(&dispatch.snapshot_id) {
                    counters.silently_lost += u64::from(dispatch.copy_lost());
                }
            });
        });
    }

    /// A runner begins to execute. The runners' code calls this, not the guard.
    pub(super) fn execution_began(&self, run: &RunId, snapshot: &SnapshotId, kind: StartKind) {
        let now_ms = self.clock.now_ms();
        self.write(|book| {
            match kind {
                StartKind::Warm => book.counters.warm_starts += 1,
                StartKind::Cold => book.counters.cold_starts += 1,
            }
            book.change(run, |record, counters| {
                let mut twice = record.executing > 0;
                record.executing += 1;
                record.executions += 1;
                if let Some(dispatch) = record.dispatch(snapshot) {
                    twice |= dispatch.executions > 0;
                    dispatch.executions += 1;
                    dispatch.started_at_ms.get_or_insert(now_ms);
                    dispatch.start_kind.get_or_insert(kind);
                }
                counters.double_starts += u64::from(twice);
            });
        });
    }

    pub(super) fn execution_ended(&self, run: &RunId) {
        self.write(|book| {
            book.change(run, |record, _| record.executing = record.executing.saturating_sub(1));
        });
    }

    pub(super) fn created(&self, run: &RunId) {
        self.write(|book| book.change(run, |record, _| record.creates += 1));
    }

    pub(super) fn redriven(&self, run: &RunId) {
        self.write(|book| {
            book.counters.redrives += 1;
            book.change(run, |record, _| record.redrives += 1);
        });
    }

    pub(super) fn cancelled(&self, run: &RunId) {
        self.write(|book| {
            book.counters.cancelled += 1;
            book.change(run, |record, _| record.cancelled = true);
        });
    }

    pub(super) fn finished(&self, run: &RunId) {
        let now_ms = self.clock.now_ms();
        self.write(|book| {
            book.counters.finished += 1;
            book.change(run, |record, _| record.finished_at_ms = Some(now_ms));
        });
    }

    fn write(&self, change: impl FnOnce(&mut Book)) {
        change(&mut self.book());
        self.changes.ring();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Each change is a few assignments, so the data of a poisoned lock is still usable.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(report: &Report) -> u64 {
        report.runs.iter().filter(|run| run.is_lost()).count() as u64
    }

    #[test]
    fn losses_are_kept_current_and_a_report_does_not_change() {
        let ledger = Ledger::new(Clock::start(), Arc::default());
        let run = |n: u32| RunId::parse(format!("run_{n}")).unwrap();
        let snapshot = |n: u32| SnapshotId::parse(format!("snapshot_{n}")).unwrap();
        (0..4).for_each(|n| ledger.queued(&run(n)));
        assert_eq!(ledger.counters().lost, 0, "only queued so far");
        (0..4).for_each(|n| ledger.dequeued(&run(n), &snapshot(n)));
        let before = ledger.report();
        assert_eq!((before.counters.lost, scanned(&before)), (4, 4));
        ledger.dequeued(&run(0), &snapshot(9));
        ledger.execution_began(&run(1), &snapshot(1), StartKind::Warm);
        ledger.execution_began(&run(1), &snapshot(1), StartKind::Cold);
        ledger.cancelled(&run(2));
        ledger.cancelled(&run(1));
        ledger.finished(&run(3));
        let after = ledger.report();
        assert_eq!((after.counters.lost, scanned(&after)), (2, 2));
        assert_eq!((scanned(&before), before.runs[1].executions), (4, 0), "taken before");
        ledger.cancelled(&RunId::parse("run_unknown").unwrap());
        assert_eq!(ledger.counters().lost, 2);
    }
}
