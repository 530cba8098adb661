//! Connections: not too many, none that dawdles, and all of them answered before the process ends.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// From the last answer, or the connection's begin, to the end of a request's headers. Who sends them slowly, or
/// nothing at all, makes room.
const HEADER_DEADLINE: Duration = Duration::from_secs(15);
/// Headers of one request, and what is read at once.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long an answer may lie unread before the connection is given up.
const UNREAD_DEADLINE: Duration = Duration::from_secs(30);
/// After an accept that failed, most often for want of file descriptors: until some are closed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Beyond what the log may take: to send the answers.
pub(super) const DRAIN_SLACK: Duration = Duration::from_secs(5);

pub(super) struct Limits {
    pub connections: usize,
    pub drain: Duration,
}

/// Serves until cancelled, then lets what is in hand be answered. False when that took too long.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    open: Gauge,
    stop: CancellationToken,
) -> bool {
    let (slots, graceful) = (Arc::new(Semaphore::new(limits.connections)), GracefulShutdown::new());
    while let Some((stream, slot)) = next(&listener, &slots, &stop).await {
        let serving = graceful.watch(connection(stream, router.clone()));
        let open = open.clone();
        open.inc();
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!("a connection ended: {error}"); // the other side's doing, and often
            }
            open.dec();
            drop(slot);
        });
    }
    drop(listener); // nobody new is let in
    tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_ok()
}

/// A connection and its slot; `None` when it is time to stop.
async fn next(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let accept = async {
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, slot)),
                Err(error) => {
                    tracing::warn!("no connection was accepted: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => None,
        accepted = accept => accepted,
    }
}

fn connection(stream: TcpStream, router: Router) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    let _ = stream.set_nodelay(true);
    let unread = u32::try_from(UNREAD_DEADLINE.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, unread);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE).max_buf_size(BUFFER_BYTES_MAX);
    builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}
