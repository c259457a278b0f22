//! Roles of least privilege, named after the schema: owner, worker, client, reader, operator.
//!
//! They are groups without login. They are in use where the owner role owns the schema. There
//! migrations run as the owner, so that everything they make belongs to it.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{MigrateError, SchemaName};

/// Longest name of a role.
const LEN_MAX: usize = 63;

/// Makes missing roles and gives everything to the owner; runs as the login that migrates.
pub(super) const CREATE: &str = include_str!("roles_create.sql");
/// Grants each role what it needs and takes everything else; runs as the owner.
pub(super) const GRANT: &str = include_str!("roles_grant.sql");

/// The names of the five roles, the owner's first.
pub(super) fn names(schema: &SchemaName) -> Result<[String; 5], MigrateError> {
    let names = ["owner", "worker", "client", "reader", "operator"].map(|kind| format!("{schema}_{kind}"));
    match names.iter().find(|name| name.len() > LEN_MAX) {
        Some(role) => Err(MigrateError::RoleName { schema: schema.to_string(), role: role.clone() }),
        None => Ok(names),
    }
}

/// The role that owns the schema, when it is ours.
pub(super) async fn owner_in_use(
    db: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Option<SchemaName>, sqlx::Error> {
    let owner: Option<String> = sqlx::query_scalar!(
        r#"select r.rolname::text as "owner!" from pg_namespace n join pg_roles r on r.oid = n.nspowner
           where n.nspname = $1 and r.rolname = $1 || '_owner'"#,
        schema.as_str()
    )
    .fetch_optional(db)
    .await?;
    // A role named after a schema has a name that a schema could have.
    Ok(owner.and_then(|owner| SchemaName::parse(&owner).ok()))
}

/// Acts as the owner for the rest of the session.
pub(super) async fn become_owner(db: &mut PgConnection, owner: &SchemaName) -> Result<(), sqlx::Error> {
    let text = format!("set role {}", owner.quoted());
    sqlx::raw_sql(AssertSqlSafe(text)).execute(db).await.map(|_| ())
}

/// Makes the roles that are missing, gives everything in the schema to the owner, and grants.
pub(super) async fn create(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("reset role").execute(&mut *db).await?;
    sqlx::raw_sql(CREATE).execute(&mut *db).await?;
    grant(db).await
}

/// Brings the grants up to date.
pub(super) async fn grant(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(GRANT).execute(db).await.map(|_| ())
}
