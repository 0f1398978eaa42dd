//! The frame of an HTML page that needs no network. Owns its head and its style, for light and dark mode.

use super::escape::escape;

/// A page with `title` above `main`, which is HTML, as is what comes `after` it.
#[must_use]
pub fn page(title: &str, main: &str, after: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{main}</main>\n\
         {after}</body>\n</html>\n",
        include_str!("html/page.css"),
    )
}

/// A section with a heading; empty without `body`, which is HTML.
#[must_use]
pub fn section(id: &str, heading: &str, body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!("<section id=\"{}\">\n<h2>{}</h2>\n{body}</section>\n", escape(id), escape(heading))
    }
}
