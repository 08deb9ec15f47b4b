//! How much memory the host could give a guest at most.

use crate::Error;
use std::path::{Path, PathBuf};

/// Refuses a size beyond the host's RAM, or beyond the limit of this process's control group.
pub fn check(bytes: u64) -> Result<(), Error> {
    let info = rustix::system::sysinfo();
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let host = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit.max(1)));
    let group = std::fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| group_limit(&text, "/sys/fs/cgroup"));
    check_against(bytes, host, group)
}

fn check_against(bytes: u64, host: u64, group: Option<u64>) -> Result<(), Error> {
    const MIB: u64 = 1 << 20;
    let (limit, whose) = match group {
        Some(g) if g < host => (g, "this process's control group may use only"),
        _ => (host, "the host has only"),
    };
    if bytes > limit {
        return Err(Error::Config(format!(
            "the guest's memory of {} MiB is too much: {whose} {} MiB; ask for less with -m",
            bytes / MIB,
            limit / MIB
        )));
    }
    Ok(())
}

/// The smallest `memory.max` from the process's own control group (version 2) up to the root.
fn group_limit(proc_self_cgroup: &str, mount: &str) -> Option<u64> {
    let own = proc_self_cgroup.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let mut dir = PathBuf::from(mount).join(own);
    let mut least = None;
    loop {
        let max =
            std::fs::read_to_string(dir.join("memory.max")).ok().and_then(|t| t.trim().parse::<u64>().ok());
        least = [least, max].into_iter().flatten().min();
        if dir == Path::new(mount) || !dir.pop() {
            return least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_beyond_the_host_is_a_sentence() {
        let e = check(1 << 60).unwrap_err().to_string();
        assert!(e.contains("too much") && e.contains("-m"), "{e}");
        check(1 << 20).unwrap();
    }

    #[test]
    fn group_limit_counts_when_smaller() {
        let e = check_against(3 << 20, 8 << 20, Some(2 << 20)).unwrap_err().to_string();
        assert!(e.contains("control group") && e.contains("2 MiB"), "{e}");
        assert!(check_against(3 << 20, 8 << 20, Some(4 << 20)).is_ok());
        assert!(check_against(9 << 20, 8 << 20, Some(u64::MAX)).unwrap_err().to_string().contains("host"));
    }

    #[test]
    fn group_limit_is_the_least_of_the_ancestors() {
        let root = std::env::temp_dir().join(format!("auberge-cgroup-{}", std::process::id()));
        let dir = root.join("a/b");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(root.join("a/memory.max"), "4096\n").unwrap();
        std::fs::write(dir.join("memory.max"), "max\n").unwrap();
        assert_eq!(group_limit("0::/a/b\n", root.to_str().unwrap()), Some(4096));
        assert_eq!(group_limit("0::/\n", root.to_str().unwrap()), None);
        assert_eq!(group_limit("1:cpu:/x\n", root.to_str().unwrap()), None);
        std::fs::remove_dir_all(root).unwrap();
    }
}
