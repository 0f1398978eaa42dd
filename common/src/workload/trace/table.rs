//! A CSV table read row by row. Owns headers, positions and the reading of cells, so that every error names file, line, column and value.

use std::io::Read;

use csv::{ByteRecord, ReaderBuilder};

use super::TraceError;
use crate::text::whole;

pub struct CsvTable<R> {
    file: String,
    reader: csv::Reader<R>,
    header: Vec<String>,
    row: ByteRecord,
}

/// Longest piece of a cell that an error repeats.
const QUOTED: usize = 60;
/// Words by which pandas, R, SQL and Python mark a missing value.
const MISSING: [&str; 7] = ["nan", "-nan", "na", "n/a", "<na>", "null", "none"];

impl<R: Read> CsvTable<R> {
    pub fn open(reader: R, file: &str) -> Result<Self, TraceError> {
        // Rows of another length than the header are found here and not by the reader, so that the error can say which.
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(reader);
        let mut row = ByteRecord::new();
        let whole = |problem: String| TraceError { file: file.to_owned(), line: 0, column: None, problem };
        if !reader.read_byte_record(&mut row).map_err(|error| whole(error.to_string()))? {
            return Err(whole("the file is empty; its first line must name the columns".to_owned()));
        }
        let mut header = Vec::with_capacity(row.len());
        for (index, cell) in row.iter().enumerate() {
            let text = std::str::from_utf8(cell)
                .map_err(|_| TraceError { line: 1, ..whole(format!("the name of column {} is not UTF-8", index + 1)) })?;
            header.push(text.trim().to_owned());
        }
        Ok(Self { file: file.to_owned(), reader, header, row })
    }

    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The index of a column that must be there once. Upper and lower case are the same, as for InVitro.
    pub fn column(&self, name: &str) -> Result<usize, TraceError> {
        let mut found = self.header.iter().enumerate().filter(|(_, column)| column.eq_ignore_ascii_case(name)).map(|(index, _)| index);
        let first = found.next().ok_or_else(|| self.at_header(format!("there is no column `{name}`")))?;
        match found.next() {
            None => Ok(first),
            Some(_) => Err(self.at_header(format!("the column `{name}` is there twice"))),
        }
    }

    pub fn optional(&self, name: &str) -> Result<Option<usize>, TraceError> {
        if self.header.iter().any(|column| column.eq_ignore_ascii_case(name)) { self.column(name).map(Some) } else { Ok(None) }
    }

    /// Reads the next row; false at the end. Blank lines are passed over.
    pub fn advance(&mut self) -> Result<bool, TraceError> {
        let more = self.reader.read_byte_record(&mut self.row).map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line);
            TraceError { file: self.file.clone(), line, column: None, problem: error.to_string() }
        })?;
        if more && self.row.len() != self.header.len() {
            return Err(self.at_row(None, format!("{} cells, but the first line names {} columns", self.row.len(), self.header.len())));
        }
        Ok(more)
    }

    pub fn line(&self) -> u64 {
        self.row.position().map_or(0, csv::Position::line)
    }

    pub fn text(&self, column: usize) -> Result<&str, TraceError> {
        let cell = self.row.get(column).unwrap_or_default();
        std::str::from_utf8(cell)
            .map(str::trim)
            .map_err(|_| self.at_row(Some(column), format!("`{}` is not UTF-8", shown(&String::from_utf8_lossy(cell)))))
    }

    /// Whether a cell holds nothing, or a word by which other tools mark a missing value.
    pub fn is_missing(&self, column: usize) -> Result<bool, TraceError> {
        let text = self.text(column)?;
        Ok(text.is_empty() || MISSING.iter().any(|word| text.eq_ignore_ascii_case(word)))
    }

    /// A finite number.
    pub fn number(&self, column: usize) -> Result<f64, TraceError> {
        let text = self.text(column)?;
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(self.at_row(Some(column), format!("`{}` is not a number", shown(text)))),
        }
    }

    /// A number from 0 to `u32::MAX`; its fraction is cut off, as InVitro does.
    pub fn amount(&self, column: usize) -> Result<u32, TraceError> {
        let number = self.number(column)?;
        if number < 0.0 {
            return Err(self.at_row(Some(column), format!("`{}` is negative", shown(self.text(column)?))));
        }
        if number > f64::from(u32::MAX) {
            return Err(self.at_row(Some(column), format!("`{}` is too large, at most {}", shown(self.text(column)?), u32::MAX)));
        }
        Ok(number as u32)
    }

    /// A whole number from 0 to `u32::MAX`; `3.0` is whole.
    pub fn count(&self, column: usize) -> Result<u32, TraceError> {
        // Nearly every cell is a short run of digits, and a day of Azure has tens of millions of them.
        let cell = self.row.get(column).unwrap_or_default();
        if let [digit @ b'0'..=b'9'] = cell {
            return Ok(u32::from(digit - b'0'));
        }
        let count = self.amount(column)?;
        if self.number(column)?.fract() != 0.0 {
            return Err(self.at_row(Some(column), format!("`{}` is not a whole number", shown(self.text(column)?))));
        }
        Ok(count)
    }

    pub fn at_row(&self, column: Option<usize>, problem: String) -> TraceError {
        let column = column.and_then(|index| self.header.get(index)).map(|name| shown(name));
        TraceError { file: self.file.clone(), line: self.line(), column, problem }
    }

    pub fn at_header(&self, problem: String) -> TraceError {
        let columns = self.header.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
        let more = if self.header.len() > 12 { ", ..." } else { "" };
        let problem = format!("{problem}; the columns are {}{more}", shown(&columns));
        TraceError { file: self.file.clone(), line: 1, column: None, problem }
    }

    pub fn whole(&self, problem: String) -> TraceError {
        TraceError { file: self.file.clone(), line: 0, column: None, problem }
    }
}

/// The beginning of a text, for an error; control characters are escaped.
fn shown(text: &str) -> String {
    let text = whole(text);
    if text.chars().count() <= QUOTED * 3 { text } else { text.chars().take(QUOTED).chain("...".chars()).collect() }
}
