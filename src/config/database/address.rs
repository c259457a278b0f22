//! Address: what `WARMPROOF_DATABASE_URL` names, read as libpq reads it. Unsupported parts are refused by
//! name.
//!
//! The driver's own parser knows one host, follows the environment and logs unknown parts with their values.
//! So the address is parsed here, and the error for an unsupported part says what to do instead.

use std::fmt;

use secrecy::SecretString;

mod parameters;
mod parts;
#[cfg(test)]
mod tests;

/// PostgreSQL's port where the address names none.
const PORT_DEFAULT: u16 = 5432;

/// Where the database is, and how to sign in.
#[derive(Debug, Clone)]
pub struct Address {
    /// The servers to try, in this order.
    pub hosts: Vec<Host>,
    /// Which of them to accept.
    pub target: Target,
    /// The role.
    pub user: String,
    /// Its password, if it has one.
    pub password: Option<SecretString>,
    /// The database; the role's name where the address names none.
    pub database: String,
    /// How the connection is encrypted.
    pub tls: Tls,
    /// How long one server may take to accept a connection, in seconds; `None` for our own limit.
    pub connect_timeout_seconds: Option<u32>,
    /// Our name in the server's lists of connections.
    pub application_name: String,
}

/// One place where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or an IP address, without brackets.
    Tcp {
        /// The name or the address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A directory with a Unix socket.
    Socket {
        /// The directory.
        directory: String,
        /// The port, which is a part of the socket's name.
        port: u16,
    },
}

/// For logs: no part of it is secret.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Socket { directory, port } => write!(f, "{directory}/.s.PGSQL.{port}"),
        }
    }
}

impl Host {
    /// Whether a connection to it leaves this machine.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => {
                let loopback = host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
                !loopback && host != "localhost"
            }
            Self::Socket { .. } => false,
        }
    }
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Any server that accepts the connection; the default for one host.
    Any,
    /// A server that accepts writes; the default for several hosts.
    ReadWrite,
}

/// `sslmode` and what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// How the server is verified.
    pub mode: TlsMode,
    /// `sslrootcert`: a file with authorities that are trusted beside the operating system's.
    pub root: Option<String>,
    /// `sslcert` and `sslkey`: the files with our own certificate and its key.
    pub client: Option<(String, String)>,
}

/// `sslmode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never encrypted.
    Disable,
    /// Encrypted where the server offers it; nothing is verified.
    #[default]
    Prefer,
    /// Always encrypted; nothing is verified.
    Require,
    /// The certificate comes from an authority we trust.
    VerifyCa,
    /// The same, and it names the host.
    VerifyFull,
}

impl TlsMode {
    /// As it is written in an address.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Whether an impostor would be noticed.
    #[must_use]
    pub fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// Why an address is refused. Neither text repeats a value: any part of an address may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct AddressError {
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl AddressError {
    fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

impl Address {
    /// Reads `postgres://user:password@host:port,host:port/database?parameters`.
    ///
    /// # Errors
    /// The first part that cannot be used, and the remedy.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let parts = parts::split(text)?;
        let given = parameters::read(parts.query)?;
        let user = match (parts.user, &given.user) {
            (Some(user), _) => user,
            (None, Some(user)) => user.clone(),
            (None, None) => {
                let remedy = "write `postgres://USER@…`; no environment variable fills it in";
                return Err(AddressError::new("names no user", remedy));
            }
        };
        let hosts =
            parts::hosts(parts.hosts, given.host.as_deref(), given.ports.as_deref().unwrap_or_default())?;
        let target = given.target.unwrap_or(if hosts.len() > 1 { Target::ReadWrite } else { Target::Any });
        Ok(Self {
            target,
            hosts,
            password: parts.password.or(given.password).map(SecretString::from),
            database: parts.database.or(given.database).unwrap_or_else(|| user.clone()),
            user,
            tls: given.tls,
            connect_timeout_seconds: given.connect_timeout_seconds,
            application_name: given.application_name.unwrap_or_else(|| "warmproof".to_owned()),
        })
    }
}
