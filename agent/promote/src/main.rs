//! `qscale-promoter`: fine-tunes models and promotes candidates through gates.

use qscale_common::runtime::service::{self, Program};

const PROGRAM: Program = Program {
    name: "qscale-promoter",
    version: env!("CARGO_PKG_VERSION"),
    about: "Fine-tunes models and promotes candidates through gates",
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::main(PROGRAM, qscale_promote::service::run).await
}
