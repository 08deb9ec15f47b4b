//! The processor time of a machine's processes, as this kernel counts it. A busy machine stretches the time on the
//! clock; it does not stretch this.

use std::collections::BTreeMap;
use std::fs;

/// A process and all that descend from it, by their ids.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// The parent's id in a line of /proc/PID/stat: the second field after the name, which may itself have parentheses.
fn parent(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

/// The processor time in nanoseconds of all threads that live now in these processes.
pub fn cpu_nanoseconds(pids: &[u32]) -> u64 {
    let threads =
        pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten().flatten();
    // The first number of schedstat is the time on a processor (Linux, Documentation/scheduler/sched-stats.rst).
    let time = |thread: fs::DirEntry| -> Option<u64> {
        fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    threads.filter_map(time).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_name_with_spaces_and_parentheses_is_no_obstacle() {
        assert_eq!(parent("123 (a) b (c) S 77 123 123 0 -1"), Some(77));
        assert_eq!(parent("123 (cut"), None);
    }

    #[test]
    fn tree_own_child_is_in_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let found = tree(std::process::id());
        child.kill().expect("ended");
        child.wait().expect("reaped");
        assert!(found.contains(&child.id()), "{found:?}");
    }

    #[test]
    fn cpu_nanoseconds_busy_thread_counts_up() {
        let own = [std::process::id()];
        let before = cpu_nanoseconds(&own);
        let begun = std::time::Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed() < std::time::Duration::from_millis(30) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_nanoseconds(&own) > before);
    }
}
