//! The description of the API, which is served, and committed as docs/openapi.json.

use reqwest::Method;

use warmproof_testkit::api::{api, send};

const COMMITTED: &str = include_str!("../../../docs/openapi.json");

#[tokio::test]
async fn the_committed_description_is_the_one_that_is_served() {
    let api = api().await;
    let served = send(api.anonymous(Method::GET, "/openapi.json")).await;
    assert_eq!((served.status.as_u16(), served.header("content-type")), (200, "application/json"));
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    if std::env::var_os("WRITE_OPENAPI").is_some() {
        std::fs::write(committed, &served.text).expect("docs/openapi.json");
        return;
    }
    assert!(served.text == COMMITTED, "docs/openapi.json is not what is served: run `make openapi`");
}

#[tokio::test]
async fn every_route_names_its_scope_and_describes_its_refusals() {
    let api = api().await;
    let description = send(api.anonymous(Method::GET, "/openapi.json")).await.json();
    let mut routes = 0;
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let scope = &operation["security"][0]["token"][0];
            assert_eq!(scope.is_string(), path.starts_with("/v1/"), "{method} {path}");
            let has = |status: &str| !operation["responses"][status].is_null();
            assert!(!path.starts_with("/v1/") || (has("401") && has("403") && has("503")), "{method} {path}");
            assert!(method != "post" || path.ends_with("probe-now") || (has("400") && has("422")), "{path}");
            routes += 1;
        }
    }
    assert_eq!(routes, 15, "a route that is not described cannot be used by a generated client");
}
