//! The doctor's checks of the server and of the connection to it.

use super::{Finding, Severity};
use crate::config::database::DatabaseConfig;
use crate::config::database::address::TlsMode;
use crate::store::doctor::ServerFacts;

/// Judges what was read of the server.
pub(super) fn of_server(facts: &ServerFacts, config: &DatabaseConfig) -> Vec<Finding> {
    let names = |names: &[String]| names.join(", ");
    vec![
        Finding::judged(
            "writes",
            !facts.read_only,
            Severity::Error,
            if facts.read_only { "the server refuses writes" } else { "the server accepts writes" }
                .to_owned(),
            "a standby, a full disk, or `default_transaction_read_only` of the role or database; \
             with several hosts in WARMPROOF_DATABASE_URL, Warmproof finds the one that accepts writes",
        ),
        of_encryption(facts, config),
        of_standbys(facts, config.synchronous_standbys_min),
        Finding::judged(
            "publications",
            facts.without_identity.is_empty(),
            Severity::Error,
            match facts.without_identity.as_slice() {
                [] => "no publication prevents changes of rows".to_owned(),
                tables => {
                    format!("a publication for all tables refuses updates and deletes of {}", names(tables))
                }
            },
            "`warmproof migrate`, or `alter table … replica identity full`",
        ),
        Finding::judged(
            "row security",
            facts.row_security.is_empty(),
            Severity::Error,
            match facts.row_security.as_slice() {
                [] => "no table of ours uses it".to_owned(),
                tables => format!(
                    "enabled on {}: every statement there fails, because otherwise some would miss rows",
                    names(tables)
                ),
            },
            "`alter table … disable row level security`",
        ),
        Finding::judged(
            "old snapshots",
            facts.prepared_transactions.is_empty() && facts.slots.is_empty(),
            Severity::Warning,
            of_snapshots(facts),
            "they keep dead rows: run `rollback prepared '…'` or `select pg_drop_replication_slot('…')`",
        ),
    ]
}

fn of_snapshots(facts: &ServerFacts) -> String {
    let list =
        |kind: &str, names: &[String]| (!names.is_empty()).then(|| format!("{kind} {}", names.join(", ")));
    let held = [
        list("prepared transactions:", &facts.prepared_transactions),
        list("unused replication slots:", &facts.slots),
    ];
    let held: Vec<String> = held.into_iter().flatten().collect();
    if held.is_empty() {
        "no prepared transaction and no unused slot holds one".to_owned()
    } else {
        held.join("; ")
    }
}

/// If a connection leaves the machine and the server is not verified, others can read and change it on the
/// way.
fn of_encryption(facts: &ServerFacts, config: &DatabaseConfig) -> Finding {
    let mode = config.address.tls.mode;
    let leaves = config.address.hosts.iter().any(crate::config::database::address::Host::is_remote);
    let encrypted = if facts.encrypted { "encrypted" } else { "not encrypted" };
    let verified = match mode {
        TlsMode::VerifyFull => "the server's authority and name are verified",
        TlsMode::VerifyCa => "the server's authority is verified, its name is not",
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => "the server is not verified",
    };
    Finding::judged(
        "encryption",
        !leaves || mode.verifies(),
        Severity::Warning,
        format!("sslmode={}: {encrypted}; {verified}", mode.as_str()),
        "set `sslmode=verify-full` in WARMPROOF_DATABASE_URL; `sslrootcert=` names an authority of your own",
    )
}

fn of_standbys(facts: &ServerFacts, wanted: u32) -> Finding {
    let names = facts.synchronous_standby_names.as_str();
    let there = match (names, facts.synchronous_standbys) {
        ("", _) => Some(0),
        (_, there) => there,
    };
    let message = match (names, there) {
        ("", _) => "commits wait for no standby: a failover may lose the latest verifications".to_owned(),
        (_, Some(there)) => format!("commits wait for standbys ({names}); {there} are connected"),
        (_, None) => {
            format!("commits wait for standbys ({names}); this role may not see whether they are connected")
        }
    };
    let hint =
        "set `synchronous_standby_names`; docs/operating.md explains what a failover without loss requires";
    let enough = there.is_none_or(|there| there >= i64::from(wanted));
    Finding::judged("standbys", enough, Severity::Warning, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DatabaseSettings;
    use crate::config::environment::Environment;

    fn facts() -> ServerFacts {
        ServerFacts {
            read_only: false,
            encrypted: true,
            synchronous_standby_names: String::new(),
            synchronous_standbys: Some(0),
            without_identity: Vec::new(),
            row_security: Vec::new(),
            prepared_transactions: Vec::new(),
            slots: Vec::new(),
            schemas: vec!["warmproof".to_owned()],
        }
    }

    fn config(url: &str, standbys: &str) -> DatabaseConfig {
        let pairs =
            [("WARMPROOF_DATABASE_URL", url), ("WARMPROOF_DATABASE_SYNCHRONOUS_STANDBYS_MIN", standbys)];
        DatabaseSettings::from_environment(&Environment::from_pairs(pairs)).expect("settings").database
    }

    fn severity(facts: &ServerFacts, config: &DatabaseConfig, check: &str) -> Severity {
        of_server(facts, config)
            .into_iter()
            .find(|finding| finding.check == check)
            .expect("a finding")
            .severity
    }

    #[test]
    fn a_connection_that_leaves_the_machine_unverified_is_warned_of() {
        for (url, expected) in [
            ("postgres://ada@localhost/app", Severity::Ok),
            ("postgres://ada@db.example/app?sslmode=require", Severity::Warning),
            ("postgres://ada@db.example/app", Severity::Warning),
            ("postgres://ada@localhost,db.example/app", Severity::Warning),
            ("postgres://ada@db.example/app?sslmode=verify-full", Severity::Ok),
        ] {
            assert_eq!(severity(&facts(), &config(url, "0"), "encryption"), expected, "{url}");
        }
    }

    #[test]
    fn what_keeps_dead_rows_is_named() {
        let url = config("postgres://ada@localhost/app", "0");
        assert_eq!(severity(&facts(), &url, "old snapshots"), Severity::Ok);
        let held = ServerFacts {
            prepared_transactions: vec!["transfer-7".to_owned()],
            slots: vec!["old_standby".to_owned()],
            ..facts()
        };
        assert_eq!(severity(&held, &url, "old snapshots"), Severity::Warning);
        let message = of_snapshots(&held);
        assert!(message.contains("transfer-7") && message.contains("old_standby"), "{message}");
    }

    #[test]
    fn missing_standbys_are_a_warning_only_where_they_are_asked_for() {
        let url = "postgres://ada@localhost/app";
        assert_eq!(severity(&facts(), &config(url, "0"), "standbys"), Severity::Ok);
        assert_eq!(severity(&facts(), &config(url, "1"), "standbys"), Severity::Warning);
        let named = ServerFacts { synchronous_standby_names: "*".to_owned(), ..facts() };
        assert_eq!(severity(&named, &config(url, "1"), "standbys"), Severity::Warning, "none is there");
        let there = ServerFacts { synchronous_standbys: Some(1), ..named.clone() };
        assert_eq!(severity(&there, &config(url, "1"), "standbys"), Severity::Ok);
        let unseen = ServerFacts { synchronous_standbys: None, ..named };
        assert_eq!(severity(&unseen, &config(url, "1"), "standbys"), Severity::Ok);
    }
}
