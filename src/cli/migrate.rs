//! `warmproof migrate`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::output;
use crate::config::DatabaseSettings;
use crate::config::environment::Environment;
use crate::store::migrate;

/// What `migrate` does instead of migrating.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct MigrateArgs {
    /// List the migrations that would run, and change nothing.
    #[arg(long, conflicts_with_all = ["sql", "check"])]
    plan: bool,
    /// Print the SQL of all migrations, and connect to nothing.
    #[arg(long, conflicts_with = "check")]
    sql: bool,
    /// Exit with 1 when the schema is not what this version needs.
    #[arg(long)]
    check: bool,
    /// Also create missing roles of least privilege, and make their owner own the schema; with --sql,
    /// print that SQL as well.
    #[arg(long, conflicts_with_all = ["plan", "check"])]
    roles: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Migrates, plans, checks or prints.
pub async fn migrate(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    if args.sql {
        print_sql(&args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = DatabaseSettings::from_environment(&Environment::from_process())?;
    let database = &settings.database;
    let schema = settings.database.schema.as_str();
    if args.check {
        let plan = migrate::check(database, schema).await?;
        let reported = json!({ "schema": schema, "version": plan.version, "pending": plan.pending });
        let text = [format!("schema `{schema}` is at version {}, as required", plan.version)];
        return tell(&args, &reported, &text);
    }
    if args.plan {
        let plan = migrate::plan(database, schema).await?;
        let reported = json!({ "schema": schema, "version": plan.version, "pending": plan.pending });
        let mut text: Vec<_> = plan.pending.iter().map(|name| format!("pending: {name}")).collect();
        text.push(format!(
            "schema `{schema}` is at version {}, {} pending",
            plan.version,
            plan.pending.len()
        ));
        return tell(&args, &reported, &text);
    }
    let (report, roles) = if args.roles {
        migrate::migrate_with_roles(database, schema).await?
    } else {
        (migrate::migrate(database, schema).await?, Vec::new())
    };
    let reported =
        json!({ "schema": schema, "version": report.version, "applied": report.applied, "roles": roles });
    let mut text: Vec<_> = report.applied.iter().map(|name| format!("applied: {name}")).collect();
    text.push(format!(
        "schema `{schema}` is at version {}, {} applied",
        report.version,
        report.applied.len()
    ));
    text.extend(roles.iter().map(|role| format!("role: {role}")));
    tell(&args, &reported, &text)
}

fn tell(args: &MigrateArgs, reported: &Value, text: &[String]) -> anyhow::Result<ExitCode> {
    if args.json {
        output::json(reported)?;
    } else {
        text.iter().try_for_each(|line| output::line(line))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the SQL of each migration. Makes no connection.
fn print_sql(args: &MigrateArgs) -> anyhow::Result<()> {
    let migrations = migrate::sql();
    let roles: &[&str] = if args.roles { &migrate::roles_sql() } else { &[] };
    if args.json {
        let named = migrations.iter().map(|(name, sql)| json!({ "name": name, "sql": sql }));
        return output::json(&json!({ "migrations": named.collect::<Vec<_>>(), "roles": roles }));
    }
    for (name, sql) in migrations {
        output::line(&format!("-- {name}\n{sql}"))?;
    }
    roles.iter().try_for_each(|sql| output::line(sql))
}
