//! Pools: which worker serves which pool with which backend, and what an operator sees.

use std::io::Write as _;
use std::time::{Duration, Instant};

use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::PoolName;
use warmproof::domain::outcome::{FallbackResult, OutcomeKind};
use warmproof::domain::pool::PoolSettings;
use warmproof::domain::status::HoldReason;
use warmproof::scheduler::{Hit, Scheduler};
use warmproof::store::audit::Actor;
use warmproof_lab::simulator::{ProbeFault, Rule, SimulatorOptions};

use crate::metrics::{get, listens_at};
use warmproof_testkit::api::{api, send};
use warmproof_testkit::platform::{Dispatched, Platform, SOON, options};
use warmproof_testkit::process::Program;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn with_pools(program: Program, file: &NamedTempFile) -> Program {
    program.env("WARMPROOF_POOLS_FILE", file.path().display())
}

async fn schedule_in(stage: &Stage, pool: &str, dispatched: &Dispatched) {
    let scheduler = Scheduler::new(&stage.db.store, SOON);
    let dispatch = Dispatch::parse(dispatched.message.clone(), None).unwrap();
    let hit = Hit::new(dispatch).pool(PoolName::parse(pool).unwrap());
    let _scheduled = scheduler.schedule(hit).await.unwrap().unwrap();
}

#[tokio::test]
async fn two_pools_of_one_worker_have_platforms_credentials_and_backends_of_their_own() {
    const GPU_TOKEN: &str = "tr_wgt_gpu0gpu0gpu0gpu0gpu0gpu0";
    let stage = Stage::set().await;
    let gpu_options = SimulatorOptions { worker_token: GPU_TOKEN.into(), ..options() };
    let gpu = Platform::start(gpu_options).await;
    let url = gpu.simulator.base_url();
    let pools = file(&format!(
        "[pools.default]\n[pools.gpu]\ndelay_ms = 2000\n[pools.gpu.env]\nTRIGGER_API_URL = \"{url}\"\n\
         TRIGGER_WORKER_TOKEN = \"{GPU_TOKEN}\"\nCOMPUTE_GATEWAY_URL = \"{url}\"\n"
    ));
    let worker = with_pools(stage.worker("a"), &pools).start();
    worker.says("worker started").await;
    let delay: i32 = stage.db.value("select delay_ms from pool where name = 'gpu'").await;
    assert_eq!(delay, 2000, "a new pool starts with the settings of the file");

    let (here, there) = (stage.platform.dispatch().await, gpu.dispatch().await);
    schedule_in(&stage, "default", &here).await;
    schedule_in(&stage, "gpu", &there).await;
    stage.platform.executed(&here).await;
    gpu.executed(&there).await;
    assert!(stage.platform.simulator.probes(&there.run).is_empty(), "only its own platform is probed");
    assert_eq!(gpu.simulator.counters().unauthorized, 0);
    stage.audit(&[here, there], vec![worker]).await;
}

#[tokio::test]
async fn a_platform_that_is_slow_delays_only_its_own_pool() {
    const BACKLOG: usize = 60;
    let stage = Stage::set().await;
    let slow = Platform::start(options()).await;
    slow.simulator.faults().probe.add(Rule::always(ProbeFault::Delay { delay_ms: 1900 }));
    let url = slow.simulator.base_url();
    let pools =
        file(&format!("[pools.default]\n[pools.slow]\n[pools.slow.env]\nTRIGGER_API_URL = \"{url}\"\n"));
    let worker = with_pools(stage.worker("a"), &pools).start();
    worker.says("worker started").await;
    let mut all = Vec::new();
    for _ in 0..BACKLOG {
        let one = slow.dispatch().await;
        slow.start_warm(&one).await;
        schedule_in(&stage, "slow", &one).await;
        all.push(one);
    }
    slow.probe(&all[0], 1).await;
    let healthy = stage.platform.dispatch().await;
    stage.platform.start_warm(&healthy).await;
    schedule_in(&stage, "default", &healthy).await;
    assert_eq!(stage.outcome(&healthy.run).await.outcome, OutcomeKind::Delivered);
    let behind: i64 = stage.db.value("select count(*) from pending where pool = 'slow'").await;
    assert!(behind > 20, "it did not wait for the slow pool, of which {behind} are left");
    for one in &all {
        assert_eq!(stage.outcome(&one.run).await.outcome, OutcomeKind::Delivered);
    }
    all.push(healthy);
    stage.audit(&all, vec![worker]).await;
}

#[tokio::test]
async fn a_pool_that_exists_keeps_its_settings_when_a_file_names_others() {
    let stage = Stage::set().await;
    let pools = file("[pools.default]\ncap = 5\n[pools.batch]\ncap = 7\nshadow = true\n");
    let mut worker = with_pools(stage.worker("a"), &pools).start();
    worker.says("worker started").await;
    let cap = async |pool: &str| -> Option<i32> {
        stage.db.value(&format!("select cap from pool where name = '{pool}'")).await
    };
    assert_eq!((cap("default").await, cap("batch").await), (None, Some(7)), "`default` was there already");
    stage.db.run("update pool set cap = 9 where name = 'batch'").await;
    assert_eq!(worker.terminate().await, Some(0));
    let again = with_pools(stage.worker("a"), &pools).start();
    again.says("worker started").await;
    assert_eq!(cap("batch").await, Some(9));
    stage.end(vec![again]).await;
}

#[tokio::test]
async fn a_worker_with_a_misconfigured_pool_says_which_and_does_not_start() {
    let stage = Stage::set().await;
    let pools = file("[pools.default]\n[pools.gpu]\nbackend = \"lambda\"\n");
    let mut worker = with_pools(stage.worker("a"), &pools).start();
    assert_ne!(worker.ended().await, Some(0));
    let log = worker.stderr().join("\n");
    assert!(log.contains("pool `gpu`: `WARMPROOF_BACKEND` is not one of the allowed words"), "{log}");
    let workers: i64 = stage.db.value("select count(*) from worker").await;
    assert_eq!(workers, 0);
}

#[tokio::test]
async fn readiness_names_pools_that_no_worker_serves_and_stays_ready() {
    let api = api().await;
    let pool = PoolName::parse("orphan").unwrap();
    api.db.store.ensure_pools(&[(pool, PoolSettings::default())]).await.unwrap();
    let check = async || -> Value {
        let answer = send(api.anonymous(Method::GET, "/readyz")).await;
        assert_eq!(answer.status, 200, "verifications stay pending until a worker serves the pool");
        let checks = answer.json()["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["name"] == "pool orphan").unwrap()
    };
    let expected =
        |reason: &str| json!({"name": "pool orphan", "ok": false, "required": false, "reason": reason});
    assert_eq!(check().await, expected("no running worker serves it"));

    api.db
        .run(
            "insert into worker (name, version, in_flight, pools, backends, problems) values
             ('w1', '1', 0, '{orphan}', '{docker}', '{the engine does not answer}'),
             ('w2', '1', 0, '{orphan}', '{gateway}', '{null}')",
        )
        .await;
    let reason = "its workers differ in their backend: docker, gateway; w1: the engine does not answer";
    assert_eq!(check().await, expected(reason));
    api.db.run("delete from worker where name = 'w1'").await;
    assert_eq!(check().await["ok"], true);
    api.db.run("update worker set seen_at = clock_timestamp() - interval '1 min'").await;
    assert_eq!(check().await["ok"], false, "a silent worker serves nothing");
}

#[tokio::test]
async fn a_pool_whose_backend_cannot_be_used_shows_while_the_others_go_on() {
    let stage = Stage::set().await;
    let pools = file(
        "[pools.default]\n[pools.box]\nbackend = \"docker\"\n[pools.box.env]\nDOCKER_HOST = \"unix:///nowhere/docker.sock\"\n",
    );
    let worker = with_pools(stage.worker("a"), &pools)
        .may_warn(&["a backend cannot be used", "leftovers of the backend", "could not be prepared"])
        .start();
    let mut api = stage.api().start();
    let of_worker = listens_at(&worker).await;
    let of_api = api.prints("api ready on ").await.replace("api ready on ", "");
    let problem = "the engine cannot be reached: ";
    for (url, reason) in [(of_worker, problem.to_owned()), (of_api, format!("a: {problem}"))] {
        let check = until("the check is reported", async || {
            let (status, text) = get(&format!("{url}/readyz")).await;
            let answer: Value = serde_json::from_str(&text).unwrap();
            let pools = answer["checks"].as_array().unwrap().iter();
            let mut pools = pools.filter(|check| check["name"].as_str().unwrap().starts_with("pool "));
            let well = pools.clone().any(|check| check["name"] == "pool default" && check["ok"] == true);
            pools.find(|check| check["name"] == "pool box" && status == 200 && well).cloned()
        })
        .await;
        assert_eq!((&check["ok"], &check["required"]), (&json!(false), &json!(false)), "{check}");
        assert!(check["reason"].as_str().unwrap().starts_with(&reason), "{check}");
    }
    let lost = stage.hit().await;
    assert_eq!(stage.outcome(&lost.run).await.fallback_result.map(FallbackResult::as_str), Some("created"));
    let in_the_box = stage.platform.dispatch().await;
    schedule_in(&stage, "box", &in_the_box).await;
    let outcome = stage.outcome(&in_the_box.run).await;
    assert_eq!(
        outcome.fallback_result.map(FallbackResult::as_str),
        Some("failed"),
        "not skipped: tried, and reported"
    );
    assert!(outcome.error.unwrap().contains(problem));
    assert_eq!(api.terminate().await, Some(0));
    stage.audit(&[lost, in_the_box], vec![worker]).await;
}

/// How soon an operator's change must take effect in running workers.
const FELT_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_an_operator_changes_is_felt_by_running_workers_within_seconds() {
    let stage = Stage::set().await;
    let pools = file("[pools.default]\n[pools.other]\n");
    let worker = with_pools(stage.worker("a"), &pools).start();
    worker.says("worker started").await;
    let change = async |what: Value| {
        let change = serde_json::from_value(what).unwrap();
        let changed = stage.db.store.change_pool("default", &change, &Actor("ops".to_owned())).await;
        assert!(changed.unwrap().is_some());
        Instant::now()
    };

    change(json!({"paused": true})).await;
    let waits = stage.hit().await;
    // Due later and served by the same worker: once it is settled, the other would have been probed.
    let passes = stage.platform.dispatch().await;
    stage.db.run("update pool set delay_ms = 2000 where name = 'other'").await;
    schedule_in(&stage, "other", &passes).await;
    stage.outcome(&passes.run).await;
    assert!(stage.platform.simulator.probes(&waits.run).is_empty(), "a paused pool is not probed");
    let resumed = change(json!({"paused": false})).await;
    assert_eq!(stage.outcome(&waits.run).await.fallback_result.map(FallbackResult::as_str), Some("created"));
    assert!(resumed.elapsed() < FELT_WITHIN, "resumed: {:?}", resumed.elapsed());

    change(json!({"shadow": true})).await;
    let shadowed = stage.hit().await;
    assert_eq!(
        stage.outcome(&shadowed.run).await.fallback_result.map(FallbackResult::as_str),
        Some("suppressed")
    );
    assert!(stage.platform.simulator.creates(&shadowed.run).is_empty());

    change(json!({"shadow": false, "cap": 0})).await;
    let held = stage.hit().await;
    let row = stage.row("is held", &held.run, |row| row.hold_reason == Some(HoldReason::Cap)).await;
    assert!(row.lost_at.is_some() && row.create_permitted_at.is_none(), "{row:?}");
    let raised = change(json!({"cap": 1})).await;
    assert_eq!(stage.outcome(&held.run).await.fallback_result.map(FallbackResult::as_str), Some("created"));
    assert!(raised.elapsed() < FELT_WITHIN, "raised: {:?}", raised.elapsed());
    assert_eq!(stage.platform.simulator.creates(&held.run).len(), 1);
    stage.audit(&[waits, passes, shadowed, held], vec![worker]).await;
}

#[tokio::test]
async fn workers_are_listed_while_they_run_and_sign_off() {
    let stage = Stage::set().await;
    let mut worker = stage.worker("a").start();
    let seen = until("the worker is listed", async || stage.db.store.workers().await.unwrap().pop()).await;
    assert!(seen.running && seen.pools == ["default"] && seen.backends == ["gateway"], "{seen:?}");
    assert_eq!(seen.problems, [None]);
    assert_eq!(worker.terminate().await, Some(0));
    assert_eq!(stage.db.store.workers().await.unwrap(), []);
}

#[tokio::test]
async fn a_wrong_token_of_one_pool_never_shows_in_what_is_logged_or_stored() {
    let stage = Stage::set().await;
    let wrong = "tr_wgt_planted0planted0planted0";
    let pools = file(&format!("[pools.default.env]\nTRIGGER_WORKER_TOKEN = \"{wrong}\"\n"));
    let worker = with_pools(stage.worker("a"), &pools)
        .env("WARMPROOF_LOG", "warmproof=trace")
        .env("WARMPROOF_PROBE_ATTEMPTS", 1)
        .may_warn(&["probes failed"])
        .start();
    let hit = stage.hit().await;
    let outcome = stage.outcome(&hit.run).await;
    assert_eq!(outcome.outcome, OutcomeKind::ProbeError);
    assert!(outcome.error.unwrap().contains("unauthorized"));
    let mut worker = worker;
    assert_eq!(worker.terminate().await, Some(0));
    let reported = format!("{:?}{:?}", worker.stderr(), worker.stdout());
    assert!(!reported.contains("planted"), "{reported}");
    let secret = SimulatorOptions::default().managed_secret;
    assert!(!reported.contains(secret.expose_secret()));
}
