//! Public items that nothing uses: the compiler cannot find them in library crates.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use qscale_tests::source::files;
use syn::visit::{self, Visit};
use syn::{Ident, ItemImpl, Signature, Type, Visibility};

/// Names of the public items that a file declares, and of the types that its `impl` headers name.
#[derive(Default)]
struct Declared {
    public: Vec<String>,
    headers: Vec<String>,
}

impl Declared {
    fn item(&mut self, visibility: &Visibility, name: &Ident) {
        if matches!(visibility, Visibility::Public(_)) {
            self.public.push(name.to_string());
        }
    }

    fn function(&mut self, visibility: &Visibility, signature: &Signature) {
        self.item(visibility, &signature.ident);
    }
}

impl<'ast> Visit<'ast> for Declared {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Const(item) => self.item(&item.vis, &item.ident),
            syn::Item::Enum(item) => self.item(&item.vis, &item.ident),
            syn::Item::Fn(item) => self.function(&item.vis, &item.sig),
            syn::Item::Static(item) => self.item(&item.vis, &item.ident),
            syn::Item::Struct(item) => self.item(&item.vis, &item.ident),
            syn::Item::Trait(item) => self.item(&item.vis, &item.ident),
            syn::Item::Type(item) => self.item(&item.vis, &item.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.vis, &item.sig);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.item(&item.vis, &item.ident);
        visit::visit_impl_item_const(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if let Type::Path(path) = &*item.self_ty {
            self.headers.extend(path.path.segments.last().map(|segment| segment.ident.to_string()));
        }
        visit::visit_item_impl(self, item);
    }
}

fn declared(text: &str) -> Declared {
    let file = syn::parse_file(text).expect("sources are valid Rust");
    let mut declared = Declared::default();
    declared.visit_file(&file);
    declared
}

/// Counts every word of the code, those of formatted arguments included.
fn count(tokens: TokenStream, uses: &mut BTreeMap<String, usize>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => count(group.stream(), uses),
            TokenTree::Ident(word) => *uses.entry(word.to_string()).or_default() += 1,
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
                for word in text.split('{').skip(1).filter_map(|rest| rest.split(|letter: char| !is_word(letter)).next()) {
                    *uses.entry(word.to_owned()).or_default() += 1;
                }
            }
            TokenTree::Punct(_) => {}
        }
    }
}

/// `code` without doc comments, whose words are not uses.
fn without_docs(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Public items of `files` that are named only where they are declared and in the headers of their `impl` blocks.
fn unused<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let (mut uses, mut items) = (BTreeMap::new(), Vec::new());
    for (path, text) in files {
        count(without_docs(text).parse().expect("sources are valid Rust"), &mut uses);
        let Declared { public, headers } = declared(text);
        for name in headers {
            *uses.entry(name).or_default() -= 1;
        }
        items.extend(public.into_iter().map(|name| (name, path)));
    }
    items.into_iter().filter(|(name, _)| uses.get(name) == Some(&1)).map(|(name, path)| format!("{path}: {name}")).collect()
}

#[test]
fn every_public_item_is_used() {
    let files: Vec<(String, String)> = files(&[".rs"]).into_iter().map(|(path, text)| (path.display().to_string(), text)).collect();
    assert!(files.len() > 200, "{} files", files.len());
    let unused = unused(files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    assert!(unused.is_empty(), "public items without a use:\n{}", unused.join("\n"));
}

#[test]
fn declarations_are_found() {
    let code = "pub fn a() {} pub const fn b() {} pub(crate) fn c() {} pub struct D; pub mod e {} pub const F: u8 = 1; pub use g::h; \
                impl D { pub fn i() {} pub const J: u8 = 1; }";
    assert_eq!(declared(code).public, ["a", "b", "D", "F", "i", "J"]);
}

#[test]
fn a_type_is_not_used_by_its_own_impl_blocks() {
    let files = [
        ("a.rs", "pub struct Lonely; impl Lonely { fn f() {} } impl Drop for Lonely { fn drop(&mut self) {} }"),
        ("b.rs", "pub struct Used; impl Used { fn f() {} } /// Names [`Lonely`].\nfn g() { Used::f(); println!(\"{TEXT}\") }"),
        ("c.rs", "pub const TEXT: &str = \"\";"),
    ];
    assert_eq!(unused(files.into_iter()), ["a.rs: Lonely"]);
}
