//! The key by which one publishes on this machine: made with the data directory, so that secure is the default here too.

use crate::StackError;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Where a stack keeps the development key of its gateway.
pub fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("gateway/token")
}

/// Makes the key unless there is one already; readable by its owner alone.
pub(crate) fn prepare(data_dir: &Path) -> Result<(), StackError> {
    let file = token_file(data_dir);
    write_new(&file).map_err(|error| StackError::directory(&file, error))
}

fn write_new(file: &Path) -> std::io::Result<()> {
    if let Some(above) = file.parent() {
        fs::create_dir_all(above)?;
    }
    let token = format!("mr_{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    match File::options().write(true).create_new(true).mode(0o600).open(file) {
        Ok(mut created) => created.write_all(token.as_bytes()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path()).unwrap();
        let file = token_file(directory.path());
        let token = fs::read_to_string(&file).unwrap();
        prepare(directory.path()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), token);
        assert!(token.len() > 60 && fs::metadata(&file).unwrap().permissions().mode() & 0o077 == 0);
    }
}
