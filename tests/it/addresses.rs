//! What a process reports about an address, a password or a certificate that does not work. It prints none of their
//! values.

use std::collections::BTreeMap;
use std::io::Write;

use warmproof::domain::outcome::OutcomeKind;

use warmproof_testkit::db::{Db, db, server};
use warmproof_testkit::process::{Program, WITHOUT_A_DATABASE};
use warmproof_testkit::stage::Stage;

/// The error of a command that cannot connect.
async fn reported(url: &str) -> String {
    let environment: BTreeMap<String, String> =
        [("WARMPROOF_DATABASE_URL".to_owned(), url.to_owned())].into();
    let mut process = Program::of(&["pools"], environment).start();
    assert_eq!(process.ended().await, Some(1), "{url}");
    process.stderr().join("\n")
}

#[tokio::test]
async fn a_failed_connect_names_the_server_and_the_systems_error() {
    for (url, expected) in [
        ("postgres://a@127.0.0.1:1/x", "could not connect to 127.0.0.1:1: connection refused"),
        ("postgres://a@127.0.0.1:1,[::1]:2/x", "could not connect to [::1]:2: "),
        (
            "postgres://a@nowhere.invalid/x",
            "could not connect to nowhere.invalid:5432: failed to lookup address",
        ),
        ("postgres://a@/x?host=/nowhere", "could not connect to /nowhere/.s.PGSQL.5432: no such socket"),
    ] {
        let reported = reported(url).await;
        assert!(reported.contains(expected), "{url}: {reported}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_refused_by_name_and_its_secrets_stay_secret() {
    for (url, expected) in [
        ("postgres://a:hunter#2@h/x", "percent-encode it: `%23` for `#`"),
        ("postgres://a:hunter/2@h/x", "holds a `/`"),
        ("postgres://a:hunter?2@h/x", "holds a `?`"),
        ("postgres://a@::1/x", "put it in brackets"),
        ("postgres://a@h/x?sslpassword=hunter2", "`sslpassword`, which is not supported"),
        ("postgres://a@h/x?channel_binding=require", "`channel_binding`, which is not supported"),
        ("postgres://a@h/x?unheard_of=hunter2", "`unheard_of`, which is not supported"),
        ("postgres://a@h/x?target_session_attrs=standby", "read-write"),
    ] {
        let reported = reported(url).await;
        assert!(
            reported.contains("`WARMPROOF_DATABASE_URL`") && reported.contains(expected),
            "{url}: {reported}"
        );
        assert!(!reported.contains("hunter"), "{reported}");
    }
}

#[tokio::test]
async fn variables_of_the_driver_are_refused_or_without_effect() {
    let db = db().await;
    let run = async |name: &str, value: &str| {
        let environment = [("WARMPROOF_DATABASE_URL".to_owned(), db.url())].into();
        let mut process = Program::of(&["pools"], environment).env(name, value).start();
        let code = process.ended().await;
        (code, process.stderr().join("\n"))
    };
    for (name, value) in [
        ("PGHOST", "nowhere.invalid"),
        ("PGPORT", "1"),
        ("PGUSER", "nouser"),
        ("PGDATABASE", "none"),
        ("PGPASSWORD", "wrong"),
        ("PGSSLMODE", "verify-full"),
        ("PGAPPNAME", "x"),
    ] {
        let (code, reported) = run(name, value).await;
        assert_eq!(code, Some(0), "{name}: {reported}");
    }
    for name in ["PGOPTIONS", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"] {
        let (code, reported) = run(name, "hunter2").await;
        assert!(
            code == Some(1) && reported.contains(&format!("`{name}`")) && !reported.contains("hunter2"),
            "{reported}"
        );
    }
}

/// A login with a password, on the server's own rules for it.
async fn with_password(db: &Db, password: &str) {
    let alter = format!(
        "do $$ begin create role locked login superuser; exception when duplicate_object then null; end $$;
         alter role locked password '{password}'"
    );
    let mut connection = db.pool().acquire().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(&mut *connection).await.unwrap();
}

#[tokio::test]
async fn a_password_that_is_rotated_in_a_file_needs_no_restart() {
    let stage = Stage::set().await;
    // This server trusts every login and asks for no password, so the test revokes the role's right to log in instead.
    with_password(&stage.db, "first").await;
    let address = server().tcp_addr().expect("loopback");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let write = |file: &mut tempfile::NamedTempFile, user: &str| {
        file.as_file().set_len(0).unwrap();
        std::io::Seek::rewind(file).unwrap();
        writeln!(file, "postgres://{user}:first@{address}/{}?sslmode=disable", stage.db.name).unwrap();
        file.flush().unwrap();
    };
    write(&mut file, "locked");
    let url = format!("file://{}", file.path().display());
    let worker = stage.worker("a").env("WARMPROOF_DATABASE_URL", url).may_warn(WITHOUT_A_DATABASE).start();
    let before = stage.hit().await;
    assert_eq!(stage.outcome(&before.run).await.outcome, OutcomeKind::Fallback);
    // The old login is closed, and its sessions end; the file names the new one.
    write(&mut file, "postgres");
    stage.db.run("alter role locked nologin").await;
    stage
        .db
        .run("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'locked'")
        .await;
    let after = stage.hit().await;
    assert_eq!(stage.outcome(&after.run).await.outcome, OutcomeKind::Fallback);
    for hit in [&before, &after] {
        stage.platform.executed(hit).await;
    }
    stage.audit(&[before, after], vec![worker]).await;
}

#[tokio::test]
async fn a_proxy_that_the_environment_names_is_ignored_for_all_and_named() {
    let stage = Stage::set().await;
    let nowhere = "http://127.0.0.1:1";
    let worker = stage
        .worker("a")
        .env("HTTP_PROXY", nowhere)
        .env("http_proxy", nowhere)
        .env("ALL_PROXY", nowhere)
        .start();
    worker.says("the environment names a proxy, which is ignored").await;
    let lost = stage.hit().await;
    assert_eq!(
        stage.outcome(&lost.run).await.outcome,
        OutcomeKind::Fallback,
        "probed, and started through the gateway"
    );
    stage.platform.executed(&lost).await;
    stage.audit(&[lost], vec![worker]).await;
}
