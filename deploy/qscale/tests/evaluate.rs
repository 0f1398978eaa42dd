//! `qscale evaluate`: identical results after interruptions, and errors with file, line and value.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use qscale_tests::{CommandResult, Folder, eventually, repository};
use serde_json::Value;

const SUITE: &str = r#"
name = "small"
seeds = 12
length = "2m"
warm_up = "30s"

[tuning]
settings = 3
seeds = 1

[[functions]]
name = "f"
profile = "fibonacci-python"
rate = 100
start = { replicas = 2, cpu_millicores = 100, memory_mib = 128 }

[[workloads]]
name = "step"
pattern = "step:1@0s,3@60s"
disturbed = ["60s"]

[[workloads]]
name = "noisy"
pattern = "constant:1"
noise = { sigma = 0.4, memory = 0.5, every = "20s" }

[[perturbations]]
name = "none"

[[perturbations]]
name = "lost-scrapes"
lost_scrapes = 0.5

[[competitors]]
policy = "hpa"
grid = { cpu_utilization = [40, 60] }

[[competitors]]
policy = "kpa"
"#;

struct Fixture {
    folder: Folder,
}

impl Fixture {
    fn new(suite: &str) -> Self {
        let fixture = Self { folder: Folder::new("evaluate") };
        fixture.write("suite.toml", suite);
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("can be made");
        std::fs::write(path, text).expect("can be written");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qscale"));
        command.arg("evaluate").args(arguments).current_dir(self.folder.path()).env_remove("QSCALE_STATE").stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> CommandResult {
        CommandResult::of(&self.command(arguments).output().expect("the command starts"))
    }

    fn evaluate(&self, more: &[&str]) -> CommandResult {
        self.run(&[&["--suite", "suite.toml", "--tune"], more].concat())
    }
}

#[test]
fn results_are_identical_on_one_and_two_threads_and_after_an_interruption() {
    let fixture = Fixture::new(SUITE);
    let out = fixture.evaluate(&["--threads", "1", "--out", "one"]).success();
    assert!(out.contains("qscale evaluate --suite suite.toml --tune"), "{out}");
    fixture.evaluate(&["--threads", "2", "--out", "two"]).success();
    let results = fixture.read("one/results.json");
    assert!(results == fixture.read("two/results.json"), "the number of threads changed the results");
    // Cut in the middle of a line, as by a power failure.
    let journal = fixture.read("one/journal.jsonl");
    fixture.write("cut/journal.jsonl", &journal[..journal.len() * 2 / 3]);
    let resumed = fixture.evaluate(&["--threads", "2", "--out", "cut", "--resume"]);
    assert!(resumed.err.contains("already finished"), "{resumed:?}");
    resumed.success();
    assert!(results == fixture.read("cut/results.json"), "the interruption changed the results");
    assert!(fixture.read("cut/results.csv") == fixture.read("one/results.csv"));
    let parsed: Value = serde_json::from_slice(&results).expect("JSON");
    assert_eq!(parsed["groups"].as_array().map(Vec::len), Some(3 * 4));
    assert_eq!(parsed["tuning"][0]["tried"].as_array().map(Vec::len), Some(3));
}

#[test]
fn interruption_keeps_finished_runs() {
    let fixture = Fixture::new(&SUITE.replace("seeds = 12", "seeds = 10000"));
    let mut command = fixture.command(&["--suite", "suite.toml", "--out", "long"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    eventually("a few jobs are done", || {
        let journal = std::fs::read(fixture.path("long/journal.jsonl")).ok()?;
        (journal.iter().filter(|byte| **byte == b'\n').count() > 3).then_some(())
    });
    let id = i32::try_from(child.id()).expect("a process id");
    // SAFETY: kill takes integers only, and the child was not waited for yet.
    assert_eq!(unsafe { libc::kill(id, libc::SIGINT) }, 0);
    let output = child.wait_with_output().expect("the command ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("long"), "{said}");
    assert!(fixture.read("long/journal.jsonl").ends_with(b"\n"));
    assert!(!fixture.path("long/results.json").exists());
}

#[test]
fn journal_of_another_evaluation_is_refused_with_the_difference() {
    let fixture = Fixture::new(SUITE);
    let quick = ["--suite", "suite.toml", "--seeds", "1", "--out", "here"];
    fixture.run(&[&quick[..], &["--resume"]].concat()).failure();
    fixture.run(&quick).success();
    fixture.run(&[&quick[..], &["--resume"]].concat()).success();
    let error = fixture.run(&["--suite", "suite.toml", "--seeds", "2", "--out", "here"]).failure();
    assert!(error.contains("suite.seeds") && error.contains("--overwrite"), "{error}");
    fixture.run(&["--suite", "suite.toml", "--seeds", "2", "--out", "here", "--overwrite"]).success();
    fixture.write("there/journal.jsonl", "nonsense\n");
    let error = fixture.run(&["--suite", "suite.toml", "--seeds", "1", "--out", "there"]).failure();
    assert!(error.contains("journal.jsonl:1"), "{error}");
}

#[test]
fn invalid_options_are_refused_with_value_and_alternatives() {
    let fixture = Fixture::new(SUITE);
    let refused = |arguments: &[&str], parts: &[&str]| {
        let error = fixture.run(&[&["--suite", "suite.toml"], arguments].concat()).failure();
        parts.iter().for_each(|part| assert!(error.contains(part), "{part}: {error}"));
    };
    refused(&["--policy", "hpaa"], &["hpaa", "hpa-behavior"]);
    refused(&["--policy", "hpa:cpu=3"], &["`hpa`", "`cpu`"]);
    refused(&["--workload", "weekly"], &["`weekly`", "step, noisy"]);
    refused(&["--seeds", "0"], &["`seeds`", "10000"]);
    refused(&["--trace", "."], &["suite.toml", "--suite trace"]);
    let error = fixture.run(&["--suite", "none-such"]).failure();
    assert!(error.contains("synthetic, trace") && error.contains("none-such"), "{error}");
    fixture.write("bad.toml", SUITE.replace("rate = 100", "rate = -1"));
    let error = fixture.run(&["--suite", "bad.toml"]).failure();
    assert!(error.contains("suite bad.toml") && error.contains("functions[0].rate") && error.contains("-1"), "{error}");
    fixture.write("marked.toml", format!("\u{feff}{}", SUITE.replace('\n', "\r\n")));
    assert!(fixture.run(&["--suite", "marked.toml", "--list"]).success().contains("kpa"));
    let error = fixture.run(&["--suite", "/dev/zero", "--list"]).failure();
    assert!(error.contains("/dev/zero"), "{error}");
    let list = fixture.run(&["--list"]).success();
    assert!(list.contains("flash-crowd") && list.contains("holt-winters"), "{list}");
}

const INVOCATIONS: &str =
    "HashOwner,HashApp,HashFunction,Trigger,1,2,3,4,5,6,7,8,9,10\no,a,f,http,6,0,2,9,1,0,3,8,2,7\no,a,g,timer,0,3,0,1,1,1,1,0,1,1\n";
const DURATIONS: &str = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\n\
o,a,f,1,1,1,1,10,20,30,40,50,60,70\no,a,g,1,1,1,1,1,1,1,1,1,1,1\n";

/// Result of `--trace` on a folder with these files; a file that is `None` is missing.
fn traced(invocations: Option<&[u8]>, durations: Option<&[u8]>) -> (Fixture, CommandResult) {
    let fixture = Fixture::new(SUITE);
    fixture.write("trace/readme", "");
    invocations.iter().for_each(|text| fixture.write("trace/invocations.csv", text));
    durations.iter().for_each(|text| fixture.write("trace/durations.csv", text));
    let ran =
        fixture.run(&["--trace", "trace", "--seeds", "1", "--policy", "keep-alive-fixed", "--policy", "static", "--out", "out", "--json"]);
    (fixture, ran)
}

#[track_caller]
fn refused(invocations: impl AsRef<[u8]>, durations: impl AsRef<[u8]>, parts: &[&str]) {
    let error = traced(Some(invocations.as_ref()), Some(durations.as_ref())).1.failure();
    parts.iter().for_each(|part| assert!(error.contains(part), "`{part}` in {error}"));
}

#[test]
fn malformed_traces_are_refused_with_file_line_and_column() {
    let bad = |from: &str, to: &str| INVOCATIONS.replace(from, to);
    refused(bad("6,0,2", "6,x,2"), DURATIONS, &["trace/invocations.csv:2", "column 2", "`x`"]);
    refused(bad("HashFunction", "Function"), DURATIONS, &["trace/invocations.csv:1", "`HashFunction`"]);
    refused("", DURATIONS, &["trace/invocations.csv", "empty"]);
    refused(INVOCATIONS.lines().next().expect("a header"), DURATIONS, &["trace/invocations.csv", "no function"]);
    refused(bad(",2,7\n", ",2\n"), DURATIONS, &["trace/invocations.csv:2", "13", "14"]);
    refused(INVOCATIONS, DURATIONS.replace("o,a,", "o,b,"), &["trace/invocations.csv", "2 functions without durations"]);
    let mut latin = INVOCATIONS.as_bytes().to_vec();
    let place = INVOCATIONS.find("o,a,g").expect("is there");
    latin[place] = 0xe9;
    refused(latin, DURATIONS, &["trace/invocations.csv:3", "column HashOwner", "UTF-8"]);
    let (_, ran) = traced(Some(INVOCATIONS.as_bytes()), None);
    assert!(ran.failure().contains("durations.csv"));
    let (_, ran) = traced(None, Some(DURATIONS.as_bytes()));
    let error = ran.failure();
    assert!(error.contains("trace/durations.csv:1") && error.contains("`app`"), "{error}");
    let (_, ran) = traced(None, None);
    assert!(ran.failure().contains("invocations.csv"));
}

#[test]
fn functions_that_lack_data_are_left_out_and_counted() {
    let one = DURATIONS.split_inclusive('\n').take(2).collect::<String>();
    let falling = DURATIONS.replace("o,a,g,1,1,1,1,1,1,1", "o,a,g,1,1,1,1,1,1,0");
    let twice = format!("{INVOCATIONS}o,a,f,http,9,9,9,9,9,9,9,9,9,9\n");
    for (invocations, durations, functions, parts) in [
        (INVOCATIONS, one.as_str(), 1, ["1 function without durations", "10 minutes"]),
        (INVOCATIONS, &falling, 1, ["1 function with invalid durations", "durations.csv:3, column percentile_Average_25"]),
        (&twice, DURATIONS, 2, ["1 repeated row", "2 functions"]),
    ] {
        let (fixture, ran) = traced(Some(invocations.as_bytes()), Some(durations.as_bytes()));
        parts.iter().for_each(|part| assert!(ran.err.contains(part), "{part}: {ran:?}"));
        ran.success();
        let parsed: Value = serde_json::from_slice(&fixture.read("out/results.json")).expect("JSON");
        assert_eq!(parsed["settings"]["trace"]["functions"], functions);
    }
}

#[test]
fn a_test_part_without_invocations_is_refused_before_anything_runs() {
    let (fixture, ran) =
        traced(Some(INVOCATIONS.replace(",2,7\n", ",0,0\n").replace(",0,1,1\n", ",0,0,0\n").as_bytes()), Some(DURATIONS.as_bytes()));
    let error = ran.failure();
    assert!(["minutes 9 to 10", "minutes 1 to 8", "--split"].iter().all(|part| error.contains(part)), "{error}");
    assert!(!fixture.path("out").exists());
}

#[test]
fn every_variant_of_the_format_is_read_alike() {
    let plain = traced(Some(INVOCATIONS.as_bytes()), Some(DURATIONS.as_bytes()));
    plain.1.success();
    let results = plain.0.read("out/results.json");
    let parsed: Value = serde_json::from_slice(&results).expect("JSON");
    assert_eq!((&parsed["settings"]["trace"]["functions"], &parsed["settings"]["trace"]["invocations"]), (&2.into(), &11.into()));
    let crlf = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let quoted = |text: &str| text.replace("o,a,", "\"o\",\"a\",");
    for (name, invocations, durations) in [
        ("CRLF and byte order mark", crlf(INVOCATIONS), crlf(DURATIONS)),
        ("quoted", quoted(INVOCATIONS), quoted(DURATIONS)),
        ("without a last line end", INVOCATIONS.trim_end().to_owned(), DURATIONS.trim_end().to_owned()),
    ] {
        let (fixture, ran) = traced(Some(invocations.as_bytes()), Some(durations.as_bytes()));
        ran.success();
        assert!(results == fixture.read("out/results.json"), "{name}");
    }
}

#[test]
fn trace_of_single_invocations_is_read() {
    let fixture = Fixture::new(SUITE);
    let rows: String = (0..600).map(|second| format!("a,f{},{}.5,0.25\n", second % 3, second)).collect();
    fixture.write("rows.csv", format!("app,func,end_timestamp,duration\n{rows}"));
    let shared = ["--seeds", "1", "--policy", "keep-alive-fixed", "--split", "50/25/25", "--out", "out"];
    fixture.run(&[&["--trace", "rows.csv"], &shared[..]].concat()).success();
    let parsed: Value = serde_json::from_slice(&fixture.read("out/results.json")).expect("JSON");
    assert_eq!(parsed["settings"]["trace"]["functions"], 3);
    fixture.write("rows.csv", "app,func,end_timestamp,duration\na,f,1.0,-3\n");
    let error = fixture.run(&[&["--trace", "rows.csv"], &shared[..]].concat()).failure();
    assert!(error.contains("rows.csv:2, column duration: `-3`"), "{error}");
    let error = fixture.run(&["--trace", "rows.csv", "--split", "80/30"]).failure();
    assert!(error.contains("--split 80/30"), "{error}");
}

/// Evaluates five functions of a day in the folder `trace`.
#[track_caller]
fn check_day(fixture: &Fixture, trace: &str) {
    let arguments =
        ["--trace", trace, "--functions", "5", "--split", "90/5/5", "--seeds", "1", "--policy", "keep-alive-fixed", "--out", "out"];
    fixture.run(&arguments).success();
    let parsed: Value = serde_json::from_slice(&fixture.read("out/results.json")).expect("JSON");
    let (trace, cells) = (&parsed["settings"]["trace"], parsed["cells"].as_array().expect("cells"));
    let of_class = cells.iter().filter(|cell| cell["perturbation"] == "none").map(|cell| cell["functions"].as_u64().expect("a count"));
    let left_out = trace["left_out"].as_array().map_or(0, Vec::len) as u64;
    assert_eq!((&trace["minutes"], of_class.sum::<u64>() + left_out), (&1440.into(), 5));
}

#[test]
fn whole_day_of_a_trace_is_evaluated() {
    let columns: String = (1..=1440).map(|minute| format!(",{minute}")).collect();
    let counts =
        |function: usize| -> String { (0..1440).map(|minute| format!(",{}", usize::from(minute % (3 * function + 2) == 0))).collect() };
    let rows: String = (0..8).map(|function| format!("o,a,f{function},http{}\n", counts(function))).collect();
    let (header, row) = DURATIONS.split_once('\n').expect("a header");
    let durations: String =
        (0..8).map(|function| row.lines().next().expect("a row").replace("o,a,f", &format!("o,a,f{function}")) + "\n").collect();
    let fixture = Fixture::new(SUITE);
    fixture.write("trace/invocations.csv", format!("HashOwner,HashApp,HashFunction,Trigger{columns}\n{rows}"));
    fixture.write("trace/durations.csv", format!("{header}\n{durations}"));
    check_day(&fixture, "trace");
}

#[test]
fn published_trace_is_evaluated() {
    let trace = repository().join("../shared/traces/azure2019-day-50");
    if !trace.exists() {
        eprintln!("skipped: the sample of the Azure Functions trace is not at {}", trace.display());
        return;
    }
    check_day(&Fixture::new(SUITE), trace.to_str().expect("UTF-8"));
}
