//! Visitors: the sender of a request, and what it may read or do.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use secrecy::SecretString;

use super::Admin;
use super::cookie::{self, Jar, Kind};
use super::error::PageError;
use crate::caller::Caller;
use crate::store::audit::Actor;
use crate::store::token::Scope;

/// The sender of a request.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    session: Option<(SecretString, Caller)>,
}

impl Visitor {
    /// A visitor without a session.
    pub(super) const STRANGER: Self = Self { session: None };

    /// The visitor of a request. A session whose token was revoked does not count.
    pub(super) async fn of(admin: &Admin, headers: &HeaderMap) -> Result<Self, PageError> {
        let jar = Jar::of(&admin.config.address, headers);
        let Some(cookie) = jar.read(Kind::Session, headers) else { return Ok(Self::STRANGER) };
        let Some(proof) = admin.store.session(&cookie).await? else { return Ok(Self::STRANGER) };
        let caller = admin.tokens.recognise_by(&admin.store, |hash| proof.is_of(&cookie, hash)).await?;
        Ok(Self { session: caller.map(|caller| (cookie, caller)) })
    }

    /// The token's name.
    pub(super) fn name(&self) -> Option<&str> {
        self.session.as_ref().map(|(_, caller)| caller.name.as_str())
    }

    /// Whether this token may read. A token that may act may also read.
    pub(super) fn may_read(caller: &Caller) -> bool {
        caller.may(Scope::Read) || caller.may(Scope::Operate)
    }

    /// Whether this visitor may act.
    pub(super) fn may_operate(&self) -> bool {
        self.session.as_ref().is_some_and(|(_, caller)| caller.may(Scope::Operate))
    }

    /// For the audit; `None` if the visitor may not act.
    pub(super) fn operator(&self) -> Option<Actor> {
        self.session
            .as_ref()
            .filter(|(_, caller)| caller.may(Scope::Operate))
            .map(|(_, caller)| caller.actor())
    }

    /// The session and its cookie, if the visitor is signed in.
    pub(super) fn session(&self) -> Option<(&SecretString, Actor)> {
        self.session.as_ref().map(|(cookie, caller)| (cookie, caller.actor()))
    }

    /// The token that this visitor's forms must repeat.
    pub(super) fn form_token(&self) -> String {
        self.session.as_ref().map(|(cookie, _)| cookie::form_token(cookie)).unwrap_or_default()
    }
}

/// A visitor with permission to read.
#[derive(Debug, Clone)]
pub(super) struct Reading(pub(super) Visitor);

impl FromRequestParts<Admin> for Reading {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, PageError> {
        let visitor = Visitor::of(admin, &parts.headers).await?;
        let may = visitor.session.as_ref().map(|(_, caller)| Visitor::may_read(caller));
        match may {
            Some(true) => Ok(Self(visitor)),
            _ if admin.config.read_without_token => Ok(Self(visitor)),
            Some(false) | None => Err(to_sign_in(admin, &parts.headers, &parts.uri)),
        }
    }
}

/// The page that the visitor wanted: one of our paths, without the base. Any other path becomes the overview.
pub(super) fn wanted(uri: &Uri, base: &str) -> String {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    local(path.strip_prefix(base).unwrap_or(path)).to_owned()
}

/// The path, if a browser cannot read it as another site's address; otherwise the overview.
pub(super) fn local(path: &str) -> &str {
    let is_path = path.starts_with('/') && !path.starts_with("//");
    let is_plain = path.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'\\');
    if is_path && is_plain { path } else { "/" }
}

/// Sends a visitor to the sign-in and back.
pub(super) fn to_sign_in(admin: &Admin, headers: &HeaderMap, uri: &Uri) -> PageError {
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    PageError::SignIn {
        next: wanted(uri, &admin.config.address.base),
        from_elsewhere: matches!(site, Some("cross-site" | "same-site")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_leads_only_to_our_own_paths() {
        assert_eq!(local("/pending?pool=a%20b"), "/pending?pool=a%20b");
        for bad in
            ["", "pending", "//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nb", "/a b"]
        {
            assert_eq!(local(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn the_wanted_path_does_not_hold_the_base() {
        let uri: Uri = "/ops/pending?pool=a".parse().expect("a URI");
        assert_eq!(wanted(&uri, "/ops"), "/pending?pool=a");
        assert_eq!(wanted(&uri, ""), "/ops/pending?pool=a");
    }
}
