//! Style, script and icon, compiled in. The address of each holds its hash, so that browsers may cache it.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::Admin;
use super::error::PageError;

/// For ever, because the address changes with the content.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

struct Asset {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const ALL: [Asset; 5] = [
    Asset {
        name: "page.css",
        content_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../../assets/page.css"),
    },
    Asset {
        name: "page.js",
        content_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../assets/page.js"),
    },
    Asset {
        name: "uplot.css",
        content_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../../assets/uplot.css"),
    },
    Asset {
        name: "uplot.js",
        content_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../assets/uplot.js"),
    },
    Asset { name: "icon.svg", content_type: "image/svg+xml", bytes: include_bytes!("../../assets/icon.svg") },
];

/// The address of each asset.
#[derive(Debug, Clone)]
pub(super) struct Assets {
    pub(super) style: String,
    pub(super) script: String,
    pub(super) chart_style: String,
    pub(super) chart_script: String,
    pub(super) icon: String,
}

impl Assets {
    pub(super) fn new(base: &str) -> Self {
        let [style, script, chart_style, chart_script, icon] =
            ALL.each_ref().map(|asset| format!("{base}/assets/{}?v={}", asset.name, hash(asset.bytes)));
        Self { style, script, chart_style, chart_script, icon }
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Serves one asset.
pub(super) async fn asset(
    State(_): State<Admin>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let asset = ALL.iter().find(|asset| asset.name == name).ok_or(PageError::NoPage)?;
    let tag = format!("\"{}\"", hash(asset.bytes));
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let tag = HeaderValue::from_str(&tag).map_err(|_| PageError::NoPage)?;
    let reported = [(header::ETAG, tag), (header::CACHE_CONTROL, FOR_EVER)];
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, reported).into_response());
    }
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type))];
    Ok((reported, kind, asset.bytes).into_response())
}
