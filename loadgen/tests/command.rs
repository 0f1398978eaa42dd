//! The command: output, files and exit status.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use qscale_common::load::LoadFailure;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_qscale-loadgen");

/// A sink in its own process, which ends when dropped.
struct Sink {
    child: Child,
    address: String,
}

impl Sink {
    fn start() -> Self {
        let mut child = Command::new(BINARY)
            .args(["sink", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("serving on ").expect("the address").to_owned();
        Self { child, address }
    }

    /// Interrupts it as Ctrl-C does, and gives what it saw.
    fn stop(mut self) -> Value {
        interrupt(&self.child);
        let output = std::io::read_to_string(self.child.stdout.take().expect("piped")).expect("text");
        self.child.wait().expect("ends");
        serde_json::from_str(&output).expect("JSON")
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn interrupt(child: &Child) {
    // SAFETY: the call takes no pointers, and the process is ours and not yet awaited.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
}

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).arg("run").args(arguments).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_run_prints_one_object_and_writes_every_file() {
    let sink = Sink::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let output = run(&[
        "--target",
        &sink.address,
        "--function",
        "f",
        "--rate",
        "200",
        "--for",
        "1s",
        "--max-lag",
        "10s",
        "--json",
        "--csv",
        &path("all.csv"),
        "--vswarm",
        &path(""),
        "--invitro",
        &path("exp"),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(summary["void"], false);
    assert_eq!(summary["total"]["succeeded"], summary["total"]["due"]);
    assert!(summary["scheduling"].as_str().expect("text").starts_with("SCHED_"));
    assert!(text(&output.stderr).contains("offered"), "{}", text(&output.stderr));
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("lists").map(|entry| entry.expect("an entry").file_name()).collect();
    let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
    let vswarm = names.iter().find(|name| name.starts_with("rps") && name.ends_with("_lat.csv")).expect("vSwarm's file");
    let latencies = std::fs::read_to_string(path(vswarm)).expect("reads");
    assert_eq!(
        latencies.lines().filter(|line| line.parse::<u64>().is_ok()).count() as u64,
        summary["total"]["due"].as_u64().expect("a count")
    );
    assert!(names.iter().any(|name| name == "exp_duration_1.csv"), "{names:?}");
    assert_eq!(sink.stop()["requests"], summary["total"]["due"]);
}

#[test]
fn a_void_run_exits_with_three_and_one_without_success_with_four() {
    let sink = Sink::start();
    let void = run(&["--target", &sink.address, "--function", "f", "--rate", "100", "--for", "300ms", "--max-lag", "1ns", "-q"]);
    assert_eq!(void.status.code(), Some(3), "{}", text(&void.stderr));
    assert!(text(&void.stdout).contains("VOID: "), "{}", text(&void.stdout));
    let none_due = run(&["--target", &sink.address, "--function", "f", "--rate", "0", "--for", "100ms", "--max-lag", "10s", "-q"]);
    assert_eq!(none_due.status.code(), Some(4), "{}", text(&none_due.stderr));
    assert!(text(&none_due.stderr).contains("no request was due"), "{}", text(&none_due.stderr));
    let nothing = run(&["--target", "127.0.0.1:1", "--function", "f", "--rate", "20", "--for", "300ms", "--max-lag", "10s", "-q"]);
    assert_eq!(nothing.status.code(), Some(4), "{}", text(&nothing.stderr));
    assert!(text(&nothing.stdout).contains("refused"), "{}", text(&nothing.stdout));
}

#[test]
fn invalid_values_are_reported_on_the_command_line() {
    for (arguments, code, part) in [
        (&["--rate", "ramp:5/10s"][..], 2, "ramp:5/10s"),
        (&["--protocol", "smtp"], 2, "smtp"),
        (&["--gaps", "wide"], 2, "wide"),
        (&["--function", "f", "--threads", "0"], 1, "threads = 0"),
        (&["--trace", "/no/such/folder.csv"], 1, "/no/such/folder.csv"),
        (&[], 1, "--function"),
        (&["--function", "f", "--input", "name=3"], 1, "name=3"),
        (&["--function", "f", "--authority", "no good"], 1, "no good"),
    ] {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(part), "{arguments:?}: {:?} {said}", output.status.code());
        if code == 1 {
            let output = run(&[arguments, &["--json"]].concat());
            let failure: LoadFailure = serde_json::from_slice(&output.stdout).expect("the error as JSON");
            assert!(failure.error.contains(part), "{arguments:?}: {failure:?}");
        }
    }
}

/// Starts a load of an hour to `target`; returns it and the rest of its progress once it is sending.
fn sending(target: &str, arguments: &[&str]) -> (Child, BufReader<ChildStderr>) {
    let mut child = Command::new(BINARY)
        .args(["run", "--target", target, "--function", "f", "--rate", "100", "--for", "1h", "--max-lag", "10s", "--json"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // Its first line of progress shows that it is sending.
    let mut progress = BufReader::new(child.stderr.take().expect("piped"));
    progress.read_line(&mut String::new()).expect("a line");
    (child, progress)
}

#[test]
fn an_interrupted_run_prints_its_summary() {
    let sink = Sink::start();
    let (child, mut progress) = sending(&sink.address, &[]);
    interrupt(&child);
    std::io::copy(&mut progress, &mut std::io::sink()).expect("reads on");
    let output = child.wait_with_output().expect("ends");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)));
    assert_eq!((output.status.code(), &summary["stopped_early"]), (Some(0), &Value::Bool(true)));
}

#[test]
fn a_second_signal_ends_the_drain_and_keeps_the_results() {
    // The kernel accepts its connections; nothing replies.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let folder = tempfile::tempdir().expect("a folder");
    let (address, rows) = (silent.local_addr().expect("bound").to_string(), folder.path().join("rows.csv"));
    let arguments = ["--protocol", "http", "--timeout", "10m", "--drain", "10m", "--csv", rows.to_str().expect("UTF-8")];
    let (mut child, mut progress) = sending(&address, &arguments);
    let reader = std::thread::spawn(move || std::io::copy(&mut progress, &mut std::io::sink()));
    // Signals soon after the first one count as part of it.
    qscale_tests::eventually("the end of the drain", || {
        // SAFETY: the call takes no pointers, and the process is ours and not yet awaited.
        unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
        child.try_wait().expect("a child").map(|_| ())
    });
    reader.join().expect("no panic").expect("reads on");
    let output = child.wait_with_output().expect("ends");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)));
    assert_eq!(summary["stopped_early"], true);
    let due = summary["total"]["due"].as_u64().expect("a count");
    let rows = std::fs::read_to_string(rows).expect("reads");
    assert!(due > 0 && rows.lines().filter(|row| row.contains(",censored,")).count() as u64 == due, "{due} due: {rows}");
}

#[test]
fn a_trace_is_replayed_from_its_files() {
    check_trace("invocations.csv", "durations.csv");
    check_trace("invocations_per_function_md.anon.d01.csv", "function_durations_percentiles.anon.d01.csv");
}

/// Replays a trace whose files have these names.
#[track_caller]
fn check_trace(invocations: &str, durations: &str) {
    let sink = Sink::start();
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writes");
    write(invocations, "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,40,20\no,a,g,timer,0,30\n");
    let percentiles = "percentile_Average_0,percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,\
                       percentile_Average_99,percentile_Average_100";
    write(
        durations,
        &format!("HashOwner,HashApp,HashFunction,Average,Count,{percentiles}\no,a,f,1,1,1,2,3,4,5,6,7\no,a,g,1,1,1,2,3,4,5,6,7\n"),
    );
    let trace = folder.path().display().to_string();
    let output =
        run(&["--target", &sink.address, "--trace", &trace, "--time-scale", "60", "--protocol", "faas", "--max-lag", "10s", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("one object");
    let of = |function: usize| (summary["functions"][function]["function"].clone(), summary["functions"][function]["succeeded"].clone());
    assert_eq!(of(0), ("default/trace-func-0".into(), 60.into()));
    assert_eq!(of(1), ("default/trace-func-1".into(), 30.into()));
}

#[test]
fn the_service_runs_its_load_without_nats() {
    let sink = Sink::start();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("loadgen.toml");
    let text_of_config = format!(
        "listen = \"127.0.0.1:0\"\n[load]\ntarget = \"{}\"\nfunctions = [\"f\"]\nrate = \"50\"\nfor = \"1s\"\nmax_lag = \"10s\"\n[nats]\nurl = \"nats://127.0.0.1:1\"\n",
        sink.address
    );
    std::fs::write(&config, text_of_config).expect("writes");
    let output = Command::new(BINARY).args(["serve", "--config"]).arg(&config).output().expect("runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)));
    assert_eq!(summary["total"]["succeeded"], summary["total"]["due"]);
    let printed = Command::new(BINARY).args(["serve", "--print-config", "--config"]).arg(&config).output().expect("prints");
    assert!(text(&printed.stdout).contains("\"rate\": \"constant:50\""), "{}", text(&printed.stdout));
    let unknown = Command::new(BINARY).args(["serve", "--set", "load.rat=5"]).output().expect("refuses");
    assert!(!unknown.status.success() && text(&unknown.stderr).contains("rat"), "{}", text(&unknown.stderr));
}
