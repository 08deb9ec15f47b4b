//! What a machine's process takes of this machine's memory beyond the guest's own RAM.

use std::fs;

/// Pages that processes share count in parts (Linux, Documentation/filesystems/proc.rst, smaps: Pss), and so does one
/// that is mapped twice in one process, as translated code is.
const SHARE: &str = "Pss:";
/// The name under which Auberge's processes map the guest's RAM.
const GUEST_MEMORY: &str = "/memfd:guest-memory";

/// Bytes of all mappings in these processes but the guest's RAM; none where they can't be seen.
pub fn beyond_guest_memory(pids: &[u32]) -> Option<u64> {
    let mut total = 0;
    for pid in pids {
        total += sum(&fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?);
    }
    (total > 0).then_some(total)
}

fn sum(smaps: &str) -> u64 {
    let mut counts = false;
    let mut total = 0;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if !first.ends_with(':') {
            // A mapping begins: its addresses, what may be done with it, and last what is mapped.
            counts = !line.contains(GUEST_MEMORY);
        } else if counts && first == SHARE {
            let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
            total += kib.unwrap_or(0) * 1024;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_counts_everything_but_the_guest_s_memory() {
        let smaps = "\
55b3e82b9000-55b3e82ba000 r--p 00000000 00:00 0                          [heap]
Size:                 64 kB
Rss:                  60 kB
Pss:                  40 kB
Pss_Dirty:            40 kB
VmFlags: rd mr mw me
7f0000000000-7f0040000000 rw-s 00000000 00:01 1234                       /memfd:guest-memory (deleted)
Size:            1048576 kB
Rss:              500000 kB
Pss:              500000 kB
7f0050000000-7f0050100000 rw-s 00000000 00:01 1235                       /memfd:code (deleted)
Pss:                   8 kB
";
        assert_eq!(sum(smaps), 48 * 1024);
    }

    #[test]
    fn beyond_guest_memory_this_process_takes_some_and_nobody_none() {
        assert!(beyond_guest_memory(&[std::process::id()]).expect("own memory") > 100_000);
        assert_eq!(beyond_guest_memory(&[u32::MAX]), None);
    }
}
