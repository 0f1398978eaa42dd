//! The source tree as text, for tests of rules on it. Owns listing files and separating code from comments and strings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::repository;

/// Files of the repository whose name ends with one of `endings`, by path from the root. Build output, hidden folders
/// and links are left out.
///
/// # Panics
/// When a folder cannot be listed or a file is not UTF-8.
#[must_use]
pub fn files(endings: &[&str]) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![repository()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the repository").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let kind = entry.file_type().expect("an entry of the repository");
            if kind.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
                let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
                found.insert(path.strip_prefix(repository()).expect("it lies within").to_owned(), text);
            }
        }
    }
    found
}

/// Kind of a piece of Rust source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Code.
    Code,
    /// A comment or doc comment.
    Comment,
    /// The content of a string literal.
    Text,
}

/// A stretch of Rust source of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Line of its first character, from 1.
    pub line: usize,
    /// The characters; of a comment without the marks at its beginning.
    pub text: &'a str,
}

/// Splits Rust source into code, comments and the contents of string literals.
#[must_use]
pub fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while !rest.is_empty() {
        let (kind, open, length, close) = next_piece(rest);
        let text = &rest[open..open + length];
        if !text.is_empty() {
            pieces.push(Piece { kind, line, text });
        }
        let used = open + length + close;
        line += rest[..used].matches('\n').count();
        rest = &rest[used..];
    }
    pieces
}

/// Kind of the first piece of `source`, and the lengths of its opening mark, content and closing mark.
fn next_piece(source: &str) -> (Kind, usize, usize, usize) {
    if source.starts_with("//") {
        let end = source.find('\n').unwrap_or(source.len());
        let open = source[..end].find(|letter| letter != '/' && letter != '!').unwrap_or(end);
        return (Kind::Comment, open, end - open, 0);
    }
    if source.starts_with("/*") {
        let end = comment_end(source);
        return (Kind::Comment, 2, end - 2, usize::min(2, source.len() - end));
    }
    if let Some(hashes) = raw_string(source) {
        let open = source.find('"').unwrap_or(0) + 1;
        let mark = format!("\"{}", "#".repeat(hashes));
        let length = source[open..].find(&mark).unwrap_or(source.len() - open);
        return (Kind::Text, open, length, mark.len().min(source.len() - open - length));
    }
    if let Some(rest) = source.strip_prefix('"') {
        let length = closing_quote(rest);
        return (Kind::Text, 1, length, usize::min(1, source.len() - 1 - length));
    }
    if let Some(length) = character(source) {
        return (Kind::Code, 0, length, 0);
    }
    // One token of code; an identifier is skipped as a whole, so that the `r` of `for` does not begin a raw string.
    let first = source.chars().next().map_or(0, char::len_utf8);
    let word = source.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(source.len());
    (Kind::Code, 0, word.max(first), 0)
}

/// Start of the mark that ends the block comment that `source` begins with; comments nest.
fn comment_end(source: &str) -> usize {
    let (mut depth, mut at) = (1, 2);
    while depth > 0 {
        let Some(next) = source[at..].find("/*").into_iter().chain(source[at..].find("*/")).min() else { return source.len() };
        if source[at + next..].starts_with("/*") {
            depth += 1
        } else {
            depth -= 1
        }
        at += next + 2;
    }
    at - 2
}

/// Number of `#` of the raw string that `source` begins with.
fn raw_string(source: &str) -> Option<usize> {
    let rest = ["br", "cr", "r"].iter().find_map(|prefix| source.strip_prefix(prefix))?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

fn closing_quote(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    end.unwrap_or(text.len())
}

/// Length of the character literal that `source` begins with; `None` for a lifetime.
fn character(source: &str) -> Option<usize> {
    let rest = source.strip_prefix('\'')?;
    if let Some(escape) = rest.strip_prefix('\\') {
        let escaped = escape.chars().next()?.len_utf8();
        return Some(2 + escaped + escape[escaped..].find('\'')? + 1);
    }
    let letter = rest.chars().next()?.len_utf8();
    rest[letter..].starts_with('\'').then_some(letter + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, kind: Kind, expected: &[&str]) {
        let found: Vec<&str> = pieces(source).into_iter().filter(|piece| piece.kind == kind).map(|piece| piece.text).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn strings_and_comments_are_separated_from_code() {
        check("//! One.\n/// Two.\nlet a = 1; // three", Kind::Comment, &[" One.", " Two.", " three"]);
        check(r#"let a = "x // y \" z"; let b = '"'; let c = "w";"#, Kind::Text, &[r#"x // y \" z"#, "w"]);
        check("let a = r#\"x \" y\"#; for \"z\" in \"\" {}", Kind::Text, &["x \" y", "z"]);
        check("fn f<'a>(x: &'a str) { g('\\'', '/', \"s\") } // c", Kind::Text, &["s"]);
        check("a /* b */ c", Kind::Comment, &[" b "]);
        check("/* a /* b */ c */ d /* e", Kind::Comment, &[" a /* b */ c ", " e"]);
        check("cr#\"a \" b\"# br\"c\"", Kind::Text, &["a \" b", "c"]);
        check("'\\é' '\\", Kind::Text, &[]);
    }

    #[test]
    fn pieces_have_their_line() {
        let pieces = pieces("a\n\"b\nc\"\n// d");
        let lines: Vec<_> = pieces.iter().filter(|piece| piece.kind != Kind::Code).map(|piece| (piece.line, piece.text)).collect();
        assert_eq!(lines, [(2, "b\nc"), (4, " d")]);
    }
}
