//! The primary is killed under load and the standby takes over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::Row;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warmproof::store::Store;
use warmproof::store::coalesce::Coalescer;
use warmproof::store::connect::Role;

use crate::pair::{Pair, config};
use warmproof_testkit::dispatch::{DELAY, fresh};
use warmproof_testkit::wait::until;

const CALLERS: usize = 16;

/// Schedules one after the other until `stop`; notes the answered ones, and the time of the last answer.
async fn schedules(
    coalescer: Coalescer,
    caller: usize,
    stop: CancellationToken,
    answered: watch::Sender<usize>,
) -> Vec<String> {
    let mut promised = Vec::new();
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        if let Ok(answer) = coalescer.schedule(fresh(&format!("run_{caller}x{number}"), "snapshot_1")).await {
            promised.push(answer.expect("the pool is known").id.to_string());
            answered.send_modify(|count| *count += 1);
        }
    }
    promised
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_schedule_survives_a_failover_and_the_old_primary_is_left_at_once() {
    let mut pair = Pair::start().await;
    let store = pair.store();
    let coalescer = Coalescer::start(&store, DELAY);
    let (stop, (answered, mut seen)) = (CancellationToken::new(), watch::channel(0));
    let callers = (0..CALLERS)
        .map(|caller| tokio::spawn(schedules(coalescer.clone(), caller, stop.clone(), answered.clone())));
    let callers: Vec<_> = callers.collect();
    seen.wait_for(|count| *count >= 500).await.unwrap();

    pair.one.kill().await;
    let killed = Instant::now();
    pair.other.promote().await;
    let promoted = Instant::now();
    let before = *seen.borrow_and_update();
    seen.wait_for(|count| *count > before).await.unwrap();
    println!(
        "failover: {before} schedules answered before; the first new answer came {:.1?} after the kill, {:.1?} after \
         the promotion",
        killed.elapsed(),
        promoted.elapsed()
    );
    seen.wait_for(|count| *count >= before + 500).await.unwrap();

    // The old primary comes back as a standby of the new one, and takes no writes. Clients that reach it go on
    // to the other server.
    let Pair { one, other, .. } = &mut pair;
    one.follow(other);
    assert!(one.value::<bool>("select pg_is_in_recovery()").await);
    let at_the_return = *seen.borrow_and_update();
    seen.wait_for(|count| *count >= at_the_return + 500).await.unwrap();
    stop.cancel();
    let mut promised = BTreeSet::new();
    for caller in callers {
        promised.extend(caller.await.unwrap());
    }

    let mut connection = pair.other.connect().await;
    let kept =
        sqlx::query("select id::text from warmproof.pending").fetch_all(&mut connection).await.unwrap();
    let kept: BTreeSet<String> = kept.iter().map(|row| row.get(0)).collect();
    let gone: Vec<_> = promised.difference(&kept).collect();
    assert!(gone.is_empty(), "{} of {} answered schedules are gone", gone.len(), promised.len());
    assert_eq!(store.conservation().await.unwrap().unaccounted, 0);
    println!("failover: {} schedules answered in all, all there", promised.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_turns_read_only_is_left_and_taken_again_when_it_takes_writes() {
    let pair = Pair::start().await;
    let url = format!("postgres://postgres@{}/postgres", pair.one.place());
    let store = Store::connect_lazy(&config(&url), Role::Callers);
    let coalescer = Coalescer::start(&store, DELAY);
    let _ = coalescer.schedule(fresh("run_before", "snapshot_1")).await.unwrap().unwrap();

    pair.one.run("alter system set default_transaction_read_only = on").await;
    pair.one.run("select pg_reload_conf()").await;
    let refusal = until("a schedule is refused", async || {
        coalescer.schedule(fresh("run_meanwhile", "snapshot_1")).await.err()
    })
    .await;
    assert_eq!(refusal.in_public(), "the database is read-only");
    assert!(refusal.is_passing());
    assert_eq!(coalescer.problem().await.as_deref(), Some("the database is read-only"));

    let mut settings = pair.one.connect().await;
    sqlx::raw_sql("set default_transaction_read_only = off").execute(&mut settings).await.unwrap();
    sqlx::raw_sql("alter system reset default_transaction_read_only").execute(&mut settings).await.unwrap();
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut settings).await.unwrap();
    let began = Instant::now();
    let written = until("schedules are written again", async || {
        coalescer.schedule(fresh("run_after", "snapshot_1")).await.ok()
    });
    assert!(written.await.is_ok());
    println!("read-only and back: written again {:.1?} after", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(coalescer.problem().await, None);
}
