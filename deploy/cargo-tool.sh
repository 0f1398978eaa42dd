#!/usr/bin/env bash
# Prints the path of a tool of cargo, which it installs in .tools (ignored by git) if it is not there: cargo-tool.sh CRATE VERSION
set -euo pipefail
cd "$(dirname "$0")/.."

root=.tools/$1-$2
if ! [ -x "$root/bin/$1" ]; then
    echo "installing $1 $2 in $root" >&2
    cargo install --quiet --locked --root "$root" "$1@$2" >&2
fi
printf '%s\n' "$PWD/$root/bin/$1"
