#!/usr/bin/env bash
# The compiler of `make unit`: test programs are compiled without optimisation and debug information, which is several times as fast. What they test,
# libraries and programs, is compiled as always. The unit tests of the simulator and the learner compute for long, so they stay optimised.
# (In bash, because sh drops variables whose name has a hyphen, such as CARGO_BIN_EXE_qscale-loadgen.)
case " $* " in
*" --crate-name qscale_sim "* | *" --crate-name qscale_rl "* | *" --crate-name qscale_dqn "* | *" --crate-name qscale_train "*) ;;
*" --test "*) set -- "$@" -C opt-level=0 -C debuginfo=0 ;;
esac
exec "$@"
