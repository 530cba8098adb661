//! Compiles `client/headers.c` against the librdkafka that is linked.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=client/headers.c");
    let client = std::env::var_os("DEP_RDKAFKA_ROOT").expect("rdkafka-sys says where it has built librdkafka");
    let client = PathBuf::from(client);
    cc::Build::new()
        .warnings(false)
        .file("client/headers.c")
        .include(client.join("src"))
        .include(client)
        .compile("millrace_headers");
}
