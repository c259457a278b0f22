//! TLS: the driver's options for it, and what a refusal means in words that name the remedy.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "errors of libraries, of which only some have words of their own here"
)]

use std::io;

use rustls::CertificateError;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::database::address::{Address, Tls, TlsMode};

/// The options with the address's encryption.
pub(super) fn with(options: PgConnectOptions, tls: &Tls) -> PgConnectOptions {
    let mut options = options.ssl_mode(match tls.mode {
        TlsMode::Disable => PgSslMode::Disable,
        TlsMode::Prefer => PgSslMode::Prefer,
        TlsMode::Require => PgSslMode::Require,
        TlsMode::VerifyCa => PgSslMode::VerifyCa,
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
    });
    if let Some(root) = &tls.root {
        options = options.ssl_root_cert(root);
    }
    if let Some((certificate, key)) = &tls.client {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    options
}

/// The first file of the address that cannot be read, as `parameter=path`, and why not; the driver's own error would not name it.
pub(super) fn unreadable(tls: &Tls) -> Option<(String, io::ErrorKind)> {
    let root = tls.root.iter().map(|path| ("sslrootcert", path));
    let client = tls.client.iter().flat_map(|(certificate, key)| [("sslcert", certificate), ("sslkey", key)]);
    root.chain(client).find_map(|(parameter, path)| {
        let kind = std::fs::File::open(path).err()?.kind();
        Some((format!("{parameter}={path}"), kind))
    })
}

/// What a failed handshake means; `None` if the error is of another kind.
pub(super) fn refusal(error: &sqlx::Error) -> Option<String> {
    match error {
        sqlx::Error::Tls(inner) => Some(match inner.downcast_ref::<rustls::Error>() {
            Some(error) => of_rustls(error),
            None => inner.to_string(),
        }),
        sqlx::Error::Io(error) => rustls_in(error).map(of_rustls),
        _ => None,
    }
}

/// What to do about it.
pub(super) fn remedy(error: &sqlx::Error, address: Option<&Address>) -> Option<String> {
    refusal(error)?;
    let root = address.and_then(|address| address.tls.root.as_deref());
    let authorities = match root {
        Some(file) => format!("neither the operating system nor `sslrootcert={file}` holds its authority"),
        None => "the operating system's store does not hold its authority; name its file as `sslrootcert=`"
            .to_owned(),
    };
    let inner = match error {
        sqlx::Error::Io(error) => rustls_in(error),
        sqlx::Error::Tls(inner) => inner.downcast_ref::<rustls::Error>(),
        _ => None,
    };
    let text = match inner {
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::UnknownIssuer => authorities,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "connect by a name that the certificate holds, or ask for less with `sslmode=verify-ca`".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "renew the server's certificate".to_owned(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "check this machine's clock".to_owned()
            }
            other if is_version_1(other) => {
                "make the server a version 3 certificate, with its name as subjectAltName (`openssl req -x509` does)"
                    .to_owned()
            }
            _ => "check the server's `ssl_cert_file`".to_owned(),
        },
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::AlertReceived(_)) => {
            "the server may want a certificate of ours: name `sslcert` and `sslkey`".to_owned()
        }
        _ if error.to_string().contains("server does not support TLS") => {
            "turn `ssl` on at the server, or set `sslmode=disable` where the network is trusted".to_owned()
        }
        _ => match root {
            Some(file) => format!("check that `sslrootcert={file}` is a readable PEM file"),
            None => "check the server's certificate, and `sslmode` in WARMPROOF_DATABASE_URL".to_owned(),
        },
    };
    Some(text)
}

fn rustls_in(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn of_rustls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => {
                "the server's certificate comes from an authority that is not trusted here".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate names another host".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet".to_owned()
            }
            other if is_version_1(other) => {
                "the server's certificate is X.509 version 1, which cannot be used for TLS here".to_owned()
            }
            other => format!("the server's certificate cannot be used: {other:?}"),
        },
        other => format!("TLS failed: {other}"),
    }
}

/// The verifier has no name of its own for it and reports it in the error inside.
fn is_version_1(error: &CertificateError) -> bool {
    match error {
        CertificateError::BadEncoding => true,
        other => format!("{other:?}").contains("UnsupportedCertVersion"),
    }
}
