//! `session_id`: connections that outlive a request, so that temporary tables and SET last. Bounded in number and age;
//! gone after a restart.

use super::exception::{Exception, raise};
use super::library::Connection;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Each holds a session of the engine; clients in use here open one each.
const SESSIONS_MAX: usize = 256;
/// A server's `default_session_timeout`.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A server's `max_session_timeout`.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Which session a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionWish {
    pub id: String,
    pub timeout: Duration,
    /// Refuse if it does not exist yet.
    pub must_exist: bool,
}

impl SessionWish {
    pub fn new(id: String, timeout: Option<&str>, must_exist: bool) -> Result<Self, Exception> {
        let timeout = match timeout {
            None => TIMEOUT,
            Some(text) => Duration::from_secs(
                text.parse()
                    .map_err(|_| raise::INVALID_SESSION_TIMEOUT(format!("Invalid session timeout: '{text}'")))?,
            ),
        };
        if timeout > TIMEOUT_MAX {
            return Err(raise::INVALID_SESSION_TIMEOUT(format!(
                "Session timeout '{}' is larger than max_session_timeout: {}",
                timeout.as_secs(),
                TIMEOUT_MAX.as_secs()
            )));
        }
        Ok(Self { id, timeout, must_exist })
    }
}

/// The open sessions. One that is in use has no connection here: a second request for it is refused, as a server does.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<String, Session>>);

struct Session {
    idle: Option<Connection>,
    expires: Instant,
}

impl Sessions {
    /// Takes the session's connection, or opens one.
    pub fn take(
        &self,
        wish: &SessionWish,
        open: impl FnOnce() -> Result<Connection, Exception>,
    ) -> Result<Connection, Exception> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        sessions.retain(|_, session| session.idle.is_none() || session.expires > now);
        if let Some(session) = sessions.get_mut(&wish.id) {
            return session
                .idle
                .take()
                .ok_or_else(|| raise::SESSION_IS_LOCKED("Session is locked by a concurrent client"));
        }
        if wish.must_exist {
            return Err(raise::SESSION_NOT_FOUND("Session not found"));
        }
        if sessions.len() >= SESSIONS_MAX {
            return Err(raise::TOO_MANY_SIMULTANEOUS_QUERIES(format!(
                "Too many sessions: {SESSIONS_MAX} are open; close some by a shorter session_timeout"
            )));
        }
        let connection = open()?;
        sessions.insert(wish.id.clone(), Session { idle: None, expires: now + wish.timeout });
        Ok(connection)
    }

    /// Gives the connection back; `None` forgets the session.
    pub fn give_back(&self, wish: &SessionWish, connection: Option<Connection>) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match connection {
            Some(idle) => {
                let expires = Instant::now() + wish.timeout;
                sessions.insert(wish.id.clone(), Session { idle: Some(idle), expires });
            }
            None => {
                sessions.remove(&wish.id);
            }
        }
    }

    pub fn close_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lives_as_long_as_it_says_within_bounds() {
        let timeout = |text| SessionWish::new("s".into(), text, false).map(|wish| wish.timeout.as_secs());
        assert_eq!(timeout(None), Ok(60));
        assert_eq!(timeout(Some("5")), Ok(5));
        assert_eq!(timeout(Some("3601")).unwrap_err().code, 374);
        assert_eq!(timeout(Some("soon")).unwrap_err().code, 374);
    }
}
