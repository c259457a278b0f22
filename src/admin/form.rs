//! Forms and queries: fields by name, and the check that a form is one of ours.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use url::form_urlencoded;

use super::Admin;
use super::cookie;
use super::error::PageError;
use super::visitor::Visitor;
use crate::store::audit::Actor;

/// The field that every form repeats.
pub(super) const FORM_TOKEN: &str = "form_token";

/// The fields of a form or a query. Browsers send empty fields too, so an empty field counts as absent.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self(form_urlencoded::parse(bytes).into_owned().collect())
    }

    /// The first field of this name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let named = self.0.iter().find(|(key, value)| key == name && !value.is_empty());
        named.map(|(_, value)| value.as_str())
    }

    /// All fields of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(key, value)| key == name && !value.is_empty());
        named.map(|(_, value)| value.as_str())
    }
}

impl FromRequestParts<Admin> for Fields {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &Admin) -> Result<Self, PageError> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default().as_bytes()))
    }
}

/// A form that was made for this session, sent by its signed-in visitor.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) visitor: Visitor,
    pub(super) fields: Fields,
}

impl FromRequest<Admin> for Posted {
    type Rejection = PageError;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, PageError> {
        require_same_origin(admin, request.headers())?;
        let visitor = Visitor::of(admin, request.headers()).await?;
        let fields = read(request, admin).await?;
        let Some((cookie, _)) = visitor.session() else { return Err(PageError::SignedOut) };
        if !cookie::is_form_of(cookie, fields.get(FORM_TOKEN).unwrap_or_default()) {
            return Err(PageError::Forged);
        }
        Ok(Self { visitor, fields })
    }
}

/// The same from a visitor with permission to act.
#[derive(Debug)]
pub(super) struct Operating {
    pub(super) visitor: Visitor,
    pub(super) actor: Actor,
    pub(super) fields: Fields,
}

impl FromRequest<Admin> for Operating {
    type Rejection = PageError;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, PageError> {
        let Posted { visitor, fields } = Posted::from_request(request, admin).await?;
        let actor = visitor.operator().ok_or(PageError::MayNotOperate)?;
        Ok(Self { visitor, actor, fields })
    }
}

/// The fields of a form from any sender.
pub(super) async fn read(request: Request, admin: &Admin) -> Result<Fields, PageError> {
    let bytes = Bytes::from_request(request, admin).await.map_err(|_| PageError::TooLarge)?;
    Ok(Fields::parse(&bytes))
}

/// Checks the origin that browsers report for a form: a second protection besides the form's token.
pub(super) fn require_same_origin(admin: &Admin, headers: &HeaderMap) -> Result<(), PageError> {
    let reported = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let from_elsewhere =
        reported("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let other_origin = match (reported("origin"), &admin.config.address.origin) {
        (Some(origin), Some(ours)) => origin != ours,
        (Some(_) | None, _) => false,
    };
    if from_elsewhere || other_origin { Err(PageError::Forged) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::Fields;

    #[test]
    fn fields_are_read_by_name_and_empty_ones_are_none() {
        let fields = Fields::parse(b"run=a+b&run=c%3D&pool=&x=%FF");
        assert_eq!(fields.all("run").collect::<Vec<_>>(), ["a b", "c="]);
        assert_eq!((fields.get("pool"), fields.get("none")), (None, None));
        assert_eq!(fields.get("x"), Some("\u{fffd}"), "bytes that are not text do no harm");
    }
}
