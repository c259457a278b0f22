//! The first network is given at the create, the others are connected before the start.

use warmproof::workload::{CreateError, Created};

use crate::support::engine::{create_of, engine, reported, workload};
use warmproof_testkit::platform::{Platform, options};
use warmproof_testkit::wait::until;

#[tokio::test]
async fn a_container_starts_in_all_its_networks() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    engine.network("blue").await;
    engine.network("green").await;
    let lost = platform.dispatch().await;
    let name = create_of(&lost).name;
    // The platform is not in these networks.
    let reported = reported(&engine.host, &platform, "LINGER=1,EXIT=0");
    let extra = [("DOCKER_RUNNER_NETWORKS", "blue,green"), ("RUNNER_ADDITIONAL_ENV_VARS", reported.as_str())];
    let created = workload(&engine.host, &platform, &extra).create(create_of(&lost)).await;
    assert_eq!(created, Ok(Created::Created { workload: name.clone() }));
    let networks = engine.inspect(&name).await.unwrap().network_settings.unwrap().networks.unwrap();
    let mut networks: Vec<String> = networks.into_keys().collect();
    networks.sort();
    assert_eq!(networks, ["blue", "green"]);
    engine.remove(&name).await;

    // One that was connected before its maker died is connected already.
    let create = create_of(&lost);
    let id = engine.make_only_in(&create, "blue").await;
    engine.connect("green", &id).await;
    let created = workload(&engine.host, &platform, &extra).create(create).await;
    assert_eq!(created, Ok(Created::Existed { workload: name.clone() }));
    engine.ended(&name).await;
    engine.remove(&name).await;
    engine.remove_network("blue").await;
    engine.remove_network("green").await;
}

#[tokio::test]
async fn a_network_that_is_not_there_is_reported_and_leaves_no_container_behind() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    for networks in ["nowhere", "none,nowhere"] {
        let lost = platform.dispatch().await;
        let name = create_of(&lost).name;
        let workload = workload(&engine.host, &platform, &[("DOCKER_RUNNER_NETWORKS", networks)]);
        let error = workload.create(create_of(&lost)).await.expect_err("no such network");
        assert!(matches!(error, CreateError::Permanent { .. }), "{error:?}");
        assert!(error.to_string().ends_with(": network nowhere not found"), "{error}");
        until("it is gone", async || engine.inspect(&name).await.is_none().then_some(())).await;
    }
}
