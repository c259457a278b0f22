//! Images come from a registry: once, with a password, for the right platform, or with an error that says why not.

use std::time::Duration;

use futures_util::future::join_all;
use warmproof::workload::{CreateError, CreateRequest, Created};

use crate::support::engine::{create_of, engine, workload};
use crate::support::registry::{PASSWORD, Registry, Trouble, USERNAME};
use warmproof_testkit::platform::{Platform, options};
use warmproof_testkit::wait::{until, within};

/// A dispatch whose image is the registry's.
async fn dispatch_of(platform: &Platform, image: &str) -> CreateRequest {
    let mut create = create_of(&platform.dispatch().await);
    create.request.image = Some(format!("{image}@sha256:{}", "0".repeat(64)));
    create
}

#[tokio::test]
async fn a_missing_image_is_pulled_and_then_it_is_there() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let registry = Registry::with("plain", Trouble::None).await;
    let workload = workload(&engine.host, &platform, &[]);
    let lost = platform.dispatch().await;
    let mut create = create_of(&lost);
    create.request.image = Some(registry.image());
    let name = create.name.clone();
    workload.prepare(&create).await.expect("a pull");
    workload.prepare(&create).await.expect("the image is there");
    assert_eq!(registry.pulls(), 1);
    assert_eq!(workload.create(create).await, Ok(Created::Created { workload: name.clone() }));
    platform.executed(&lost).await;
    engine.remove(&name).await;
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_it() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let registry = Registry::with("closed", Trouble::NeedsPassword).await;
    let create = dispatch_of(&platform, &registry.image()).await;
    let error = workload(&engine.host, &platform, &[]).prepare(&create).await.expect_err("no password");
    assert!(matches!(error, CreateError::Permanent { .. }), "{error:?}");
    let as_puller = |password| {
        let url = registry.image();
        let url = url.split('/').next().unwrap();
        let extra = [
            ("DOCKER_REGISTRY_USERNAME", USERNAME),
            ("DOCKER_REGISTRY_PASSWORD", password),
            ("DOCKER_REGISTRY_URL", url),
        ];
        workload(&engine.host, &platform, &extra)
    };
    let error = as_puller("wrong-wrong").prepare(&create).await.expect_err("a wrong password");
    assert!(matches!(error, CreateError::Permanent { .. }), "{error:?}");
    assert!(!error.to_string().contains("wrong-wrong"), "{error}");
    as_puller(PASSWORD).prepare(&create).await.expect("a pull");
}

#[tokio::test]
async fn an_image_that_no_registry_has_is_given_up() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let registry = Registry::with("plain", Trouble::None).await;
    let image = registry.image().replace("plain", "absent");
    let create = dispatch_of(&platform, &image).await;
    let error = workload(&engine.host, &platform, &[]).prepare(&create).await.expect_err("no image");
    assert!(matches!(error, CreateError::Permanent { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&format!("could not pull `{image}`: ")), "{error}");
}

#[tokio::test]
async fn an_error_inside_the_progress_fails_the_pull() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    for trouble in [Trouble::BlobFails, Trouble::BlobBreaks] {
        let repository = format!("{trouble:?}").to_lowercase();
        let registry = Registry::with(&repository, trouble).await;
        let create = dispatch_of(&platform, &registry.image()).await;
        let error = workload(&engine.host, &platform, &[]).prepare(&create).await.expect_err("no image");
        assert!(matches!(error, CreateError::Transient { name_may_be_taken: false, .. }), "{error:?}");
        assert!(error.to_string().starts_with("could not pull "), "the progress reported it: {error}");
        assert!(registry.pulls() > 0, "the progress had begun");
    }
}

#[tokio::test]
async fn a_registry_that_is_away_is_asked_again_later() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let create = dispatch_of(&platform, "127.0.0.1:1/away:1").await;
    let error = workload(&engine.host, &platform, &[]).prepare(&create).await.expect_err("no registry");
    assert!(matches!(error, CreateError::Transient { .. }), "{error:?}");
}

#[tokio::test]
async fn an_image_for_another_platform_is_refused() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let registry = Registry::with("foreign", Trouble::None).await;
    let create = dispatch_of(&platform, &registry.image()).await;
    workload(&engine.host, &platform, &[]).prepare(&create).await.expect("a pull for any platform");
    let amd64 = workload(&engine.host, &platform, &[("DOCKER_PLATFORM", "linux/amd64")]);
    amd64.prepare(&create).await.expect("the image is there");
    assert_eq!(registry.pulls(), 1);
    let arm64 = workload(&engine.host, &platform, &[("DOCKER_PLATFORM", "linux/arm64")]);
    let error = arm64.prepare(&create).await.expect_err("no image for arm64");
    assert!(matches!(error, CreateError::Permanent { .. }), "{error:?}");
}

#[tokio::test]
async fn creates_of_one_image_share_one_pull_and_no_other_create_waits() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let registry = Registry::with("slow", Trouble::BlobWaits).await;
    let workload = workload(&engine.host, &platform, &[]);
    let create = dispatch_of(&platform, &registry.image()).await;
    let waiting = (0..8).map(|_| {
        let (workload, create) = (workload.clone(), create.clone());
        tokio::spawn(async move { workload.prepare(&create).await })
    });
    let waiting: Vec<_> = waiting.collect();
    until("the pull has begun", async || (registry.pulls() > 0).then_some(())).await;

    let other = platform.dispatch().await;
    workload.prepare(&create_of(&other)).await.expect("an image that is there");
    workload.create(create_of(&other)).await.expect("a container");
    platform.executed(&other).await;
    assert!(waiting.iter().all(|waiter| !waiter.is_finished()), "the pull goes on all the while");

    registry.gate.add_permits(9);
    for pulled in join_all(waiting).await {
        assert_eq!(pulled.unwrap(), Ok(()));
    }
    assert_eq!(registry.pulls(), 1);
    engine.remove(&create_of(&other).name).await;
}

#[tokio::test]
async fn a_pull_that_takes_too_long_is_given_up_and_may_be_tried_again() {
    let (engine, platform) = (engine().await, Platform::start(options()).await);
    let registry = Registry::with("stuck", Trouble::BlobWaits).await;
    let create = dispatch_of(&platform, &registry.image()).await;
    let hasty = workload(&engine.host, &platform, &[("WARMPROOF_DOCKER_PULL_TIMEOUT_MS", "1000")]);
    let error = within("it is given up", hasty.prepare(&create)).await.expect_err("no image in time");
    let reason = format!("the image `{}` was not pulled within 1000 ms", registry.image());
    assert_eq!(error, CreateError::Transient { reason, name_may_be_taken: false });
    registry.gate.add_permits(9);
    let patient = workload(&engine.host, &platform, &[]);
    tokio::time::timeout(Duration::from_mins(1), patient.prepare(&create)).await.unwrap().expect("a pull");
}
