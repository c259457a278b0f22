//! A container is made, found again, started late, replaced, or refused.

use std::collections::HashMap;

use warmproof::workload::{CreateError, Created};

use crate::support::engine::{IMAGE, SNAPSHOT_LABEL, create_of, engine, reported, workload};
use warmproof_testkit::platform::{Platform, options};
use warmproof_testkit::wait::until;

#[tokio::test]
async fn a_container_starts_its_runs_attempt() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let lost = platform.dispatch().await;
    let create = create_of(&lost);
    let (name, verification) = (create.name.clone(), create.verification_id.unwrap());
    let linger = reported(&engine.host, &platform, "LINGER=1");
    let workload = workload(&engine.host, &platform, &[("RUNNER_ADDITIONAL_ENV_VARS", &linger)]);
    assert_eq!((workload.backend(), workload.check().await), ("docker", Ok(())));
    workload.prepare(&create).await.expect("the image is there");
    assert_eq!(workload.create(create).await, Ok(Created::Created { workload: name.clone() }));
    platform.executed(&lost).await;

    let made = engine.inspect(&name).await.expect("a container");
    let (config, host) = (made.config.unwrap(), made.host_config.unwrap());
    let labels = HashMap::from([
        ("warmproof.run-id".to_owned(), lost.run.to_string()),
        (SNAPSHOT_LABEL.to_owned(), lost.snapshot.to_string()),
        ("warmproof.verification-id".to_owned(), verification.to_string()),
    ]);
    assert_eq!(config.labels, Some(labels));
    assert_eq!((config.image.as_deref(), config.hostname), (Some(IMAGE), Some(name.clone())));
    assert_eq!((host.nano_cpus, host.memory), (Some(500_000_000), Some(1 << 29)));
    assert_eq!((host.network_mode.as_deref(), host.auto_remove), (Some("host"), Some(false)));

    assert_eq!(workload.create(create_of(&lost)).await, Ok(Created::Existed { workload: name.clone() }));
    workload.discard(&name, &lost.snapshot).await.expect("nothing to discard");
    assert_eq!(engine.state(&name).await.as_deref(), Some("running"), "what runs is never discarded");
    engine.remove(&name).await;
}

#[tokio::test]
async fn the_engine_removes_an_exited_container_if_it_is_configured_to() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let lost = platform.dispatch().await;
    let create = create_of(&lost);
    let name = create.name.clone();
    let workload = workload(&engine.host, &platform, &[("DOCKER_AUTOREMOVE_EXITED_CONTAINERS", "true")]);
    workload.create(create).await.expect("a container");
    platform.executed(&lost).await;
    until("it is gone", async || engine.inspect(&name).await.is_none().then_some(())).await;
}

#[tokio::test]
async fn a_container_that_was_never_started_is_started() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let lost = platform.dispatch().await;
    let create = create_of(&lost);
    let name = create.name.clone();
    let env = [
        ("TRIGGER_RUN_ID", lost.run.to_string()),
        ("TRIGGER_SNAPSHOT_ID", lost.snapshot.to_string()),
        ("TRIGGER_RUNNER_ID", name.clone()),
        ("TRIGGER_SUPERVISOR_API_DOMAIN", "localhost".to_owned()),
        ("TRIGGER_SUPERVISOR_API_PORT", platform.simulator.base_url().rsplit(':').next().unwrap().to_owned()),
    ];
    let reported = reported(&engine.host, &platform, "X=1");
    let env = env.map(|(name, value)| format!("{name}={value}"));
    let env = env.into_iter().chain(reported.split(',').map(str::to_owned)).collect();
    engine.make_only(&create, lost.snapshot.as_str(), env).await;
    let created = workload(&engine.host, &platform, &[]).create(create).await;
    assert_eq!(created, Ok(Created::Existed { workload: name.clone() }));
    platform.executed(&lost).await;
    engine.remove(&name).await;
}

#[tokio::test]
async fn a_container_that_ended_is_replaced_once_it_cannot_have_done_the_work_unseen() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let lost = platform.dispatch().await;
    let name = create_of(&lost).name;
    let dying = reported(&engine.host, &platform, "EXIT=1");
    let dying = workload(&engine.host, &platform, &[("RUNNER_ADDITIONAL_ENV_VARS", &dying)]);
    dying.create(create_of(&lost)).await.expect("a container that dies");
    engine.ended(&name).await;
    let first = engine.inspect(&name).await.unwrap().id;

    let workload = workload(&engine.host, &platform, &[]);
    let error = workload.create(create_of(&lost)).await.expect_err("it has only just ended");
    assert!(matches!(error, CreateError::Transient { name_may_be_taken: false, .. }), "{error:?}");
    assert_eq!(engine.inspect(&name).await.unwrap().id, first, "and is still there");
    let created = until("it is replaced", async || workload.create(create_of(&lost)).await.ok()).await;
    assert_eq!(created, Created::Created { workload: name.clone() });
    assert_ne!(engine.inspect(&name).await.unwrap().id, first);
    platform.executed(&lost).await;
    engine.remove(&name).await;
}

#[tokio::test]
async fn a_name_that_something_else_has_is_left_alone() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let lost = platform.dispatch().await;
    let create = create_of(&lost);
    let name = create.name.clone();
    engine.make_only(&create, "snapshot_another", Vec::new()).await;
    let workload = workload(&engine.host, &platform, &[]);
    let error = workload.create(create).await.expect_err("the name is taken");
    let reason = format!("the name `{name}` is taken by a container of something else");
    assert_eq!(error, CreateError::Permanent { reason });
    workload.discard(&name, &lost.snapshot).await.expect("not ours to discard");
    assert_eq!(engine.state(&name).await.as_deref(), Some("created"));
    engine.remove(&name).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_leaves_no_container_behind() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let image = engine.image_of_nothing().await;
    for autoremove in ["false", "true"] {
        let lost = platform.dispatch().await;
        let mut create = create_of(&lost);
        let name = create.name.clone();
        create.request.image = Some(image.clone());
        let extra = [("DOCKER_AUTOREMOVE_EXITED_CONTAINERS", autoremove)];
        let error = workload(&engine.host, &platform, &extra).create(create).await.expect_err("no start");
        assert!(matches!(error, CreateError::Permanent { .. }), "{error:?}");
        assert!(error.to_string().starts_with("could not start the container: "), "{error}");
        until("it is gone", async || engine.inspect(&name).await.is_none().then_some(())).await;
    }
}

#[tokio::test]
async fn an_image_that_is_gone_is_pulled_again_before_the_next_create() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let lost = platform.dispatch().await;
    let mut create = create_of(&lost);
    create.request.image = Some("127.0.0.1:1/gone:1".to_owned());
    let error = workload(&engine.host, &platform, &[]).create(create).await.expect_err("no image");
    assert!(matches!(error, CreateError::Transient { name_may_be_taken: false, .. }), "{error:?}");
}
