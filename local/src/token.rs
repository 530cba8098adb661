//! The key by which one publishes on this machine: made with the data directory, so that secure is the default here too.

use crate::StackError;
use crate::secret::write_new;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Where a stack keeps the development key of its gateway.
pub fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("gateway/token")
}

/// Makes the key unless there is one already; readable by its owner alone.
pub(crate) fn prepare(data_dir: &Path) -> Result<(), StackError> {
    let file = token_file(data_dir);
    let token = format!("mr_{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    match write_new(&file, &token) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(StackError::directory(&file, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
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
