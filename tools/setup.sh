#!/usr/bin/env bash
# Makes sure that this machine has what a make target needs: tools/setup.sh build|up|test|bench|check.
#
# On Debian and Ubuntu, as root or with a sudo that asks for no password, what is missing is installed. Elsewhere it
# is named with the one command that installs it, and the exit code is 1 when the target cannot do without. Never
# touches what is already there, and downloads nothing itself: the servers are fetched by `millrace` when it needs them.
set -euo pipefail

missing=""  # cannot do without
wanted=""   # works without, and loses something
debian=""   # their packages
brew=""

# lacks NAME DEBIAN BREW: notes an indispensable program; misses does so for one that is only wanted.
lacks() { missing="$missing"$'\n'"  $1" debian="$debian${2:+ $2}" brew="$brew $3"; }
misses() { wanted="$wanted"$'\n'"  $1" debian="$debian${2:+ $2}" brew="$brew $3"; }
has() { command -v "$1" >/dev/null 2>&1; }

for_build() {
    if ! { has cc && has c++ && has make; }; then lacks "a C and a C++ compiler, make (macOS: xcode-select --install)" build-essential make; fi
}

for_servers() {
    [ "$(java_major)" -ge 17 ] || lacks "java, 17 or newer" "$(debian_java)" openjdk@17
    has mvn || lacks mvn maven maven
    has npm || lacks npm npm node
    has xz || lacks xz xz-utils xz
    has redis-server || has valkey-server || misses "redis-server; without it limits are kept per process" redis-server redis
}

for_tests() {
    has curl || lacks curl curl curl
    has kcat || lacks kcat kcat kcat
    has psql || lacks psql postgresql-client libpq
    # Avro's own library judges our answers about schemas, and Confluent's clients our registry, by programs that are
    # compiled as they are run.
    has javac || lacks "a JDK, 17 or newer" "$(debian_java | sed s/jre/jdk/)" openjdk@17
    [ "$(go_minor)" -ge 21 ] || misses "go, 1.21 or newer (go.dev/dl); without it a test of the registry fails, and benchmarks need ARGS=--no-peers" "$(debian_go)" go
    has node || lacks "node, which npm brings on most systems" nodejs node
    # Tests of what gateways share.
    has redis-server || has valkey-server || lacks redis-server redis-server redis
    has strace || lacks "strace (Linux alone has it)" strace ""
    for_python
}

# Other people's tools, built by the benchmark alone.
for_peers() {
    has cmake || misses "cmake; without it benchmarks need ARGS=--no-peers" cmake cmake
}

for_python() {
    python3 -c 'import ensurepip, venv' 2>/dev/null || lacks "python3 with venv" python3-venv python
}

# 0 where there is none.
java_major() {
    local java="${JAVA_HOME:+$JAVA_HOME/bin/java}"
    [ -x "$java" ] || java=java
    { "$java" -version 2>&1 || true; } | sed -n 's/.* version "\([0-9]*\).*/\1/p' | grep . || echo 0
}

# Debian 12 has 17, Debian 13 only 21.
debian_java() {
    if has apt-cache && apt-cache policy openjdk-21-jre-headless | grep -q 'Candidate: [0-9]'; then
        echo openjdk-21-jre-headless
    else
        echo openjdk-17-jre-headless
    fi
}

# 0 where there is none. Go 1.21 and newer fetch the version that a go.mod names.
go_minor() {
    { go version 2>/dev/null || true; } | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p' | grep . || echo 0
}

# Debian 12's own is too old to be of use.
debian_go() {
    if has apt-cache && apt-cache policy golang-go | grep -q 'Candidate: 2:1\.2[1-9]'; then echo golang-go; fi
}

look() {
    missing="" wanted="" debian="" brew=""
    for_build
    case $1 in
        build) ;;
        up) for_servers ;;
        test) for_servers && for_tests ;;
        bench) for_servers && for_tests && for_peers ;;
        check) for_python ;;
        *) echo "tools/setup.sh: build, up, test, bench or check, not \`$1\`" >&2 && exit 64 ;;
    esac
}

# How to run a command as root without asking anybody; nothing where that is not possible.
as_root() {
    if [ "$(id -u)" = 0 ]; then echo env; elif has sudo && sudo -n true 2>/dev/null; then echo "sudo -n"; fi
}

# What there is to install is known only after the update. The words of $root and $debian must split.
# shellcheck disable=SC2086
install_with_apt() {
    local root
    root=$(as_root)
    if [ -z "$root" ] || ! has apt-get; then return 1; fi
    $root apt-get update -qq && look "$1"
    echo "installing$debian" >&2
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $debian >/dev/null
}

name_them() {
    echo "missing:$missing$wanted" >&2
    echo "  Debian, Ubuntu:  sudo apt-get install -y$debian" >&2
    echo "  macOS:           brew install$brew" >&2
}

if ! has cargo; then
    echo "missing: cargo; https://rustup.rs says how to install Rust (the version is in rust-toolchain.toml)" >&2
    exit 1
fi
target=${1:-up}
look "$target"
if [ -n "$debian" ]; then
    install_with_apt "$target" || true
    look "$target"
fi
if [ -n "$missing$wanted" ]; then name_them; fi
[ -z "$missing" ]
