//! From linear to guest-physical addresses.
//!
//! The rules of the walk are in [`x86::paging`]; here are the processor's side of it, page tables read straight from host memory, and the
//! instructions and registers that change the address mapping.

use crate::cpu::Cpu;
use crate::fault::Guest;
use crate::lockstep::Journal;
use crate::tlb::windows::CHUNK;
use crate::tlb::{self, windows};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use x86::paging::{
    ACCESSED, ADDRESS, DIRTY, Entries, Failure, PAGE_SIZE, PRESENT, Rules, Tables, USER, WRITABLE,
};
use x86::{Cr0, Cr4, Efer, Exception};

/// MAXPHYADDR: physical addresses have this many bits. CPUID says the same.
pub const PHYSICAL_BITS: u8 = 46;
/// CR3 bit 63 as written: keep what is cached for the new PCID (SDM 3A 4.10.4.1).
const KEEP: u64 = 1 << 63;

/// What an access is, for the page walk's permission checks.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub write: bool,
    pub fetch: bool,
    /// Privilege, as the TLB to be filled: [`crate::tlb::USER`] and so on. For fetches USER means CPL 3, any other supervisor.
    pub select: u8,
}

/// What a page walk found.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// Guest-physical address of the byte asked for.
    pub physical: u64,
    /// A store with the same privilege needs no further walk: writable, and the dirty bit is set.
    pub writable: bool,
    /// It is the same in every address space: G of its entry, and CR4.PGE.
    pub global: bool,
}

/// The page tables of one vCPU's guest, and where to note what is changed in them.
struct InMemory<'a>(&'a memory::GuestMemory, Option<&'a mut Journal>);

impl InMemory<'_> {
    #[inline]
    fn entry(&self, address: u64, len: u64) -> Option<*mut u8> {
        let region = self.0.region_at(address::GuestPhys(address))?;
        let offset = address - region.base().0;
        // SAFETY: the offset lies in the region; entries are aligned, so all of one does.
        (offset + len <= region.len()).then(|| unsafe { region.host().add(offset as usize) }.as_ptr())
    }
    /// Page tables are seldom code, but a guest may do it.
    fn note(&mut self, address: u64, len: u64) {
        if let Some(journal) = &mut self.1 {
            journal.updated(address);
        }
        self.0.note_foreign_write(address::GuestPhys(address), len);
    }
}

impl Entries for InMemory<'_> {
    #[inline]
    fn read32(&mut self, address: u64) -> Option<u32> {
        // SAFETY: `entry` gives memory of that length that `self.0` keeps; entries are aligned to their size.
        Some(unsafe { &*self.entry(address & !3, 4)?.cast::<AtomicU32>() }.load(Relaxed))
    }
    #[inline]
    fn read64(&mut self, address: u64) -> Option<u64> {
        // SAFETY: as in `read32`.
        Some(unsafe { &*self.entry(address & !7, 8)?.cast::<AtomicU64>() }.load(Relaxed))
    }
    fn update32(&mut self, address: u64, old: u32, new: u32) -> bool {
        let Some(p) =
            self.entry(address & !3, 4).filter(|_| self.0.check_ram(address::GuestPhys(address), 4).is_ok())
        else {
            // Tables in read-only memory have their bits set or do without.
            return true;
        };
        // SAFETY: as in `read32`.
        let done = unsafe { &*p.cast::<AtomicU32>() }.compare_exchange(old, new, SeqCst, Relaxed).is_ok();
        self.note(address & !3, 4);
        done
    }
    fn update64(&mut self, address: u64, old: u64, new: u64) -> bool {
        let Some(p) =
            self.entry(address & !7, 8).filter(|_| self.0.check_ram(address::GuestPhys(address), 8).is_ok())
        else {
            return true;
        };
        // SAFETY: as in `read32`.
        let done = unsafe { &*p.cast::<AtomicU64>() }.compare_exchange(old, new, SeqCst, Relaxed).is_ok();
        self.note(address & !7, 8);
        done
    }
}

impl Cpu {
    /// Walks the page tables: permission checks, accessed and dirty bits; raises #PF.
    pub fn translate(&mut self, linear: u64, access: Access) -> Guest<Translation> {
        if !self.cr0.contains(Cr0::PG) {
            return Ok(Translation { physical: linear & 0xffff_ffff, writable: true, global: false });
        }
        let rules = self.paging_rules(access.select);
        let walked = x86::paging::Access {
            write: access.write,
            fetch: access.fetch,
            user: access.select == tlb::USER,
        };
        let root = match rules.tables {
            Tables::Pae => {
                let entry = self.sys.pdpte[(linear >> 30 & 3) as usize];
                if entry & x86::paging::PRESENT == 0 {
                    return self.page_fault(linear, &rules, access);
                }
                entry
            }
            _ => self.cr3,
        };
        let mut tables = InMemory(&self.shared.memory, self.journal.as_deref_mut());
        match x86::paging::walk(&mut tables, &rules, root, linear, walked) {
            Ok(page) => {
                let global = page.global && self.cr4.contains(Cr4::PGE);
                self.tlb.note_size(linear, page.size);
                Ok(Translation { physical: page.physical, writable: page.writable, global })
            }
            Err(Failure::Fault(code)) => self.exception(Exception::page_fault(code, linear)),
            Err(Failure::NoMemory(at)) => {
                if !std::mem::replace(&mut self.sys.told_outside_tables, true) {
                    log::warn!(
                        "vCPU {}: the guest's page tables reach {at:#x}, where there is no memory",
                        self.id
                    );
                }
                self.page_fault(linear, &rules, access)
            }
        }
    }

    /// Translates as a debugger does: no checks of privilege, no bits set, no fault.
    pub fn translate_quietly(&mut self, linear: u64) -> Option<u64> {
        /// Entries that aren't changed.
        struct ReadOnly<'a>(InMemory<'a>);
        impl Entries for ReadOnly<'_> {
            fn read32(&mut self, address: u64) -> Option<u32> {
                self.0.read32(address)
            }
            fn read64(&mut self, address: u64) -> Option<u64> {
                self.0.read64(address)
            }
            fn update32(&mut self, _: u64, _: u32, _: u32) -> bool {
                true
            }
            fn update64(&mut self, _: u64, _: u64, _: u64) -> bool {
                true
            }
        }
        if !self.cr0.contains(Cr0::PG) {
            return Some(linear & 0xffff_ffff);
        }
        let rules = Rules { smap: false, ..self.paging_rules(tlb::SUPERVISOR_ANY) };
        let root = match rules.tables {
            Tables::Pae => Some(self.sys.pdpte[(linear >> 30 & 3) as usize]).filter(|e| e & 1 != 0)?,
            _ => self.cr3,
        };
        let access = x86::paging::Access { write: false, fetch: false, user: false };
        let mut tables = ReadOnly(InMemory(&self.shared.memory, None));
        x86::paging::walk(&mut tables, &rules, root, linear, access).ok().map(|p| p.physical)
    }

    /// The address space in use: where its tables are, and its process-context identifier.
    pub(crate) fn address_space(&self) -> (u64, u16) {
        let pcid = if self.cr4.contains(Cr4::PCIDE) { (self.cr3 & 0xfff) as u16 } else { 0 };
        (self.cr3 & ADDRESS, pcid)
    }

    /// What the pages numbered `range` of the 2 MiB that begin at `linear` are to user accesses of 64-bit code, as
    /// [`tlb::windows::Windows::fill`] wants to know it. Sets no bits: those without their accessed bits are left out.
    pub(crate) fn user_pages(&self, linear: u64, range: std::ops::Range<usize>, out: &mut [u64; CHUNK]) {
        const REACHED: u64 = PRESENT | USER | ACCESSED;
        let mut tables = InMemory(&self.shared.memory, None);
        let (mut table, mut writable) = (self.cr3 & ADDRESS, true);
        for level in (1..4).rev() {
            let index = linear >> (12 + 9 * level) & 0x1ff;
            let Some(entry) = tables.read64(table | index << 3) else { return };
            if entry & REACHED != REACHED {
                return;
            }
            writable &= entry & WRITABLE != 0;
            if entry & PAGE_SIZE == 0 {
                table = entry & ADDRESS;
                continue;
            }
            // Not of 1 GiB: flushing one would have to look for all its parts.
            if level == 1 {
                let base = entry & ADDRESS & !((1 << 21) - 1);
                let writes = if writable && entry & DIRTY != 0 { windows::WRITABLE } else { 0 };
                let page = base | windows::MAPPED | windows::LARGE | writes;
                range.for_each(|n| out[n] = page + ((n as u64) << 12));
            }
            return;
        }
        let Some(first) = tables.entry(table, CHUNK as u64 * 8) else { return };
        for n in range {
            // SAFETY: `entry` gave memory of a whole table, which `shared` keeps.
            let entry = unsafe { &*first.cast::<AtomicU64>().add(n % CHUNK) }.load(Relaxed);
            if entry & REACHED == REACHED {
                let writes = writable && entry & (WRITABLE | DIRTY) == WRITABLE | DIRTY;
                out[n] = entry & ADDRESS | windows::MAPPED | if writes { windows::WRITABLE } else { 0 };
            }
        }
    }

    fn paging_rules(&self, select: u8) -> Rules {
        let tables = if !self.cr4.contains(Cr4::PAE) {
            Tables::Bits32 { pse: self.cr4.contains(Cr4::PSE) }
        } else if self.long_mode() {
            Tables::Level4
        } else {
            Tables::Pae
        };
        Rules {
            tables,
            write_protect: self.cr0.contains(Cr0::WP),
            no_execute: self.efer.contains(Efer::NXE),
            smep: self.cr4.contains(Cr4::SMEP),
            smap: self.cr4.contains(Cr4::SMAP) && select != tlb::SUPERVISOR_ANY,
            physical_bits: PHYSICAL_BITS,
        }
    }

    #[cold]
    fn page_fault<T>(&mut self, linear: u64, rules: &Rules, access: Access) -> Guest<T> {
        let execute_known = rules.smep || rules.no_execute;
        let code = (access.write as u32) << 1
            | ((access.select == tlb::USER) as u32) << 2
            | ((access.fetch && execute_known) as u32) << 4;
        self.exception(Exception::page_fault(code, linear))
    }

    /// Loads CR3 as an instruction or a task switch does: PAE's top entries are read and checked, the TLB follows.
    pub(crate) fn load_cr3(&mut self, value: u64) -> Guest<()> {
        let pcid = self.cr4.contains(Cr4::PCIDE);
        let keep = pcid && value & KEEP != 0;
        let value = if pcid { value & !KEEP } else { value };
        if self.long_mode() {
            if value >> PHYSICAL_BITS != 0 {
                return self.gp(0);
            }
        } else if self.cr0.contains(Cr0::PG) && self.cr4.contains(Cr4::PAE) {
            self.load_pdptes(value)?;
        }
        self.cr3 = value;
        if pcid {
            self.tlb.switch((value & 0xfff) as u16, keep);
        } else {
            self.tlb.flush_local();
        }
        self.find_window();
        self.select_tlb(self.tlb_select);
        Ok(())
    }

    /// Reads PAE's four top entries (SDM 3A 4.4.1): #GP(0) where one that is present has reserved bits set.
    pub(crate) fn load_pdptes(&mut self, cr3: u64) -> Guest<()> {
        let mut new = [0u64; 4];
        for (i, entry) in new.iter_mut().enumerate() {
            let at = (cr3 & 0xffff_ffe0) + i as u64 * 8;
            // Where there is no memory the bus reads as ones: reserved bits.
            *entry = InMemory(&self.shared.memory, None).read64(at).unwrap_or(u64::MAX);
            let reserved = 0x1e6 | u64::MAX << PHYSICAL_BITS;
            if *entry & 1 != 0 && *entry & reserved != 0 {
                return self.gp(0);
            }
        }
        self.sys.pdpte = new;
        Ok(())
    }
}
