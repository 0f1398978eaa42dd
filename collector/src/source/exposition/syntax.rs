//! Text expositions, Prometheus's and OpenMetrics', line by line, without copying. Owns the syntax; must not know what a metric means.
//!
//! The two published parsers of this format build owned strings and maps for every sample, one of them with regular
//! expressions. A collector reads thousands of lines per tick for a hundred functions, and uses fewer than half of
//! them.

use memchr::{memchr, memchr2};

/// The byte order mark of UTF-8, which some editors and proxies write at the beginning.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Number of labels up to which comparing each with all others is the fastest way to find repeated ones.
const FEW_LABELS: usize = 32;

/// Last line of a text in OpenMetrics.
const END_MARK: &[u8] = b"# EOF";

/// A text format. They differ in the time of a sample and in the mark of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpositionFormat {
    /// Prometheus's: times are whole milliseconds.
    #[default]
    Prometheus,
    /// OpenMetrics': times are seconds, and `# EOF` ends the text.
    OpenMetrics,
}

impl ExpositionFormat {
    /// The format that a `content-type` names; Prometheus's if it names none.
    #[must_use]
    pub fn of(content_type: &[u8]) -> Self {
        const OPEN_METRICS: &[u8] = b"application/openmetrics-text";
        let named = content_type.trim_ascii_start().get(..OPEN_METRICS.len());
        if named.is_some_and(|named| named.eq_ignore_ascii_case(OPEN_METRICS)) { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// An exposition as it was received.
#[derive(Debug, Clone, Copy)]
pub struct ExpositionText<'a> {
    /// The bytes.
    pub body: &'a [u8],
    /// Their format.
    pub format: ExpositionFormat,
    /// Whether it is known that nothing is missing at the end. A line without a newline may otherwise lack the last digits of its number.
    pub complete: bool,
}

impl<'a> ExpositionText<'a> {
    /// A complete text in Prometheus's format.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self { body, format: ExpositionFormat::Prometheus, complete: true }
    }

    /// Whether its end is missing: the mark of the end in OpenMetrics, or the end of the last line where more may have been sent.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        match self.format {
            ExpositionFormat::Prometheus => !self.complete && self.body.last().is_some_and(|last| *last != b'\n'),
            ExpositionFormat::OpenMetrics => !self.body.rsplit(|byte| *byte == b'\n').any(|line| line.trim_ascii_end() == END_MARK),
        }
    }
}

/// The samples of an exposition. Comments and empty lines are skipped; a malformed line is one `Err`, and the next line is read.
#[derive(Debug, Clone)]
pub struct Samples<'a> {
    rest: &'a [u8],
    format: ExpositionFormat,
    complete: bool,
}

/// A malformed or truncated line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The name of a sample, and the rest of its line, which is parsed on demand.
#[derive(Debug, Clone, Copy)]
pub struct ExpositionSample<'a> {
    /// Name of the metric.
    pub name: &'a [u8],
    rest: &'a [u8],
    /// Whether the name stands in quotes among the labels, so that `rest` begins after it, with a comma or the closing brace.
    quoted: bool,
    format: ExpositionFormat,
}

/// The value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// The number; may be infinite or NaN.
    pub number: f64,
    /// Time at which it was taken, milliseconds since 1970, if the line has one.
    pub at_ms: Option<i64>,
}

/// The labels of one sample: names, and values as written, escapes included. Reused from line to line.
#[derive(Debug, Default)]
pub struct Labels<'a> {
    entries: Vec<(&'a [u8], &'a [u8])>,
    complete: bool,
}

impl<'a> Labels<'a> {
    /// The value of the label `name` as written; DNS names, numbers and statuses have nothing to unescape.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(label, _)| *label == name.as_bytes()).map(|(_, value)| value)
    }

    /// The value of the label `name`; `None` if it is empty, which means the same as if it is missing.
    #[must_use]
    pub fn non_empty(&self, name: &str) -> Option<&'a [u8]> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Names and values, in the order of the line.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.entries.iter().copied()
    }

    /// Drops the labels whose name is repeated: which of their values is meant is unknown, and Prometheus refuses such a line.
    fn drop_repeated(&mut self) -> Result<(), Malformed> {
        let all = self.entries.len();
        let is_new = |index: usize| self.entries[..index].iter().all(|(name, _)| *name != self.entries[index].0);
        if all <= FEW_LABELS && (1..all).all(is_new) {
            return Ok(());
        }
        let mut names: Vec<&[u8]> = self.entries.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        let repeated: Vec<&[u8]> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        self.entries.retain(|(name, _)| repeated.binary_search(name).is_err());
        if repeated.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// Whether all labels of the line could be read, though perhaps not its value.
    #[must_use]
    pub fn are_complete(&self) -> bool {
        self.complete
    }
}

impl<'a> Samples<'a> {
    /// The samples of `text`.
    #[must_use]
    pub fn new(ExpositionText { body, format, complete }: ExpositionText<'a>) -> Self {
        let rest = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        // A text in OpenMetrics that is complete ends with a comment.
        Self { rest, format, complete: complete && format == ExpositionFormat::Prometheus }
    }

    /// The next line, without blanks at its beginning; `None` at the end. A line that may be truncated is an error.
    fn line(&mut self) -> Option<Result<&'a [u8], Malformed>> {
        if self.rest.is_empty() {
            return None;
        }
        let end = memchr(b'\n', self.rest);
        let (line, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.get(1..).unwrap_or_default();
        let line = skip_blanks(line);
        let whole = end.is_some() || self.complete || line.first() == Some(&b'#');
        Some(if whole { Ok(line) } else { Err(Malformed) })
    }
}

impl<'a> Iterator for Samples<'a> {
    type Item = Result<ExpositionSample<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.line()? {
                Ok(line) => line,
                Err(malformed) => return Some(Err(malformed)),
            };
            match line.first() {
                None | Some(b'\r') => {}
                Some(b'#') if self.format == ExpositionFormat::OpenMetrics && line.trim_ascii_end() == END_MARK => {
                    // Nothing may follow.
                    self.rest = &[];
                    return None;
                }
                Some(b'#') => {}
                Some(_) => return Some(sample(line, self.format)),
            }
        }
    }
}

fn sample(line: &[u8], format: ExpositionFormat) -> Result<ExpositionSample<'_>, Malformed> {
    // A name with other characters is quoted and stands among the labels: `{"my.metric",label="value"}`.
    if let Some(inner) = line.strip_prefix(b"{") {
        let (name, rest) = quoted(skip_blanks(inner))?;
        let rest = skip_blanks(rest);
        return if rest.starts_with(b",") || rest.starts_with(b"}") {
            Ok(ExpositionSample { name, rest, quoted: true, format })
        } else {
            Err(Malformed)
        };
    }
    let end = line.iter().position(|byte| !is_name(*byte)).ok_or(Malformed)?;
    let (name, rest) = line.split_at(end);
    if name.first().is_none_or(u8::is_ascii_digit) { Err(Malformed) } else { Ok(ExpositionSample { name, rest, quoted: false, format }) }
}

impl<'a> ExpositionSample<'a> {
    /// Reads the rest of the line: its labels into `labels`, and its value.
    ///
    /// # Errors
    /// If the line is malformed; `labels` may then be incomplete.
    pub fn read(&self, labels: &mut Labels<'a>) -> Result<Value, Malformed> {
        labels.entries.clear();
        labels.complete = false;
        let mut rest = skip_blanks(self.rest);
        let inner = if self.quoted { Some(rest.strip_prefix(b",").unwrap_or(rest)) } else { rest.strip_prefix(b"{") };
        if let Some(inner) = inner {
            rest = read_labels(inner, labels)?;
            labels.drop_repeated()?;
        } else if rest.len() == self.rest.len() {
            return Err(Malformed);
        }
        labels.complete = true;
        value(rest, self.format)
    }

    /// The text before the value of `label`, if that label was read into `labels` and is the last one of the line.
    #[must_use]
    pub fn before_last(&self, label: &str, labels: &Labels<'a>) -> Option<&'a [u8]> {
        let last = labels.entries.last().filter(|(name, _)| *name == label.as_bytes())?.1;
        // The value lies within the line, so the distance of the two is its start.
        let begin = (last.as_ptr() as usize).checked_sub(self.rest.as_ptr() as usize)?;
        let after = self.rest.get(begin + last.len()..)?;
        after.starts_with(b"\"}").then_some(&self.rest[..begin])
    }

    /// Reads a line that differs from an earlier one only in its last label and its value: that label's value as
    /// written, and the value. `before` is [`ExpositionSample::before_last`] of the earlier line. `None` if the line differs in
    /// more, or is malformed.
    #[must_use]
    pub fn read_last(&self, before: &[u8]) -> Option<(&'a [u8], Value)> {
        let rest = self.rest.strip_prefix(before)?;
        let end = memchr2(b'"', b'\\', rest)?;
        Some((&rest[..end], value(rest[end..].strip_prefix(b"\"}")?, self.format).ok()?))
    }
}

fn value(rest: &[u8], format: ExpositionFormat) -> Result<Value, Malformed> {
    // An exemplar follows a hash mark; it belongs to one request, not to the sample.
    let words = rest.split(|&byte| is_blank(byte) || byte == b'\r').filter(|word| !word.is_empty());
    let mut words = words.take_while(|word| !word.starts_with(b"#"));
    let number = number(words.next().ok_or(Malformed)?)?;
    let at_ms = words.next().map(|word| time(word, format)).transpose()?;
    if words.next().is_some() { Err(Malformed) } else { Ok(Value { number, at_ms }) }
}

/// Reads a time, in milliseconds.
fn time(word: &[u8], format: ExpositionFormat) -> Result<i64, Malformed> {
    let word = text(word).ok_or(Malformed)?;
    match format {
        ExpositionFormat::Prometheus => word.parse().map_err(|_| Malformed),
        // The cast saturates.
        ExpositionFormat::OpenMetrics => {
            word.parse().ok().filter(|seconds: &f64| seconds.is_finite()).map(|seconds| (seconds * 1000.0).round() as i64).ok_or(Malformed)
        }
    }
}

/// Reads labels up to the closing brace; returns the rest of the line.
fn read_labels<'a>(mut rest: &'a [u8], labels: &mut Labels<'a>) -> Result<&'a [u8], Malformed> {
    loop {
        rest = skip_blanks(rest);
        if let Some(after) = rest.strip_prefix(b"}") {
            return Ok(after);
        }
        let (name, after) = if rest.starts_with(b"\"") {
            quoted(rest)?
        } else {
            rest.split_at(rest.iter().position(|byte| !is_name(*byte) || *byte == b':').ok_or(Malformed)?)
        };
        let after = skip_blanks(skip_blanks(after).strip_prefix(b"=").ok_or(Malformed)?);
        let (value, after) = quoted(after)?;
        if name.is_empty() {
            return Err(Malformed);
        }
        labels.entries.push((name, value));
        rest = skip_blanks(after);
        match rest.first() {
            Some(b',') => rest = &rest[1..],
            Some(b'}') => {}
            _ => return Err(Malformed),
        }
    }
}

/// The text within the quotes at the beginning of `text`, as written, and the rest.
fn quoted(text: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let inner = text.strip_prefix(b"\"").ok_or(Malformed)?;
    let end = closing_quote(inner).ok_or(Malformed)?;
    Ok((&inner[..end], &inner[end + 1..]))
}

fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        // A backslash and the character that it escapes.
        at += 2;
    }
}

fn number(word: &[u8]) -> Result<f64, Malformed> {
    // Fifteen digits are exact in a float.
    if word.len() <= 15 && word.iter().all(u8::is_ascii_digit) {
        return Ok(word.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0')) as f64);
    }
    text(word).and_then(|word| word.parse().ok()).ok_or(Malformed)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|byte| is_blank(**byte)).count();
    &bytes[blanks..]
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

#[cfg(test)]
mod tests;
