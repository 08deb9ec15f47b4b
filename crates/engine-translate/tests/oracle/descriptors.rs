//! Segments for code whose segments aren't flat: entries of the process's LDT, and the same in the guest's.

use crate::rng::Rng;
use crate::state::place;
use std::sync::atomic::{AtomicU32, Ordering};

/// Entries a pair of processors has.
const ENTRIES: u32 = 32;

/// What Linux's `modify_ldt` takes, and the offsets within the limit.
#[derive(Clone, Copy)]
pub struct Entry {
    pub number: u32,
    pub base: u32,
    /// As the descriptor has it: bytes or pages.
    limit: u32,
    /// As `struct user_desc` has them: 32 bits, contents (2 bits), not writable or readable, in pages, not present.
    flags: u32,
    /// First and last offset that may be accessed.
    pub first: u32,
    pub last: u32,
}

impl Entry {
    pub fn selector(&self) -> u16 {
        (self.number << 3 | 7) as u16
    }
    fn flag(&self, n: u32) -> bool {
        self.flags >> n & 1 != 0
    }
    pub fn present(&self) -> bool {
        !self.flag(5)
    }
    pub fn code(&self) -> bool {
        self.flag(2)
    }
    /// SS may hold it.
    pub fn stack(&self) -> bool {
        self.present() && !self.code() && !self.flag(3)
    }
    /// DS, ES and GS may hold it.
    pub fn data(&self) -> bool {
        self.present() && !(self.code() && self.flag(3))
    }
    /// As Linux makes it: accessed, DPL 3 (SDM 3A 3.4.5).
    pub fn descriptor(&self) -> u64 {
        let kind = 1 | (!self.flag(3) as u64) << 1 | (self.flags as u64 >> 1 & 3) << 2;
        let access = 0x70 | kind | (self.present() as u64) << 7;
        let (base, limit) = (self.base as u64, self.limit as u64);
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | access << 40
            | (limit >> 16 & 0xf) << 48
            | (self.flag(0) as u64) << 54
            | (self.flag(4) as u64) << 55
            | (base >> 24) << 56
    }
    /// Puts it in the process's LDT.
    pub fn install(&self) {
        let description = [self.number, self.base, self.limit, self.flags];
        // SAFETY: only reads the 16 bytes; the entries of a pair are its own.
        let r = unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, &description, size_of_val(&description)) };
        assert_eq!(r, 0, "modify_ldt: {}", std::io::Error::last_os_error());
    }
}

/// Code segments of `bits` around the window's page of code (the first readable, the second not), and data segments within
/// the window.
pub fn pool(base: u64, bits: u32, rng: &mut Rng) -> Vec<Entry> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(ENTRIES, Ordering::Relaxed);
    let entry = |n: u32| match n {
        0 | 1 => {
            let wide = (bits == 32) as u32;
            let start = (base + place::CODE) as u32 - CODE_OFFSET;
            let limit = CODE_OFFSET + 0xfff;
            Entry { number, base: start, limit, flags: wide | 4 | n << 3, first: 0, last: limit }
        }
        _ => data(base as u32, rng),
    };
    (0..ENTRIES).map(entry).enumerate().map(|(n, e)| Entry { number: number + n as u32, ..e }).collect()
}

/// Offset of the first instruction in the code segments.
pub const CODE_OFFSET: u32 = 0x140;

fn data(base: u32, rng: &mut Rng) -> Entry {
    let wide = rng.percent(40) as u32;
    let (start, end) = (base + place::DATA as u32, base + place::END as u32);
    let flags = wide | (rng.percent(12) as u32) << 3 | (rng.percent(6) as u32) << 5;
    if rng.percent(75) {
        let from = start.wrapping_sub(0x40) + rng.below(0x1800) as u32;
        let limit = if rng.percent(30) { rng.below(0x200) } else { 0x400 + rng.below(0x1000) } as u32;
        return Entry { number: 0, base: from, limit, flags, first: 0, last: limit };
    }
    // Expand-down: from behind the limit to the end of 64 KiB or 4 GiB.
    let bytes = 0x400 + rng.below(0x2000) as u32;
    if wide == 1 {
        let pages = bytes.div_ceil(0x1000);
        let limit = 0xf_ffff - pages;
        return Entry {
            number: 0,
            base: end,
            limit,
            flags: flags | 0x12,
            first: (limit << 12 | 0xfff) + 1,
            last: u32::MAX,
        };
    }
    let limit = 0xffff - bytes;
    Entry { number: 0, base: end - 0x1_0000, limit, flags: flags | 2, first: limit + 1, last: 0xffff }
}
