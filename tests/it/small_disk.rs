//! A disk of its own for a process, which only that sees, and which goes with it: no leftovers.

use std::path::Path;
use std::process::Command;

/// The command, with a disk of this size (`600m`) at `place`. From outside it is at `/proc/<pid>/root` and the place.
pub fn with_a_disk(place: &Path, size: &str, command: &Command) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-current-user", "--keep-caps"]); // what an ordinary user needs to mount
    }
    let mount = "mount -t tmpfs -o \"$1\" none \"$2\" && shift 2 && exec setpriv --pdeathsig KILL \"$@\"";
    unshare.args(["sh", "-c", mount, "sh", &format!("size={size},mode=0755")]).arg(place);
    unshare.arg(command.get_program()).args(command.get_args());
    unshare.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    unshare
}
