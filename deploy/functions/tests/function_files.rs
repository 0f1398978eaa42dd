//! The function files are ones that the platform reads.

use std::path::Path;

use qscale_common::document::Format;
use qscale_common::platform::FunctionSpec;

#[test]
fn every_function_file_is_valid_and_named_as_its_function() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the crate's folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        if !name.ends_with(".toml") || name == "Cargo.toml" {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a file");
        let spec = FunctionSpec::parse(&text, Format::Toml).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(format!("{}.toml", spec.name), name);
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["aes.toml", "faas.toml", "fibonacci-http.toml", "fibonacci-python.toml", "fibonacci.toml"]);
}
