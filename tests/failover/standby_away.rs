//! Commits that wait for an unreachable standby: the store answers no call that a failover would undo.

use std::time::Duration;

use tokio::time::timeout;
use warmproof::domain::verification::{CancelReason, ScheduleResult};

use crate::pair::Pair;
use warmproof_testkit::dispatch::{DELAY, cancellation, fresh};
use warmproof_testkit::wait::until;

/// Long enough for an answer that does not wait for a standby.
const NOT_ANSWERED: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_schedule_is_not_answered_while_the_first_is_on_no_standby() {
    let mut pair = Pair::start().await;
    let store = pair.store();
    let first = store.schedule(&[fresh("run_kept", "snapshot_1")], DELAY).await.unwrap();
    assert_eq!(first[0].as_ref().unwrap().result, ScheduleResult::Created);
    pair.other.kill().await;
    until("the primary knows that its standby is away", async || {
        (pair.one.value::<i64>("select count(*) from pg_stat_replication").await == 0).then_some(())
    })
    .await;

    // The store answers neither a new schedule, nor a repeated one, nor a cancel that finds nothing.
    let new = timeout(NOT_ANSWERED, store.schedule(&[fresh("run_new", "snapshot_1")], DELAY)).await;
    assert!(new.is_err(), "a schedule was answered: {new:?}");
    let repeated = timeout(NOT_ANSWERED, store.schedule(&[fresh("run_kept", "snapshot_1")], DELAY)).await;
    assert!(repeated.is_err(), "`duplicate` was answered: {repeated:?}");
    let absent = cancellation("run_absent", None, CancelReason::Operator);
    let cancelled = timeout(NOT_ANSWERED, store.cancel(&[absent])).await;
    assert!(cancelled.is_err(), "`not_found` was answered: {cancelled:?}");
}
