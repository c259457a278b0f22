//! What is wrong with the configuration: every fault at once, each with a next step.
//!
//! A fault names its variable and never repeats the value of a secret.

use std::fmt;

/// One fault of one variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}`{variable}` {problem}\n  hint: {hint}", place(pool.as_deref()))]
pub struct ConfigError {
    /// The pool whose own settings are at fault; `None` for the shared environment.
    pub pool: Option<String>,
    /// The variable at fault.
    pub variable: &'static str,
    /// What is wrong, as words that follow the variable's name.
    pub problem: String,
    /// What to do about it.
    pub hint: String,
}

fn place(pool: Option<&str>) -> String {
    pool.map_or_else(String::new, |pool| format!("pool `{pool}`: "))
}

/// All faults of a configuration, in the order in which they were found; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// The variables at fault, for tests and short reports.
    pub fn variables(&self) -> Vec<&'static str> {
        self.0.iter().map(|error| error.variable).collect()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "the configuration has 1 fault:")?,
            count => write!(f, "the configuration has {count} faults:")?,
        }
        self.0.iter().try_for_each(|error| write!(f, "\n{error}"))
    }
}

impl std::error::Error for ConfigErrors {}
