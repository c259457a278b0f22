//! A proxy between a worker and its engine, which reports when a request reaches a chosen point.
//!
//! The trap keeps a caught request until the worker is dead: the worker never gets the answer.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;

/// Where a request is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The request never reaches the engine.
    Before,
    /// The engine is at work on it.
    Sent,
    /// The engine has done it, and its answer is on its way.
    Answered,
}

#[derive(Debug)]
struct Armed {
    /// How the request's path ends.
    route: &'static str,
    point: Point,
    /// Which of them it is, from 1 on.
    nth: u32,
    caught: oneshot::Sender<()>,
}

#[derive(Debug, Clone)]
pub struct Trap {
    pub host: String,
    armed: Arc<Mutex<Option<Armed>>>,
}

impl Trap {
    pub async fn before(engine: &str) -> Self {
        let socket = engine.strip_prefix("unix://").expect("a socket").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = format!("tcp://{}", listener.local_addr().expect("an address"));
        let trap = Self { host, armed: Arc::default() };
        let listening = trap.clone();
        tokio::spawn(async move {
            while let Ok((worker, _)) = listener.accept().await {
                let (trap, socket) = (listening.clone(), socket.clone());
                // A broken connection is what happens to the killed.
                tokio::spawn(async move { trap.carry(worker, &socket).await.ok() });
            }
        });
        trap
    }

    /// Catches the `nth` request of a route at this point, and says so.
    pub fn arm(&self, route: &'static str, point: Point, nth: u32) -> oneshot::Receiver<()> {
        let (caught, reported) = oneshot::channel();
        *self.armed.lock().expect("no panic") = Some(Armed { route, point, nth, caught });
        reported
    }

    async fn carry(&self, mut worker: TcpStream, socket: &str) -> std::io::Result<()> {
        let mut engine = UnixStream::connect(socket).await?;
        let mut request = Vec::new();
        let end = loop {
            if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if worker.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        while request.len() < end + 4 + length.unwrap_or_default() {
            if worker.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let path = head.split(' ').nth(1).and_then(|path| path.split('?').next()).unwrap_or_default();
        let Some(armed) = self.step_on(path) else {
            engine.write_all(&request).await?;
            copy_bidirectional(&mut worker, &mut engine).await?;
            return Ok(());
        };
        match armed.point {
            Point::Before => {}
            Point::Sent => engine.write_all(&request).await?,
            Point::Answered => {
                engine.write_all(&request).await?;
                let _first = engine.read_u8().await?;
            }
        }
        let _ = armed.caught.send(());
        // Ends with the worker.
        let _ = worker.read_u8().await;
        Ok(())
    }

    /// Takes the trap if this is the request it waits for.
    fn step_on(&self, path: &str) -> Option<Armed> {
        let mut slot = self.armed.lock().expect("no panic");
        let armed = slot.as_mut().filter(|armed| path.ends_with(armed.route))?;
        armed.nth -= 1;
        if armed.nth == 0 { slot.take() } else { None }
    }
}
