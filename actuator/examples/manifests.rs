//! Writes the definition of the custom resource into `deploy/cluster`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cluster/chart/files/scaling-policies.yaml");
    std::fs::write(&path, qscale_actuator::backend::PolicyObject::definition())?;
    println!("{}", path.display());
    Ok(())
}
