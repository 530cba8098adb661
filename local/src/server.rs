//! The servers by name, and what differs between them from outside: deadlines and how they like to be stopped.

use rustix::process::Signal;
use std::fmt;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    Kafka,
    ClickHouse,
    Postgres,
    Redis,
}

impl Server {
    pub const ALL: [Self; 4] = [Self::Kafka, Self::ClickHouse, Self::Postgres, Self::Redis];

    /// Its directory and its log have this name too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }

    /// Generous: a loaded machine, and a log or a journal to recover after a crash.
    pub(crate) fn ready_deadline(self) -> Duration {
        match self {
            Self::Kafka | Self::ClickHouse => Duration::from_secs(90),
            Self::Postgres => Duration::from_secs(60),
            Self::Redis => Duration::from_secs(20),
        }
    }

    /// Past this it is killed; all of them recover from that.
    pub(crate) fn stop_deadline(self) -> Duration {
        match self {
            Self::Kafka | Self::ClickHouse => Duration::from_secs(15),
            Self::Postgres | Self::Redis => Duration::from_secs(10),
        }
    }

    /// Postgres would wait for its clients to leave at SIGTERM; SIGINT makes it disconnect them.
    pub(crate) fn stop_signal(self) -> Signal {
        match self {
            Self::Postgres => Signal::INT,
            Self::Kafka | Self::ClickHouse | Self::Redis => Signal::TERM,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
