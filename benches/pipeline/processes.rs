//! What processes have used, from /proc (so: Linux): CPU, memory, and how busy everybody else kept the machine.

use crate::platform::Platform;
use crate::report::Figures;
use millrace_local::Server;
use std::collections::HashMap;
use std::fs::{read_dir, read_to_string};
use std::ops::Range;
use std::time::Instant;

/// Linux counts CPU time for user space in hundredths of a second, on every platform that we build for.
const TICKS_PER_SECOND: f64 = 100.0;
const MEGABYTE: f64 = 1e6;
/// The servers whose CPU is told apart, and the figure it goes to.
const SERVERS: [(Server, &str); 3] = [
    (Server::Kafka, "kafka_cpu_s_per_million"),
    (Server::ClickHouse, "clickhouse_cpu_s_per_million"),
    (Server::Postgres, "postgres_cpu_s_per_million"),
];

/// One measured interval of one client and the servers it uses.
pub struct Meter<'a> {
    platform: &'a Platform,
    client: u32,
    began: Instant,
    before: Usage,
}

/// CPU seconds until now.
struct Usage {
    client: f64,
    servers: [f64; 3],
    /// This very process: whoever makes the load, or asks how far something is.
    own: f64,
    machine: f64,
}

impl<'a> Meter<'a> {
    pub fn start(platform: &'a Platform, client: u32) -> Self {
        Self { platform, client, began: Instant::now(), before: Usage::now(platform, client) }
    }

    /// While the client still runs.
    pub fn stop(self, records: u64) -> Figures {
        let seconds = self.began.elapsed().as_secs_f64();
        let (before, after) = (self.before, Usage::now(self.platform, self.client));
        let millions = records as f64 / 1e6;
        let client = after.client - before.client;
        let mut figures = Figures::from([
            ("seconds", seconds),
            ("events_per_s", records as f64 / seconds),
            ("client_cpu_s_per_million", client / millions),
            ("events_per_client_cpu_s", records as f64 / client),
        ]);
        figures.extend(status_bytes(self.client, "VmHWM:").map(|bytes| ("client_peak_rss_mb", bytes / MEGABYTE)));
        let mut ours = client + after.own - before.own;
        for (at, (_, name)) in SERVERS.iter().enumerate() {
            let used = after.servers[at] - before.servers[at];
            figures.insert(*name, used / millions);
            ours += used;
        }
        figures.insert("others_cores", (after.machine - before.machine - ours).max(0.0) / seconds);
        figures
    }
}

impl Usage {
    fn now(platform: &Platform, client: u32) -> Self {
        let server = |(server, _)| platform.stack.pid(server).map_or(0.0, cpu_seconds);
        Self {
            client: cpu_seconds(client),
            servers: SERVERS.map(server),
            own: own_cpu_seconds(),
            machine: machine_cpu_seconds(),
        }
    }
}

/// User and system time of a process, of its descendants, and of those children that it has seen to their end.
pub fn cpu_seconds(pid: u32) -> f64 {
    let all: HashMap<u32, Stat> =
        read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| stat_of(&entry)).collect();
    let mut ticks = 0;
    let mut family = vec![pid];
    while let Some(member) = family.pop() {
        ticks += all.get(&member).map_or(0, |stat| stat.ticks);
        family.extend(all.iter().filter(|(_, stat)| stat.parent == member).map(|(pid, _)| *pid));
    }
    ticks as f64 / TICKS_PER_SECOND
}

/// User and system time of this process, without what it started.
pub fn own_cpu_seconds() -> f64 {
    let text = read_to_string("/proc/self/stat").unwrap_or_default();
    ticks(&fields(&text), 11..13).unwrap_or_default() as f64 / TICKS_PER_SECOND
}

struct Stat {
    parent: u32,
    ticks: u64,
}

/// `pid (name) state ppid … utime stime cutime cstime …`, from the state on; the name may hold anything.
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(") ").map_or(Vec::new(), |(_, fields)| fields.split(' ').collect())
}

fn ticks(fields: &[&str], times: Range<usize>) -> Option<u64> {
    Some(fields.get(times)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum())
}

fn stat_of(entry: &std::fs::DirEntry) -> Option<(u32, Stat)> {
    let pid = entry.file_name().to_str()?.parse().ok()?;
    let text = read_to_string(entry.path().join("stat")).ok()?;
    let fields = fields(&text);
    Some((pid, Stat { parent: fields.get(1)?.parse().ok()?, ticks: ticks(&fields, 11..15)? }))
}

/// What all processes together have used; `steal`, the hypervisor's other guests, counts as others' work too.
fn machine_cpu_seconds() -> f64 {
    const IDLE: std::ops::Range<usize> = 3..5; // idle and iowait
    let text = read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let busy = fields.enumerate().filter(|(at, _)| !IDLE.contains(at));
    busy.filter_map(|(_, field)| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// Resident memory now; none when the process has ended.
pub fn rss_mb(pid: u32) -> Option<f64> {
    status_bytes(pid, "VmRSS:").map(|bytes| bytes / MEGABYTE)
}

fn status_bytes(pid: u32, name: &str) -> Option<f64> {
    let text = read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix(name))?.trim().trim_end_matches(" kB");
    Some(kilobytes.parse::<f64>().ok()? * 1024.0)
}

/// What the figures were measured on.
pub fn machine() -> serde_json::Value {
    let field = |file: &str, name: &str| {
        let text = read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or_default().trim().to_owned()
    };
    let kilobytes = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN);
    serde_json::json!({
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_gb": (kilobytes * 1024.0 / 1e9).round(),
        "load_average": read_to_string("/proc/loadavg").unwrap_or_default().trim(),
    })
}
