//! The deployment files fit the tree and the binary. Whether the images can be built is not known here: no Docker.

use crate::clients::python;
use crate::platform::{BINARY, Finished};
use std::process::Command;

#[test]
fn the_compose_file_and_the_dockerfile_name_only_what_exists() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/check-deploy.py");
    let checked = Finished::of(Command::new(python()).arg(script).arg(BINARY));
    assert_eq!(checked.code(), 0, "{}{}", checked.out, checked.err);
}
