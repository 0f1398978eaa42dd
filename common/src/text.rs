//! Values as people read them: numbers with units, ages, instants, allocations, and text from others made safe for a terminal. Pure; writes nothing.

use std::time::Duration;

use crate::time::Timestamp;
use crate::units::Allocation;

/// Longest text from others that [`clean`] shows, in characters.
const MAX_TEXT: usize = 200;

/// A rate, `12.3/s`.
#[must_use]
pub fn rate(per_second: f64) -> String {
    format!("{}/s", number(per_second))
}

/// A number with three significant digits below 100, without decimals from 100 on, and without trailing zeros.
#[must_use]
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A count with its noun, `1 function` or `3 functions`.
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A size, `1.5 MiB`.
#[must_use]
pub fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", number(bytes as f64 / f64::from(1 << 20)))
}

/// A latency, `85ms` or `1.2s`.
#[must_use]
pub fn latency(milliseconds: f64) -> String {
    if milliseconds < 1000.0 { format!("{}ms", number(milliseconds)) } else { format!("{}s", number(milliseconds / 1000.0)) }
}

/// An age in its largest unit, rounded down: `900ms`, `4s`, `3m`, `2h`, `5d`.
#[must_use]
pub fn age(age: Duration) -> String {
    match age.as_secs() {
        0 => format!("{}ms", age.as_millis()),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The time of day in UTC, `06:53:04.123`.
#[must_use]
pub fn clock(at: Timestamp) -> String {
    part(at, 11..23)
}

/// The day in UTC, `2025-11-23`.
#[must_use]
pub fn day(at: Timestamp) -> String {
    part(at, 0..10)
}

fn part(at: Timestamp, range: std::ops::Range<usize>) -> String {
    let text = at.to_string();
    text.get(range).unwrap_or(&text).to_owned()
}

/// Difference between two allocations, such as `1 → 2 replicas, 500m → 250m`; `None` if they are equal.
#[must_use]
pub fn difference(before: Allocation, after: Allocation) -> Option<String> {
    let mut parts = Vec::new();
    if before.replicas != after.replicas {
        parts.push(format!("{} → {} replicas", before.replicas, after.replicas));
    }
    if before.cpu_millicores != after.cpu_millicores {
        parts.push(format!("{} → {}", before.cpu_millicores, after.cpu_millicores));
    }
    if before.memory_mib != after.memory_mib {
        parts.push(format!("{} → {}", before.memory_mib, after.memory_mib));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Text from others, safe for a terminal: characters that act on it are escaped, and the text is cut after 200 characters.
#[must_use]
pub fn clean(text: &str) -> String {
    let text = text.trim_end();
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", whole(&text[..end])),
        None => whole(text),
    }
}

/// Text from others, safe for a terminal, in full length: characters that act on it are escaped, except tabs.
#[must_use]
pub fn whole(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => shown.push(character),
            _ if acts_on_terminal(character) => shown.extend(character.escape_default()),
            _ => shown.push(character),
        }
    }
    shown
}

/// Whether a terminal acts on `character` instead of showing it: control characters, and those that break lines or change the direction of writing.
#[must_use]
pub fn acts_on_terminal(character: char) -> bool {
    character.is_control() || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON, safe for a terminal: the characters that act on it, which JSON leaves unescaped only beyond ASCII and as DEL, are escaped.
#[must_use]
pub fn safe_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'.. if acts_on_terminal(character) => shown.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_carry_their_unit() {
        assert_eq!([0.0, 0.1234, 1.5, 12.34, 1234.5].map(number), ["0", "0.123", "1.5", "12.3", "1234"]);
        assert_eq!([0.5, 85.04, 1200.0].map(latency), ["0.5ms", "85ms", "1.2s"]);
        assert_eq!([0, 119, 120, 7200, 172_800].map(|seconds| age(Duration::from_secs(seconds))), ["0ms", "119s", "2m", "2h", "2d"]);
        assert_eq!(number(f64::NAN), "NaN");
    }

    #[test]
    fn difference_names_only_changed_parts() {
        let one = Allocation::new(1, 500, 128);
        assert_eq!(difference(one, one), None);
        assert_eq!(difference(one, Allocation::new(2, 500, 128)).as_deref(), Some("1 → 2 replicas"));
        assert_eq!(difference(one, Allocation::new(1, 250, 256)).as_deref(), Some("500m → 250m, 128Mi → 256Mi"));
    }

    #[test]
    fn text_from_others_cannot_move_the_cursor() {
        assert_eq!(clean("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(clean("a\u{202e}b\u{2066}\u{61c}\u{9b}é"), "a\\u{202e}b\\u{2066}\\u{61c}\\u{9b}é");
        assert_eq!(clean(&"x".repeat(500)).chars().count(), MAX_TEXT + 1);
    }

    #[test]
    fn json_for_a_terminal_has_the_same_value() {
        let value = serde_json::json!({ "a\u{9d}": ["\u{9b}31m\u{7f}", "\u{202e}\u{2069}", "é😀\n"] });
        let shown = safe_json(&serde_json::to_string_pretty(&value).expect("JSON"));
        assert!(!shown.chars().any(|character| character != '\n' && acts_on_terminal(character)), "{shown:?}");
        assert!(shown.contains("\\u009b31m\\u007f") && shown.contains("é😀"), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
    }

    #[test]
    fn instants_are_shown_in_utc() {
        let at = Timestamp(1_763_880_784_123);
        assert_eq!((day(at).as_str(), clock(at).as_str()), ("2025-11-23", "06:53:04.123"));
    }
}
