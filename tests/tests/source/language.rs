//! Plain English in comments, documentation and messages: a short list of phrases that do not appear there.

use std::collections::BTreeSet;
use std::path::Path;

use qscale_tests::source::{self, Kind, files, pieces};

/// Phrases that are not used, each as a whole word, with what to write instead.
const BANNED: [(&str, &str); 30] = [
    ("in force", "current, applied, in use"),
    ("comes along", "is bundled, is included"),
    ("come along", "are bundled, are included"),
    ("came along", "was bundled"),
    ("told", "configured, passed, set, reported"),
    ("tell", "report, show, distinguish"),
    ("tells", "reports, shows, distinguishes"),
    ("telling", "reporting"),
    ("anew", "again"),
    ("whoever", "name who it is"),
    ("mend", "fix, repair"),
    ("mends", "fixes, repairs"),
    ("mended", "fixed, repaired"),
    ("lives through", "runs, processes"),
    ("live through", "run, process"),
    ("lived through", "ran, processed"),
    ("is worth", "has the value, costs"),
    ("are worth", "have the value, cost"),
    ("no number", "NaN, non-finite, not a number"),
    ("so many", "name the quantity"),
    ("as it comes", "with defaults"),
    ("as they come", "with defaults"),
    ("kinds of trouble", "perturbations, faults"),
    ("everyone", "name who it is"),
    ("misfortune", "perturbation"),
    ("mishap", "perturbation, fault"),
    ("somebody", "name who it is"),
    ("to and fro", "back and forth"),
    ("shall", "must, is to, will"),
    ("could not be had", "is not available, could not be read"),
];

/// First words of a doc comment that make a clause of what should be a noun phrase or a verb.
const BANNED_OPENINGS: [&str; 3] = ["What", "Who", "Whoever"];

/// This file, which has to name the phrases.
fn is_exempt(path: &Path) -> bool {
    path == Path::new("tests/tests/source/language.rs")
}

/// The banned phrase in `text`, with what to write instead.
fn banned(text: &str) -> Option<(&'static str, &'static str)> {
    let text = text.to_ascii_lowercase();
    let bounded = |start: usize, length: usize| {
        let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
        !text[..start].ends_with(is_word) && !text[start + length..].starts_with(is_word)
    };
    let appears = |phrase: &str| text.match_indices(phrase).any(|(start, found)| bounded(start, found.len()));
    BANNED.into_iter().find(|(phrase, _)| appears(phrase))
}

#[test]
fn sources_and_documents_use_plain_english() {
    let mut found = Vec::new();
    let mut note = |path: &Path, line: usize, text: &str| {
        if let Some((phrase, instead)) = banned(text) {
            found.push(format!("{}:{line}: `{phrase}` (write: {instead})", path.display()));
        }
    };
    for (path, text) in files(&[".rs", ".md", ".toml", ".yaml", ".sh", ".py", "Makefile"]) {
        if is_exempt(&path) {
            continue;
        }
        if path.extension().is_some_and(|ending| ending == "rs") {
            for piece in pieces(&text) {
                // The words of a name are separated by `_`.
                let prose = if piece.kind == Kind::Code { piece.text.replace('_', " ") } else { piece.text.to_owned() };
                prose.lines().enumerate().for_each(|(index, line)| note(&path, piece.line + index, line));
            }
        } else {
            text.lines().enumerate().for_each(|(index, line)| note(&path, index + 1, line));
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

#[test]
fn doc_comments_begin_with_a_noun_or_a_verb() {
    let mut found = Vec::new();
    for (path, text) in source::files(&[".rs"]).into_iter().filter(|(path, _)| !is_exempt(path)) {
        let mut continues = false;
        for (index, line) in text.lines().enumerate() {
            let doc = line.trim_start().strip_prefix("///").or_else(|| line.trim_start().strip_prefix("//!"));
            let first = doc.and_then(|text| text.split_whitespace().next()).unwrap_or_default();
            if !continues && BANNED_OPENINGS.contains(&first) {
                found.push(format!("{}:{}:{}", path.display(), index + 1, line.trim_start()));
            }
            continues = doc.is_some_and(|text| !text.trim().is_empty());
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

/// Names of types that are words of the project or proper names.
const TYPES_AS_WORDS: [&str; 2] = ["ScalingPolicy", "CartPole"];

/// A name of two words or more, such as `LoadSummary`.
fn is_compound(name: &str) -> bool {
    name.as_bytes().windows(2).any(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
}

/// Names of types in `comment` that are neither code nor a link.
fn bare_names(comment: &str) -> impl Iterator<Item = &str> {
    comment
        .split('`')
        .step_by(2)
        .flat_map(|prose| prose.split(|letter: char| !letter.is_alphanumeric() && letter != '_'))
        .filter(|name| is_compound(name))
}

#[test]
fn comments_name_a_type_only_as_code() {
    let sources: Vec<_> = files(&[".rs"]).into_iter().collect();
    let mut types = BTreeSet::new();
    for (_, text) in &sources {
        // A piece of code is one token.
        let code = pieces(text).into_iter().filter(|piece| piece.kind == Kind::Code && !piece.text.trim().is_empty());
        let tokens: Vec<&str> = code.map(|piece| piece.text).collect();
        let declared = tokens.windows(2).filter(|pair| ["struct", "enum", "trait", "type"].contains(&pair[0])).map(|pair| pair[1]);
        types.extend(declared.filter(|name| is_compound(name) && !TYPES_AS_WORDS.contains(name)));
    }
    assert!(types.contains("LoadSummary"), "declarations are found");
    let mut found = Vec::new();
    for (path, text) in &sources {
        for piece in pieces(text).into_iter().filter(|piece| piece.kind == Kind::Comment) {
            found.extend(
                bare_names(piece.text)
                    .filter(|name| types.contains(*name))
                    .map(|name| format!("{}:{}: {name}", path.display(), piece.line)),
            );
        }
    }
    assert!(found.is_empty(), "a renamed word, or code without backticks:\n{}", found.join("\n"));
    assert_eq!(bare_names("LoadSummary of a `RunResult` in NATS").collect::<Vec<_>>(), ["LoadSummary"]);
}

#[test]
fn phrases_are_found_as_whole_words_only() {
    assert_eq!(banned("the limits In Force now").map(|(phrase, _)| phrase), Some("in force"));
    assert_eq!(banned("Who told it?").map(|(phrase, _)| phrase), Some("told"));
    assert_eq!(banned("amended, marshalled, retell, told_by"), None);
}
