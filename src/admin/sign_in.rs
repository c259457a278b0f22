//! Signing in with a token, and out again.

use askama::Template;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use secrecy::SecretString;

use super::Admin;
use super::cookie::{self, Jar, Kind};
use super::error::{PageError, redirect};
use super::form::{self, FORM_TOKEN, Fields, Posted};
use super::page::{self, Chrome, Tab};
use super::visitor::{Visitor, local};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    chrome: Chrome,
    /// The form's token, which belongs to a cookie of its own.
    form_token: String,
    /// Where to go after the sign-in.
    next: String,
    /// Why the sign-in failed.
    problem: Option<&'static str>,
}

/// The form.
pub(super) async fn page(
    State(admin): State<Admin>,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, PageError> {
    let next = local(fields.get("next").unwrap_or("/"));
    let visitor = Visitor::of(&admin, &headers).await?;
    show(&admin, &headers, &visitor, next, None)
}

/// The form with the cookie it belongs to.
fn show(
    admin: &Admin,
    headers: &HeaderMap,
    visitor: &Visitor,
    next: &str,
    problem: Option<&'static str>,
) -> Result<Response, PageError> {
    let jar = Jar::of(&admin.config.address, headers);
    // One cookie for all open forms of a browser, so that two tabs do not invalidate each other's form.
    let cookie = jar.read(Kind::SignIn, headers).map_or_else(cookie::fresh, Ok)?;
    let (chrome, form_token) = (Chrome::still(admin, visitor, Tab::None), cookie::form_token(&cookie));
    let mut response = page::write(&SignInPage { chrome, form_token, next: next.to_owned(), problem })?;
    if problem.is_some() {
        *response.status_mut() = StatusCode::FORBIDDEN;
    }
    response.headers_mut().append(header::SET_COOKIE, jar.set(Kind::SignIn, &cookie)?);
    Ok(response)
}

/// Takes a token and starts a session.
pub(super) async fn sign_in(State(admin): State<Admin>, request: Request) -> Result<Response, PageError> {
    let headers = request.headers().clone();
    form::require_same_origin(&admin, &headers)?;
    let fields = form::read(request, &admin).await?;
    let jar = Jar::of(&admin.config.address, &headers);
    let repeated = fields.get(FORM_TOKEN).unwrap_or_default();
    let next = local(fields.get("next").unwrap_or("/"));
    let refuse = |problem| show(&admin, &headers, &Visitor::STRANGER, next, Some(problem));
    if !jar.read(Kind::SignIn, &headers).is_some_and(|cookie| cookie::is_form_of(&cookie, repeated)) {
        return refuse(
            "Your browser did not send this form's cookie. Allow cookies for this page and try again.",
        );
    }
    let token = fields.get("token").unwrap_or_default().trim();
    let Some(caller) = admin.tokens.recognise(&admin.store, token).await? else {
        tracing::warn!("a sign-in with an unknown token");
        return refuse("This token is unknown or revoked. `warmproof token list` shows all tokens.");
    };
    if !Visitor::may_read(&caller) {
        return refuse("This token may only schedule. Use one with the scope `read` or `operate`.");
    }
    // A new sign-in ends the earlier session, which may have had another token.
    if let Some((cookie, actor)) = Visitor::of(&admin, &headers).await?.session() {
        admin.store.close_session(cookie, &actor).await?;
    }
    let session = cookie::fresh()?;
    let token = SecretString::from(token);
    admin.store.open_session(&session, &token, admin.config.session, &caller.actor()).await?;
    let mut response = redirect(&format!("{}{next}", admin.config.address.base));
    for line in [jar.set(Kind::Session, &session)?, jar.clear(Kind::SignIn)?] {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    Ok(response)
}

/// Ends the session.
pub(super) async fn sign_out(
    State(admin): State<Admin>,
    headers: HeaderMap,
    posted: Posted,
) -> Result<Response, PageError> {
    if let Some((cookie, actor)) = posted.visitor.session() {
        admin.store.close_session(cookie, &actor).await?;
    }
    let mut response = redirect(&format!("{}/sign-in", admin.config.address.base));
    let line = Jar::of(&admin.config.address, &headers).clear(Kind::Session)?;
    response.headers_mut().append(header::SET_COOKIE, line);
    Ok(response)
}
