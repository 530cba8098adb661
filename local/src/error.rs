//! What can go wrong with the stack, in words that say what to do.

use crate::Server;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StackError {
    #[error("{dir} is in use by {holder}: stop that one, or give another --data-dir", dir = .dir.display())]
    InUse { dir: PathBuf, holder: String },

    #[error(
        "{dir} holds `{found}`, which no millrace made: give an empty or new directory as --data-dir",
        dir = .dir.display()
    )]
    Foreign { dir: PathBuf, found: String },

    #[error(
        "{dir} was made by {server} {found}, and this is for {server} {ours}: \
         use --fresh to start over, or the millrace that made it; nothing was touched",
        dir = .dir.display()
    )]
    OtherVersion { dir: PathBuf, server: &'static str, found: String, ours: String },

    #[error("{dir}: {why}", dir = .dir.display())]
    Directory { dir: PathBuf, why: String },

    #[error("something else listens on port {port}, which {server} needs: stop it, or use --ports auto")]
    PortTaken { server: Server, port: u16 },

    #[error("no port is free: {0}")]
    NoPort(io::Error),

    /// A program that must be installed; one line each.
    #[error("{}", .0.join("\n"))]
    Missing(Vec<String>),

    #[error("could not get {part}: {why}")]
    Fetch { part: &'static str, why: String },

    /// What, why, and the end of its log.
    #[error("{server} {why}")]
    Server { server: Server, why: String },
}

impl StackError {
    pub(crate) fn directory(dir: impl Into<PathBuf>, why: impl std::fmt::Display) -> Self {
        Self::Directory { dir: dir.into(), why: why.to_string() }
    }
}
