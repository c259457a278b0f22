//! `warmproof migrate`

use std::process::ExitCode;

use clap::Args;

use crate::config::DatabaseSettings;
use crate::config::environment::Environment;
use crate::store::connect;
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
    /// Also make the roles of least privilege that are missing, and hand the schema to their owner;
    /// with --sql, print that as well.
    #[arg(long, conflicts_with_all = ["plan", "check"])]
    roles: bool,
}

/// Migrates, plans, checks or prints.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub async fn migrate(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    if args.sql {
        for (name, sql) in migrate::sql() {
            println!("-- {name}\n{sql}");
        }
        for sql in migrate::roles_sql().iter().filter(|_| args.roles) {
            println!("{sql}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let settings = DatabaseSettings::from_environment(&Environment::from_process())?;
    let options = connect::options(&settings.database)?;
    let schema = &settings.database.schema;
    if args.check {
        let plan = migrate::check(&options, schema).await?;
        println!("schema `{schema}` is at version {}, as it should be", plan.version);
        return Ok(ExitCode::SUCCESS);
    }
    if args.plan {
        let plan = migrate::plan(&options, schema).await?;
        for name in &plan.pending {
            println!("pending: {name}");
        }
        println!("schema `{schema}` is at version {}, {} pending", plan.version, plan.pending.len());
        return Ok(ExitCode::SUCCESS);
    }
    let (report, roles) = if args.roles {
        migrate::migrate_with_roles(&options, schema).await?
    } else {
        (migrate::migrate(&options, schema).await?, Vec::new())
    };
    for name in &report.applied {
        println!("applied: {name}");
    }
    println!("schema `{schema}` is at version {}, {} applied", report.version, report.applied.len());
    for role in &roles {
        println!("role: {role}");
    }
    Ok(ExitCode::SUCCESS)
}
