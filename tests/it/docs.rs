//! What README.md and the pages of docs/ about starting, publishing, outbox and registry tell a reader to type, typed.
//!
//! A fenced block marked `sh` is run by a shell in the repository's root, in the order of the pages:
//! - `make up` (also with ARGS) starts `up`, in place of the one that runs; other `make` targets and `tools/…`
//!   install and build, which is CI's to show;
//! - a block that begins with `# needs make up` reads what `up` does, so it is tried until it succeeds;
//! - any other must succeed at once.
//!
//! The documented addresses become those of the `up` that the test started.

use crate::commands::{addresses, millrace, temporary};
use crate::platform::{BINARY, DEADLINE, Finished, Role};
use millrace_local::Addresses;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Files of the examples that the pages run, in `examples`.
const EXAMPLES: [&str; 7] = [
    "publish-python/publish.py",
    "publish-python/requirements.txt",
    "publish-typescript/.npmrc",
    "publish-typescript/package.json",
    "publish-typescript/package-lock.json",
    "publish-typescript/publish.ts",
    "publish-typescript/tsconfig.json",
];

/// What a new user may need from a contract to its first accepted event; most of it is left for typing.
const CONTRACT_TO_EVENT_MAX: Duration = Duration::from_secs(300);

/// A reader at a clone, with a terminal in which `up` runs.
struct Reader {
    clone: TempDir,
    data: TempDir,
    up: Option<Role>,
    addresses: Option<Addresses>,
    /// What was typed, and how long each took.
    followed: Vec<(String, Duration)>,
}

impl Reader {
    fn new() -> Self {
        let clone = temporary();
        for name in ["schemas", "outbox", "processors", "sinks", "tools", "deploy"] {
            symlink(Path::new(ROOT).join(name), clone.path().join(name)).unwrap();
        }
        for directory in ["docs", "target/release"] {
            std::fs::create_dir_all(clone.path().join(directory)).unwrap();
        }
        // A copy, since npm builds in it; without what it built in the tree.
        for file in EXAMPLES.map(|file| Path::new("examples").join(file)) {
            std::fs::create_dir_all(clone.path().join(file.parent().unwrap())).unwrap();
            std::fs::copy(Path::new(ROOT).join(&file), clone.path().join(&file)).unwrap();
        }
        Self { clone, data: temporary(), up: None, addresses: None, followed: Vec::new() }
    }

    async fn read(&mut self, page: &str) {
        let text = std::fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
        let blocks = blocks(&text, "sh");
        assert!(blocks.len() > 3, "{page} has lost its blocks, or marks them otherwise");
        for block in blocks {
            println!("---- {page}\n{block}");
            let since = Instant::now();
            self.follow(block).await;
            self.followed.push((block.to_owned(), since.elapsed()));
        }
    }

    /// How long it took from the block that says the one to the next that says the other, typing and reading apart.
    fn took(&self, first: &str, last: &str) -> Duration {
        let mut took = Duration::ZERO;
        for (block, time) in self.followed.iter().skip_while(|(block, _)| !block.contains(first)) {
            took += *time;
            if block.contains(last) {
                return took;
            }
        }
        panic!("no page says how to get from `{first}` to `{last}`")
    }

    async fn follow(&mut self, block: &str) {
        if let Some(arguments) = block.trim_end().strip_prefix("make up") {
            let arguments = arguments.trim().trim_start_matches("ARGS=").trim_matches('\'');
            return self.start_up(arguments).await;
        }
        if ["make ", "tools/"].iter().any(|other| block.starts_with(other)) {
            return;
        }
        let needs_up = block.starts_with("# needs make up");
        assert!(!needs_up || self.up.is_some(), "nobody told the reader to start it");
        let deadline = Instant::now() + if needs_up { DEADLINE } else { Duration::ZERO };
        loop {
            let done = self.shell(block);
            if done.code() == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{block}\nends with {}: {}{}", done.code(), done.out, done.err);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn shell(&self, block: &str) -> Finished {
        let script = format!("set -eu\n{}", self.at_ours(block));
        Finished::of(Command::new("bash").args(["-o", "pipefail", "-c", &script]).current_dir(self.clone.path()))
    }

    /// Stops the one that runs, as the reader is told to.
    async fn start_up(&mut self, arguments: &str) {
        if let Some(running) = self.up.take() {
            assert_eq!(running.stop(), 0);
        }
        let mut command = millrace(&["up", "--ports", "auto", "--data-dir"]);
        command.arg(self.data.path());
        let words = arguments.split_whitespace();
        let project = |word: &str| {
            let there: PathBuf = self.clone.path().join(word);
            if there.is_dir() { there.into_os_string() } else { word.into() } // `up` runs in another directory
        };
        command.args(words.map(project));
        self.up = Some(Role::start(&mut command, self.data.path(), "up"));
        self.addresses = Some(addresses(self.data.path()).await);
        self.install();
    }

    /// The files that know the documented addresses, and a binary that takes ours.
    fn install(&self) {
        let publish = std::fs::read_to_string(Path::new(ROOT).join("docs/publish.py")).unwrap();
        std::fs::write(self.clone.path().join("docs/publish.py"), self.at_ours(&publish)).unwrap();
        let stack = self.data.path().join("stack.json");
        let script = format!("#!/bin/sh\nexec {BINARY} --stack {} \"$@\"\n", stack.display());
        let binary = self.clone.path().join("target/release/millrace");
        std::fs::write(&binary, script).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn at_ours(&self, text: &str) -> String {
        let Some(ours) = &self.addresses else { return text.to_owned() };
        let postgres = ours.postgres.split(['@', '/']).find(|part| part.starts_with("127.")).unwrap();
        let addresses = [
            ("127.0.0.1:19092", ours.kafka.as_str()),
            ("127.0.0.1:15432", postgres),
            ("http://127.0.0.1:18123", &ours.clickhouse),
            ("http://127.0.0.1:7070", &ours.gateway),
            ("http://127.0.0.1:7071", &ours.registry),
            ("http://127.0.0.1:7072", &ours.receiver),
            ("http://127.0.0.1:7073", &ours.issuer),
            ("http://127.0.0.1:7090", &ours.ops),
        ];
        let token = millrace_local::token_file(self.data.path()).display().to_string();
        let secret = millrace_local::issuer_secret_file(self.data.path()).display().to_string();
        let text = text.replace(".millrace/gateway/token", &token).replace(".millrace/issuer/secret", &secret);
        addresses.iter().fold(text, |text, (documented, ours)| text.replace(documented, ours))
    }
}

pub fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    page.split(&format!("\n```{language}\n")).skip(1).map(|rest| rest.split_once("\n```").unwrap().0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_that_the_pages_tell_to_type_works() {
    let mut reader = Reader::new();
    reader.read("README.md").await;
    reader.read("docs/publishing.md").await;
    reader.read("docs/registry.md").await;
    reader.read("docs/outbox.md").await;
    reader.read("docs/getting-started.md").await;
    let took = reader.took("millrace init", "ce-type: review.written");
    println!("from a project without the contract to its first accepted event: {took:.1?}");
    assert!(took < CONTRACT_TO_EVENT_MAX, "{took:?}");
    assert_eq!(reader.up.take().unwrap().stop(), 0);
}

#[test]
fn the_configuration_that_the_pages_show_is_one() {
    for page in ["docs/getting-started.md", "docs/publishing.md", "docs/outbox.md"] {
        let text = std::fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
        let shown = blocks(&text, "toml");
        assert!(!shown.is_empty(), "{page} has lost its configuration, or marks it otherwise");
        for configuration in shown {
            let project = temporary();
            std::fs::write(project.path().join("millrace.toml"), configuration).unwrap();
            let read = Finished::of(millrace(&["config", "--project"]).arg(project.path()));
            assert_eq!(read.code(), 0, "{page}: {configuration}: {}", read.err);
        }
    }
}
