//! Public items that nothing uses: the compiler cannot find them in library crates.

use std::collections::BTreeMap;

use qscale_tests::source::{Kind, files, pieces};

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Names of the public items that `code` declares.
fn declared(code: &str) -> Vec<String> {
    let keywords = ["async", "const", "enum", "fn", "static", "struct", "trait", "type", "unsafe"];
    let items = code.split("pub ").skip(1).filter_map(|rest| {
        let mut words = rest.split(|letter: char| !is_word(letter)).filter(|word| !word.is_empty()).peekable();
        let first = words.next().filter(|word| keywords.contains(word))?;
        let mut last = first;
        while let Some(word) = words.next_if(|word| keywords.contains(word)) {
            last = word;
        }
        let name = words.next()?;
        (rest.starts_with(first) && last != "unsafe").then(|| name.to_owned())
    });
    items.collect()
}

#[test]
fn every_public_item_is_used() {
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    let mut items = Vec::new();
    for (path, text) in files(&[".rs"]) {
        let code: String = pieces(&text).into_iter().filter(|piece| piece.kind == Kind::Code).map(|piece| piece.text).collect();
        for word in code.split(|letter: char| !is_word(letter)).filter(|word| !word.is_empty()) {
            *uses.entry(word.to_owned()).or_default() += 1;
        }
        // Formatted arguments are uses, too.
        for piece in pieces(&text).into_iter().filter(|piece| piece.kind == Kind::Text) {
            for word in piece.text.split('{').skip(1).filter_map(|rest| rest.split(|letter: char| !is_word(letter)).next()) {
                *uses.entry(word.to_owned()).or_default() += 1;
            }
        }
        items.extend(declared(&code).into_iter().map(|name| (name, path.clone())));
    }
    assert!(items.len() > 500, "{} items", items.len());
    let unused: Vec<String> = items
        .into_iter()
        .filter(|(name, _)| uses.get(name) == Some(&1))
        .map(|(name, path)| format!("{}: {name}", path.display()))
        .collect();
    assert!(unused.is_empty(), "public items without a use:\n{}", unused.join("\n"));
}

#[test]
fn declarations_are_found() {
    let code =
        "pub fn a() {} pub const fn b() {} pub(crate) fn c() {} pub struct D; pub mod e; pub x: u32, pub const F: u8 = 1; pub use g::h;";
    assert_eq!(declared(code), ["a", "b", "D", "F"]);
}
