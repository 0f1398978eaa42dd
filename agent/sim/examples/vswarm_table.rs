//! Prints the table of vSwarm's functions, given the path of the `profile.json` that `vhive-serverless/invitro`
//! publishes (`tools/mapper`), unpacked:
//! `cargo run -p qscale-sim --example vswarm_table -- profile.json > agent/sim/profiles/vswarm.csv`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("error: name the published profile.json");
        return ExitCode::FAILURE;
    };
    let table =
        std::fs::read_to_string(&path).map_err(|error| error.to_string()).and_then(|json| qscale_sim::profiles::published::table(&json));
    match table {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {path}: {error}");
            ExitCode::FAILURE
        }
    }
}
