//! Settings: what our statements were written and measured for, said at the start of a session or, behind a
//! transaction pooler, at the start of each transaction.

use std::fmt::Write as _;
use std::time::Duration;

use super::Role;
use crate::config::database::{DatabaseConfig, PlanCacheMode};

/// How long a caller's statement waits for a row that another transaction holds.
const CALLERS_ROW_WAIT: Duration = Duration::from_millis(20);
/// How long a worker's statement does. Ordinary writers are through long before.
const WORKERS_ROW_WAIT: Duration = Duration::from_millis(100);
/// How long a server may run a statement, where nothing else is configured.
const STATEMENT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Added to the server's bound on a statement for our own: its answer has to travel.
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
    /// As long as the session's settings say: milliseconds. Then it fails and has written nothing.
    Short,
    /// As long as the statement may run.
    Patient,
    /// So long.
    AtMost(Duration),
}

/// On what terms a unit of work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How durable it is.
    pub commit: Commit,
    /// How long it waits for rows.
    pub lock_wait: LockWait,
    /// How long the server may run one of its statements; `None`: as long as the session's settings say.
    pub statement_timeout: Option<Duration>,
    /// What the planner is told beside the session's settings.
    pub planner: &'static [(&'static str, &'static str)],
}

impl Terms {
    /// Durable, with a short wait for rows: what a session gives by itself.
    pub const DURABLE: Self =
        Self { commit: Commit::Durable, lock_wait: LockWait::Short, statement_timeout: None, planner: &[] };
    /// Relaxed, with a short wait for rows: what a session of that kind gives by itself.
    pub const RELAXED: Self = Self { commit: Commit::Relaxed, ..Self::DURABLE };
    /// Durable, and as patient as a statement may be.
    pub const PATIENT: Self = Self { lock_wait: LockWait::Patient, ..Self::DURABLE };

    /// The same with a bound on each of its statements.
    #[must_use]
    pub const fn within(self, statement_timeout: Duration) -> Self {
        Self { statement_timeout: Some(statement_timeout), ..self }
    }

    /// The same with settings of the planner's own.
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
    /// How long durable and relaxed sessions wait for a lock by themselves; zero: as long as a statement may run.
    row_wait: [Duration; 2],
    /// A transaction pooler stands in between.
    pooler: bool,
    /// Only where our names are: for a benchmark's statements that are not ours.
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
                // What is relaxed there skips rows that are held, and waits for nothing but a change of a table.
                Role::Worker => [WORKERS_ROW_WAIT, Duration::ZERO],
                Role::People => [Duration::ZERO; 2],
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

    /// The same, with nothing but the schema said to the server.
    #[must_use]
    pub fn plain(self) -> Self {
        Self { plain: true, ..self }
    }

    /// Whether a transaction pooler stands in between.
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

    /// How a transaction on these terms begins; `None` where a statement by itself will do.
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

    /// Whether a session of that kind gives these terms by itself.
    fn are_the_sessions_own(&self, terms: Terms) -> bool {
        let own = Terms { commit: terms.commit, ..Terms::DURABLE };
        terms.planner.is_empty()
            && terms.statement_timeout.is_none_or(|timeout| timeout == self.statement_timeout)
            && self.lock_wait(terms) == self.lock_wait(own)
    }

    /// For `lock_timeout`; zero has no bound of its own, and the statement's holds.
    fn lock_wait(&self, terms: Terms) -> Duration {
        match (terms.lock_wait, terms.commit) {
            (LockWait::Short, Commit::Durable) => self.row_wait[0],
            (LockWait::Short, Commit::Relaxed) => self.row_wait[1],
            (LockWait::Patient, _) => Duration::ZERO,
            (LockWait::AtMost(wait), _) => wait,
        }
    }

    /// What plans and rules rely on, whatever role and database say by themselves.
    fn list(&self) -> Vec<(&'static str, String)> {
        let schema = format!("\"{}\"", self.schema.replace('"', "\"\""));
        let mut list = vec![("search_path", schema)];
        if self.plain {
            return list;
        }
        list.extend(
            [
                // Each key is looked up in the index. A hot table that is nearly empty when a statement is
                // planned would be read whole, and that plan kept while the table fills.
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("jit", "off"),
                // A batch of one looks cheaper than the general plan expects, so that the server would plan it
                // anew at each call, which takes longer than running it.
                ("plan_cache_mode", self.plan_cache_mode.as_str()),
                // Nothing of ours stays idle in a transaction; a defect that does must not pin dead rows. A bound of
                // the role's own may be shorter than a round trip.
                ("idle_in_transaction_session_timeout", "10000"),
                // A policy on one of our tables would hide promises; an error says that there is one.
                ("row_security", "off"),
                // Text that the server makes of an instant is compared and shown.
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

/// What only a session can say: how it is watched while nothing runs in it.
fn watches() -> Vec<(&'static str, String)> {
    [
        // The rules rely on each statement seeing what was committed before it.
        ("default_transaction_isolation", "read committed"),
        // An idle session of ours is one that is wanted soon.
        ("idle_session_timeout", "0"),
        // A client that vanished with its machine gives its locks back within half a minute.
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
    fn a_deadline_of_ours_lies_behind_the_servers() {
        let settings = Settings::in_schema("warmproof");
        let terms = Terms::DURABLE.within(Duration::from_secs(2));
        assert!(settings.deadline(terms) > Duration::from_secs(2));
        assert!(settings.deadline(Terms::DURABLE) > STATEMENT_TIMEOUT_DEFAULT);
    }
}
