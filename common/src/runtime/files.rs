//! Files that are read. Owns their limits of size, the byte order mark and the encoding; [`crate::document`] parses documents.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Cursor, Read};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::document::{Format, compression};

/// Maximum size of a document, bytes: above that of any profile.
pub const MAX_DOCUMENT: u64 = 1 << 20;

/// Maximum size of a file that a program of this project wrote for another one, bytes.
pub const MAX_STATE: u64 = 64 << 20;

/// Byte order mark of UTF-8, which editors put before the text.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a document, and its format by the extension of its name.
///
/// # Errors
/// As [`read_text`] with [`MAX_DOCUMENT`], or if the extension is another one.
pub fn read_document(path: &Path) -> anyhow::Result<(String, Format)> {
    let format = Format::of(path)?;
    Ok((read_text(path, MAX_DOCUMENT)?, format))
}

/// Reads a text without its byte order mark.
///
/// # Errors
/// Names the file if it cannot be read, is neither a regular file nor a pipe, has more than `limit` bytes, or is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> anyhow::Result<String> {
    decode(open(path, limit)?).with_context(|| failed(path))
}

/// As [`read_text`]; `None` if there is no file.
///
/// # Errors
/// As [`read_text`].
pub fn read_text_if_present(path: &Path, limit: u64) -> anyhow::Result<Option<String>> {
    present(read_text(path, limit))
}

/// Reads bytes that are not text.
///
/// # Errors
/// Names the file if it cannot be read, is neither a regular file nor a pipe, or has more than `limit` bytes.
pub fn read_bytes(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path, limit)?.read_to_end(&mut bytes).with_context(|| failed(path))?;
    Ok(bytes)
}

/// `None` instead of the error that there is no file.
///
/// # Errors
/// Any other error.
pub fn present<T>(read: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    match read {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound) => Ok(None),
        other => other.map(Some),
    }
}

/// Reads the text of standard input, without its byte order mark.
///
/// # Errors
/// If it cannot be read, has more than `limit` bytes, or is not UTF-8.
pub fn read_standard_input(limit: u64) -> anyhow::Result<String> {
    decode(BoundedReader { source: io::stdin().lock(), left: limit, limit }).context("failed to read standard input")
}

/// Opens a text to be read in order, without its byte order mark.
///
/// # Errors
/// As [`open`], or if it begins as a compressed file or a text in another encoding does.
pub fn open_text(path: &Path, limit: u64) -> anyhow::Result<TextReader<BoundedReader<File>>> {
    text(open(path, limit)?).with_context(|| failed(path))
}

/// Opens a file to be read in order. Reading fails where it turns out to be longer than `limit` bytes.
///
/// # Errors
/// Names the file if it cannot be opened, is neither a regular file nor a pipe, or has more than `limit` bytes.
pub fn open(path: &Path, limit: u64) -> anyhow::Result<BoundedReader<File>> {
    // Before it is opened: opening a device may have effects.
    let metadata = std::fs::metadata(path).with_context(|| failed(path))?;
    if !metadata.is_file() && !metadata.file_type().is_fifo() {
        bail!("failed to read {}: {}", path.display(), other_than_a_file(metadata.file_type(), limit));
    }
    if metadata.len() > limit {
        bail!("failed to read {}: its size is {} bytes, at most {limit} are read", path.display(), metadata.len());
    }
    let source = open_without_waiting(path).with_context(|| failed(path))?;
    Ok(BoundedReader { source, left: limit, limit })
}

/// Opens a file. A pipe that nobody writes to is empty; opening it would otherwise wait for a writer.
fn open_without_waiting(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    // SAFETY: fcntl with F_SETFL takes integers only, and the descriptor is open.
    let blocks = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) };
    if blocks == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
}

fn failed(path: &Path) -> String {
    format!("failed to read {}", path.display())
}

fn other_than_a_file(kind: FileType, limit: u64) -> String {
    let name = match () {
        () if kind.is_dir() => return "it is a folder; name a file in it".to_owned(),
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    format!("it is {name}, neither a regular file nor a pipe of at most {limit} bytes; write its content to a file first")
}

/// A source of which at most a number of bytes is read; a longer one is an error.
#[derive(Debug)]
pub struct BoundedReader<R> {
    source: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for BoundedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !buffer.is_empty() {
            return match self.source.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {} bytes, the limit", self.limit))),
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.source.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// A text after its byte order mark.
pub type TextReader<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// `source` without its byte order mark.
fn text<R: Read>(mut source: R) -> io::Result<TextReader<R>> {
    let mut head = Vec::new();
    source.by_ref().take(6).read_to_end(&mut head)?;
    if let Some(format) = compression(&head) {
        return Err(invalid(format!("it is compressed ({format}); decompress it first")));
    }
    if let Some(encoding) = encoding_other_than_utf8(&head) {
        return Err(invalid(format!("the text is {encoding}; save it as UTF-8")));
    }
    if head.starts_with(MARK) {
        head.drain(..MARK.len());
    }
    Ok(Cursor::new(head).chain(source))
}

/// Encoding of a text that begins with `head`, by its byte order mark, or by the zero bytes of its ASCII letters.
fn encoding_other_than_utf8(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [1..=255, 0, 1..=255, 0, ..] | [0, 1..=255, 0, 1..=255, ..] => Some("UTF-16"),
        _ => None,
    }
}

fn decode<R: Read>(source: R) -> io::Result<String> {
    let mut bytes = Vec::new();
    text(source)?.read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let (valid, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        invalid(format!("line {line} is not UTF-8; save it as UTF-8"))
    })
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: &[u8], expected: Result<&str, &str>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, content).expect("written");
        match (read_document(&path), expected) {
            (Ok((text, Format::Yaml)), Ok(expected)) => assert_eq!(text, expected),
            (Err(error), Err(part)) => {
                let error = format!("{error:#}");
                assert!(error.contains(part) && error.contains("a.yaml"), "{error}");
            }
            (read, expected) => panic!("{read:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_text() {
        check(b"\xef\xbb\xbfname: f\r\n", Ok("name: f\r\n"));
        check(b"\xef\xbb\xbf", Ok(""));
        check(b"", Ok(""));
        check(b"a", Ok("a"));
        check(b"a\xef\xbb\xbfb", Ok("a\u{feff}b"));
    }

    #[test]
    fn another_encoding_is_named() {
        let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for text in ["\u{feff}name: f", "name: f"] {
            check(&utf16(text, u16::to_le_bytes), Err("UTF-16"));
            check(&utf16(text, u16::to_be_bytes), Err("UTF-16"));
        }
        check(b"\xff\xfe\0\0n\0\0\0", Err("UTF-32"));
        check(b"name: f\n# \xe9", Err("line 2 is not UTF-8"));
    }

    #[test]
    fn a_compressed_file_is_named_as_such() {
        check(b"\x1f\x8b\x08\0\0\0\0", Err("compressed (gzip)"));
        check(b"PK\x03\x04\x14\0", Err("compressed (zip)"));
        check(b"\xfd7zXZ\0\0", Err("compressed (xz)"));
        check(b"Rar!\x1a\x07\x01\0", Err("compressed (rar)"));
        check(b"PK: a", Ok("PK: a"));
    }

    #[test]
    fn files_that_are_too_large_are_refused_with_size_and_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("large.json");
        File::create(&path).and_then(|file| file.set_len(5 << 30)).expect("a sparse file");
        let error = format!("{:#}", read_document(&path).expect_err("refused"));
        assert!(["large.json", "5368709120", "1048576"].iter().all(|part| error.contains(part)), "{error}");
        std::fs::write(&path, "12345").expect("written");
        assert_eq!(read_bytes(&path, 5).expect("as long as the limit"), b"12345");
        assert!(read_bytes(&path, 4).is_err());
    }

    #[test]
    fn a_source_that_grows_beyond_its_limit_is_an_error() {
        let read = |length: usize| decode(BoundedReader { source: io::repeat(b'x').take(length as u64), left: 9, limit: 9 });
        assert_eq!(read(9).expect("as long as the limit"), "xxxxxxxxx");
        assert_eq!(read(10).expect_err("longer").kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn devices_and_folders_are_refused_and_a_pipe_is_bounded_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = folder.path().join("fifo");
        let name = std::ffi::CString::new(fifo.as_os_str().as_encoded_bytes()).expect("no zero byte");
        // SAFETY: the name ends with a zero byte and outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let refused = |path: &Path, part: &str, most: u64| {
            let error = format!("{:#}", read_text(path, most).expect_err("refused"));
            assert!(error.contains(part) && error.contains(&path.display().to_string()), "{error}");
        };
        assert_eq!(read_text(&fifo, 100).expect("readable"), "", "nobody writes to it");
        // Open for both directions, so that it holds what is written before anybody reads.
        let mut writer = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).expect("it can be opened");
        std::io::Write::write_all(&mut writer, b"1234567890").expect("it fits in the pipe");
        refused(&fifo, "more than 9 bytes", 9);
        refused(Path::new("/dev/zero"), "a device", 100);
        refused(folder.path(), "a folder", 100);
        refused(&folder.path().join("none"), "No such file", 100);
        assert_eq!(read_text_if_present(&folder.path().join("none"), 100).expect("there is none"), None);
    }
}
