//! Whether a schema's history and this program's migrations go together.

use refinery_core::Migration;

use super::{MIGRATIONS_AHEAD_MAX, MigrateError, SchemaName};

/// How a schema relates to this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fit {
    /// The highest applied version; 0 for none.
    pub(super) version: i64,
    /// What this program has and the schema has not, in order.
    pub(super) pending: Vec<String>,
    /// How many the schema has and this program has not.
    pub(super) ahead: usize,
}

/// Accepts a schema that is behind, up to date, or a little ahead; refuses one of another line.
pub(super) fn judge(
    schema: &SchemaName,
    applied: &[Migration],
    embedded: &[Migration],
) -> Result<Fit, MigrateError> {
    let mut embedded: Vec<&Migration> = embedded.iter().collect();
    embedded.sort();
    let newest_applied = applied.iter().map(Migration::version).max().unwrap_or(0);
    let newest_embedded = embedded.last().map_or(0, |migration| migration.version());
    let out_of_line = |migration: &Migration, problem| MigrateError::OutOfLine {
        schema: schema.to_string(),
        migration: migration.to_string(),
        problem,
    };

    let mut ahead = 0;
    for one in applied {
        match embedded.iter().find(|other| other.version() == one.version()) {
            Some(same) if *same == one => {}
            Some(other) => {
                let (applied, embedded) = (one.to_string(), other.to_string());
                return Err(MigrateError::Divergent { schema: schema.to_string(), applied, embedded });
            }
            None if one.version() > newest_embedded => ahead += 1,
            None => return Err(out_of_line(one, "applied, but this program never had it")),
        }
    }
    if ahead > MIGRATIONS_AHEAD_MAX {
        return Err(MigrateError::TooFarAhead { schema: schema.to_string(), ahead });
    }

    let is_applied = |version| applied.iter().any(|one| one.version() == version);
    let pending: Vec<&Migration> =
        embedded.into_iter().filter(|migration| !is_applied(migration.version())).collect();
    if let Some(skipped) = pending.iter().find(|migration| migration.version() < newest_applied) {
        return Err(out_of_line(skipped, "missing, although later ones were applied"));
    }
    Ok(Fit { version: newest_applied, pending: pending.iter().map(ToString::to_string).collect(), ahead })
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn embedded(versions: impl IntoIterator<Item = i64>) -> Vec<Migration> {
        versions
            .into_iter()
            .map(|v| Migration::unapplied(&format!("V{v}__step"), "select 1").unwrap())
            .collect()
    }

    fn applied(versions: impl IntoIterator<Item = i64>) -> Vec<Migration> {
        embedded(versions)
            .into_iter()
            .map(|one| {
                let now = OffsetDateTime::UNIX_EPOCH;
                Migration::applied(one.version(), one.name().to_owned(), now, one.checksum())
            })
            .collect()
    }

    fn judge_versions(
        have: std::ops::RangeInclusive<i64>,
        want: std::ops::RangeInclusive<i64>,
    ) -> Result<Fit, MigrateError> {
        judge(&SchemaName::parse("warmproof").unwrap(), &applied(have), &embedded(want))
    }

    #[test]
    fn an_empty_schema_gets_everything_in_order() {
        let schema = SchemaName::parse("warmproof").unwrap();
        let fit = judge(&schema, &[], &embedded([10, 2, 1])).unwrap();
        assert_eq!(
            fit,
            Fit {
                version: 0,
                pending: ["V1__step", "V2__step", "V10__step"].map(Into::into).into(),
                ahead: 0
            }
        );
    }

    #[test]
    fn a_schema_may_be_ahead_by_as_much_as_a_release_brings() {
        let bound = i64::try_from(MIGRATIONS_AHEAD_MAX).unwrap();
        let fit = judge_versions(1..=3 + bound, 1..=3).unwrap();
        assert_eq!((fit.pending.len(), fit.ahead), (0, MIGRATIONS_AHEAD_MAX));
        let error = judge_versions(1..=4 + bound, 1..=3).unwrap_err();
        assert!(matches!(error, MigrateError::TooFarAhead { .. }), "{error}");
    }

    #[test]
    fn an_edited_migration_is_refused() {
        let schema = SchemaName::parse("warmproof").unwrap();
        let edited = [Migration::unapplied("V1__step", "select 2").unwrap()];
        let error = judge(&schema, &applied([1]), &edited).unwrap_err();
        assert!(matches!(error, MigrateError::Divergent { .. }), "{error}");
    }

    #[test]
    fn a_hole_in_either_line_is_refused() {
        let schema = SchemaName::parse("warmproof").unwrap();
        let skipped = judge(&schema, &applied([1, 3]), &embedded([1, 2, 3])).unwrap_err().to_string();
        assert!(skipped.contains("`V2__step` is missing, although"), "{skipped}");
        let foreign = judge(&schema, &applied([1, 2]), &embedded([1, 3])).unwrap_err().to_string();
        assert!(foreign.contains("`V2__step` is applied, but this program never had it"), "{foreign}");
    }
}
