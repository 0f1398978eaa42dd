//! Histories of workloads as CSV, and files of queries.

use qscale_assess::history::table;
use qscale_assess::queries::QuerySet;
use qscale_common::document::Format;

/// A table that is accepted reads back as it was written.
pub fn histories(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A refusal is as good as a set.
    drop(QuerySet::parse(text, Format::Toml));
    let Ok(histories) = table::read(text) else { return };
    assert!(!histories.is_empty());
    // Long gaps make large tables of nothing.
    if histories.iter().map(|history| history.steps.len()).sum::<usize>() > 1_000 {
        return;
    }
    let again = table::read(&table::write(&histories)).expect("written");
    assert_eq!(again, histories);
}
