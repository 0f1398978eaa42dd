//! `qscale-platform`: runs functions on this machine and serves them.

fn main() -> anyhow::Result<()> {
    qscale_local::program::main()
}
