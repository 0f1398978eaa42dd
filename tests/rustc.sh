#!/usr/bin/env bash
# Compiles the project's own crates for `make unit` (RUSTC_WORKSPACE_WRAPPER). Clippy's driver lints what it compiles, so that no crate has to be checked
# first; warnings are errors. Test programs, examples and benchmarks are compiled without optimisation and debug information, which is several times as fast.
# What they test, libraries and programs, is optimised. The unit tests of the simulator and the learner compute for long, so they are, too.
# (In bash, because sh drops variables whose name has a hyphen, such as CARGO_BIN_EXE_qscale-loadgen.)
case " $* " in
*" --crate-name ___ "*) exec "$@" ;;
*" --crate-name "*) ;;
*) exec "$@" ;;
esac
case " $* " in
*" --crate-name qscale_sim "* | *" --crate-name qscale_rl "* | *" --crate-name qscale_dqn "* | *" --crate-name qscale_train "*) fast=false ;;
*" --test "* | *"/examples/"* | *" examples/"* | *"/benches/"* | *" benches/"*) fast=true ;;
*) fast=false ;;
esac
if "$fast"; then
    set -- "$@" -C opt-level=0 -C debuginfo=0
fi
exec "$("$1" --print sysroot)/bin/clippy-driver" "$@" --deny warnings
