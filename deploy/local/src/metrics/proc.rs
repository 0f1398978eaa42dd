//! Usage of process groups, where there are no cgroups, and of the machine, from `/proc`.

use std::collections::HashMap;
use std::fs;

use crate::cgroup::Usage;

/// Total usage of each process group, by its id.
pub type GroupUsage = HashMap<u32, Usage>;

/// Usage of all process groups. CPU time of ended processes counts for their parents once these have waited for them.
pub fn groups() -> GroupUsage {
    // SAFETY: sysconf takes a plain integer.
    let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK).max(1) as f64, libc::sysconf(libc::_SC_PAGESIZE).max(0) as u64) };
    let mut groups = GroupUsage::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_process {
            continue;
        }
        let Some((group, cpu_ticks, pages)) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|text| stat(&text)) else {
            continue;
        };
        let usage = groups.entry(group).or_default();
        usage.cpu_seconds += cpu_ticks as f64 / ticks;
        usage.working_set += pages * page;
    }
    groups
}

/// Process group, CPU ticks and resident pages of a line of `/proc/<pid>/stat`. The second field is a name in parentheses that may contain
/// any character, so parsing begins after the last closing parenthesis.
fn stat(text: &str) -> Option<(u32, u64, u64)> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // proc(5) counts from 1 and from the process id: pgrp 5, utime to cstime 14 to 17, rss 24.
    let cpu = number(11)? + number(12)? + number(13)? + number(14)?;
    Some((u32::try_from(number(2)?).ok()?, cpu, number(21)?))
}

/// Value of a line of `/proc/meminfo`, bytes.
pub fn memory(key: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: f64 = text.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024.0)
}

/// Idle time summed over the machine's CPUs, seconds.
pub fn idle_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let line = "42 (a) b (c) S 1 40 40 0 -1 4194560 1 2 3 4 100 50 7 3 20 0 1 0 12345 1000 77 18446744073709551615";
        assert_eq!(stat(line), Some((40, 160, 77)));
        assert_eq!(stat("42 (a"), None);
    }

    #[test]
    fn this_machine_has_memory_and_process_groups() {
        assert!(memory("MemTotal:").expect("linux") > 0.0);
        assert!(groups().values().any(|usage| usage.working_set > 0));
    }
}
