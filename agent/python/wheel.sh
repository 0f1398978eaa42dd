#!/usr/bin/env bash
# Builds the wheel of the Python package in target/wheels and prints its path. With --test it installs the wheel in a new virtual environment and runs the
# tests there. Further arguments go to pytest. Tools are installed in .tools (ignored by git).
set -euo pipefail
cd "$(dirname "$0")/../.."

maturin_version=1.16.0
python=${PYTHON:-python3}
tools=$PWD/.tools/python
target=${CARGO_TARGET_DIR:-$PWD/target}

say() { printf '%s\n' "$*" >&2; }

if ! "$tools/bin/maturin" --version 2>/dev/null | grep -q " $maturin_version\$"; then
    say "installing maturin $maturin_version in $tools"
    "$python" -m venv "$tools"
    "$tools/bin/python" -m pip install --quiet --disable-pip-version-check "maturin==$maturin_version"
fi

rm -rf "$target/wheels"
# The linter wraps the compiler for tests of Rust; it would compile everything a second time here.
env -u RUSTC_WORKSPACE_WRAPPER CARGO_TARGET_DIR="$target" "$tools/bin/maturin" build --quiet --locked --profile wheel \
    --manifest-path agent/python/Cargo.toml --out "$target/wheels" >&2
wheel=$(ls "$target"/wheels/*.whl)
printf '%s\n' "$wheel"
[ "${1:-}" = --test ] || exit 0
shift

environment=$target/python-test
"$python" -m venv --clear "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
# Alone, the package has no dependencies.
"$environment/bin/python" -c 'import qscale; assert len(qscale.feature_names()) > 0'
if "$environment/bin/python" -c 'import qscale.gym' 2>"$environment/error" || ! grep -q "WHEEL\[gym\]" "$environment/error"; then
    say "qscale.gym without its extra must report how to install it"
    exit 1
fi
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel[all]" --requirement agent/python/tests/requirements.txt
export QSCALE_PROGRAMS=${QSCALE_PROGRAMS:-$target/debug}
NATS_SERVER_BIN=${NATS_SERVER_BIN:-$(deploy/tools.sh 2>/dev/null)}
export NATS_SERVER_BIN
cd agent/python
exec "$environment/bin/python" -m pytest --quiet -p no:cacheprovider -rs "$@"
