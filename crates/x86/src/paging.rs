//! Page tables (SDM 3A chapter 4): entry bits, and the walk, over whatever reads and updates entries.

use crate::exception::PageFault;

/// P: present.
pub const PRESENT: u64 = 1 << 0;
/// R/W: writable.
pub const WRITABLE: u64 = 1 << 1;
/// U/S: user pages.
pub const USER: u64 = 1 << 2;
/// A: accessed.
pub const ACCESSED: u64 = 1 << 5;
/// D: dirty.
pub const DIRTY: u64 = 1 << 6;
/// PS: this entry maps a page.
pub const PAGE_SIZE: u64 = 1 << 7;
/// G: global.
pub const GLOBAL: u64 = 1 << 8;
/// XD: not executable.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Bits of the address field of 64-bit entries, at the widest.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The shape of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// 32-bit entries, two levels; `pse` allows 4 MiB pages (with 40-bit addresses: PSE-36).
    Bits32 { pse: bool },
    /// 64-bit entries, three levels; the four top entries live in the processor.
    Pae,
    /// 64-bit entries, four levels.
    Level4,
}

/// What the walk depends on beside the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub tables: Tables,
    /// CR0.WP: supervisor writes obey R/W.
    pub write_protect: bool,
    /// EFER.NXE.
    pub no_execute: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.SMAP, and not overridden for this access.
    pub smap: bool,
    /// MAXPHYADDR: bits of the address field above are reserved.
    pub physical_bits: u8,
}

/// The access to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub write: bool,
    pub fetch: bool,
    pub user: bool,
}

/// Where the walk reads entries, all by guest-physical address, aligned to their size. `None` where there is no memory.
pub trait Entries {
    fn read32(&mut self, address: u64) -> Option<u32>;
    fn read64(&mut self, address: u64) -> Option<u64>;
    /// Atomically replaces an entry that still is `old`; whether it was.
    fn update32(&mut self, address: u64, old: u32, new: u32) -> bool;
    fn update64(&mut self, address: u64, old: u64, new: u64) -> bool;
}

/// A page that was found, and may be accessed as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Physical address of the byte asked for.
    pub physical: u64,
    /// A store with the same privilege needs no further walk: it is permitted and the dirty bit is set.
    pub writable: bool,
    pub global: bool,
    /// Bytes, a power of two.
    pub size: u64,
}

/// Why the walk found no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// #PF with this error code ([`PageFault`] bits).
    Fault(u32),
    /// A table lies at this physical address, where there is no memory.
    NoMemory(u64),
}

/// Times that a walk starts over because another processor changed an entry under it.
const ATTEMPTS: u32 = 10_000;

/// Walks the tables at `root` (CR3's address field, or for PAE the top entry for `linear`, known to be present) for one access. Accessed and
/// dirty bits are set, atomically, only when the access is permitted.
#[inline]
pub fn walk(
    entries: &mut impl Entries,
    rules: &Rules,
    root: u64,
    linear: u64,
    access: Access,
) -> Result<Page, Failure> {
    for _ in 0..ATTEMPTS {
        let once = match rules.tables {
            Tables::Bits32 { pse } => walk32(entries, rules, pse, root, linear, access),
            Tables::Pae => walk64(entries, rules, 2, root & ADDRESS, linear, access),
            Tables::Level4 => walk64(entries, rules, 4, root & ADDRESS, linear, access),
        }?;
        if let Some(page) = once {
            return Ok(page);
        }
    }
    Err(Failure::Fault(code(rules, access)))
}

/// The error code of a fault for `access`, without P and RSVD.
fn code(rules: &Rules, access: Access) -> u32 {
    let mut c = PageFault::empty();
    c.set(PageFault::W, access.write);
    c.set(PageFault::U, access.user);
    let execute_known = rules.smep || rules.no_execute && !matches!(rules.tables, Tables::Bits32 { .. });
    c.set(PageFault::I, access.fetch && execute_known);
    c.bits()
}

fn protection(rules: &Rules, access: Access) -> Failure {
    Failure::Fault(code(rules, access) | PageFault::P.bits())
}

/// Whether rights gathered from all levels permit the access (SDM 3A 4.6.1); and a write with the same privilege.
fn permitted(rules: &Rules, access: Access, writable: bool, user: bool, no_execute: bool) -> (bool, bool) {
    let may_write = if access.user { writable && user } else { writable || !rules.write_protect };
    let mut ok = !access.user || user;
    if access.write {
        ok &= may_write;
    }
    if access.fetch {
        ok &= !no_execute && (access.user || !user || !rules.smep);
    } else {
        ok &= access.user || !user || !rules.smap;
    }
    (ok, may_write)
}

/// Physical-address bits above MAXPHYADDR.
fn reserved_address(rules: &Rules) -> u64 {
    ADDRESS & u64::MAX.checked_shl(rules.physical_bits as u32).unwrap_or(0)
}

#[inline]
fn walk64(
    entries: &mut impl Entries,
    rules: &Rules,
    top: u32,
    root: u64,
    linear: u64,
    access: Access,
) -> Result<Option<Page>, Failure> {
    let pae = rules.tables == Tables::Pae;
    let mut reserved = reserved_address(rules);
    if !rules.no_execute {
        reserved |= NO_EXECUTE;
    }
    if pae {
        reserved |= 0x7ff0_0000_0000_0000;
    }
    let mut seen = [(0u64, 0u64); 4];
    let mut table = root;
    let (mut rights, mut no_execute) = (WRITABLE | USER, false);
    let mut level = top;
    loop {
        let shift = 12 + 9 * (level - 1);
        let at = table + (linear >> shift & 0x1ff) * 8;
        let entry = entries.read64(at).ok_or(Failure::NoMemory(at))?;
        if entry & PRESENT == 0 {
            return Err(Failure::Fault(code(rules, access)));
        }
        let maps = level == 1 || entry & PAGE_SIZE != 0 && level <= 3;
        let mut bad = entry & reserved;
        if level == 4 {
            bad |= entry & PAGE_SIZE;
        } else if maps && level > 1 {
            bad |= entry & ((1 << shift) - 1) & !0x1fff;
        }
        if bad != 0 {
            return Err(Failure::Fault(code(rules, access) | (PageFault::P | PageFault::RSVD).bits()));
        }
        rights &= entry;
        no_execute |= entry & NO_EXECUTE != 0;
        seen[level as usize - 1] = (at, entry);
        if !maps {
            table = entry & ADDRESS;
            level -= 1;
            continue;
        }
        let (ok, may_write) =
            permitted(rules, access, rights & WRITABLE != 0, rights & USER != 0, no_execute);
        if !ok {
            return Err(protection(rules, access));
        }
        for l in (level..=top).rev() {
            let (at, entry) = seen[l as usize - 1];
            let mut new = entry | ACCESSED;
            if l == level && access.write {
                new |= DIRTY;
            }
            if new != entry && !entries.update64(at, entry, new) {
                return Ok(None);
            }
        }
        let size = 1u64 << shift;
        let dirty = access.write || entry & DIRTY != 0;
        return Ok(Some(Page {
            physical: entry & ADDRESS & !(size - 1) | linear & (size - 1),
            writable: may_write && dirty,
            global: entry & GLOBAL != 0,
            size,
        }));
    }
}

fn walk32(
    entries: &mut impl Entries,
    rules: &Rules,
    pse: bool,
    root: u64,
    linear: u64,
    access: Access,
) -> Result<Option<Page>, Failure> {
    let directory_at = (root & 0xffff_f000) + (linear >> 22 & 0x3ff) * 4;
    let directory = entries.read32(directory_at).ok_or(Failure::NoMemory(directory_at))?;
    let bits = u64::from(directory);
    if bits & PRESENT == 0 {
        return Err(Failure::Fault(code(rules, access)));
    }
    if pse && bits & PAGE_SIZE != 0 {
        // Bits 20:13 are address bits 39:32, as far as MAXPHYADDR goes; bit 21 is reserved.
        let high = bits >> 13 & 0xff;
        if bits & 1 << 21 != 0 || high << 32 & reserved_address(rules) != 0 {
            return Err(Failure::Fault(code(rules, access) | (PageFault::P | PageFault::RSVD).bits()));
        }
        let (ok, may_write) = permitted(rules, access, bits & WRITABLE != 0, bits & USER != 0, false);
        if !ok {
            return Err(protection(rules, access));
        }
        let new = directory | (ACCESSED | if access.write { DIRTY } else { 0 }) as u32;
        if new != directory && !entries.update32(directory_at, directory, new) {
            return Ok(None);
        }
        return Ok(Some(Page {
            physical: high << 32 | bits & 0xffc0_0000 | linear & 0x3f_ffff,
            writable: may_write && u64::from(new) & DIRTY != 0,
            global: bits & GLOBAL != 0,
            size: 4 << 20,
        }));
    }
    let at = (bits & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4;
    let entry = entries.read32(at).ok_or(Failure::NoMemory(at))?;
    let page = u64::from(entry);
    if page & PRESENT == 0 {
        return Err(Failure::Fault(code(rules, access)));
    }
    let rights = bits & page;
    let (ok, may_write) = permitted(rules, access, rights & WRITABLE != 0, rights & USER != 0, false);
    if !ok {
        return Err(protection(rules, access));
    }
    if bits & ACCESSED == 0 && !entries.update32(directory_at, directory, directory | ACCESSED as u32) {
        return Ok(None);
    }
    let new = entry | (ACCESSED | if access.write { DIRTY } else { 0 }) as u32;
    if new != entry && !entries.update32(at, entry, new) {
        return Ok(None);
    }
    Ok(Some(Page {
        physical: page & 0xffff_f000 | linear & 0xfff,
        writable: may_write && u64::from(new) & DIRTY != 0,
        global: page & GLOBAL != 0,
        size: 4096,
    }))
}

#[cfg(test)]
mod tests;
