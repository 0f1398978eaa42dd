//! Modules of a crate depend on each other in one direction: no import cycle of more than two modules, and of two only with a reason.
//! Names of public types are unique in the product code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use qscale_tests::source::files;
use quote::ToTokens;
use syn::{Item, ItemEnum, ItemMod, ItemStruct, ItemTrait, ItemType, ItemUnion, ItemUse, Visibility};

/// Pairs of modules that import each other: crate folder, the two modules, and why they are not one-directional.
const PAIRS: [(&str, [&str; 2], &str); 2] = [
    ("agent/experiments", ["profile", "validate"], "profiling and validation share the testbed and the measurement of other load"),
    ("deploy/up", ["dashboard", "many"], "the view of many functions is a part of the dashboard"),
];

/// Top-level modules of a crate, each with the modules of the same crate that it names.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// A parsed file without the modules that are compiled for tests only, and the names of those.
struct Source {
    file: syn::File,
    tests: BTreeSet<String>,
}

fn parse(text: &str) -> Source {
    let mut file = syn::parse_file(text).expect("sources are valid Rust");
    let mut tests = BTreeSet::new();
    file.items.retain(|item| {
        let Item::Mod(module) = item else { return true };
        let is_test = module.attrs.iter().any(|attribute| attribute.to_token_stream().to_string().replace(' ', "") == "#[cfg(test)]");
        if is_test {
            tests.insert(module.ident.to_string());
        }
        !is_test
    });
    Source { file, tests }
}

/// Sources below the `src` of each crate, by the crate's folder and the path below `src`.
fn crates() -> BTreeMap<PathBuf, BTreeMap<PathBuf, Source>> {
    let mut crates: BTreeMap<PathBuf, BTreeMap<PathBuf, Source>> = BTreeMap::new();
    for (path, text) in files(&[".rs"]) {
        let names = components(&path);
        let Some(src) = names.iter().position(|name| name == "src") else { continue };
        let within = names[src + 1..].iter().collect();
        crates.entry(names[..src].iter().collect()).or_default().insert(within, parse(&text));
    }
    assert!(crates.len() > 10, "{:?}", crates.keys());
    crates
}

fn components(path: &Path) -> Vec<String> {
    path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
}

/// Names of all modules of a crate that are compiled for tests only.
fn test_modules(sources: &BTreeMap<PathBuf, Source>) -> BTreeSet<String> {
    sources.values().flat_map(|source| &source.tests).cloned().chain(["tests".to_owned()]).collect()
}

/// First segments of the paths that begin with `root` (`crate` or `super`), groups in braces included.
fn first_segments(tokens: TokenStream, root: &str, found: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => first_segments(group.stream(), root, found),
            TokenTree::Ident(word)
                if word == root
                    && !is_colon(index.checked_sub(1).and_then(|before| tokens.get(before)))
                    && is_colon(tokens.get(index + 1)) =>
            {
                found.extend(tokens.get(index + 3).into_iter().flat_map(heads));
            }
            _ => {}
        }
    }
}

fn is_colon(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(mark)) if mark.as_char() == ':')
}

/// The word itself, or the first words of the members of a group.
fn heads(token: &TokenTree) -> Vec<String> {
    match token {
        TokenTree::Ident(word) => vec![word.to_string()],
        TokenTree::Group(group) => {
            let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
            let members = tokens.split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ','));
            members.filter_map(|member| member.first().map(ToString::to_string)).collect()
        }
        _ => Vec::new(),
    }
}

/// Names that the crate root re-exports, with the module that each comes from.
fn reexports(root: &syn::File, modules: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for item in &root.items {
        let Item::Use(ItemUse { vis: Visibility::Public(_), tree, .. }) = item else { continue };
        let mut words = Vec::new();
        all_words(tree.to_token_stream(), &mut words);
        let mut words = words.into_iter().skip_while(|word| word == "self" || word == "crate");
        let Some(module) = words.next().filter(|module| modules.contains(module)) else { continue };
        found.extend(words.filter(|name| *name != module).map(|name| (name, module.clone())));
    }
    found
}

fn all_words(tokens: TokenStream, words: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => all_words(group.stream(), words),
            TokenTree::Ident(word) => words.push(word.to_string()),
            _ => {}
        }
    }
}

/// The module graph of the crate whose sources `sources` are, by path below `src`.
fn graph(sources: &BTreeMap<PathBuf, Source>) -> Graph {
    let root = ["lib.rs", "main.rs"].iter().find_map(|name| sources.get(Path::new(name)));
    let test_modules = test_modules(sources);
    let module_of = |path: &Path| {
        let names = components(&path.with_extension(""));
        let is_root = names.first().is_some_and(|name| ["lib", "main", "bin"].contains(&name.as_str()));
        let is_test = names.iter().any(|name| test_modules.contains(name));
        (!is_root && !is_test).then(|| names[0].clone())
    };
    let modules: BTreeSet<String> = sources.keys().filter_map(|path| module_of(path)).collect();
    let reexports = root.map(|root| reexports(&root.file, &modules)).unwrap_or_default();
    let mut graph: Graph = modules.iter().map(|module| (module.clone(), BTreeSet::new())).collect();
    for (path, source) in sources {
        let Some(module) = module_of(path) else { continue };
        let (tokens, mut named) = (source.file.to_token_stream(), BTreeSet::new());
        first_segments(tokens.clone(), "crate", &mut named);
        if path.components().count() == 1 {
            first_segments(tokens, "super", &mut named);
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

/// Names of the `pub` types that `items` declare, in order, including those of inline modules.
fn public_types(items: &[Item]) -> Vec<String> {
    let names = items.iter().flat_map(|item| match item {
        Item::Struct(ItemStruct { vis: Visibility::Public(_), ident, .. })
        | Item::Enum(ItemEnum { vis: Visibility::Public(_), ident, .. })
        | Item::Union(ItemUnion { vis: Visibility::Public(_), ident, .. })
        | Item::Trait(ItemTrait { vis: Visibility::Public(_), ident, .. })
        | Item::Type(ItemType { vis: Visibility::Public(_), ident, .. }) => vec![ident.to_string()],
        Item::Mod(ItemMod { content: Some((_, items)), .. }) => public_types(items),
        _ => Vec::new(),
    });
    names.collect()
}

#[test]
fn modules_import_each_other_in_one_direction() {
    let found: BTreeSet<(PathBuf, BTreeSet<String>)> =
        crates().iter().flat_map(|(folder, sources)| cycles(&graph(sources)).into_iter().map(|cycle| (folder.clone(), cycle))).collect();
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
    let sources = sources.into_iter().map(|(path, text)| (PathBuf::from(path), parse(text))).collect();
    let graph = graph(&sources);
    assert_eq!(graph["a"], BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    assert!(!graph.contains_key("d"));
    assert_eq!(cycles(&graph), BTreeSet::from([["a", "b", "c"].map(str::to_owned).into()]));
}

/// A name has one meaning everywhere, so that a reader who meets it needs no path. Types that are not `pub` belong to one module or crate.
#[test]
fn public_type_names_are_unique() {
    let mut declared: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (folder, sources) in crates() {
        if folder.starts_with("tests") {
            continue;
        }
        let test_modules = test_modules(&sources);
        let of_product =
            sources.iter().filter(|(path, _)| !components(&path.with_extension("")).iter().any(|name| test_modules.contains(name)));
        for (path, source) in of_product {
            for name in public_types(&source.file.items) {
                declared.entry(name).or_default().push(folder.join("src").join(path));
            }
        }
    }
    assert!(declared.len() > 100, "{:?}", declared.keys());
    declared.retain(|_, files| files.len() > 1);
    assert!(declared.is_empty(), "names of public types that are declared more than once: {declared:#?}");
}

#[test]
fn public_types_are_found_in_inline_modules() {
    let text = "pub struct A; struct B; pub(crate) enum C {} pub trait D { type E; }\n\
                pub mod f { pub type G = u8; pub union H { a: u8 } fn i() {} }\n#[cfg(test)] mod tests { pub struct J; }";
    assert_eq!(public_types(&parse(text).file.items), ["A", "D", "G", "H"]);
}
