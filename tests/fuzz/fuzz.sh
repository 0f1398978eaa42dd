#!/usr/bin/env bash
# Runs targets under libFuzzer, which steers by coverage: fuzz.sh SECONDS [TARGET...], every target by default. Needs a C++ compiler; installs cargo-fuzz
# in .tools. Inputs that reach new code are kept in target/fuzz, inputs that fail in tests/fuzz/artifacts. The stable toolchain suffices, because no
# sanitizer is used: the libraries have next to no unsafe code, and cargo-fuzz enables checks of arithmetic.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:?"usage: fuzz.sh SECONDS [TARGET...]"}
shift
if ! command -v c++ >/dev/null 2>&1; then
    echo "missing: c++, a C++ compiler. Install it with: apt-get install g++" >&2
    exit 1
fi
tool=$(deploy/cargo-tool.sh cargo-fuzz 0.13.2)

options=(--fuzz-dir tests/fuzz --features libfuzzer --sanitizer none)
"$tool" fuzz build "${options[@]}"
[ $# -gt 0 ] || mapfile -t targets < <("$tool" fuzz list --fuzz-dir tests/fuzz)
[ $# -eq 0 ] || targets=("$@")
failed=()
for target in "${targets[@]}"; do
    echo "== $target, $seconds s"
    mkdir -p "target/fuzz/$target"
    "$tool" fuzz run "${options[@]}" "$target" "target/fuzz/$target" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 -verbosity=0 || failed+=("$target")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}. Correct the fault, and move the input from tests/fuzz/artifacts to tests/fuzz/corpus" >&2
    exit 1
fi
