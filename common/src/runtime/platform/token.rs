//! Token of a platform's API. Owns its file, how clients of the same user find it, and the comparison; [`super::api`]
//! refuses requests without it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use http::header::{AUTHORIZATION, HeaderMap};
use rand::RngExt as _;
use subtle::ConstantTimeEq as _;

use crate::runtime::private;

/// File in the state folder that holds the token.
pub const TOKEN_FILE: &str = "token";
/// Ending of the name of a note of the place of a token.
const ENTRY_ENDING: &str = "token-path";
/// Characters of a token; each has one of 62 values.
const LENGTH: usize = 43;
/// Scheme of the header `authorization`.
const SCHEME: &str = "bearer";

/// The token of one run of a platform. Dropping it removes its entry in the user's runtime folder.
#[derive(Debug)]
pub struct ApiToken {
    text: String,
    file: PathBuf,
    entry: Option<PathBuf>,
}

/// Why a request is not authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unauthorized {
    /// It has no header `authorization`, or several.
    Missing,
    /// The header is not a bearer token.
    Malformed,
    /// The token is another one.
    Wrong,
}

impl ApiToken {
    /// A new token for the platform whose API listens on `address`, written to `state_dir`. A token of an earlier run
    /// is replaced, so that one that leaked is of no use after a restart.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn issue(state_dir: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let (text, file) = (random(), state_dir.join(TOKEN_FILE));
        private::write(&file, text.as_bytes()).context("the token of the API")?;
        let entry = register(&file, address);
        if let Err(error) = &entry {
            tracing::warn!("failed to note the place of the API's token: {error:#}; clients need the path {}", file.display());
        }
        Ok(Self { text, file, entry: entry.ok() })
    }

    /// Path of its file.
    #[must_use]
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Checks the header `authorization` of a request, in time that does not depend on the token.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Unauthorized> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err(Unauthorized::Missing) };
        let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Unauthorized::Malformed)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(Unauthorized::Malformed);
        }
        let same: bool = token.trim().as_bytes().ct_eq(self.text.as_bytes()).into();
        if same { Ok(()) } else { Err(Unauthorized::Wrong) }
    }
}

impl Drop for ApiToken {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            // A later platform on the same port may have replaced it, and needs it.
            if named_by(entry).is_some_and(|named| named == self.file) {
                drop(std::fs::remove_file(entry));
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "tokens need the system's random generator")]
fn random() -> String {
    let mut rng = rand::rng();
    (0..LENGTH).map(|_| char::from(rng.sample(rand::distr::Alphanumeric))).collect()
}

/// File that holds the token of the platform at `host` and `port`, if a platform of this user noted it. Only for a
/// loopback address: another machine must not get a token of this one.
pub(super) fn registered(host: &str, port: u16) -> Option<PathBuf> {
    let loopback = host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    named_by(&entry(port)).filter(|_| loopback)
}

/// File that the note `entry` names, if it exists: a platform that was killed leaves its note.
fn named_by(entry: &Path) -> Option<PathBuf> {
    let file = PathBuf::from(private::read(entry).ok()??);
    file.is_file().then_some(file)
}

/// Notes the place of the token where clients of this user look for it; returns the path of the note.
fn register(file: &Path, address: SocketAddr) -> anyhow::Result<PathBuf> {
    let entry = entry(address.port());
    let folder = private::folder(&private::runtime_folder())?;
    for other in std::fs::read_dir(folder)?.flatten().map(|other| other.path()) {
        if other.extension().is_some_and(|ending| ending == ENTRY_ENDING) && named_by(&other).is_none() {
            drop(std::fs::remove_file(other));
        }
    }
    private::write(&entry, file.as_os_str().as_encoded_bytes())?;
    Ok(entry)
}

fn entry(port: u16) -> PathBuf {
    private::runtime_folder().join(format!("platform-{port}.{ENTRY_ENDING}"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_one_header_with_the_token_authorizes() {
        let token = ApiToken { text: "secret".to_owned(), file: PathBuf::new(), entry: None };
        let check = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).expect("a value"));
            }
            token.check(&headers)
        };
        for right in [&b"Bearer secret"[..], b"bearer secret", b"BEARER  secret"] {
            assert_eq!(check(&[right]), Ok(()));
        }
        for malformed in [&b"secret"[..], b"", b"Basic secret", b"Bearer", b"Bearer \xff", b"Bearersecret"] {
            assert_eq!(check(&[malformed]), Err(Unauthorized::Malformed));
        }
        for wrong in [&b"Bearer "[..], b"Bearer secre", b"Bearer secrets", b"Bearer SECRET", b"Bearer secret, Bearer secret"] {
            assert_eq!(check(&[wrong]), Err(Unauthorized::Wrong));
        }
        assert_eq!(check(&[]), Err(Unauthorized::Missing));
        assert_eq!(check(&[b"Bearer secret", b"Bearer secret"]), Err(Unauthorized::Missing));
    }

    #[test]
    fn the_token_of_another_machine_is_not_looked_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let token = ApiToken::issue(folder.path(), address).expect("issued");
        let file = folder.path().join(TOKEN_FILE);
        assert_eq!(std::fs::read_to_string(&file).expect("read").len(), LENGTH);
        for host in ["127.0.0.1", "localhost", "[::1]"] {
            assert_eq!(registered(host, address.port()), Some(file.clone()), "{host}");
        }
        assert_eq!(registered("192.0.2.1", address.port()), None);
        drop(token);
        assert_eq!(registered("127.0.0.1", address.port()), None);
    }
}
