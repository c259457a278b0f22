//! Visitors: who asks for a page, and what they may.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use secrecy::SecretString;

use super::Admin;
use super::cookie::{self, Jar, Kind};
use super::error::PageError;
use crate::store::audit::Actor;
use crate::store::caller::Caller;
use crate::store::token::Scope;

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    session: Option<(SecretString, Caller)>,
}

impl Visitor {
    /// Nobody we know.
    pub(super) const STRANGER: Self = Self { session: None };

    /// Whose session the request belongs to. A session whose token is good no more is none.
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

    /// Whether this token may look: whoever may act must see what there is.
    pub(super) fn may_read(caller: &Caller) -> bool {
        caller.may(Scope::Read) || caller.may(Scope::Operate)
    }

    /// Whether this visitor may act.
    pub(super) fn may_operate(&self) -> bool {
        self.session.as_ref().is_some_and(|(_, caller)| caller.may(Scope::Operate))
    }

    /// For the audit; `None` for whoever may not act.
    pub(super) fn operator(&self) -> Option<Actor> {
        self.session
            .as_ref()
            .filter(|(_, caller)| caller.may(Scope::Operate))
            .map(|(_, caller)| caller.actor())
    }

    /// Whoever is signed in, with the cookie.
    pub(super) fn session(&self) -> Option<(&SecretString, Actor)> {
        self.session.as_ref().map(|(cookie, caller)| (cookie, caller.actor()))
    }

    /// What this visitor's forms must repeat.
    pub(super) fn form_token(&self) -> String {
        self.session.as_ref().map(|(cookie, _)| cookie::form_token(cookie)).unwrap_or_default()
    }
}

/// A visitor who may look.
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
            Some(false) | None => Err(PageError::sign_in(admin, &parts.headers, &parts.uri)),
        }
    }
}

/// Where a visitor wanted to go: a path of ours, without the base. Anything else is the overview.
pub(super) fn wanted(uri: &Uri, base: &str) -> String {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    local(path.strip_prefix(base).unwrap_or(path)).to_owned()
}

/// A path that a browser can only take for one of ours.
pub(super) fn local(path: &str) -> &str {
    let is_path = path.starts_with('/') && !path.starts_with("//");
    let is_plain = path.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'\\');
    if is_path && is_plain { path } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere_after_the_sign_in() {
        assert_eq!(local("/pending?pool=a%20b"), "/pending?pool=a%20b");
        for bad in
            ["", "pending", "//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nb", "/a b"]
        {
            assert_eq!(local(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn the_base_is_no_part_of_where_somebody_wanted_to_go() {
        let uri: Uri = "/ops/pending?pool=a".parse().expect("a URI");
        assert_eq!(wanted(&uri, "/ops"), "/pending?pool=a");
        assert_eq!(wanted(&uri, ""), "/ops/pending?pool=a");
    }
}
