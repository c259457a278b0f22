//! What holds after every test: its database's counts add up, and its workers have left no claim behind.
//!
//! A database is audited when it is dropped, so that no test has to remember it. A test whose subject breaks one of
//! these rules says so, with [`Audit::rows_are_made_up`] or [`Audit::claims_are_left`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

/// What a test's database is checked for when it is dropped.
#[derive(Debug)]
pub struct Audit {
    options: PgConnectOptions,
    rows_made_up: AtomicBool,
    claims_left: AtomicBool,
}

impl Audit {
    /// Claims may stay: most tests of one database claim by hand. [`Audit::workers_end`] forbids it.
    pub(crate) fn of(options: PgConnectOptions) -> Self {
        Self { options, rows_made_up: AtomicBool::new(false), claims_left: AtomicBool::new(true) }
    }

    /// The database's claims belong to worker processes, which give them back when they end.
    pub(crate) fn workers_end(&self) {
        self.claims_left.store(false, Ordering::Relaxed);
    }

    /// The test writes rows that no call of the product wrote, so counts need not add up.
    pub fn rows_are_made_up(&self) {
        self.rows_made_up.store(true, Ordering::Relaxed);
    }

    /// The test ends while a claim lasts, because that is its subject.
    pub fn claims_are_left(&self) {
        self.claims_left.store(true, Ordering::Relaxed);
    }

    async fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut db = PgConnection::connect_with(&self.options).await.expect("the test's database");
        if !self.rows_made_up.load(Ordering::Relaxed) {
            let unaccounted: i64 = sqlx::query_scalar("select unaccounted from conservation")
                .fetch_one(&mut db)
                .await
                .expect("conservation");
            if unaccounted != 0 {
                faults.push(format!("{unaccounted} verifications are unaccounted for"));
            }
        }
        if !self.claims_left.load(Ordering::Relaxed) {
            let claimed: Vec<String> = sqlx::query_scalar(
                "select run_id || ' by ' || worker from pending where lease_expires_at > clock_timestamp()",
            )
            .fetch_all(&mut db)
            .await
            .expect("claims");
            faults.extend(claimed.into_iter().map(|claim| format!("still claimed: {claim}")));
        }
        faults
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        // A thread of its own, because the test's runtime cannot be waited for in a drop.
        let faults = thread::scope(|scope| {
            let audit = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(self.faults())
            });
            audit.join()
        });
        match faults {
            Ok(faults) => assert!(faults.is_empty(), "after the test: {}", faults.join("; ")),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
