//! The name of the schema everything lives in.

use std::fmt;

/// `PostgreSQL` cuts longer names off without a warning.
const LEN_MAX: usize = 63;

/// A name that is safe in SQL and needs no quotes in psql: `[a-z_][a-z0-9_]{0,62}`, not `pg_…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaName(String);

/// A name that is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "could not take `{0}` as a schema's name\nhint: up to {LEN_MAX} lower-case letters, digits and `_`, \
     not a digit first and not `pg_` in front"
)]
pub struct InvalidSchemaName(String);

impl SchemaName {
    /// Checks a name.
    pub fn parse(name: &str) -> Result<Self, InvalidSchemaName> {
        let is_start = |c: char| c.is_ascii_lowercase() || c == '_';
        let fits = name.len() <= LEN_MAX
            && name.starts_with(is_start)
            && name.chars().all(|c| is_start(c) || c.is_ascii_digit())
            // PostgreSQL keeps these for itself.
            && !name.starts_with("pg_");
        if fits { Ok(Self(name.to_owned())) } else { Err(InvalidSchemaName(name.to_owned())) }
    }

    /// The name as it goes into SQL. Quoted because `user` and `order` are names, too.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_pass_and_reserved_words_are_quoted() {
        assert_eq!(SchemaName::parse("warmproof").unwrap().quoted(), "\"warmproof\"");
        assert_eq!(SchemaName::parse("order").unwrap().quoted(), "\"order\"");
        assert!(SchemaName::parse(&"a".repeat(63)).is_ok());
    }

    #[test]
    fn names_that_could_mean_something_else_are_refused() {
        for name in ["", "1st", "Warm", "a-b", "a\"b", "a;b", "pg_toast", "ä", "a b", &"a".repeat(64)] {
            assert!(SchemaName::parse(name).is_err(), "{name}");
        }
    }
}
