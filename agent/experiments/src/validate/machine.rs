//! CPU use of this machine. Owns the reading of `/proc`.

use std::path::PathBuf;

/// CPU time since boot or process start, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MachineCpu {
    busy: f64,
    steal: f64,
    /// This process, the platform, and ended load generators.
    own: f64,
}

/// CPU use of others between two readings.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OtherLoad {
    /// Cores used by other processes.
    pub cores: f64,
    /// Cores that the hypervisor took from this machine.
    pub steal: f64,
}

impl OtherLoad {
    /// Whether it was enough to make latencies unreliable.
    pub fn is_disturbing(&self) -> bool {
        self.cores + self.steal > 0.15
    }
}

/// Cores of the machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

impl MachineCpu {
    /// Reads the counters; `platform` is the process of a platform that was started here.
    pub fn read(platform: Option<u32>) -> Self {
        let ticks = ticks_a_second();
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        // cpu user nice system idle iowait irq softirq steal
        let cells: Vec<f64> =
            stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|cell| cell.parse().ok()).collect();
        let cell = |index: usize| cells.get(index).copied().unwrap_or(0.0) / ticks;
        let platform = platform.map_or(0.0, |pid| of_process(&PathBuf::from(format!("/proc/{pid}/stat")), ticks));
        Self {
            busy: [0, 1, 2, 5, 6].into_iter().map(cell).sum(),
            steal: cell(7),
            own: platform + used(libc::RUSAGE_SELF) + used(libc::RUSAGE_CHILDREN),
        }
    }

    /// CPU use of others since `before`, `seconds` ago, while the function used `function` CPU seconds.
    pub fn others_since(&self, before: &MachineCpu, function: f64, seconds: f64) -> OtherLoad {
        let cores = (self.busy - before.busy - (self.own - before.own) - function) / seconds;
        OtherLoad { cores: cores.max(0.0), steal: ((self.steal - before.steal) / seconds).max(0.0) }
    }
}

/// User and system time of a process: fields 14 and 15 of its `stat`.
fn of_process(path: &PathBuf, ticks: f64) -> f64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|cell| cell.parse::<f64>().ok()).sum::<f64>() / ticks
}

fn ticks_a_second() -> f64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// User and system time of this process, or of its ended children.
fn used(whose: libc::c_int) -> f64 {
    // SAFETY: getrusage fills the memory that it is given, which zero is a valid value for.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(whose, &raw mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_of_this_process_is_not_attributed_to_others() {
        let before = MachineCpu::read(None);
        let mut sum = 0_u64;
        while MachineCpu::read(None).own - before.own < 0.05 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let after = MachineCpu::read(None);
        assert!(after.own - before.own >= 0.05 && after.busy >= before.busy);
        let others = MachineCpu { busy: 3.0, steal: 0.5, own: 1.0 }.others_since(&MachineCpu::default(), 1.0, 10.0);
        assert_eq!(others, OtherLoad { cores: 0.1, steal: 0.05 });
        assert!(!OtherLoad { cores: 0.1, steal: 0.0 }.is_disturbing());
        assert!(OtherLoad { cores: 0.1, steal: 0.2 }.is_disturbing());
    }
}
