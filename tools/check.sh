#!/usr/bin/env bash
# Everything that can be said about the tree without starting a server: format, lints, licences, contracts, deployment.
# Its own tools are kept per user, beside the servers that `millrace` fetches, so that only the first run installs them.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_DENY=0.20.2
cache="${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}/tools"
sum=$(cksum <tools/requirements.txt | cut -d' ' -f1)
python="$cache/python-$sum"
export PATH="$python/bin:$cache/bin:$PATH"

# Each step's name comes first: what follows it is what it found.
step() { printf '\n== %s\n' "$1"; }

python_tools() {
    [ -e "$python/complete" ] && return
    rm -rf "$python" && python3 -m venv "$python"
    pip install --quiet --disable-pip-version-check -r tools/requirements.txt && touch "$python/complete"
}

cargo_deny() {
    cargo deny --version 2>/dev/null | grep -q . && return
    echo "installing cargo-deny $CARGO_DENY, once (three minutes on two cores)"
    # A target directory of its own: what cargo installs would otherwise be built among the project's.
    CARGO_TARGET_DIR="$cache/build" cargo install --quiet --locked --root "$cache" "cargo-deny@$CARGO_DENY"
    rm -rf "$cache/build"
}

step "rustfmt"
cargo fmt --all --check

step "clippy"
cargo clippy --quiet --locked --workspace --all-targets -- -D warnings

step "millrace check"
# The very build that `make test` makes: `cargo run` would compile half the tree again, with other features.
cargo test --quiet --locked --workspace --no-run
"${CARGO_TARGET_DIR:-target}/debug/millrace" check

step "cargo deny: bans, licences, sources (advisories: .github/workflows/ci.yml)"
cargo_deny
cargo deny --log-level error check --hide-inclusion-graph bans licenses sources

step "scripts"
python_tools
shellcheck .ci/run tools/*.sh

step "deployment"
check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
hadolint deploy/Dockerfile
python tools/check-deploy.py

echo "nothing found"
