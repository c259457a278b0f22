//! `warmproof token`: bearer tokens of the API, made, listed and revoked.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use rand::TryRngCore;
use rand::rngs::OsRng;
use secrecy::{ExposeSecret, SecretString};

use super::output;
use crate::domain::ids::parse_token_name;
use crate::store::token::{Scope, StoredToken};

/// The prefix of every token, so that people and scanners recognise one.
const PREFIX: &str = "wp_";
/// Random bytes in a token.
const BYTES: usize = 32;

/// What to do with tokens.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    action: Action,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token and show it, once
    Create {
        /// Its name, which the audit shows
        name: String,
        /// What the token allows; repeat the option for several scopes
        #[arg(long = "scope", value_enum, required = true)]
        scopes: Vec<ScopeArg>,
    },
    /// Show all tokens, but not their secrets
    List,
    /// Revoke a token; it stops working within five seconds
    Revoke {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScopeArg {
    /// Schedule and cancel
    Schedule,
    /// Read
    Read,
    /// Change pools, cancel as operator, probe now
    Operate,
}

/// Makes, lists or revokes.
pub(super) async fn token(args: TokenArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Create { name, scopes } => create(&name, &scopes, args.json).await,
        Action::List => list(args.json).await,
        Action::Revoke { name } => {
            let store = output::connect().await?;
            anyhow::ensure!(
                store.revoke_token(&name, &output::actor()).await?,
                "unknown or revoked token `{}`; `warmproof token list` shows all tokens",
                output::plain(&name)
            );
            output::line("revoked; running APIs refuse it within five seconds")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn create(name: &str, scopes: &[ScopeArg], json: bool) -> anyhow::Result<ExitCode> {
    parse_token_name(name).map_err(|error| anyhow::anyhow!("the name {error}"))?;
    let mut scopes: Vec<Scope> = scopes
        .iter()
        .map(|scope| match scope {
            ScopeArg::Schedule => Scope::Schedule,
            ScopeArg::Read => Scope::Read,
            ScopeArg::Operate => Scope::Operate,
        })
        .collect();
    scopes.sort_unstable();
    scopes.dedup();
    let token = fresh()?;
    let store = output::connect().await?;
    anyhow::ensure!(
        store.create_token(name, &scopes, &token, &output::actor()).await?,
        "a token `{}` exists already; the name of a revoked token cannot be used again",
        output::plain(name)
    );
    if json {
        output::json(&serde_json::json!({ "name": name, "scopes": scopes, "token": token.expose_secret() }))?;
    } else {
        // Only the secret on stdout, so that it can be piped.
        output::line(token.expose_secret())?;
        tracing::info!(name, "this is the only time the token is shown");
    }
    Ok(ExitCode::SUCCESS)
}

/// 256 random bits from the operating system.
fn fresh() -> anyhow::Result<SecretString> {
    let mut bytes = [0_u8; BYTES];
    OsRng.try_fill_bytes(&mut bytes)?;
    let token = bytes.iter().fold(PREFIX.to_owned(), |token, byte| token + &format!("{byte:02x}"));
    Ok(SecretString::from(token))
}

async fn list(json: bool) -> anyhow::Result<ExitCode> {
    let tokens = output::connect().await?.tokens().await?;
    if json {
        output::json(&tokens)?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |token: &StoredToken| {
        vec![
            token.name.clone(),
            token.scopes.join(", "),
            output::instant(token.created_at),
            token.created_by.clone(),
            token.revoked_at.map_or("-".to_owned(), output::instant),
        ]
    };
    output::table(&["name", "scopes", "made", "by", "revoked"], tokens.iter().map(row).collect())?;
    Ok(ExitCode::SUCCESS)
}
