//! The parts of an address: user and password, hosts, database, parameters.

use super::{AddressError, Host, PORT_DEFAULT};

/// An address taken apart, percent-decoded where it must be.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// As written: the hosts may be several, each with a port.
    pub(super) hosts: &'a str,
    pub(super) database: Option<String>,
    /// As written, without its `?`.
    pub(super) query: &'a str,
}

const ENCODE: &str =
    "percent-encode it: `%23` for `#`, `%2F` for `/`, `%3F` for `?`, `%40` for `@`, `%25` for `%`";

/// Takes an address apart.
pub(super) fn split(text: &str) -> Result<Parts<'_>, AddressError> {
    let rest =
        text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")).ok_or_else(|| {
            let remedy = "set it to `postgres://user:password@host:5432/database`, or to `file://<path>`";
            AddressError::new("is not a `postgres://` URL", remedy)
        })?;
    if rest.contains('#') {
        return Err(AddressError::new("holds a `#`, most likely in the password", ENCODE));
    }
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = before_query.split_once('/').unwrap_or((before_query, ""));
    // What follows the first `/` or `?` cannot hold the `@` that ends a login: the login itself holds one. A
    // database whose name holds an `@` writes it `%40`.
    if path.contains('@') {
        return Err(stray("/"));
    }
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None if rest.contains('@') && ends_in_no_port(authority) => return Err(stray("?")),
        None => (None, authority),
    };
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, password)) => (decoded("user", user)?, decoded("password", password)?),
        None => (String::new(), String::new()),
    };
    let filled = |text: String| (!text.is_empty()).then_some(text);
    Ok(Parts {
        user: filled(user),
        password: filled(password),
        hosts,
        database: filled(decoded("database", path)?),
        query,
    })
}

fn stray(character: &str) -> AddressError {
    AddressError::new(format!("has a user or password that holds a `{character}`"), ENCODE)
}

/// Whether what should be a host and a port is rather a user and the start of a password.
fn ends_in_no_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_err())
}

/// Where to connect to: what the authority names, or the parameters `host` and `port`.
pub(super) fn hosts(
    authority: &str,
    host_parameter: Option<&str>,
    ports: &[u16],
) -> Result<Vec<Host>, AddressError> {
    let named = match (authority.is_empty(), host_parameter.unwrap_or("")) {
        (true, "") => {
            let remedy = "name one, or a socket's directory as `?host=/directory`; no variable fills it in";
            return Err(AddressError::new("names no host", remedy));
        }
        (false, "") => authority,
        // As in libpq, the parameter wins.
        (true | false, parameter) => parameter,
    };
    let hosts: Vec<&str> = named.split(',').collect();
    if ports.len() > 1 && ports.len() != hosts.len() {
        let remedy = "give one for all, or one for each host";
        return Err(AddressError::new("has a different number of ports than of hosts", remedy));
    }
    let port_of = |position: usize| ports.get(position).or(ports.first()).copied();
    hosts.iter().enumerate().map(|(position, text)| host(text, port_of(position))).collect()
}

fn host(text: &str, port: Option<u16>) -> Result<Host, AddressError> {
    let text = decoded("host", text)?;
    if text.starts_with('/') {
        return Ok(Host::Socket { directory: text, port: port.unwrap_or(PORT_DEFAULT) });
    }
    let (name, own_port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (name, rest) = bracketed.split_once(']').ok_or_else(|| {
                AddressError::new("has an opening bracket without a closing one", "write `[::1]:5432`")
            })?;
            (name, rest.strip_prefix(':'))
        }
        None if text.matches(':').count() > 1 => {
            let remedy = "put it in brackets: `[::1]:5432`";
            return Err(AddressError::new("has an IPv6 address without brackets", remedy));
        }
        None => text.split_once(':').map_or((text.as_str(), None), |(name, port)| (name, Some(port))),
    };
    if name.is_empty() {
        return Err(AddressError::new("has a host without a name", "write `host:5432`"));
    }
    let port = match own_port.filter(|port| !port.is_empty()) {
        Some(own) => parse_port(own)?,
        None => port.unwrap_or(PORT_DEFAULT),
    };
    Ok(Host::Tcp { host: name.to_owned(), port })
}

/// A port between 1 and 65535.
pub(super) fn parse_port(text: &str) -> Result<u16, AddressError> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        let remedy = "write a number from 1 to 65535; a `:` in a user or password is written `%3A`";
        AddressError::new("has a port that is not one", remedy)
    })
}

/// A part with its `%xx` read.
pub(super) fn decoded(part: &str, text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()];
        let digit = |digit: Option<u8>| char::from(digit?).to_digit(16);
        let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else {
            let problem = format!("has a `%` in its {part} that two hexadecimal digits do not follow");
            return Err(AddressError::new(problem, "write a plain `%` as `%25`"));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| AddressError::new(format!("has a {part} that is not UTF-8 text"), ENCODE))
}
