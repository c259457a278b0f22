//! Many creates for one name at the same time.

use futures_util::future::join_all;
use warmproof::workload::{CreateError, Created};

use crate::support::engine::{Engine, create_of, engine, reported, workload};
use warmproof_testkit::platform::{Dispatched, Platform, options};

const RACERS: usize = 8;

/// Several backends of their own, as in several processes, ask for one dispatch's container.
async fn race(
    engine: &Engine,
    platform: &Platform,
    lost: &Dispatched,
    more: &str,
) -> Vec<Result<Created, CreateError>> {
    let reported = reported(&engine.host, platform, more);
    let racers = (0..RACERS).map(|_| {
        let workload = workload(&engine.host, platform, &[("RUNNER_ADDITIONAL_ENV_VARS", &reported)]);
        async move { workload.create(create_of(lost)).await }
    });
    join_all(racers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_eight_creates_for_one_name_one_makes_it_and_seven_meet_it() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let births = engine.births().await;
    let mut names = Vec::new();
    for _ in 0..3 {
        let lost = platform.dispatch().await;
        let name = create_of(&lost).name;
        let ends = race(&engine, &platform, &lost, "LINGER=1").await;
        let created = ends.iter().filter(|end| matches!(end, Ok(Created::Created { .. }))).count();
        let existed = ends.iter().filter(|end| matches!(end, Ok(Created::Existed { .. }))).count();
        assert_eq!((created, existed), (1, RACERS - 1), "{ends:?}");
        platform.executed(&lost).await;
        assert_eq!(platform.simulator.record_of(&lost.run).unwrap().executions, 1);
        engine.remove(&name).await;
        names.push(name);
    }
    let made = births.count(&engine).await;
    assert!(names.iter().all(|name| made.get(name) == Some(&1)), "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_runner_that_is_done_before_the_last_create_is_not_made_again() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let births = engine.births().await;
    let lost = platform.dispatch().await;
    let name = create_of(&lost).name;
    let ends = race(&engine, &platform, &lost, "X=1").await;
    assert_eq!(ends.iter().filter(|end| matches!(end, Ok(Created::Created { .. }))).count(), 1, "{ends:?}");
    for end in ends {
        // The container runs or has just ended; then a probe shows that the run has moved on.
        assert!(matches!(end, Ok(_) | Err(CreateError::Transient { .. })), "{end:?}");
    }
    platform.executed(&lost).await;
    assert_eq!(births.count(&engine).await.get(&name), Some(&1));
    engine.remove(&name).await;
}
