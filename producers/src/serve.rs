//! Connections: not too many, none that dawdles, and every request in hand answered before the process ends.

use crate::gateway::Tls;
use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// From the last answer, or the connection's begin, to the end of a request's headers. Who sends them slowly, or
/// nothing at all, makes room.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(15);
/// Headers of one request, and what is read at once.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long an answer may lie unread before the connection is given up.
const UNREAD_DEADLINE: Duration = Duration::from_secs(30);
/// After an accept that failed, most often for want of file descriptors: until some are closed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// To send the last answers, once it is time to stop. Who has begun a request and not ended it has asked nothing, and
/// is not waited for.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Who is told at once that there is no room; beyond them connections are closed without a word.
const TURNED_AWAY_AT_ONCE: usize = 64;
const TURNED_AWAY_DEADLINE: Duration = Duration::from_secs(2);
/// For their request to come: many clients take an answer that is there before it for a broken connection.
const REQUEST_DEADLINE: Duration = Duration::from_secs(1);
const NO_ROOM: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n{\"title\":\"Service Unavailable\",\"status\":503,\"detail\":";
/// Files that are no connections of senders: the Kafka client's, the registry's, the ops port's, those turned away.
const OTHER_FILES: u64 = 256;

/// Who may wait to be let in. Beyond it the kernel lets a sender try again a second later; it allows fewer where it is
/// set so (`net.core.somaxconn`, 4,096 by default).
const BACKLOG: u32 = 4096;

/// Where a crowd may come at once, as all senders do after a restart.
///
/// # Errors
/// When the address is none, or somebody has it.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "it names no address");
    for address in tokio::net::lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

pub struct Limits {
    /// At once.
    pub connections: usize,
    /// What whoever comes beyond them is told.
    pub no_room: &'static str,
    /// From the word to stop to the last answer.
    pub drain: Duration,
}

/// Serves plain HTTP until cancelled, then lets what is in hand be answered. False when that took too long.
pub async fn plainly(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) -> bool {
    serve(listener, router, None, limits, Gauge::default(), stop).await
}

/// The same with TLS, if there is any, and a count of the connections.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    open: Gauge,
    stop: CancellationToken,
) -> bool {
    let slots = Arc::new(Semaphore::new(openable(limits.connections)));
    let (lobby, graceful) = (Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE)), GracefulShutdown::new());
    let in_hand = TaskTracker::new();
    while let Some(stream) = next(&listener, &stop).await {
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            turn_away(stream, tls.clone(), &lobby, limits.no_room);
            continue;
        };
        let talk = Talk { router: router.clone(), watcher: graceful.watcher(), in_hand: in_hand.clone() };
        let serving = connection(stream, tls.clone(), talk, stop.clone());
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
    drain(graceful, in_hand, limits.drain).await
}

/// Until all connections are closed, or only those are left whose request was never sent whole.
async fn drain(graceful: GracefulShutdown, in_hand: TaskTracker, deadline: Duration) -> bool {
    in_hand.close();
    let answered = async {
        loop {
            in_hand.wait().await;
            tokio::time::sleep(ANSWER_DEADLINE).await;
            if in_hand.is_empty() {
                break; // or somebody ended a request meanwhile
            }
        }
    };
    tokio::select! {
        () = graceful.shutdown() => {}
        () = answered => {}
        () = tokio::time::sleep(deadline) => {}
    }
    in_hand.is_empty()
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

fn turn_away(stream: TcpStream, tls: Option<Arc<Tls>>, lobby: &Arc<Semaphore>, no_room: &'static str) {
    let Ok(place) = lobby.clone().try_acquire_owned() else { return };
    tokio::spawn(async move {
        let talk = async {
            match tls {
                None => say(no_room, stream).await,
                Some(tls) => say(no_room, tls.shake_hands(stream).await.map_err(io::Error::other)?).await,
            }
        };
        let _ = tokio::time::timeout(TURNED_AWAY_DEADLINE, talk).await;
        drop(place);
    });
}

/// Waits until the other side has read it: what is closed over unread bytes is reset, and the answer lost.
async fn say(no_room: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let _ = tokio::time::timeout(REQUEST_DEADLINE, stream.read(&mut [0; 4096])).await;
    stream.write_all(format!("{NO_ROOM}{no_room:?}}}").as_bytes()).await?;
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

/// What a connection is served by.
struct Talk {
    router: Router,
    watcher: Watcher,
    /// Requests that came whole, to their head, and have no answer yet.
    in_hand: TaskTracker,
}

async fn connection(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    talk: Talk,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let _ = stream.set_nodelay(true);
    let unread = u32::try_from(UNREAD_DEADLINE.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, unread);
    // Boxed: who speaks plainly does not take the room of who speaks TLS.
    match tls {
        None => Box::pin(talk.over(stream)).await?,
        Some(tls) => {
            Box::pin(async move {
                // Who has not shaken hands when it is time to stop has asked nothing.
                match stop.run_until_cancelled(tls.shake_hands(stream)).await {
                    Some(shaken) => anyhow::Ok(talk.over(shaken?).await?),
                    None => Ok(()),
                }
            })
            .await?;
        }
    }
    Ok(())
}

impl Talk {
    fn over(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> impl Future<Output = hyper::Result<()>> {
        let Self { router, watcher, in_hand } = self;
        let router = TowerToHyperService::new(router);
        let service = service_fn(move |request: Request<Incoming>| in_hand.track_future(router.call(request)));
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE).max_buf_size(BUFFER_BYTES_MAX);
        watcher.watch(builder.serve_connection(TokioIo::new(stream), service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    const DRAIN: Duration = Duration::from_secs(60);

    /// A server of a quick path, one that takes 20 seconds, and one that takes an hour; with a connection on which
    /// this was sent.
    async fn asked(sent: &str) -> (TcpStream, CancellationToken, JoinHandle<bool>) {
        let after = |seconds| async move || tokio::time::sleep(Duration::from_secs(seconds)).await;
        let router =
            Router::new().route("/", get(after(0))).route("/slow", get(after(20))).route("/hour", get(after(3600)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let stop = CancellationToken::new();
        let limits = Limits { connections: 1, no_room: "full", drain: DRAIN };
        let serving = tokio::spawn(plainly(listener, router, limits, stop.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await; // the clock stands until everything is read
        (stream, stop, serving)
    }

    /// What came of it, how long it took, and what the connection heard.
    async fn stopped(sent: &str) -> (bool, Duration, String) {
        let (mut stream, stop, serving) = asked(sent).await;
        let since = Instant::now();
        stop.cancel();
        let in_time = serving.await.unwrap();
        let took = since.elapsed();
        let mut heard = vec![0; 12];
        let heard = match in_time && sent.ends_with("\r\n\r\n") {
            true => stream.read(&mut heard).await.map(|count| String::from_utf8_lossy(&heard[..count]).into_owned()),
            false => Ok(String::new()),
        };
        (in_time, took, heard.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_not_asked_anything_keeps_no_server_from_stopping() {
        for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: it\r\n"] {
            let (in_time, took, _) = stopped(begun).await;
            assert!(in_time && took < 2 * ANSWER_DEADLINE, "{begun}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_hand_is_answered_and_not_longer_than_it_may_take() {
        let (in_time, took, heard) = stopped("GET /slow HTTP/1.1\r\nhost: it\r\n\r\n").await;
        assert_eq!((in_time, heard.as_str()), (true, "HTTP/1.1 200"));
        assert!(took >= Duration::from_secs(18) && took < DRAIN, "{took:?}");
        let (in_time, took, _) = stopped("GET /hour HTTP/1.1\r\nhost: it\r\n\r\n").await;
        assert!(!in_time && took >= DRAIN && took < DRAIN + ANSWER_DEADLINE, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_is_told_so() {
        let (stream, stop, serving) = asked("").await;
        let mut other = TcpStream::connect(stream.peer_addr().unwrap()).await.unwrap();
        other.write_all(b"GET / HTTP/1.1\r\nhost: it\r\n\r\n").await.unwrap();
        let mut heard = String::new();
        other.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with("HTTP/1.1 503 ") && heard.ends_with(r#""status":503,"detail":"full"}"#), "{heard}");
        stop.cancel();
        assert!(serving.await.unwrap());
    }
}
