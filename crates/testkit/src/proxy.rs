//! A network that fails on demand: forwards TCP, refuses it, cuts it, delays it, swallows it, or loses one reply.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::pooler::{self, PoolMode};

/// `ReadyForQuery` outside a transaction: what the server sends once it has committed.
const COMMITTED: &[u8] = b"Z\0\0\0\x05I";

#[derive(Default)]
struct Shared {
    down: watch::Sender<bool>,
    attempts: AtomicUsize,
    attempts_seen: watch::Sender<usize>,
    lose_a_reply: AtomicBool,
    /// How long each way takes, in milliseconds.
    delay_ms: AtomicU64,
    /// Connections up to this one are half-open: what is sent is acknowledged, and goes nowhere.
    half_open: AtomicUsize,
    /// So are those that are made meanwhile.
    new_half_open: AtomicBool,
}

impl Shared {
    fn is_half_open(&self, connection: usize) -> bool {
        connection <= self.half_open.load(Ordering::SeqCst)
    }
}

/// A proxy to one address. It refuses connections until it is opened.
pub struct Proxy {
    pub address: SocketAddr,
    target: SocketAddr,
    socket: Option<TcpSocket>,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Reserves an address at which no process listens: connections are refused.
    pub fn closed(target: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = socket.local_addr().expect("an address");
        Self { address, target, socket: Some(socket), shared: Arc::default() }
    }

    /// Forwards from now on.
    pub fn open(&mut self) {
        let listener = self.socket.take().expect("not open yet").listen(64).expect("a listener");
        tokio::spawn(serve(listener, self.target, Arc::clone(&self.shared)));
    }

    /// Cuts every connection, and every later one as soon as it is made.
    pub fn cut(&self) {
        self.shared.down.send_replace(true);
    }

    /// Delays each way by so much from now on.
    pub fn delay(&self, each_way: Duration) {
        self.shared.delay_ms.store(u64::try_from(each_way.as_millis()).expect("a delay"), Ordering::SeqCst);
    }

    /// Leaves every open connection half-open, for ever: sent bytes are acknowledged and go nowhere.
    pub fn half_open(&self) {
        self.shared.half_open.store(self.attempts(), Ordering::SeqCst);
    }

    /// If `true`, all new connections are half-open, too.
    pub fn half_open_new(&self, swallow: bool) {
        self.shared.new_half_open.store(swallow, Ordering::SeqCst);
    }

    pub fn restore(&self) {
        self.shared.down.send_replace(false);
    }

    /// Connections made so far.
    pub fn attempts(&self) -> usize {
        self.shared.attempts.load(Ordering::SeqCst)
    }

    /// Waits for so many connections.
    pub async fn wait_for_attempts(&self, count: usize) {
        let mut seen = self.shared.attempts_seen.subscribe();
        let _ = super::wait::within("connections are tried", seen.wait_for(|seen| *seen >= count)).await;
    }

    /// Lets the next settle reach the server and commit, loses its reply and cuts its connection.
    pub fn lose_the_reply_of_a_settle(&self) {
        self.shared.lose_a_reply.store(true, Ordering::SeqCst);
    }

    /// Whether a reply was lost, or still waits to be.
    pub fn has_lost_it(&self) -> bool {
        !self.shared.lose_a_reply.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let count = shared.attempts.fetch_add(1, Ordering::SeqCst) + 1;
        shared.attempts_seen.send_replace(count);
        let mut down = shared.down.subscribe();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = down.wait_for(|down| *down) => {}
                _ = forward(client, target, &shared, count) => {}
            }
        });
    }
}

/// Both ways, chunk by chunk. Returning drops both sockets.
async fn forward(
    mut client: TcpStream,
    target: SocketAddr,
    shared: &Shared,
    connection: usize,
) -> std::io::Result<()> {
    if shared.new_half_open.load(Ordering::SeqCst) {
        return swallow(&mut client).await;
    }
    let mut server = TcpStream::connect(target).await?;
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut settling = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let chunk = &up[..read?];
                if chunk.is_empty() {
                    return Ok(());
                }
                if shared.is_half_open(connection) {
                    return swallow(&mut client).await;
                }
                delayed(shared).await;
                server.write_all(chunk).await?;
                if is_settle(chunk) && shared.lose_a_reply.swap(false, Ordering::SeqCst) {
                    settling = true;
                }
                // Behind a pooler the statement is one of a transaction, and commits with that.
                if settling && (pooler::mode() != Some(PoolMode::Transaction) || is_commit(chunk)) {
                    return lose_reply(&mut server).await;
                }
            }
            read = server.read(&mut down) => {
                let chunk = &down[..read?];
                if chunk.is_empty() {
                    return Ok(());
                }
                if shared.is_half_open(connection) {
                    return swallow(&mut client).await;
                }
                delayed(shared).await;
                client.write_all(chunk).await?;
            }
        }
    }
}

async fn delayed(shared: &Shared) {
    let delay = shared.delay_ms.load(Ordering::SeqCst);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
}

/// Reads and drops all bytes and answers nothing. The server keeps its end open, as behind a router that forgot the
/// connection.
async fn swallow(client: &mut TcpStream) -> std::io::Result<()> {
    let mut nowhere = vec![0; 64 << 10];
    while client.read(&mut nowhere).await? > 0 {}
    Ok(())
}

async fn lose_reply(server: &mut TcpStream) -> std::io::Result<()> {
    let mut reply = Vec::new();
    while !reply.ends_with(COMMITTED) {
        if server.read_buf(&mut reply).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// A simple query that commits.
fn is_commit(chunk: &[u8]) -> bool {
    chunk.first() == Some(&b'Q') && chunk.windows(6).any(|window| window == b"commit")
}

/// A `Bind` whose parameters hold a verdict; only a settle brings one.
fn is_settle(chunk: &[u8]) -> bool {
    let has = |word: &[u8]| chunk.windows(word.len()).any(|window| window == word);
    chunk.first() == Some(&b'B') && (has(b"delivered") || has(b"fallback"))
}
