//! A proxy between a worker and the API server, which reports when a request reaches a chosen point.
//!
//! The trap keeps a caught request until the worker is dead: the worker never gets the answer. The worker speaks
//! plain HTTP to the trap, and the trap asks the server with the worker's own rights.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use kube::Client;
use kube::client::Body;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Where a request is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The request never reaches the server.
    Before,
    /// It is on its way to the server.
    Sent,
    /// The server has answered, and the worker never gets the answer.
    Answered,
}

#[derive(Debug)]
struct Armed {
    method: Method,
    point: Point,
    /// Which of them it is, from 1 on.
    nth: u32,
    caught: oneshot::Sender<()>,
}

#[derive(Debug, Clone)]
pub struct Trap {
    pub url: String,
    armed: Arc<Mutex<Option<Armed>>>,
}

impl Trap {
    pub async fn before(server: Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let trap = Self { url, armed: Arc::default() };
        let app = Router::new().fallback(carry).with_state((trap.clone(), server));
        tokio::spawn(async move { axum::serve(listener, app).await });
        trap
    }

    /// Catches the `nth` request about pods with this method at this point, and says so.
    pub fn arm(&self, method: Method, point: Point, nth: u32) -> oneshot::Receiver<()> {
        let (caught, reported) = oneshot::channel();
        *self.armed.lock().expect("no panic") = Some(Armed { method, point, nth, caught });
        reported
    }

    /// Takes the trap if this is the request it waits for.
    fn step_on(&self, request: &Request) -> Option<Armed> {
        let mut slot = self.armed.lock().expect("no panic");
        let is_it = |armed: &&mut Armed| {
            armed.method == request.method() && request.uri().path().contains("/namespaces/")
        };
        let armed = slot.as_mut().filter(is_it)?;
        armed.nth -= 1;
        if armed.nth == 0 { slot.take() } else { None }
    }
}

async fn carry(State((trap, server)): State<(Trap, Client)>, request: Request) -> Response {
    let armed = trap.step_on(&request);
    // A task of its own: what was sent is sent, even if the worker dies meanwhile.
    match armed {
        None => tokio::spawn(ask(server, request)).await.expect("an answer"),
        Some(Armed { point, caught, .. }) => {
            let asked = (point != Point::Before).then(|| tokio::spawn(ask(server, request)));
            if let (Point::Answered, Some(asked)) = (point, asked) {
                asked.await.expect("an answer");
            }
            let _ = caught.send(());
            // Ends with the worker.
            std::future::pending().await
        }
    }
}

async fn ask(server: Client, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let path = parts.uri.path_and_query().expect("a path").as_str();
    let mut asked = axum::http::Request::builder().method(parts.method).uri(path);
    for name in [ACCEPT, CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            asked = asked.header(name, value);
        }
    }
    let asked = asked.body(Body::from(body.to_vec())).expect("a request");
    let (parts, body) = server.send(asked).await.expect("an answer").into_parts();
    let body: Bytes = body.collect_bytes().await.expect("a body");
    let mut answer = Response::new(axum::body::Body::from(body));
    *answer.status_mut() = parts.status;
    answer
}
