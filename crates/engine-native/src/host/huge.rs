//! Huge pages for guests' memory, from Linux's own as they are needed (Documentation/admin-guide/mm/hugetlbpage.rst).

use std::path::Path;

const OVERCOMMIT: &str = "/proc/sys/vm/nr_overcommit_hugepages";
/// More than any host has: what bounds them is its memory.
const MANY: &str = "1048576";

/// Lets memory be mapped in huge pages that nobody set aside before; they are the kernel's again when their user is gone. Where
/// that can't be, or an administrator has said how many there may be, things stay as they are and small pages do.
pub fn allow() {
    let now = std::fs::read_to_string(Path::new(OVERCOMMIT)).unwrap_or_default();
    if now.trim() == "0"
        && let Err(e) = std::fs::write(OVERCOMMIT, MANY)
    {
        log::info!("huge pages can't be had for guests: {e}");
    }
}
