//! Tables as CSV; knows nothing of their content.

/// A table as CSV.
pub(crate) fn csv_text(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = "memory takes every row, and all rows are equally long";
    writer.write_record(columns).expect(written);
    rows.into_iter().for_each(|row| writer.write_record(row).expect(written));
    String::from_utf8(writer.into_inner().expect(written)).expect("every cell was text")
}
