//! Servers with settings and objects that others made: Warmproof works with each, or names it.

use std::time::Duration;

use serde_json::{Value, json};
use warmproof::config::database::DatabaseConfig;
use warmproof::domain::outcome::{Ending, FallbackResult, OutcomeKind};
use warmproof::domain::verification::{CancelReason, Cancelled};
use warmproof::store::connect::{Role, Terms};
use warmproof::store::pending::PendingFilter;
use warmproof::store::{Remedy, Store};

use warmproof_testkit::db::{Db, database_config, db, keep_up, server, upkeep_terms};
use warmproof_testkit::dispatch::{
    DELAY, cancellation, claim, everything, fresh, schedule, settlement, started,
};
use warmproof_testkit::platform::SOON;
use warmproof_testkit::pooler::PoolMode;
use warmproof_testkit::process::Program;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

/// A process's own connections, opened now: settings of a database reach those that come after them.
fn store_of(db: &Db) -> Store {
    let config = DatabaseConfig { connections_max: 4, ..database_config(&db.url()) };
    Store::connect_lazy(&config, Role::Worker)
}

/// Every step that a verification may take.
async fn live(store: &Store) {
    for run in ["run_a", "run_b", "run_c"] {
        let _ = schedule(store, fresh(run, "snapshot_1")).await;
    }
    // Longer than the bounds that a role may have.
    sqlx::query("select pg_sleep(0.3)").execute(store.db().on(Terms::DURABLE)).await.unwrap();
    let claims = claim(store, everything("default", 10)).await;
    assert_eq!(claims.len(), 3);
    let keys: Vec<_> = claims.iter().map(|claim| claim.key.clone()).collect();
    assert_eq!(store.renew(&keys, Duration::from_secs(5)).await.unwrap().renewed.len(), 3);
    let _ = store.mark_lost(&claims[0].key, 1).await.unwrap();
    let _ = store.permit_create(&claims[0].key, Duration::from_secs(1)).await.unwrap();
    let _ = store.count_create(&claims[0].key, "runner", Duration::from_secs(1)).await.unwrap();
    let created = Ending::Fallback { result: FallbackResult::Created, error: None };
    for settled in
        store.settle(&[settlement(&claims[0], created), settlement(&claims[1], started())]).await.unwrap()
    {
        assert!(settled.is_ok(), "{settled:?}");
    }
    let run = claims[2].key.run_id.as_str();
    let gone = store.cancel(&[cancellation(run, None, CancelReason::Connected)]).await.unwrap();
    assert!(matches!(gone[0], Cancelled::Cancelled { .. }), "{gone:?}");
    let absent = store.cancel(&[cancellation("run_absent", None, CancelReason::Operator)]).await.unwrap();
    assert_eq!(absent, [Cancelled::NotFound]);
    let folded = keep_up(store, upkeep_terms(14)).await.counts_folded;
    assert!(folded > 0);
    assert_eq!(store.conservation().await.unwrap().unaccounted, 0);
}

#[tokio::test]
async fn settings_of_a_role_or_database_change_nothing() {
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "statement_timeout = '200ms'",
        "lock_timeout = '1ms'",
        "idle_session_timeout = '100ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "search_path = 'nowhere'",
        "search_path = ''",
        "row_security = on",
        "timezone = 'Pacific/Chatham'",
        "datestyle = 'German'",
        "intervalstyle = 'iso_8601'",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
        "enable_indexscan = off",
        "jit = on",
        "plan_cache_mode = 'force_custom_plan'",
        "standard_conforming_strings = off",
        "client_min_messages = 'debug1'",
        "session_replication_role = 'origin'",
    ] {
        let db = db().await;
        db.run(&format!("alter database {} set {setting}", db.name)).await;
        println!("with {setting}");
        live(&store_of(&db)).await;
    }
}

#[tokio::test]
async fn schedules_go_on_after_the_server_ends_an_idle_session() {
    let db = db().await;
    let store = store_of(&db);
    let _ = schedule(&store, fresh("run_before", "snapshot_1")).await;
    db.run(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = current_database() and application_name = 'warmproof'",
    )
    .await;
    // A call that was sent before the server's closing message arrived may fail once; the next call has another session.
    until("schedules go on", async || store.schedule(&[fresh("run_after", "snapshot_1")], DELAY).await.ok())
        .await;
}

#[tokio::test]
async fn a_read_only_database_is_named_and_left_when_it_takes_writes_again() {
    let stage = Stage::set().await;
    let name = &stage.db.name;
    stage.db.run(&format!("alter database {name} set default_transaction_read_only = on")).await;
    // Through a pooler it may meet such a session later, at any statement.
    let worker = stage.worker("waits").may_warn(&["read-only transaction"]).start();
    worker.says("waiting for the database").await;
    let found = doctor(&stage.db).await;
    let writes = found.iter().find(|finding| finding["check"] == "writes").expect("a finding");
    assert_eq!(writes["severity"], "error");
    let refused = store_of(&stage.db).schedule(&[fresh("run_a", "snapshot_1")], DELAY).await.unwrap_err();
    assert_eq!(refused.remedy(), Remedy::Mend("the database is read-only"));

    let mut others = stage.db.pool().acquire().await.unwrap();
    sqlx::raw_sql("set default_transaction_read_only = off").execute(&mut *others).await.unwrap();
    let reset = format!("alter database {name} reset default_transaction_read_only");
    sqlx::raw_sql(sqlx::AssertSqlSafe(reset)).execute(&mut *others).await.unwrap();
    drop(others);
    // Through a pooler, sessions of the server that began read-only may be met for a while.
    let hit = stage.platform.dispatch().await;
    let new = warmproof::domain::dispatch::Dispatch::parse(hit.message.clone(), None).unwrap();
    let new =
        warmproof::domain::verification::NewVerification { dispatch: new, ..fresh("run_x", "snapshot_1") };
    until("a schedule is written", async || {
        stage.db.store.schedule(std::slice::from_ref(&new), SOON).await.ok()
    })
    .await;
    assert_eq!(stage.outcome(&hit.run).await.outcome, OutcomeKind::Fallback);
    stage.platform.executed(&hit).await;
    stage.audit(&[hit], vec![worker]).await;
}

#[tokio::test]
async fn a_publication_for_all_tables_stops_no_upkeep() {
    let db = db().await;
    db.run("create publication everything for all tables").await;
    live(&store_of(&db)).await;
    let _ = schedule(&db.store, fresh("run_d", "snapshot_1")).await;
    let done = keep_up(&db.store, upkeep_terms(16)).await;
    assert!(done.counts_folded > 0 && done.partitions_created > 0, "{done:?}");
    let publications = |found: &[Value]| {
        found.iter().find(|finding| finding["check"] == "publications").expect("a finding")["severity"]
            .clone()
    };
    assert_eq!(publications(&doctor(&db).await), json!("ok"));
    db.run("alter table outcome_count replica identity default").await;
    assert_eq!(publications(&doctor(&db).await), json!("error"));
    let failed = db.store.upkeep(upkeep_terms(18)).await;
    let parts: Vec<_> = failed.failed.iter().map(|(part, _)| part.as_str()).collect();
    assert_eq!(parts, ["counts"], "and no other part");
    assert!(failed.partitions_created > 0, "{failed:?}");
}

#[tokio::test]
async fn row_security_on_a_table_is_named_and_hides_nothing() {
    let db = db().await;
    let _ = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    db.run("do $$ begin create role plain nologin; exception when duplicate_object then null; end $$").await;
    db.run("grant usage on schema warmproof to plain").await;
    db.run("grant all on all tables in schema warmproof to plain").await;
    db.run("alter table pending enable row level security").await;
    let options =
        warmproof_testkit::db::server().connect_options().database(&db.name).options([("role", "plain")]);
    let store = Store::new(warmproof::store::connect::database(options, "warmproof", 4));
    let error = store.pending_page(&PendingFilter::default(), None, 1).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Mend("row-level security is enabled on a table of the schema"));
    assert!(error.to_string().contains("pending"), "{error}");
    let found = doctor(&db).await;
    let found = found.iter().find(|finding| finding["check"] == "row security").expect("a finding");
    assert!(
        found["severity"] == "error" && found["message"].as_str().unwrap().contains("pending"),
        "{found}"
    );
}

#[tokio::test]
async fn a_missing_partition_is_named_and_an_api_alone_makes_it() {
    let stage = Stage::set().await;
    let db = &stage.db;
    let _ = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    let today = "(select 'outcome_' || to_char(now() at time zone 'utc', 'YYYYMMDD'))";
    let drop_today = format!("do $$ begin execute 'drop table ' || {today}; end $$");
    db.run(&drop_today).await;
    let reason = CancelReason::Operator;
    let error = db.store.cancel(&[cancellation("run_a", None, reason)]).await.unwrap_err();
    assert!(matches!(error.remedy(), Remedy::Mend(what) if what.contains("partition")), "{error}");
    let _api = stage.api().start();
    until("the api has made it", async || {
        db.value::<bool>(&format!("select to_regclass({today}) is not null")).await.then_some(())
    })
    .await;
    let cancelled = db.store.cancel(&[cancellation("run_a", None, reason)]).await.unwrap();
    assert!(matches!(cancelled[0], Cancelled::Cancelled { .. }));
    db.assert_conserved().await;
}

#[tokio::test]
async fn roles_that_may_not_be_created_are_reported_with_what_to_grant() {
    let db = db().await;
    db.run("do $$ begin create role humble login; exception when duplicate_object then null; end $$").await;
    db.run(&format!("grant create on database {} to humble", db.name)).await;
    let url = db.direct_url().replace("user=postgres", "user=humble");
    let environment = [("WARMPROOF_DATABASE_URL", url), ("WARMPROOF_SCHEMA", "humble".to_owned())];
    let environment: std::collections::BTreeMap<_, _> =
        environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut plain =
        Program::of(&["migrate"], environment.clone()).env("WARMPROOF_DATABASE_POOLER", false).start();
    assert_eq!(plain.ended().await, Some(0), "{:?}", plain.stderr());
    let mut roles =
        Program::of(&["migrate", "--roles"], environment).env("WARMPROOF_DATABASE_POOLER", false).start();
    assert_eq!(roles.ended().await, Some(1));
    let reported = roles.stderr().join("\n");
    assert!(reported.contains("hint: grant the login") && reported.contains("createrole"), "{reported}");
}

#[tokio::test]
async fn a_pooler_without_its_setting_is_named_before_it_gets_a_setting_of_ours() {
    let stage = Stage::set().await;
    let url = stage.db.pooled_url(PoolMode::Transaction);
    // Each of its tasks may meet the statements and the settings of other clients.
    let worker = stage.worker("a").may_warn(&["error returned from database"]);
    let worker = worker.env("WARMPROOF_DATABASE_URL", &url).env("WARMPROOF_DATABASE_POOLER", false);
    let mut worker = worker.start();
    worker.says("set WARMPROOF_DATABASE_POOLER=true").await;
    worker.kill().await;
    let environment = [("WARMPROOF_DATABASE_URL".to_owned(), url)].into();
    let mut process = Program::of(&["doctor"], environment).env("WARMPROOF_DATABASE_POOLER", false).start();
    process.ended().await;
    let found = process.stdout().join("\n");
    assert!(found.contains("ERROR    pooler"), "{found}");
}

/// The kernel's own list of connections: the timer of an idle one that is kept alive has the number 2.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_watches_connections_to_the_database() {
    let db = db().await;
    let server = server().tcp_addr().expect("a port");
    let store = Store::connect_lazy(&database_config(&db.url_through(server)), Role::Worker);
    sqlx::query("select 1").execute(store.db().on(Terms::DURABLE)).await.unwrap();
    until("a timer on an idle connection", async || {
        let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let remote = format!(":{:04X}", server.port());
        let watched = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[2].ends_with(&remote) && fields[5].starts_with("02:")
        };
        connections.lines().skip(1).find(watched).map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_schema_that_is_elsewhere_is_named() {
    let db = db().await;
    let environment = [("WARMPROOF_DATABASE_URL".to_owned(), db.url())].into();
    let mut process = Program::of(&["doctor"], environment).env("WARMPROOF_SCHEMA", "warm").start();
    assert_eq!(process.ended().await, Some(2));
    let reported = process.stdout().join("\n");
    assert!(reported.contains("Warmproof in `warmproof`: set WARMPROOF_SCHEMA"), "{reported}");
}

/// The findings of the doctor.
async fn doctor(db: &Db) -> Vec<Value> {
    let environment = [("WARMPROOF_DATABASE_URL".to_owned(), db.url())].into();
    let mut process = Program::of(&["doctor", "--json"], environment).start();
    process.ended().await;
    let answer: Value = serde_json::from_str(&process.stdout().join("\n")).expect("JSON");
    answer["findings"].as_array().expect("findings").clone()
}
