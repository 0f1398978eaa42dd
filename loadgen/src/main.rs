//! `qscale-loadgen`: see `qscale_loadgen::cli`.

fn main() -> std::process::ExitCode {
    qscale_loadgen::cli::main()
}
