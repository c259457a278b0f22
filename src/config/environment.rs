//! Where settings come from: the process's environment, or pairs of a test.
//!
//! This is the only place that reads the environment, so that no test has to
//! change it and no value can change after the start.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use uuid::Uuid;

/// A frozen copy of environment variables.
#[derive(Clone)]
pub struct Environment {
    /// `None` marks a value that is not valid Unicode; reading it is a fault, ignoring it is not.
    values: BTreeMap<String, Option<String>>,
}

/// What a variable holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'e> {
    /// The variable is not there.
    Unset,
    /// The variable holds this text, which may be empty.
    Text(&'e str),
    /// The variable holds bytes that are not Unicode.
    NotUnicode,
}

impl Environment {
    /// The environment of this process, as it is now.
    #[expect(clippy::disallowed_methods, reason = "config is the one reader of the environment")]
    pub fn from_process() -> Self {
        let values = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())))
            .collect();
        Self { values }
    }

    /// An environment of exactly these variables.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let values = pairs.into_iter().map(|(name, value)| (name.into(), Some(value.into()))).collect();
        Self { values }
    }

    /// The same environment with these variables replaced.
    #[must_use]
    pub fn with(&self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut values = self.values.clone();
        values.extend(variables.into_iter().map(|(name, value)| (name, Some(value))));
        Self { values }
    }

    /// The set variables that name a proxy. None is used, so the start logs a warning that lists them.
    pub fn proxy_variables(&self) -> Vec<&'static str> {
        let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
        let is_set = |name: &&str| !matches!(self.get(name), Value::Unset | Value::Text(""));
        names.into_iter().filter(is_set).collect()
    }

    /// What the variable `name` holds.
    pub fn get(&self, name: &str) -> Value<'_> {
        match self.values.get(name) {
            None => Value::Unset,
            Some(None) => Value::NotUnicode,
            Some(Some(text)) => Value::Text(text),
        }
    }
}

impl fmt::Debug for Environment {
    /// Shows only the number of variables: any value may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("variables", &self.values.len()).finish_non_exhaustive()
    }
}

/// The instance name of a process that was given none: a random UUID, the same until the process ends.
///
/// Several concerns name the instance (credentials, events, runners), and they must agree.
pub(super) fn instance_name_default() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().to_string());
    &NAME
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reader;

    #[test]
    fn a_value_that_is_not_unicode_is_a_fault_only_where_it_is_read() {
        let environment = Environment { values: BTreeMap::from([("X".to_owned(), None)]) };
        let errors =
            reader::read_all(&environment, |reader| reader.secret("X", "set it")).expect_err("a fault");
        assert_eq!(
            errors.to_string(),
            "the configuration has 1 fault:\n`X` is not valid Unicode\n  hint: set it to UTF-8 text"
        );
        assert_eq!(reader::read_all(&environment, |reader| Some(reader.optional_text("Y"))), Ok(None));
    }
}
