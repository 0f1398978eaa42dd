//! The targets, run on their corpora and on random mutations of them, without coverage and without libFuzzer.
//!
//! QSCALE_FUZZ_SECONDS is the time for the mutations of each target, 2 by default; QSCALE_FUZZ_SEED repeats a run.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use qscale_common::runtime::clock;
use qscale_fuzz::{TARGETS, Target};
use qscale_tests::repository;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Longest input, bytes.
const MAX_LENGTH: usize = 16 << 10;
/// An input that takes longer than this counts as one that never ends.
const MAX_TIME: Duration = Duration::from_secs(60);

/// Pieces that parsers compare with, or that are at the end of a range.
const PIECES: [&[u8]; 24] = [
    b"0",
    b"-1",
    b"1e308",
    b"-0",
    b"NaN",
    b"+Inf",
    b"null",
    b"true",
    b"\"\"",
    b"{}",
    b"[]",
    b"4294967295",
    b"18446744073709551615",
    b"9223372036854775808",
    b"9007199254740993",
    b"\n",
    b": ",
    b" = ",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\0\0\0\0\0\0\0\0",
    b"\xef\xbb\xbf",
    b"---\n",
    b"1y",
    b"1ns",
];

/// Inputs of each target that are kept in the repository.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = repository().join("tests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a file of the corpus")).collect()
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut SmallRng) {
    for _ in 0..rng.random_range(1..=6) {
        // Formats are decided at the beginning of an input.
        let farthest = input.len() >> rng.random_range(0..10);
        let at = rng.random_range(0..=farthest);
        let end = (at + rng.random_range(0..=16)).min(input.len());
        match rng.random_range(0..7) {
            0 => input[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << rng.random_range(0..8)),
            1 => input[at..end].iter_mut().for_each(|byte| *byte = rng.random()),
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..end, PIECES[rng.random_range(0..PIECES.len())].iter().copied())),
            4 => drop(input.splice(at..at, (0..rng.random_range(1..=32)).map(|_| rng.random()).collect::<Vec<u8>>())),
            5 => {
                let repeated = input[at..end].repeat(rng.random_range(1..=8));
                drop(input.splice(at..at, repeated));
            }
            _ => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                let (one, two) = (rng.random_range(0..=other.len()), rng.random_range(0..=other.len()));
                drop(input.splice(at..end, other[one.min(two)..one.max(two)].iter().copied()));
            }
        }
    }
    input.truncate(MAX_LENGTH);
}

/// Writes an input that fails, and returns its path.
fn keep(target: &str, input: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{target}-{:016x}", qscale_common::hash::fnv1a(input.iter().copied())));
    std::fs::write(&file, input).expect("the folder of the build is writable");
    file
}

fn report(target: &str, input: &[u8], seed: u64) -> String {
    format!("input {} (seed {seed}); correct the fault and move the input to tests/fuzz/corpus/{target}", keep(target, input).display())
}

/// The input that is being run, and the number of inputs before it; a thread ends the process at one that does not return.
#[derive(Default)]
struct Watched {
    input: Mutex<(&'static str, Vec<u8>)>,
    started: AtomicU64,
}

impl Watched {
    fn run(&self, (target, run): Target, input: &[u8], seed: u64) {
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = (target, input.to_vec());
        self.started.fetch_add(1, Ordering::Relaxed);
        if catch_unwind(|| run(input)).is_err() {
            panic!("{target} fails on the {}", report(target, input, seed));
        }
    }

    fn watch(self: &Arc<Self>, seed: u64) {
        let watched = Arc::downgrade(self);
        std::thread::spawn(move || {
            let mut before = 0;
            // The target has ended when nothing else holds the input.
            while let Some(watched) = watched.upgrade() {
                let started = watched.started.load(Ordering::Relaxed);
                if started > 0 && started == before {
                    let (target, input) = watched.input.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    // The harness shows what it captured only of tests that return.
                    drop(writeln!(std::io::stderr(), "{target} does not return on the {}", report(target, &input, seed)));
                    std::process::abort();
                }
                before = started;
                drop(watched);
                std::thread::sleep(MAX_TIME);
            }
        });
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} = {text}, must be a number")))
}

/// A seed of its own for each run, so that inputs are tried that were not tried before.
#[expect(clippy::disallowed_methods, reason = "new inputs each time; a failure reports its seed")]
fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    number("QSCALE_FUZZ_SEED").unwrap_or_else(now)
}

fn fuzz(name: &str) {
    let target = *TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    let (corpus, seed) = (corpus(name), seed());
    let time = Duration::from_secs(number("QSCALE_FUZZ_SECONDS").unwrap_or(2));
    let (watched, mut rng) = (Arc::new(Watched::default()), SmallRng::seed_from_u64(seed));
    watched.watch(seed);
    corpus.iter().for_each(|input| watched.run(target, input, seed));
    let began = clock::instant();
    while clock::since(began) < time {
        let mut input = corpus[rng.random_range(0..corpus.len())].clone();
        mutate(&mut input, &corpus, &mut rng);
        watched.run(target, &input, seed);
    }
    println!("{name}: {} inputs, seed {seed}", watched.started.load(Ordering::Relaxed));
}

macro_rules! fuzz {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            fuzz(stringify!($target));
        })*

        #[test]
        fn every_target_has_a_test_a_program_and_a_corpus() {
            let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(BTreeSet::from([$(stringify!($target).to_owned()),*]), names);
            assert_eq!(entries("targets", ".rs"), names);
            assert_eq!(entries("corpus", ""), names);
            let manifest = std::fs::read_to_string(repository().join("tests/fuzz/Cargo.toml")).expect("the manifest");
            let programs = manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/")?.strip_suffix(".rs\""));
            assert_eq!(programs.map(str::to_owned).collect::<BTreeSet<_>>(), names);
        }
    };
}

fuzz! { exposition functions gateway guard histories messages models patterns policies profiles prometheus protobuf rules suites traces trees windows }

/// Names in a folder of this crate, without their ending.
fn entries(folder: &str, ending: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(repository().join("tests/fuzz").join(folder)).expect("a folder of this crate");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.map(|name| name.strip_suffix(ending).unwrap_or(&name).to_owned()).collect()
}
