//! Cookies: the session's, and one that only the sign-in form needs.
//!
//! Each holds 256 random bits. A form must repeat a hash of its cookie. Only the browser knows the cookie, so
//! no other site can make such a form, and no process has to store forms.

use axum::http::{HeaderMap, HeaderValue, header};
use rand::TryRngCore;
use rand::rngs::OsRng;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::error::PageError;
use crate::config::admin::Address;
use crate::store::token::hash;

/// Random bytes in a cookie.
const BYTES: usize = 32;

/// Which of the two cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The session of a signed-in visitor.
    Session,
    /// This browser asked for a sign-in form.
    SignIn,
}

/// How cookies are named and bounded, for one request.
#[derive(Debug, Clone)]
pub(super) struct Jar {
    base: String,
    secure: bool,
}

impl Jar {
    /// As the configured address says, or else as the proxy reports. A browser with a false header harms only
    /// its own cookie.
    pub(super) fn of(address: &Address, headers: &HeaderMap) -> Self {
        let reported =
            || headers.get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes() == b"https");
        Self { base: address.base.clone(), secure: address.secure.unwrap_or_else(reported) }
    }

    /// Browsers enforce the prefix: no plain connection and no neighbouring host can set such a cookie.
    fn name(&self, kind: Kind) -> String {
        let prefix = match (self.secure, self.base.is_empty()) {
            (true, true) => "__Host-",
            (true, false) => "__Secure-",
            (false, _) => "",
        };
        let suffix = match kind {
            Kind::Session => "",
            Kind::SignIn => "-sign-in",
        };
        format!("{prefix}warmproof{suffix}")
    }

    /// What the browser sent, if it can be one of ours.
    pub(super) fn read(&self, kind: Kind, headers: &HeaderMap) -> Option<SecretString> {
        let name = self.name(kind);
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
        let is_ours = |value: &&str| value.len() == 2 * BYTES && value.bytes().all(|b| b.is_ascii_hexdigit());
        values.find(is_ours).map(SecretString::from)
    }

    /// For `Set-Cookie`. It ends with the browser's session; the server's own limit is in the database.
    pub(super) fn set(&self, kind: Kind, value: &SecretString) -> Result<HeaderValue, PageError> {
        self.line(kind, value.expose_secret(), "")
    }

    /// Removes the cookie.
    pub(super) fn clear(&self, kind: Kind) -> Result<HeaderValue, PageError> {
        self.line(kind, "", "; Max-Age=0")
    }

    fn line(&self, kind: Kind, value: &str, end: &str) -> Result<HeaderValue, PageError> {
        let (name, base) = (self.name(kind), &self.base);
        let secure = if self.secure { "; Secure" } else { "" };
        let line = format!("{name}={value}; Path={base}/; HttpOnly; SameSite=Strict{secure}{end}");
        HeaderValue::from_str(&line).map_err(|_| PageError::Broken)
    }
}

/// 256 random bits from the operating system.
pub(super) fn fresh() -> Result<SecretString, PageError> {
    let mut bytes = [0_u8; BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| {
        tracing::error!(%error, "could not get random bits from the operating system");
        PageError::Broken
    })?;
    Ok(SecretString::from(hex(&bytes)))
}

/// The token that a form of this cookie must repeat.
pub(super) fn form_token(cookie: &SecretString) -> String {
    hex(&hash(&format!("form of {}", cookie.expose_secret())))
}

/// Whether a form was made for this cookie.
pub(super) fn is_form_of(cookie: &SecretString, repeated: &str) -> bool {
    bool::from(form_token(cookie).as_bytes().ct_eq(repeated.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jar(base: &str, secure: bool) -> Jar {
        Jar { base: base.to_owned(), secure }
    }

    #[test]
    fn a_cookie_is_bound_to_its_path_and_scheme() {
        let value = SecretString::from("a1".repeat(BYTES));
        let line = jar("", true).set(Kind::Session, &value).expect("a line");
        let line = line.to_str().expect("ASCII");
        assert!(line.starts_with("__Host-warmproof=a1a1"), "{line}");
        assert!(line.ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"), "{line}");
        let below = jar("/ops", true).set(Kind::SignIn, &value).expect("a line");
        assert!(below.to_str().expect("ASCII").starts_with("__Secure-warmproof-sign-in="));
        let plain = jar("/ops", false).clear(Kind::Session).expect("a line");
        assert_eq!(
            plain.to_str().expect("ASCII"),
            "warmproof=; Path=/ops/; HttpOnly; SameSite=Strict; Max-Age=0"
        );
    }

    #[test]
    fn only_what_may_be_ours_is_read() {
        let good = "0f".repeat(BYTES);
        let mut headers = HeaderMap::new();
        let line = format!("other=1; warmproof=short; warmproof={good}; warmproof-sign-in=x");
        headers.insert(header::COOKIE, HeaderValue::from_str(&line).expect("a header"));
        let read = jar("", false).read(Kind::Session, &headers).expect("a cookie");
        assert_eq!(read.expose_secret(), good);
        assert!(jar("", false).read(Kind::SignIn, &headers).is_none());
        assert!(jar("", true).read(Kind::Session, &headers).is_none(), "another name");
    }

    #[test]
    fn a_form_belongs_to_one_cookie() {
        let (one, other) = (fresh().expect("bits"), fresh().expect("bits"));
        assert!(is_form_of(&one, &form_token(&one)));
        assert!(!is_form_of(&one, &form_token(&other)));
        assert!(!is_form_of(&one, ""));
        assert!(!form_token(&one).contains(one.expose_secret()));
    }
}
