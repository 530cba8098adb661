//! Connections: not too many, none that dawdles, and all of them answered before the process ends.

use super::tls::Tls;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// From the last answer, or the connection's begin, to the end of a request's headers. Who sends them slowly, or
/// nothing at all, makes room.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(15);
/// Headers of one request, and what is read at once.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long an answer may lie unread before the connection is given up.
const UNREAD_DEADLINE: Duration = Duration::from_secs(30);
/// After an accept that failed, most often for want of file descriptors: until some are closed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Beyond what the log may take: to send the answers.
pub(super) const DRAIN_SLACK: Duration = Duration::from_secs(5);
/// Who is told at once that there is no room; beyond them connections are closed without a word.
const TURNED_AWAY_AT_ONCE: usize = 64;
const TURNED_AWAY_DEADLINE: Duration = Duration::from_secs(2);
/// For their request to come: many clients take an answer that is there before it for a broken connection.
const REQUEST_DEADLINE: Duration = Duration::from_secs(1);
const NO_ROOM: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n{\"title\":\"Service Unavailable\",\"status\":503,\
    \"detail\":\"as many connections are open as may be (gateway.connections); nothing was published\"}";
/// Files that are no connections of senders: the Kafka client's, the registry's, the ops port's, those turned away.
const OTHER_FILES: u64 = 256;

pub(super) struct Limits {
    pub connections: usize,
    pub drain: Duration,
}

/// Serves until cancelled, then lets what is in hand be answered. False when that took too long.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    open: Gauge,
    stop: CancellationToken,
) -> bool {
    let slots = Arc::new(Semaphore::new(openable(limits.connections)));
    let (lobby, graceful) = (Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE)), GracefulShutdown::new());
    while let Some(stream) = next(&listener, &stop).await {
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            turn_away(stream, tls.clone(), &lobby);
            continue;
        };
        let serving = connection(stream, tls.clone(), router.clone(), graceful.watcher(), stop.clone());
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

/// As many connections as there may be files: one too many, and the Kafka client could not reach its broker again.
fn openable(connections: usize) -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }); // an ordinary user begins with 1024
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let possible = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX).max(1);
    if possible < connections {
        tracing::warn!("{files} open files (ulimit -n) are enough for {possible} connections, not for {connections}");
    }
    connections.min(possible)
}

fn turn_away(stream: TcpStream, tls: Option<Arc<Tls>>, lobby: &Arc<Semaphore>) {
    let Ok(place) = lobby.clone().try_acquire_owned() else { return };
    tokio::spawn(async move {
        let talk = async {
            match tls {
                None => say_no_room(stream).await,
                Some(tls) => say_no_room(tls.shake_hands(stream).await.map_err(io::Error::other)?).await,
            }
        };
        let _ = tokio::time::timeout(TURNED_AWAY_DEADLINE, talk).await;
        drop(place);
    });
}

/// Waits until the other side has read it: what is closed over unread bytes is reset, and the answer lost.
async fn say_no_room(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let _ = tokio::time::timeout(REQUEST_DEADLINE, stream.read(&mut [0; 4096])).await;
    stream.write_all(NO_ROOM.as_bytes()).await?;
    stream.shutdown().await?;
    while stream.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

/// A connection; `None` when it is time to stop.
async fn next(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some(stream),
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

async fn connection(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    router: Router,
    watcher: Watcher,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let _ = stream.set_nodelay(true);
    let unread = u32::try_from(UNREAD_DEADLINE.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, unread);
    // Boxed: who speaks plainly does not take the room of who speaks TLS.
    match tls {
        None => Box::pin(talk(stream, router, watcher)).await?,
        Some(tls) => {
            Box::pin(async move {
                // Who has not shaken hands when it is time to stop has asked nothing.
                match stop.run_until_cancelled(tls.shake_hands(stream)).await {
                    Some(shaken) => anyhow::Ok(talk(shaken?, router, watcher).await?),
                    None => Ok(()),
                }
            })
            .await?;
        }
    }
    Ok(())
}

fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    watcher: Watcher,
) -> impl Future<Output = hyper::Result<()>> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE).max_buf_size(BUFFER_BYTES_MAX);
    watcher.watch(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)))
}
