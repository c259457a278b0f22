//! Connections that can be reset on purpose, and that all end when the simulation stops.
//!
//! A server framework always answers, but the simulator must sometimes not answer.
//! Each accepted socket therefore has a token: after its cancellation the next read
//! or write fails, the server drops the socket, and the peer gets a reset.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::connect_info::Connected;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A handler's access to its connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    cut: CancellationToken,
}

impl Connection {
    /// Resets the connection, which also ends the handler.
    pub(super) async fn reset(&self) -> Response {
        self.cut.cancel();
        std::future::pending().await
    }

    /// Sends headers and half a body, then resets the connection.
    pub(super) fn reset_mid_body(self, status: u16, half: &'static str, promised: usize) -> Response {
        let first = futures_util::stream::once(async move { Ok::<_, io::Error>(Bytes::from(half)) });
        let then = futures_util::stream::once(async move {
            // Lets the server send what it has.
            tokio::task::yield_now().await;
            self.cut.cancel();
            std::future::pending().await
        });
        let body = Body::from_stream(futures_util::StreamExt::chain(first, then));
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header("content-length", promised)
            .body(body)
            .expect("a status and two plain headers")
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        Self { cut: stream.io().cut.clone() }
    }
}

/// Accepts sockets that end with the simulation.
pub(super) struct CuttableListener {
    pub(super) inner: TcpListener,
    pub(super) stop: CancellationToken,
}

impl Listener for CuttableListener {
    type Io = CuttableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.inner).await;
        let cut = self.stop.child_token();
        let cancelled = Box::pin(cut.clone().cancelled_owned());
        (CuttableStream { stream, cut, cancelled }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// One accepted socket.
pub(super) struct CuttableStream {
    stream: TcpStream,
    cut: CancellationToken,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CuttableStream {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cancelled.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Drop for CuttableStream {
    fn drop(&mut self) {
        if self.cut.is_cancelled() {
            // Makes the close a reset. If this fails, an ordinary end also cuts the answer.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for CuttableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
