//! Escaping of text for HTML and SVG.

use qscale_common::text::acts_on_terminal;

/// Escapes `text` for element content and quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            character if acts_on_terminal(character) => out.push(' '),
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(escape("<a href=\"x\" b='y'>&\u{1b}"), "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp; ");
    }
}
