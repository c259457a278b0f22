//! The parameters of an address: each is applied, or refused by its name with a remedy.

use super::parts::{decoded, parse_port};
use super::{AddressError, Target, Tls, TlsMode};

/// The values of the parameters.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) host: Option<String>,
    pub(super) ports: Option<Vec<u16>>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<String>,
    pub(super) target: Option<Target>,
    pub(super) tls: Tls,
    pub(super) connect_timeout_seconds: Option<u32>,
    pub(super) application_name: Option<String>,
}

/// Parameters of libpq that have no effect: keepalive and deadlines are our own.
const WITHOUT_EFFECT: [&str; 7] = [
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "client_encoding",
    "fallback_application_name",
];

/// Longest name of an unknown parameter that a message repeats.
const SHOWN_BYTES_MAX: usize = 40;

/// Reads all parameters.
pub(super) fn read(query: &str) -> Result<Given, AddressError> {
    let mut given = Given::default();
    let (mut certificate, mut key, mut mode) = (None, None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        // A part without `=` may be the rest of a value that held a `&`.
        let (name, value) = pair.split_once('=').unwrap_or(("…", ""));
        let name = decoded("parameter's name", name)?;
        // A form would write a space as `+`; libpq does not, and a password may hold one.
        let value = decoded(&format!("parameter `{}`", shown(&name)), value)?;
        match name.as_str() {
            "host" | "hostaddr" => given.host = Some(value),
            "port" => given.ports = Some(value.split(',').map(parse_port).collect::<Result<_, _>>()?),
            "user" => given.user = Some(value),
            "password" => given.password = Some(value),
            "dbname" => given.database = Some(value),
            "target_session_attrs" => given.target = Some(target(&value)?),
            "sslmode" | "ssl-mode" => mode = Some(tls_mode(&value)?),
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => given.tls.root = Some(value),
            "sslcert" | "ssl-cert" => certificate = Some(value),
            "sslkey" | "ssl-key" => key = Some(value),
            "connect_timeout" => given.connect_timeout_seconds = seconds(&value)?,
            "application_name" => given.application_name = Some(value),
            name if WITHOUT_EFFECT.contains(&name) => {}
            name => refused(name, &value)?,
        }
    }
    for (name, value) in [("sslrootcert", &given.tls.root), ("sslcert", &certificate), ("sslkey", &key)] {
        if value.as_ref().is_some_and(|value| value.contains("-----BEGIN") || value.contains('\n')) {
            let problem = format!("has the content of a file as `{name}`");
            return Err(AddressError::new(
                problem,
                "write it into a file that only we may read, and name its path",
            ));
        }
    }
    given.tls.client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let problem = "has one of `sslcert` and `sslkey` without the other";
            return Err(AddressError::new(problem, "name both files"));
        }
    };
    given.tls.mode = mode.unwrap_or_default();
    // As in libpq, `sslrootcert=system` requires the full verification of the server.
    if given.tls.root.as_deref() == Some("system") {
        if !matches!(mode, None | Some(TlsMode::VerifyFull)) {
            let problem = "has `sslrootcert=system` beside a weaker `sslmode`";
            return Err(AddressError::new(problem, "set `sslmode=verify-full`, or leave it out"));
        }
        given.tls = Tls { mode: TlsMode::VerifyFull, root: None, ..given.tls };
    }
    Ok(given)
}

fn target(value: &str) -> Result<Target, AddressError> {
    match value {
        "any" => Ok(Target::Any),
        "read-write" | "primary" => Ok(Target::ReadWrite),
        _ => {
            let problem = "has a `target_session_attrs` that may lead to a server that refuses writes";
            Err(AddressError::new(problem, "set it to `read-write`, `primary` or `any`"))
        }
    }
}

fn tls_mode(value: &str) -> Result<TlsMode, AddressError> {
    match value {
        "disable" => Ok(TlsMode::Disable),
        // `allow` asks for encryption second, `prefer` first: neither verifies anything.
        "allow" | "prefer" => Ok(TlsMode::Prefer),
        "require" => Ok(TlsMode::Require),
        "verify-ca" => Ok(TlsMode::VerifyCa),
        "verify-full" => Ok(TlsMode::VerifyFull),
        _ => {
            let remedy = "set it to `disable`, `prefer`, `require`, `verify-ca` or `verify-full`";
            Err(AddressError::new("has an unknown `sslmode`", remedy))
        }
    }
}

/// 0 means no limit in libpq, and our own limit here: a connection must not take forever.
fn seconds(value: &str) -> Result<Option<u32>, AddressError> {
    let seconds = value.parse::<u32>().map_err(|_| {
        let problem = "has a `connect_timeout` that is not a number of seconds";
        AddressError::new(problem, "set it to whole seconds, such as 5")
    })?;
    Ok((seconds > 0).then_some(seconds))
}

/// Refuses an unsupported parameter, unless its value switches it off.
fn refused(name: &str, value: &str) -> Result<(), AddressError> {
    let remedy = match name {
        "channel_binding" | "gssencmode" if matches!(value, "disable" | "prefer") => return Ok(()),
        "sslnegotiation" if value == "postgres" => return Ok(()),
        "load_balance_hosts" if value == "disable" => return Ok(()),
        "channel_binding" => "remove it and set `sslmode=verify-full`, which notices an impostor as well",
        "gssencmode" => "remove it; encrypt by `sslmode`",
        "sslnegotiation" => "remove it; TLS begins after PostgreSQL's own question here",
        "load_balance_hosts" => "remove it; hosts are tried in the order in which they are written",
        "sslpassword" => "remove it and name an `sslkey` that is not encrypted and that only we may read",
        "options" => "remove it and set what it sets for the role: `alter role … set …`",
        "passfile" | "service" | "servicefile" => {
            "remove it and write the password into the address, or set `file://<path>`"
        }
        _ => "remove it; docs/operating.md lists the known parameters",
    };
    Err(AddressError::new(format!("has the parameter `{}`, which is not supported", shown(name)), remedy))
}

/// A parameter's name for a message. Other text may be a secret that lost its `=`, and is not shown.
fn shown(name: &str) -> String {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"_-[].".contains(&byte);
    if name.len() <= SHOWN_BYTES_MAX && name.bytes().all(letters) {
        name.to_owned()
    } else {
        "…".to_owned()
    }
}
