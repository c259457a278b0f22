//! Settings: what our statements were written and measured for, sent at the start of a session or, behind a
//! transaction pooler, at the start of each transaction.

use std::fmt::Write as _;
use std::time::Duration;

use super::Role;
use crate::config::database::{DatabaseConfig, PlanCacheMode};

/// How long a caller's statement waits for a row that another transaction holds.
const CALLERS_ROW_WAIT: Duration = Duration::from_millis(20);
/// How long a worker's statement waits. Ordinary writers finish long before.
const WORKERS_ROW_WAIT: Duration = Duration::from_millis(100);
/// How long a server may run a statement, unless configured otherwise.
const STATEMENT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Added to the server's limit on a statement to get our own: its answer has to travel.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// How durable the answer to a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// On disk, and on the standbys that the server waits for.
    Durable,
    /// In the server's memory: a crash may lose it (claims, renewals, cancels by connect).
    Relaxed,
}

/// How long a statement waits for a row that another transaction holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockWait {
    /// As long as the session's settings allow, in milliseconds. Then it fails and has written nothing.
    Short,
    /// As long as the statement may run.
    Patient,
    /// This long.
    AtMost(Duration),
}

/// The terms on which a unit of work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How durable it is.
    pub commit: Commit,
    /// How long it waits for rows.
    pub lock_wait: LockWait,
    /// How long the server may run one of its statements; `None`: as long as the session's settings allow.
    pub statement_timeout: Option<Duration>,
    /// On the connection that a worker keeps for its leases, if the process has one.
    pub for_leases: bool,
    /// Settings for the planner beside those of the session.
    pub planner: &'static [(&'static str, &'static str)],
}

impl Terms {
    /// Durable, with a short wait for rows: the defaults of a session.
    pub const DURABLE: Self = Self {
        commit: Commit::Durable,
        lock_wait: LockWait::Short,
        statement_timeout: None,
        for_leases: false,
        planner: &[],
    };
    /// Relaxed, with a short wait for rows: the defaults of a relaxed session.
    pub const RELAXED: Self = Self { commit: Commit::Relaxed, ..Self::DURABLE };
    /// For renewals: relaxed, and nothing else of the process is in their way.
    pub const LEASES: Self = Self { for_leases: true, ..Self::RELAXED };
    /// Durable, and waits for rows as long as a statement may run.
    pub const PATIENT: Self = Self { lock_wait: LockWait::Patient, ..Self::DURABLE };

    /// The same with a limit on each of its statements.
    #[must_use]
    pub const fn within(self, statement_timeout: Duration) -> Self {
        Self { statement_timeout: Some(statement_timeout), ..self }
    }

    /// The same with settings for the planner.
    #[must_use]
    pub const fn planned(self, planner: &'static [(&'static str, &'static str)]) -> Self {
        Self { planner, ..self }
    }

    /// The same with another wait for rows.
    #[must_use]
    pub const fn waiting(self, lock_wait: LockWait) -> Self {
        Self { lock_wait, ..self }
    }
}

/// The settings of all sessions of one process.
#[derive(Debug, Clone)]
pub struct Settings {
    schema: String,
    plan_cache_mode: PlanCacheMode,
    statement_timeout: Duration,
    /// How long durable and relaxed sessions wait for a lock by default; zero: as long as statements run.
    row_wait: [Duration; 2],
    /// The connections go through a transaction pooler.
    pooler: bool,
    /// Only the schema is set: for a benchmark's statements that are not ours.
    plain: bool,
}

impl Settings {
    /// For a configured process.
    #[must_use]
    pub fn of(config: &DatabaseConfig, role: Role) -> Self {
        Self {
            plan_cache_mode: config.plan_cache_mode,
            statement_timeout: config.statement_timeout,
            pooler: config.pooler,
            row_wait: match role {
                Role::Callers => [CALLERS_ROW_WAIT; 2],
                // A worker's relaxed statements skip rows that are held, and those of people read: both wait only
                // for a change of a table.
                Role::Worker | Role::People => [WORKERS_ROW_WAIT, Duration::ZERO],
            },
            ..Self::in_schema(&config.schema)
        }
    }

    /// The defaults, in this schema.
    #[must_use]
    pub fn in_schema(schema: &str) -> Self {
        Self {
            schema: schema.to_owned(),
            plan_cache_mode: PlanCacheMode::default(),
            statement_timeout: STATEMENT_TIMEOUT_DEFAULT,
            row_wait: [WORKERS_ROW_WAIT; 2],
            pooler: false,
            plain: false,
        }
    }

    /// The same, with nothing but the schema sent to the server.
    #[must_use]
    pub fn plain(self) -> Self {
        Self { plain: true, ..self }
    }

    /// The schema that all statements mean.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Whether the connections go through a transaction pooler.
    #[must_use]
    pub fn pooler(&self) -> bool {
        self.pooler
    }

    /// How long a unit may take as a whole, by our own clock.
    #[must_use]
    pub fn deadline(&self, terms: Terms) -> Duration {
        terms.statement_timeout.unwrap_or(self.statement_timeout) + ANSWER_MARGIN
    }

    /// What a session starts with; `None` where nothing would outlive a transaction.
    #[must_use]
    pub fn of_session(&self, commit: Commit) -> Option<String> {
        (!self.pooler).then(|| {
            let mut list = self.list();
            if !self.plain {
                list.extend(watches());
                let own = Terms { commit, ..Terms::DURABLE };
                list.extend(self.of_terms(own));
            }
            set(&list, "false")
        })
    }

    /// How a transaction on these terms begins; `None` where a single statement is enough.
    #[must_use]
    pub fn of_unit(&self, terms: Terms, transaction: bool) -> Option<String> {
        let list = match (self.pooler, self.are_the_sessions_own(terms)) {
            (true, _) => {
                let mut list = self.list();
                list.extend(self.of_terms(terms));
                list
            }
            (false, true) if transaction => Vec::new(),
            (false, true) => return None,
            (false, false) => self.of_terms(terms),
        };
        let mut text = "begin isolation level read committed".to_owned();
        if !list.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(text, "; {}", set(&list, "true"));
        }
        Some(text)
    }

    /// Whether the defaults of a session of that kind are these terms.
    fn are_the_sessions_own(&self, terms: Terms) -> bool {
        let own = Terms { commit: terms.commit, ..Terms::DURABLE };
        terms.planner.is_empty()
            && terms.statement_timeout.is_none_or(|timeout| timeout == self.statement_timeout)
            && self.lock_wait(terms) == self.lock_wait(own)
    }

    /// For `lock_timeout`; zero sets no limit of its own, and that of the statement holds.
    fn lock_wait(&self, terms: Terms) -> Duration {
        match (terms.lock_wait, terms.commit) {
            (LockWait::Short, Commit::Durable) => self.row_wait[0],
            (LockWait::Short, Commit::Relaxed) => self.row_wait[1],
            (LockWait::Patient, _) => Duration::ZERO,
            (LockWait::AtMost(wait), _) => wait,
        }
    }

    /// What plans and rules depend on, whichever defaults role and database have.
    fn list(&self) -> Vec<(&'static str, String)> {
        let schema = format!("\"{}\"", self.schema.replace('"', "\"\""));
        let mut list = vec![("search_path", schema)];
        if self.plain {
            return list;
        }
        list.extend(
            [
                // Each key is found through the index. A hot table that is nearly empty when a statement is
                // planned would be read whole, and that plan kept while the table fills.
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("jit", "off"),
                // A batch of one seems cheaper than the general plan expects, so the server would plan it
                // again at each call, which takes longer than running it.
                ("plan_cache_mode", self.plan_cache_mode.as_str()),
                // Our sessions never stay idle in a transaction; a defect that leaves one must not pin dead
                // rows. A limit of the role's own may be shorter than a round trip.
                ("idle_in_transaction_session_timeout", "10000"),
                // A policy on one of our tables would hide promises; with this setting it is an error.
                ("row_security", "off"),
                // We compare and show text that the server makes of an instant.
                ("timezone", "UTC"),
                ("datestyle", "ISO, MDY"),
                ("intervalstyle", "postgres"),
            ]
            .map(|(name, value)| (name, value.to_owned())),
        );
        list
    }

    fn of_terms(&self, terms: Terms) -> Vec<(&'static str, String)> {
        let timeout = terms.statement_timeout.unwrap_or(self.statement_timeout);
        let wait = self.lock_wait(terms);
        let mut list = vec![
            ("statement_timeout", timeout.as_millis().to_string()),
            ("lock_timeout", wait.as_millis().to_string()),
        ];
        match terms.commit {
            Commit::Durable => {}
            Commit::Relaxed => list.push(("synchronous_commit", "off".to_owned())),
        }
        list.extend(terms.planner.iter().map(|(name, value)| (*name, (*value).to_owned())));
        list
    }
}

/// What can be set only for a session: its supervision while nothing runs in it.
fn watches() -> Vec<(&'static str, String)> {
    [
        // The rules depend on each statement seeing what was committed before it.
        ("default_transaction_isolation", "read committed"),
        // Our idle sessions are needed again soon.
        ("idle_session_timeout", "0"),
        // Frees the locks of a client that vanished with its machine within half a minute.
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "20000"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

/// One statement that makes all settings, for the session or for the transaction.
fn set(list: &[(&str, String)], local: &str) -> String {
    let calls: Vec<String> = list
        .iter()
        .map(|(name, value)| format!("set_config('{name}', '{}', {local})", value.replace('\'', "''")))
        .collect();
    format!("select {}", calls.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directly_connected_a_hot_statement_needs_no_transaction_of_its_own() {
        let settings = Settings::in_schema("warmproof");
        assert_eq!(settings.of_unit(Terms::DURABLE, false), None);
        assert_eq!(settings.of_unit(Terms::RELAXED, false), None);
        let patient = settings.of_unit(Terms::PATIENT, false).unwrap();
        assert!(patient.starts_with("begin isolation level read committed; select set_config("), "{patient}");
        assert!(patient.contains("('lock_timeout', '0', true)"), "{patient}");
        let session = settings.of_session(Commit::Relaxed).unwrap();
        assert!(session.contains("('synchronous_commit', 'off', false)"), "{session}");
    }

    #[test]
    fn behind_a_pooler_every_unit_brings_all_its_settings_and_a_session_none() {
        let settings = Settings { pooler: true, ..Settings::in_schema("warm\"proof") };
        assert_eq!(settings.of_session(Commit::Durable), None);
        let unit = settings.of_unit(Terms::RELAXED, false).unwrap();
        for part in [
            "'\"warm\"\"proof\"'",
            "enable_seqscan",
            "statement_timeout",
            "'synchronous_commit', 'off', true",
        ] {
            assert!(unit.contains(part), "{part} in {unit}");
        }
    }

    #[test]
    fn a_deadline_of_ours_is_later_than_the_servers() {
        let settings = Settings::in_schema("warmproof");
        let terms = Terms::DURABLE.within(Duration::from_secs(2));
        assert!(settings.deadline(terms) > Duration::from_secs(2));
        assert!(settings.deadline(Terms::DURABLE) > STATEMENT_TIMEOUT_DEFAULT);
    }
}
