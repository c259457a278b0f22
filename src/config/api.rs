//! The HTTP API: where it listens, which tokens it accepts, how much one request may hold.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::reader::Reader;

/// Where the API listens by default: on this host only, because it has no TLS.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8030);

/// Shortest token accepted, in characters; anything shorter can be guessed.
pub const TOKEN_CHARS_MIN: usize = 16;

/// The API of one process.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// `WARMPROOF_API_LISTEN`: address and port, `127.0.0.1:8030` by default.
    pub listen: SocketAddr,
    /// `WARMPROOF_API_TOKEN`: a bearer token that allows everything, 16 characters or more; may be
    /// `file://<path>`.
    ///
    /// Others are made with `warmproof token create`; without any token, every call is refused.
    pub token: Option<SecretString>,
    /// `WARMPROOF_API_BODY_BYTES_MAX`: largest request body, 4 MiB by default.
    ///
    /// Too low and batches of large messages are refused; too high and a few callers can fill the memory.
    pub body_bytes_max: usize,
    /// `WARMPROOF_API_BATCH_MAX`: most verifications or cancellations in one request, 1000 by default.
    ///
    /// Too low and busy callers need many requests; too high and one request holds a connection for a long
    /// time.
    pub batch_max: usize,
    /// `WARMPROOF_API_REQUEST_TIMEOUT_MS`: longest a request may take, 15 s by default.
    ///
    /// Below the statement timeout a caller gives up on work that still commits; too high and it hangs.
    pub request_timeout: Duration,
}

impl ApiConfig {
    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = read_listen(reader);
        let token = read_token(reader);
        let body_bytes_max = reader.count("WARMPROOF_API_BODY_BYTES_MAX", 4 << 20, 1024..=64 << 20);
        let batch_max = reader.count("WARMPROOF_API_BATCH_MAX", 1000, 1..=10_000);
        Some(Self {
            listen,
            body_bytes_max: usize::try_from(body_bytes_max).ok()?,
            batch_max: usize::try_from(batch_max).ok()?,
            request_timeout: reader.millis("WARMPROOF_API_REQUEST_TIMEOUT_MS", 15_000, 100..=120_000),
            token,
        })
    }
}

fn read_listen(reader: &mut Reader<'_>) -> SocketAddr {
    let text = reader.text_or("WARMPROOF_API_LISTEN", &LISTEN_DEFAULT.to_string());
    text.trim().parse().unwrap_or_else(|_| {
        let hint = "set it to an IP address and a port, such as `0.0.0.0:8030` or `[::]:8030`";
        reader.fault("WARMPROOF_API_LISTEN", "is not an address to listen on", hint);
        LISTEN_DEFAULT
    })
}

fn read_token(reader: &mut Reader<'_>) -> Option<SecretString> {
    let variable = "WARMPROOF_API_TOKEN";
    let hint = "set it to 16 or more random characters, or to `file://<path>`";
    let token = reader.optional_secret(variable)?;
    if token.expose_secret().chars().count() < TOKEN_CHARS_MIN {
        reader.fault(variable, "is shorter than 16 characters", hint);
    }
    if !token.expose_secret().bytes().all(|byte| matches!(byte, b'!'..=b'~')) {
        reader.fault(variable, "holds characters other than visible ASCII", hint);
    }
    Some(token)
}
