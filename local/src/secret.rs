//! Secrets that a stack makes for itself, each once, in a file that its owner alone may read.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// # Errors
/// Also when the file is there already: what it holds is in use.
pub(crate) fn write_new(file: &Path, secret: &str) -> std::io::Result<()> {
    if let Some(above) = file.parent() {
        fs::create_dir_all(above)?;
    }
    File::options().write(true).create_new(true).mode(0o600).open(file)?.write_all(secret.as_bytes())
}
