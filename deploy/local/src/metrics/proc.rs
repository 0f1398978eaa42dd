//! Usage of process groups, where there are no cgroups, and of the machine, from `/proc`.

use std::collections::HashMap;

use procfs::process::all_processes;
use procfs::{Current, Meminfo, Uptime};

use crate::cgroup::ResourceUsage;

/// Total usage of each process group, by its id.
pub type GroupUsage = HashMap<u32, ResourceUsage>;

/// Usage of all process groups. CPU time of ended processes counts for their parents once these have waited for them.
pub fn groups() -> GroupUsage {
    let (ticks, page) = (procfs::ticks_per_second() as f64, procfs::page_size());
    let mut groups = GroupUsage::new();
    // A process that ends meanwhile is left out.
    for stat in all_processes().into_iter().flatten().filter_map(|process| process.and_then(|process| process.stat()).ok()) {
        let Ok(group) = u32::try_from(stat.pgrp) else { continue };
        let usage = groups.entry(group).or_default();
        usage.cpu_seconds += ((stat.utime + stat.stime) as f64 + (stat.cutime + stat.cstime) as f64) / ticks;
        usage.working_set += stat.rss * page;
    }
    groups
}

/// Memory of the machine and the part available for new processes, bytes.
pub fn memory() -> Option<(f64, Option<f64>)> {
    let memory = Meminfo::current().ok()?;
    Some((memory.mem_total as f64, memory.mem_available.map(|bytes| bytes as f64)))
}

/// Idle time summed over the machine's CPUs, seconds.
pub fn idle_seconds() -> Option<f64> {
    Uptime::current().ok().map(|uptime| uptime.idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_process_groups() {
        let (total, available) = memory().expect("linux");
        assert!(available.expect("linux") > 0.0 && total > available.expect("linux"));
        // SAFETY: getpgrp takes nothing and cannot fail.
        let own = unsafe { libc::getpgrp() };
        assert!(groups()[&own.cast_unsigned()].working_set > 0);
    }
}
