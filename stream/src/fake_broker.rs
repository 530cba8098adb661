//! For tests: a broker that says who it is, where a topic is and which offsets it has, or, as one does that has just come
//! up, that it leads nothing yet. Nothing else. <https://kafka.apache.org/protocol.html>

use crate::KafkaConfig;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub(crate) const TOPIC: &str = "topic";
const PARTITIONS: i32 = 1;

const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const UNSUPPORTED_VERSION: i16 = 35;
const LEADER_NOT_AVAILABLE: i16 = 5;
const NOT_LEADER: i16 = 6;
/// The time by which a client asks for the begin of a log.
const EARLIEST: i64 = -2;

pub(crate) struct FakeBroker {
    port: u16,
    leads: AtomicBool,
    /// So many questions for offsets are still refused.
    refusing: AtomicU32,
    /// So many answers still say that nobody leads the partition.
    leaderless: AtomicU32,
}

impl FakeBroker {
    pub const LOG_START: i64 = 3;
    pub const LOG_END: i64 = 7;

    /// Serves for as long as the test runs.
    pub fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (leads, refusing, leaderless) = (AtomicBool::new(true), AtomicU32::new(0), AtomicU32::new(0));
        let broker = Arc::new(Self { port, leads, refusing, leaderless });
        let serving = broker.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (serving, connection) = (serving.clone(), connection.unwrap());
                std::thread::spawn(move || serving.serve(connection));
            }
        });
        broker
    }

    pub fn kafka(&self) -> KafkaConfig {
        KafkaConfig { brokers: format!("127.0.0.1:{}", self.port), ..KafkaConfig::default() }
    }

    pub fn leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// Says so many times that nobody leads its partition right now.
    pub fn leads_after(&self, times: u32) {
        self.leaderless.store(times, Ordering::Relaxed);
    }

    /// Says so many times of its partition that another leads it.
    pub fn refuses_offsets(&self, times: u32) {
        self.refusing.store(times, Ordering::Relaxed);
    }

    /// Until the client goes, or asks for something else.
    fn serve(&self, mut connection: TcpStream) -> std::io::Result<()> {
        loop {
            let mut size = [0; 4];
            connection.read_exact(&mut size)?;
            let mut request = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap()];
            connection.read_exact(&mut request)?;
            let [a, b, c, d, ref correlation @ ..] = request[..8] else { unreachable!() };
            let answer = match (i16::from_be_bytes([a, b]), i16::from_be_bytes([c, d])) {
                (API_VERSIONS, version) => api_versions(version),
                (METADATA, _) => self.metadata(),
                (LIST_OFFSETS, _) => self.offset(i64::from_be_bytes(request[request.len() - 8..].try_into().unwrap())),
                _ => return Ok(()),
            };
            connection.write_all(&u32::try_from(correlation.len() + answer.len()).unwrap().to_be_bytes())?;
            connection.write_all(&[correlation, &answer[..]].concat())?;
        }
    }

    /// Version 1; the question was for one partition, and ends with the time that it asks for.
    fn offset(&self, time: i64) -> Vec<u8> {
        let (error, offset) = match (is_left(&self.refusing), time) {
            (true, _) => (NOT_LEADER, -1),
            (false, EARLIEST) => (0, Self::LOG_START),
            (false, _) => (0, Self::LOG_END),
        };
        let mut answer = 1i32.to_be_bytes().to_vec(); // topics
        answer.extend(text(TOPIC));
        answer.extend(1i32.to_be_bytes()); // partitions
        answer.extend(0i32.to_be_bytes());
        answer.extend(error.to_be_bytes());
        answer.extend((-1i64).to_be_bytes()); // no time
        answer.extend(offset.to_be_bytes());
        answer
    }

    /// Version 1.
    fn metadata(&self) -> Vec<u8> {
        let leads = self.leads.load(Ordering::Relaxed);
        let is_led = leads && !is_left(&self.leaderless);
        let (error, leader) = if is_led { (0, 1i32) } else { (LEADER_NOT_AVAILABLE, -1) };
        let mut answer = i32::from(leads).to_be_bytes().to_vec(); // how many brokers
        if leads {
            answer.extend(1i32.to_be_bytes());
            answer.extend(text("127.0.0.1"));
            answer.extend(i32::from(self.port).to_be_bytes());
            answer.extend((-1i16).to_be_bytes()); // no rack
        }
        answer.extend(if leads { 1i32 } else { -1 }.to_be_bytes()); // the controller
        answer.extend(1i32.to_be_bytes()); // topics
        answer.extend(0i16.to_be_bytes());
        answer.extend(text(TOPIC));
        answer.push(0); // it is not internal
        answer.extend(PARTITIONS.to_be_bytes());
        for partition in 0..PARTITIONS {
            answer.extend(error.to_be_bytes());
            answer.extend(partition.to_be_bytes());
            answer.extend(leader.to_be_bytes());
            answer.extend([0; 8]); // no replicas, none of them in sync
        }
        answer
    }
}

/// Counts down.
fn is_left(times: &AtomicU32) -> bool {
    times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// What it serves, in the oldest form: a client that asks in a newer one asks again.
fn api_versions(version: i16) -> Vec<u8> {
    let served = [(API_VERSIONS, 0i16, 0i16), (METADATA, 0, 1), (LIST_OFFSETS, 0, 1)];
    let error = if version > 0 { UNSUPPORTED_VERSION } else { 0 };
    let mut answer = error.to_be_bytes().to_vec();
    answer.extend(i32::try_from(served.len()).unwrap().to_be_bytes());
    for (api, from, to) in served {
        answer.extend([api, from, to].map(i16::to_be_bytes).concat());
    }
    answer
}

fn text(text: &str) -> Vec<u8> {
    let size = i16::try_from(text.len()).unwrap().to_be_bytes();
    [&size[..], text.as_bytes()].concat()
}
