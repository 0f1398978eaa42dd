//! Modules of a crate depend on each other in one direction: no import cycle of more than two modules, and of two only with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use qscale_tests::source::{Kind, files, pieces};

/// Pairs of modules that import each other: crate folder, the two modules, and why they are not one-directional.
const PAIRS: [(&str, [&str; 2], &str); 2] = [
    ("agent/experiments", ["profile", "validate"], "profiling and validation share the testbed and the measurement of other load"),
    ("deploy/up", ["dashboard", "many"], "the view of many functions is a part of the dashboard"),
];

/// Top-level modules of a crate, each with the modules of the same crate that it names.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The code of a Rust file without comments, literals and the unit tests at its end.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    pieces(product).into_iter().filter(|piece| piece.kind == Kind::Code).map(|piece| piece.text).collect()
}

/// Names of modules that `code` declares for tests only.
fn test_modules(code: &str) -> BTreeSet<String> {
    let declared = code.split("#[cfg(test)]").skip(1).filter_map(|rest| {
        let line = rest.trim_start().lines().next()?;
        let name = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(name.trim_end_matches(';').to_owned())
    });
    declared.collect()
}

/// First segments of the paths that begin with `root` (`crate::` or `super::`), groups in braces included.
fn first_segments(code: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (start, _) in code.match_indices(root) {
        if code[..start].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':') {
            continue;
        }
        let rest = &code[start + root.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => {
                found.insert(identifier(rest));
            }
        }
    }
    found.remove("");
    found
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// First segments of the members of a group, up to its closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut at_head) = (0, Vec::new(), true);
    for (index, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            _ if at_head && !letter.is_whitespace() => {
                heads.push(identifier(&group[index..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

/// Names that the crate root re-exports, with the module that each comes from.
fn reexports(root: &str, modules: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for statement in root.split("pub use ").skip(1) {
        let statement = statement.split(';').next().unwrap_or_default();
        let module = identifier(statement.trim_start_matches("self::").trim_start_matches("crate::"));
        if modules.contains(&module) {
            let names = statement.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|name| !name.is_empty());
            found.extend(names.filter(|name| *name != module).map(|name| (name.to_owned(), module.clone())));
        }
    }
    found
}

/// The module graph of the crate whose sources `sources` are, by path below `src`.
fn graph(sources: &BTreeMap<PathBuf, String>) -> Graph {
    let root = ["lib.rs", "main.rs"].iter().find_map(|name| sources.get(Path::new(name))).cloned().unwrap_or_default();
    let skipped: BTreeSet<String> = sources.values().flat_map(|code| test_modules(code)).collect();
    let module_of = |path: &Path| {
        let names: Vec<String> = path.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        let is_root = names.first().is_some_and(|name| ["lib", "main", "bin"].contains(&name.as_str()));
        let is_test = names.iter().any(|name| skipped.contains(name) || name == "tests");
        (!is_root && !is_test).then(|| names[0].clone())
    };
    let modules: BTreeSet<String> = sources.keys().filter_map(|path| module_of(path)).collect();
    let reexports = reexports(&root, &modules);
    let mut graph: Graph = modules.iter().map(|module| (module.clone(), BTreeSet::new())).collect();
    for (path, code) in sources {
        let Some(module) = module_of(path) else { continue };
        let mut named = first_segments(code, "crate::");
        if path.components().count() == 1 {
            named.extend(first_segments(code, "super::"));
        }
        let targets = named.into_iter().filter_map(|name| if modules.contains(&name) { Some(name) } else { reexports.get(&name).cloned() });
        let edges = graph.entry(module.clone()).or_default();
        edges.extend(targets.filter(|target| *target != module));
    }
    graph
}

fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(module) = waiting.pop() {
        for next in graph.get(&module).into_iter().flatten() {
            if seen.insert(next.clone()) {
                waiting.push(next.clone());
            }
        }
    }
    seen
}

/// Sets of modules of which each reaches each other one.
fn cycles(graph: &Graph) -> BTreeSet<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<String>> = graph.keys().map(|module| (module, reachable(graph, module))).collect();
    let of = |module: &String| -> BTreeSet<String> {
        reached[module].iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(module))).cloned().collect()
    };
    graph.keys().map(of).filter(|cycle| cycle.len() > 1).collect()
}

#[test]
fn modules_import_each_other_in_one_direction() {
    let mut crates: BTreeMap<PathBuf, BTreeMap<PathBuf, String>> = BTreeMap::new();
    for (path, text) in files(&[".rs"]) {
        let names: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        let Some(src) = names.iter().position(|name| name == "src") else { continue };
        let within = names[src + 1..].iter().collect();
        crates.entry(names[..src].iter().collect()).or_default().insert(within, code(&text));
    }
    assert!(crates.len() > 10, "{:?}", crates.keys());
    let found: BTreeSet<(PathBuf, BTreeSet<String>)> =
        crates.iter().flat_map(|(folder, sources)| cycles(&graph(sources)).into_iter().map(|cycle| (folder.clone(), cycle))).collect();
    let allowed = PAIRS.iter().map(|(folder, modules, _)| (PathBuf::from(folder), modules.map(str::to_owned).into()));
    let allowed: BTreeSet<(PathBuf, BTreeSet<String>)> = allowed.collect();
    assert_eq!(found, allowed, "left: modules that import each other; right: the pairs with a reason");
}

#[test]
fn a_cycle_is_found_through_groups_and_reexports() {
    let sources = [
        ("lib.rs", "pub mod a;\nmod b;\nmod c;\n#[cfg(test)]\nmod d;\npub use c::{Chair, Cup};\n"),
        ("a.rs", "use crate::{b::B, Cup};"),
        ("b.rs", "fn f() -> crate::c::C {}"),
        ("c/inner.rs", "use crate::a::A; use super::own;"),
        ("d.rs", "use crate::b::B;"),
    ];
    let sources = sources.into_iter().map(|(path, text)| (PathBuf::from(path), code(text))).collect();
    let graph = graph(&sources);
    assert_eq!(graph["a"], BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    assert!(!graph.contains_key("d"));
    assert_eq!(cycles(&graph), BTreeSet::from([["a", "b", "c"].map(str::to_owned).into()]));
}
