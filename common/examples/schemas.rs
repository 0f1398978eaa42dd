//! Writes the JSON Schemas and the AsyncAPI document of the contract into `common/schemas`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    std::fs::create_dir_all(&folder)?;
    for file in qscale_common::schema::files() {
        std::fs::write(folder.join(&file.name), file.text)?;
        println!("{}", folder.join(file.name).display());
    }
    Ok(())
}
