//! The admin page: its address, whether reading needs a token, and its time limits.

use std::time::Duration;

use url::Url;

use super::reader::Reader;

/// What the API's own paths begin with; the page shares its address.
const PATHS_OF_THE_API: [&str; 5] = ["v1", "healthz", "readyz", "metrics", "openapi.json"];

/// The page, as the API's process serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// `WARMPROOF_ADMIN_URL`: the page's address as browsers see it.
    pub address: Address,
    /// `WARMPROOF_ADMIN_READ_WITHOUT_TOKEN`: visitors may read the page without a token; false by default.
    ///
    /// Acting always requires a token with the scope `operate`.
    pub read_without_token: bool,
    /// `WARMPROOF_ADMIN_SESSION_MINUTES`: how long a sign-in lasts, 12 hours by default.
    ///
    /// Too short and people sign in all day; too long and a browser left open stays signed in.
    pub session: Duration,
    /// `WARMPROOF_ADMIN_STATEMENT_TIMEOUT_MS`: longest one statement of a page may run, 2 s by default.
    ///
    /// Too short and a busy database answers no page; too long and repeated reloads pile up statements.
    pub statement_timeout: Duration,
}

/// Where browsers find the page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// The prefix of every path of the page: empty, or for example `/warmproof`.
    pub base: String,
    /// Scheme and host that browsers send as `Origin`, if they are known.
    pub origin: Option<String>,
    /// Whether browsers come by https; `None`: a proxy reports it with each request.
    pub secure: Option<bool>,
}

impl AdminConfig {
    /// Reads this concern; faults stay with the reader. `None` if the page is switched off.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let enabled = reader.flag("WARMPROOF_ADMIN_ENABLED", true);
        let config = Self {
            address: read_address(reader),
            read_without_token: reader.flag("WARMPROOF_ADMIN_READ_WITHOUT_TOKEN", false),
            session: Duration::from_secs(
                60 * reader.whole("WARMPROOF_ADMIN_SESSION_MINUTES", 720, 5..=43_200),
            ),
            statement_timeout: reader.millis("WARMPROOF_ADMIN_STATEMENT_TIMEOUT_MS", 2000, 100..=60_000),
        };
        enabled.then_some(config)
    }
}

fn read_address(reader: &mut Reader<'_>) -> Address {
    let variable = "WARMPROOF_ADMIN_URL";
    let Some(text) = reader.optional_text(variable) else { return Address::default() };
    let address = parse_address(text.trim());
    if address.is_none() {
        let hint = "set it to an address such as `https://ops.example/warmproof`; its path may hold letters, \
                    digits, `-`, `_`, `.` and `~`";
        reader.fault(variable, "is not an address that a browser can open", hint);
    }
    address.unwrap_or_default()
}

fn parse_address(text: &str) -> Option<Address> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let base = url.path().trim_end_matches('/');
    // No characters that a router, a cookie or a page would misread.
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
    let first = base.split('/').nth(1).unwrap_or_default();
    let is_fit = plain
        && !PATHS_OF_THE_API.contains(&first)
        && url.fragment().is_none()
        && base.chars().all(fits)
        && !base.contains("//");
    is_fit.then(|| Address {
        base: base.to_owned(),
        origin: Some(url.origin().ascii_serialization()),
        secure: Some(secure),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gives_base_origin_and_scheme() {
        let address = parse_address("https://ops.example/tools/warmproof/").expect("an address");
        assert_eq!(address.base, "/tools/warmproof");
        assert_eq!(address.origin.as_deref(), Some("https://ops.example"));
        assert_eq!(address.secure, Some(true));
        let root = parse_address("http://127.0.0.1:8030").expect("an address");
        assert_eq!((root.base.as_str(), root.secure), ("", Some(false)));
    }

    #[test]
    fn what_no_browser_could_be_given_is_refused() {
        for bad in ["ops.example", "ftp://ops.example", "https://u:p@ops.example", "https://ops.example/a{b}"]
        {
            assert_eq!(parse_address(bad), None, "{bad}");
        }
        for bad in
            ["https://ops.example/?a", "https://ops.example/#a", "https://ops.example/v1/a", "/warmproof"]
        {
            assert_eq!(parse_address(bad), None, "{bad}");
        }
    }
}
