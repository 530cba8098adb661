//! As whom Postgres runs: it refuses root, so root's Postgres runs as somebody without rights.

use crate::process::{guarded, setpriv};
use anyhow::bail;
use rustix::process::geteuid;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// What the kernel calls the right to enter every directory, and the wider one that containers more often have.
const RIGHTS_TO_ENTER: [(u32, &str); 2] = [(2, "dac_read_search"), (1, "dac_override")];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    Myself,
    Other {
        uid: u32,
        gid: u32,
        /// For what lies below a directory that only root may enter, such as root's own home: the right to enter it.
        right: Option<&'static str>,
    },
}

impl Identity {
    /// Whoever owns `home` already, or else nobody. `program` and `home` must be within its reach.
    pub fn for_postgres(program: &Path, home: &Path) -> anyhow::Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self::Myself);
        }
        let (uid, gid) = match fs::metadata(home) {
            Ok(home) if home.uid() != 0 => (home.uid(), home.gid()),
            _ => nobody(),
        };
        let closed = [program, home].into_iter().find(|path| !is_open_to_all(path));
        let right = closed.map(right_to_enter).transpose()?;
        Ok(Self::Other { uid, gid, right })
    }

    /// Runs `program` as this identity; ends with this process as everything here does.
    pub fn command(&self, program: &Path) -> Command {
        match self {
            Self::Myself => guarded(program),
            Self::Other { uid, gid, right: None } => {
                let mut command = guarded(program);
                command.uid(*uid).gid(*gid); // root's other groups go with it
                command
            }
            Self::Other { uid, gid, right: Some(right) } => {
                let mut command = Command::new(setpriv().unwrap_or(Path::new("setpriv")));
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
                command.arg(format!("--inh-caps=+{right}")).arg(format!("--ambient-caps=+{right}"));
                // Without this bit access(2), by which initdb looks for its programs, would not count the right.
                command.args(["--securebits=+no_setuid_fixup", "--pdeathsig=KILL", "--"]).arg(program);
                command
            }
        }
    }

    /// A directory that is its own and closed to all others.
    pub fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        match self {
            Self::Myself => Ok(()),
            Self::Other { uid, gid, .. } => chown(path, Some(*uid), Some(*gid)),
        }
    }
}

/// The user without rights, by this machine's own numbers.
fn nobody() -> (u32, u32) {
    const USUAL: (u32, u32) = (65534, 65534);
    fs::read_to_string("/etc/passwd").ok().and_then(|users| ids_of("nobody", &users)).unwrap_or(USUAL)
}

fn ids_of(name: &str, users: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> =
        users.lines().map(|line| line.split(':').collect()).find(|user: &Vec<_>| user[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// Whether everybody may enter every directory above `path`.
fn is_open_to_all(path: &Path) -> bool {
    path.ancestors().skip(1).all(|above| fs::metadata(above).is_ok_and(|above| above.mode() & 0o001 != 0))
}

fn right_to_enter(closed: &Path) -> anyhow::Result<&'static str> {
    let ours = fs::read_to_string("/proc/self/status").ok().and_then(|status| effective_rights(&status));
    let ours = ours.filter(|_| setpriv().is_some()).unwrap_or(0);
    match RIGHTS_TO_ENTER.iter().find(|(bit, _)| ours & (1 << bit) != 0) {
        Some((_, right)) => Ok(right),
        None => bail!(
            "root may not run it, and nobody else can reach {}: \
             use a --data-dir and a MILLRACE_CACHE that everybody may enter, or be an ordinary user",
            closed.display()
        ),
    }
}

fn effective_rights(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_found_by_name() {
        let users = "root:x:0:0:root:/root:/bin/bash\nnobody:x:99:98:nobody:/:/sbin/nologin\n";
        assert_eq!(ids_of("nobody", users), Some((99, 98)));
        assert_eq!(ids_of("nobody", "root:x:0:0"), None);
    }

    #[test]
    fn rights_are_read_from_the_kernels_words() {
        assert_eq!(effective_rights("Name:\tx\nCapEff:\t0000000000000006\n"), Some(6));
        assert_eq!(effective_rights("Name:\tx\n"), None);
    }
}
