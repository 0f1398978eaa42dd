//! The clock of each service, and of all of them, is set by an hour in both directions. A library that is loaded into the services moves their time of day, as
//! no kernel feature sets it for single processes.

use std::path::{Path, PathBuf};
use std::process::Command;

use qscale_tests::watched::{LOAD, Watched};
use qscale_tests::{Folder, System, eventually};

/// Moves the time of day of a program.
const LIBRARY: &str = include_str!("../../../clock.c");

const HOUR: i64 = 3_600;

/// Offsets of the clocks of programs.
struct Clocks(PathBuf);

const PROGRAMS: [&str; 6] = ["qscale-collector", "qscale-agent", "qscale-actuator", "qscale-platform", "qscale-loadgen", "qscale-promoter"];

impl Clocks {
    fn new(folder: &Path) -> Self {
        PROGRAMS.iter().chain(&["qscale"]).for_each(|program| std::fs::write(folder.join(program), 0_i64.to_ne_bytes()).expect("written"));
        Self(folder.to_owned())
    }

    /// Sets the clocks of `programs` forward by `seconds`.
    fn set(&self, programs: &[&str], seconds: i64) {
        use std::os::unix::fs::FileExt as _;
        for program in programs {
            let file = std::fs::OpenOptions::new().write(true).open(self.0.join(program)).expect("an offset");
            file.write_all_at(&seconds.to_ne_bytes(), 0).expect("written");
        }
    }
}

/// Behaviour of the loop while clocks differ.
enum Expected {
    /// It decides.
    Decides,
    /// States are too old for the actuator, which decreases nothing.
    Holds,
    /// States go on; the agent is silent, and the fallback decides where something is to be changed.
    Any,
}

/// Builds the library in `folder`.
fn library(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, LIBRARY).expect("written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.is_ok_and(|status| status.success()), "cc, the linker of cargo, builds a library");
    library
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_set_by_an_hour_stop_nothing_and_cause_no_decrease_on_stale_data() {
    let folder = Folder::new("clocks");
    let (clocks, library) = (Clocks::new(folder.path()), library(folder.path()));
    let up = |command: &mut Command| {
        command.env("LD_PRELOAD", &library).env("QSCALE_TEST_CLOCKS", folder.path());
    };
    let mut watched = Watched::of(System::up_with(&LOAD, None, up)).await;
    watched.loop_turns(3, "the start").await;
    let log = watched.system.state().join("logs/collector.log");
    use Expected::{Any, Decides, Holds};
    for (programs, seconds, expected) in [
        (&["qscale-collector"][..], HOUR, Decides),
        (&["qscale-collector"], -HOUR, Holds),
        (&["qscale-agent"], HOUR, Any),
        (&["qscale-agent"], -HOUR, Decides),
        (&["qscale-actuator"], HOUR, Holds),
        (&["qscale-actuator"], -HOUR, Decides),
        (&["qscale-platform"], HOUR, Decides),
        (&["qscale-platform"], -HOUR, Decides),
        (&PROGRAMS, HOUR, Decides),
        (&PROGRAMS, -HOUR, Decides),
    ] {
        let what = format!("setting the clock of {programs:?} by {seconds} s");
        let epochs = || std::fs::read_to_string(&log).unwrap_or_default().matches("the clock was set;").count();
        let before = epochs();
        clocks.set(programs, seconds);
        match expected {
            Decides => watched.loop_turns(4, &what).await,
            Holds => watched.no_decrease_within(5, &what).await,
            Any => watched.until_states(5, &what).await,
        }
        if programs.contains(&"qscale-collector") {
            eventually("a new epoch", || (epochs() > before).then_some(()));
        }
        clocks.set(programs, 0);
        watched.loop_turns(4, &format!("{what}, and back")).await;
    }
    watched.stop();
}
