//! External policies: programs that decide, asked by one JSON document per line. Owns their processes; must not decide, and must not know in which
//! language they are written.
//!
//! Each thread that simulates has a process of its own. A run of a function begins with `{"begin": {"seed": 1}}`, which has no reply. To
//! `{"state": {...}}` the program replies `{"allocation": {...}, "reason": "..."}`, `{"allocation": null}` to keep the current one, or
//! `{"error": "..."}`. A program that fails ends the evaluation: a run without its decisions must not count.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use qscale_policies::{Decision, HoldReason, Memory, Policy, PolicyError};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Name of a policy that is an external program.
pub const EXTERNAL: &str = "external";
/// Longest reply, bytes.
const MAX_REPLY: u64 = 64 << 10;
/// Longest part of a reply in an error, characters.
const SHOWN: usize = 200;
/// Time that a program has to end after its input has ended.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval at which a program that is to end is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Parameters of an external policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ExternalParams {
    /// Command that starts the program, for `sh`.
    command: String,
    /// Time within which it must reply to a State; the first reply includes its start.
    reply_within: Span,
}

impl Default for ExternalParams {
    fn default() -> Self {
        Self { command: String::new(), reply_within: Span::seconds(60) }
    }
}

/// The external policies of an evaluation.
#[derive(Debug, Default, Clone)]
pub struct ExternalPolicies(Arc<SharedPrograms>);

#[derive(Debug, Default)]
struct SharedPrograms {
    /// Running programs that no run uses, by command.
    idle: Mutex<BTreeMap<String, Vec<RunningProgram>>>,
    /// The first failure of a program.
    failure: Mutex<Option<String>>,
}

impl ExternalPolicies {
    /// The policy with `params`; with a `seed` it begins a run.
    ///
    /// # Errors
    /// A parameter is not valid, or the program cannot be started.
    pub fn policy(&self, params: &Value, seed: Option<u64>) -> Result<Box<dyn Policy>, PolicyError> {
        let refused = |reason: String| PolicyError::Parameters { policy: EXTERNAL.to_owned(), reason };
        let params: ExternalParams = qscale_common::document::from_value(params.clone()).map_err(|error| refused(error.to_string()))?;
        if params.command.trim().is_empty() {
            return Err(refused("command is empty, must start a program, as in external:command='python policy.py'".to_owned()));
        }
        if params.reply_within.0.is_zero() {
            return Err(refused("reply_within = 0s, must be above 0".to_owned()));
        }
        let program = seed.map(|seed| self.begin(&params, seed)).transpose().map_err(refused)?;
        Ok(Box::new(External { params, program: Mutex::new(program), shared: self.clone() }))
    }

    /// The first failure of a program.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        locked(&self.0.failure).clone()
    }

    fn begin(&self, params: &ExternalParams, seed: u64) -> Result<RunningProgram, String> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let idle = locked(&self.0.idle).get_mut(&params.command).and_then(Vec::pop);
        let mut program = idle.map_or_else(|| RunningProgram::start(&params.command), Ok)?;
        program.send(&json!({ "begin": { "seed": seed } }))?;
        Ok(program)
    }

    fn fail(&self, failure: String) {
        locked(&self.0.failure).get_or_insert(failure);
    }
}

/// The value of `mutex`, which is consistent after a panic, too.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An external policy in one run.
struct External {
    params: ExternalParams,
    /// Its program; `None` if it failed, or if the policy was only made to check its parameters.
    program: Mutex<Option<RunningProgram>>,
    shared: ExternalPolicies,
}

impl Policy for External {
    fn name(&self) -> &'static str {
        EXTERNAL
    }

    fn model(&self) -> String {
        format!("external {}", self.params.command)
    }

    fn decide(&self, state: &State, _: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let mut program = locked(&self.program);
        let Some(running) = program.as_mut() else {
            return Decision::hold(HoldReason::NoMeasurement, "the program of the policy has failed");
        };
        match running.ask(state, self.params.reply_within.0) {
            Ok(Some((allocation, reason))) => Decision::Want { allocation: state.bounds.clamp(allocation), reason, choices: Vec::new() },
            Ok(None) => Decision::hold(HoldReason::NothingToDo, "the program keeps the current allocation"),
            Err(failure) => {
                self.shared.fail(format!("policy external: `{}` {failure}", self.params.command));
                *program = None;
                Decision::hold(HoldReason::NoMeasurement, "the program of the policy has failed")
            }
        }
    }
}

impl Drop for External {
    fn drop(&mut self) {
        if let Some(program) = locked(&self.program).take() {
            locked(&self.shared.0.idle).entry(self.params.command.clone()).or_default().push(program);
        }
    }
}

/// A running program.
#[derive(Debug)]
struct RunningProgram {
    child: Child,
    input: Option<ChildStdin>,
    replies: Receiver<String>,
}

/// A reply of a program.
#[derive(Deserialize)]
struct ProgramReply {
    #[serde(default, deserialize_with = "present")]
    allocation: Option<Option<Allocation>>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    error: Option<String>,
}

/// A value that is there, although it may be null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Allocation>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl RunningProgram {
    fn start(command: &str) -> Result<Self, String> {
        // The shell is replaced by the program, so that a kill reaches it.
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {command}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().map_err(|error| format!("failed to start `{command}`: {error}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let (sender, replies) = sync_channel(1);
        std::thread::spawn(move || {
            for_each_line(output, |line| sender.send(line).is_ok());
        });
        Ok(Self { child, input, replies })
    }

    fn send(&mut self, document: &Value) -> Result<(), String> {
        let input = self.input.as_mut().expect("it is closed only at the end");
        let mut line = document.to_string();
        line.push('\n');
        input.write_all(line.as_bytes()).and_then(|()| input.flush()).map_err(|error| self.ended(&error.to_string()))
    }

    /// The allocation for `state` and its reason; `None` for the current one.
    fn ask(&mut self, state: &State, within: Duration) -> Result<Option<(Allocation, String)>, String> {
        self.send(&json!({ "state": state }))?;
        let line = match self.replies.recv_timeout(within) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Err(format!("did not reply within {}; raise reply_within", Span(within))),
            Err(RecvTimeoutError::Disconnected) => return Err(self.ended("its output ended")),
        };
        let shown = || line.trim_end().chars().take(SHOWN).collect::<String>();
        let reply: ProgramReply =
            serde_json::from_str(&line).map_err(|error| format!("replied `{}`, which is not valid: {error}", shown()))?;
        match reply {
            ProgramReply { error: Some(error), .. } => Err(format!("reported an error: {error}")),
            ProgramReply { allocation: Some(allocation), reason, .. } => Ok(allocation.map(|allocation| (allocation, reason))),
            ProgramReply { .. } => Err(format!("replied `{}`, which has neither an allocation nor an error", shown())),
        }
    }

    /// Description of the end of the program, or of `otherwise` if it runs.
    fn ended(&mut self, otherwise: &str) -> String {
        match self.wait(END_TIMEOUT) {
            Some(status) => format!("ended ({status}) before it replied; its messages are above"),
            None => format!("cannot be asked: {otherwise}"),
        }
    }

    fn wait(&mut self, timeout: Duration) -> Option<std::process::ExitStatus> {
        for _ in 0..timeout.as_millis() / POLL.as_millis() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(POLL);
        }
        None
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        self.input = None;
        if self.wait(END_TIMEOUT).is_none() {
            // It may end by itself meanwhile.
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Calls `take` with each line of `output` until it returns false; a line that is too long is cut, which makes it invalid.
fn for_each_line(output: ChildStdout, mut take: impl FnMut(String) -> bool) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match output.by_ref().take(MAX_REPLY).read_until(b'\n', &mut line) {
            Ok(1..) if take(String::from_utf8_lossy(&line).into_owned()) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use qscale_evaluate::Results;
    use qscale_evaluate::suite::SuiteFilter;

    use super::super::{EvaluateOptions, EvaluateOutcome, SuiteOptions, SuiteRun};

    fn evaluated(name: &str, policy: &str) -> anyhow::Result<Results> {
        let folder = qscale_tests::Folder::new(name);
        let filter = SuiteFilter { quick: true, seeds: Some(1), policies: vec![policy.to_owned()], ..SuiteFilter::default() };
        let run = SuiteRun::load(SuiteOptions { filter, ..SuiteOptions::default() }, false)?;
        let threads = std::num::NonZeroUsize::new(2).expect("two");
        let options = EvaluateOptions {
            tune: false,
            command: "command".into(),
            threads,
            out: folder.path().to_owned(),
            resume: false,
            overwrite: false,
        };
        match run.prepare(options, |_| {})?.run(|_| {}, &std::sync::atomic::AtomicBool::new(false))? {
            EvaluateOutcome::Done(report) => Ok(report.results),
            EvaluateOutcome::Stopped => anyhow::bail!("stopped"),
        }
    }

    #[test]
    fn a_program_that_keeps_the_allocation_equals_the_rule_that_does() {
        let keep = r#"external:command=sed -u -n 's/^{"state.*/{"allocation": null}/p'"#;
        let (external, rule) = (evaluated("external-keep", keep).expect("valid"), evaluated("external-rule", "static").expect("valid"));
        let measures = |results: &Results| results.groups.iter().map(|group| group.measures.clone()).collect::<Vec<_>>();
        assert_eq!(measures(&external), measures(&rule));
    }

    #[test]
    fn a_program_that_fails_ends_the_evaluation() {
        for (command, part) in [
            ("/bin/false", "before it replied"),
            ("cat", "which has neither an allocation nor an error"),
            ("sed -u -n 's/^{\"state.*/{\"error\": \"no weights\"}/p'", "reported an error: no weights"),
            ("sed -u -n 's/^{\"state.*/7 /p'", "which is not valid"),
            ("sleep 100", "within 50ms"),
        ] {
            let limit = if command == "sleep 100" { ",reply_within=50ms" } else { "" };
            let error = evaluated("external-failure", &format!("external:command={command}{limit}")).expect_err("refused");
            assert!(format!("{error:#}").contains(part), "{command}: {error:#}");
        }
        let error = evaluated("external-empty", "external").expect_err("refused");
        assert!(format!("{error:#}").contains("command is empty"), "{error:#}");
    }
}
