//! Containers that were made and never started: a worker discards one that its run no longer needs, and reaps one
//! that no worker knows.

use crate::support::engine::{create_of, engine, workload};
use warmproof_testkit::platform::{Platform, options};

#[tokio::test]
async fn a_container_that_was_never_started_is_discarded() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let lost = platform.dispatch().await;
    let create = create_of(&lost);
    let workload = workload(&engine.host, &platform, &[]);
    engine.make_only(&create, lost.snapshot.as_str(), Vec::new()).await;
    for _ in 0..2 {
        workload.discard(&create.name, &lost.snapshot).await.expect("it is removed, or is not there");
        assert_eq!(engine.state(&create.name).await, None);
    }
}

#[tokio::test]
async fn a_container_that_may_still_be_started_is_not_reaped() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let lost = platform.dispatch().await;
    let create = create_of(&lost);
    engine.make_only(&create, lost.snapshot.as_str(), Vec::new()).await;
    assert_eq!(workload(&engine.host, &platform, &[]).reap().await, Ok(0));
    assert_eq!(engine.state(&create.name).await.as_deref(), Some("created"));
    engine.remove(&create.name).await;
}
