//! The guest's memory accesses: the soft TLB's fast path, and what happens when it misses.
//!
//! All addresses are linear (segment base added, masked to 32 bits outside 64-bit mode). Accesses may be unaligned and
//! cross pages; one that faults has had no effect.

use crate::cpu::Cpu;
use crate::fault::{Fault, Guest};
use crate::paging::Access;
use crate::remote::pending;
use crate::tlb::{Found, READ, WRITE};
use address::{GuestPhys, PAGE_SIZE};
use engine::Bus;
use memory::Kind;
use memory::tracking::{granules, is_writer};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::SeqCst;

/// Values that one instruction loads or stores: plain little-endian integers.
pub trait Scalar: Copy + Default + 'static {
    const SIZE: usize;
    fn to_u128(self) -> u128;
    fn from_u128(v: u128) -> Self;
}

macro_rules! scalar {
    ($($t:ty),*) => {$(
        impl Scalar for $t {
            const SIZE: usize = size_of::<$t>();
            #[inline]
            fn to_u128(self) -> u128 { self as u128 }
            #[inline]
            fn from_u128(v: u128) -> Self { v as $t }
        }
    )*};
}
scalar!(u8, u16, u32, u64, u128);

/// Where one page of an access goes.
#[derive(Clone, Copy)]
enum Target {
    /// Memory in this process.
    Host(NonNull<u8>),
    /// Stores that must be noted: the host address, and the guest-physical one.
    Tracked(NonNull<u8>, GuestPhys),
    /// A device, the local APIC or nothing.
    Device(GuestPhys),
}

/// Where the one or two pages of an access go.
struct Targets {
    first: Target,
    second: Option<Target>,
    /// Bytes on the first page.
    split: u64,
    len: u64,
}

/// A host address, and the guest-physical one if a store is to be noted.
pub type HostPointer = (*mut u8, Option<GuestPhys>);

impl Targets {
    /// The pages and their parts of the access, memory before devices: once a device has been called, host pointers from
    /// before the call may be out of date.
    fn in_order(self) -> impl Iterator<Item = (Target, Range<usize>)> {
        let split = self.split as usize;
        let mut both = [Some((self.first, 0..split)), self.second.map(|t| (t, split..self.len as usize))];
        if matches!(self.first, Target::Device(_)) {
            both.reverse();
        }
        both.into_iter().flatten()
    }
}

impl Cpu {
    /// Loads a value with the current privilege.
    #[inline(always)]
    pub fn read<T: Scalar>(&mut self, linear: u64) -> Guest<T> {
        if let Some(p) = self.tlb_entries.look(READ, linear, T::SIZE as u64) {
            // SAFETY: a matching tag means that the entry maps this page to memory that `shared.memory` keeps alive,
            // and the access ends within the page.
            return Ok(unsafe { p.cast::<T>().read_unaligned() });
        }
        self.read_slow(linear)
    }

    /// Stores a value with the current privilege.
    #[inline(always)]
    pub fn write<T: Scalar>(&mut self, linear: u64, value: T) -> Guest<()> {
        if let Some(p) = self.tlb_entries.look(WRITE, linear, T::SIZE as u64) {
            let p = p.cast::<T>();
            // SAFETY: as in `read`; the write tag also means that plain stores are allowed.
            unsafe { p.write_unaligned(value) };
            return Ok(());
        }
        self.write_slow(linear, value)
    }

    /// Loads a value, and stores what `f` makes of it. Nothing happens if the page can't be written. Not atomic.
    #[inline(always)]
    pub fn modify<T: Scalar>(&mut self, linear: u64, f: impl FnOnce(&mut Self, T) -> T) -> Guest<()> {
        if let Some(p) = self.tlb_entries.look(WRITE, linear, T::SIZE as u64) {
            let p = p.cast::<T>();
            // SAFETY: as in `write`. `f` does not touch the TLB's memory.
            unsafe {
                let value = p.read_unaligned();
                p.write_unaligned(f(self, value));
            }
            return Ok(());
        }
        self.probe_write(linear, T::SIZE as u64)?;
        let value = self.read_slow(linear)?;
        let new = f(self, value);
        self.write_slow(linear, new)
    }

    /// The host address for an access of `len` bytes that a plain host instruction may make (load, store or locked), or
    /// `None` where it crosses a page or needs care (devices). With `write`, a store through the pointer
    /// must be followed by [`Cpu::note_write`] with the physical address that came with it, if any did.
    /// The pointer is good until the next access through this `Cpu`.
    pub fn host_pointer(&mut self, linear: u64, len: u64, write: bool) -> Guest<Option<HostPointer>> {
        if let Some(p) = self.tlb_entries.look(if write { WRITE } else { READ }, linear, len) {
            return Ok(Some((p, None)));
        }
        let fits = linear & 0xfff <= PAGE_SIZE.saturating_sub(len);
        if !fits {
            if write {
                self.probe_write(linear, len)?;
            } else {
                self.target(linear, len, false)?;
            }
            return Ok(None);
        }
        self.check_alignment(linear, len)?;
        Ok(match self.target(linear, len, write)? {
            Target::Host(p) => Some((p.as_ptr(), None)),
            Target::Tracked(p, physical) => Some((p.as_ptr(), Some(physical))),
            Target::Device(_) => None,
        })
    }

    /// Faults if `len` bytes (at most a page) at `linear` can't be written; has no other effect.
    pub fn probe_write(&mut self, linear: u64, len: u64) -> Guest<()> {
        self.check_alignment(linear, len)?;
        self.targets(linear, len, true, self.tlb_select).map(|_| ())
    }

    /// Loads `out.len()` bytes, at most 4096.
    pub fn read_bytes(&mut self, linear: u64, out: &mut [u8]) -> Guest<()> {
        self.read_bytes_as(linear, out, self.tlb_select)
    }
    /// Stores `data.len()` bytes, at most 4096. All or nothing.
    pub fn write_bytes(&mut self, linear: u64, data: &[u8]) -> Guest<()> {
        self.write_bytes_as(linear, data, self.tlb_select)
    }

    /// Loads a value as the processor itself does (descriptor tables, TSS, stacks of ring 0): supervisor privilege
    /// whatever the CPL; SMAP applies whatever AC is (SDM 3A 4.6.1, implicit supervisor accesses).
    #[inline]
    pub fn system_read<T: Scalar>(&mut self, linear: u64) -> Guest<T> {
        self.read_as(linear, self.system_select())
    }
    /// The store that goes with [`Cpu::system_read`].
    #[inline]
    pub fn system_write<T: Scalar>(&mut self, linear: u64, value: T) -> Guest<()> {
        self.write_as(linear, value, self.system_select())
    }
    /// The TLB of implicit supervisor accesses. Without SMAP it is the one that explicit ones use.
    #[inline]
    pub fn system_select(&self) -> u8 {
        if self.cr4.contains(x86::Cr4::SMAP) { crate::tlb::SUPERVISOR } else { crate::tlb::SUPERVISOR_ANY }
    }
    /// Loads a value with the privilege of one of the TLBs; alignment is not checked.
    #[inline]
    pub fn read_as<T: Scalar>(&mut self, linear: u64, select: u8) -> Guest<T> {
        if let Some(p) = self.tlb.entries(select).look(READ, linear, T::SIZE as u64) {
            // SAFETY: as in `read`.
            return Ok(unsafe { p.cast::<T>().read_unaligned() });
        }
        let mut b = [0u8; 16];
        self.read_bytes_as(linear, &mut b[..T::SIZE], select)?;
        Ok(T::from_u128(u128::from_le_bytes(b)))
    }
    /// Stores a value with the privilege of one of the TLBs; alignment is not checked.
    #[inline]
    pub fn write_as<T: Scalar>(&mut self, linear: u64, value: T, select: u8) -> Guest<()> {
        if let Some(p) = self.tlb.entries(select).look(WRITE, linear, T::SIZE as u64) {
            // SAFETY: as in `write`.
            unsafe { p.cast::<T>().write_unaligned(value) };
            return Ok(());
        }
        self.write_bytes_as(linear, &value.to_u128().to_le_bytes()[..T::SIZE], select)
    }

    /// Loads bytes with the privilege of one of the TLBs.
    pub fn read_bytes_as(&mut self, linear: u64, out: &mut [u8], select: u8) -> Guest<()> {
        for (target, part) in self.targets(linear, out.len() as u64, false, select)?.in_order() {
            let part = &mut out[part];
            match target {
                // SAFETY: `target` gave memory valid for the part, which lies within one page.
                Target::Host(p) | Target::Tracked(p, _) => unsafe {
                    std::ptr::copy_nonoverlapping(p.as_ptr(), part.as_mut_ptr(), part.len())
                },
                Target::Device(a) => self.device_read(a, part)?,
            }
        }
        Ok(())
    }

    /// Stores bytes with the privilege of one of the TLBs. All or nothing.
    pub fn write_bytes_as(&mut self, linear: u64, data: &[u8], select: u8) -> Guest<()> {
        for (target, part) in self.targets(linear, data.len() as u64, true, select)?.in_order() {
            let part = &data[part];
            match target {
                Target::Host(p) => store(p, part),
                Target::Tracked(p, physical) => {
                    store(p, part);
                    self.note_write(physical, part.len() as u64);
                }
                Target::Device(a) => self.device_write(a, part)?,
            }
        }
        Ok(())
    }

    /// Where the one or two pages of an access of at most a page go.
    fn targets(&mut self, linear: u64, len: u64, write: bool, select: u8) -> Guest<Targets> {
        let first = len.min(PAGE_SIZE - (linear & 0xfff));
        let mut targets = Targets {
            first: self.target_for(linear, first, write, select)?,
            second: None,
            split: first,
            len,
        };
        if first < len {
            // The processor's own tables may lie above 4 GiB in compatibility mode too; a program's accesses there wrap.
            let mask = if self.mode.is64() || linear > 0xffff_ffff { u64::MAX } else { 0xffff_ffff };
            let rest = (len - first).min(PAGE_SIZE);
            targets.second = Some(self.target_for(linear.wrapping_add(first) & mask, rest, write, select)?);
        }
        Ok(targets)
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Scalar>(&mut self, linear: u64) -> Guest<T> {
        self.check_alignment(linear, T::SIZE as u64)?;
        let mut b = [0u8; 16];
        self.read_bytes(linear, &mut b[..T::SIZE])?;
        Ok(T::from_u128(u128::from_le_bytes(b)))
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Scalar>(&mut self, linear: u64, value: T) -> Guest<()> {
        self.check_alignment(linear, T::SIZE as u64)?;
        self.write_bytes(linear, &value.to_u128().to_le_bytes()[..T::SIZE])
    }

    /// #AC where alignment is checked (SDM 3A 6.15, interrupt 17).
    pub(crate) fn check_alignment(&mut self, linear: u64, len: u64) -> Guest<()> {
        if self.alignment_check && len.is_power_of_two() && linear & (len - 1) != 0 {
            return self.exception(x86::Exception::with_code(x86::Vector::AC, 0));
        }
        Ok(())
    }

    fn target(&mut self, linear: u64, len: u64, write: bool) -> Guest<Target> {
        self.target_for(linear, len.min(PAGE_SIZE - (linear & 0xfff)), write, self.tlb_select)
    }

    /// Walks the page tables for one access within a page, fills the TLB and says where the access goes.
    fn target_for(&mut self, linear: u64, len: u64, write: bool, select: u8) -> Guest<Target> {
        // A canonical address repeats bit 47 above it (SDM 1 3.3.7.1).
        if self.long_mode() && (linear as i64) << 16 >> 16 != linear as i64 {
            return self.raise(Fault::NonCanonical);
        }
        let t = self.translate(linear, Access { write, fetch: false, select })?;
        let physical = GuestPhys(t.physical);
        // SAFETY: `shared`, and with it the memory, is the same as long as this Cpu lives.
        let memory = unsafe { &*std::sync::Arc::as_ptr(&self.shared.memory) };
        if self.sys.watching {
            self.watch(linear, len, write);
        }
        let Some(region) = memory.region_at(physical).filter(|_| !self.is_apic_page(physical)) else {
            return Ok(Target::Device(physical));
        };
        if write && region.kind() == Kind::Rom {
            return Ok(Target::Device(physical));
        }
        let offset = physical.0 - region.base().0;
        let page = region.page((offset / PAGE_SIZE) as usize);
        // SAFETY: the offset lies in the region.
        let host = unsafe { region.host().add(offset as usize) };
        let logging = memory.logging();
        let code = page.has_code();
        if write && self.executing.contains(&physical.page_number()) && !self.single {
            let mask = granules(physical.page_offset(), len);
            // Without any code announced, what is being executed is out of date already: another vCPU or a device wrote to it, or
            // it was given up. Stores to the page would no longer end the chain.
            if !code || page.code() & mask != 0 {
                return self.raise(Fault::Restart);
            }
        }
        if write && logging {
            memory.mark_dirty(physical);
            if let Some(journal) = &mut self.journal {
                journal.written(select, linear, self.tlb.flushes(true), physical);
            }
        }
        // Stores need no note only by one who is known to make them, from before a last look at whether there is code.
        let mut plain_writes = t.writable && region.kind() == Kind::Ram && !code && (!logging || write);
        // With data breakpoints armed every access comes here.
        plain_writes &= !self.sys.watching;
        if plain_writes {
            page.add_writer(self.id);
        }
        if !self.sys.watching {
            self.tlb.fill(select, linear, Found { host: host.as_ptr(), plain_writes, global: t.global });
        }
        if plain_writes && page.has_code() {
            // Another vCPU announced code between our look and the new entry; its shootdown may be over already.
            self.tlb.forbid_write(select, linear);
            plain_writes = false;
        }
        Ok(if write && !plain_writes { Target::Tracked(host, physical) } else { Target::Host(host) })
    }

    /// After a store to a page that may have decoded code.
    pub fn note_write(&mut self, physical: GuestPhys, len: u64) {
        if self.shared.memory.note_write(physical, len) {
            self.tlb.clear_code();
            self.t1.code_changed = true;
            // Blocks go on to each other without a look at generations. What the guest does to have other processors see new
            // code comes after this, and finds them outside such blocks.
            for (_, remote) in self.shared.all().filter(|(id, _)| *id != self.id) {
                remote.post(pending::CODE);
            }
        }
    }

    /// Announces that `len` bytes at `physical` (within a page) are about to be decoded, and makes sure that no vCPU writes to them unnoticed.
    pub(crate) fn announce_code(&mut self, physical: GuestPhys, len: u64) {
        let shared = self.shared.clone();
        let Some(region) = shared.memory.region_at(physical) else { return };
        let page = region.page(((physical.0 - region.base().0) / PAGE_SIZE) as usize);
        let mask = granules(physical.page_offset(), len);
        if page.code() & mask != mask {
            shared.announcing.fetch_add(1, SeqCst);
            page.announce_code(mask);
            let writers = page.take_writers();
            // SAFETY: the offset lies in the region.
            let host = unsafe { region.host().add((physical.0 - region.base().0) as usize) };
            if is_writer(writers, self.id) {
                self.tlb.forbid_writes(host.as_ptr());
            }
            let id = self.id;
            let whom = |n| n != id && is_writer(writers, n);
            shared.forbid_writes(host.as_ptr() as u64, whom, || self.service_flush());
            shared.announcing.fetch_sub(1, SeqCst);
        }
        // What another vCPU has announced is watched once its shootdown is over.
        while shared.announcing.load(SeqCst) != 0 {
            self.service_flush();
            std::thread::yield_now();
        }
    }

    /// The granules of a page that are announced as code, and that nobody writes to unnoticed.
    pub(crate) fn announced(&self, page: u64) -> u64 {
        let code = self.shared.memory.page_at(GuestPhys(page << 12)).map_or(0, |page| page.code());
        // While somebody announces, others may still be writing.
        if self.shared.announcing.load(SeqCst) == 0 { code } else { 0 }
    }

    /// Serves a TLB shootdown from another thread.
    pub(crate) fn service_flush(&mut self) {
        if let Some(number) = self.remote.flush_wanted() {
            match self.remote.take_forbidden() {
                Some(pages) => pages.iter().for_each(|p| self.tlb.forbid_writes(*p as *const u8)),
                None => self.tlb.flush(),
            }
            self.remote.flush_finished(number);
        }
    }

    /// Calls the board. The vCPU counts as outside the guest meanwhile: no host pointer may be kept across this.
    pub fn outside<R>(&mut self, f: impl FnOnce(&dyn Bus) -> R) -> Option<R> {
        let bus = self.bus?;
        self.remote.leave();
        // SAFETY: `bus` is set for the duration of `run`, from the reference that `run` was given.
        let r = f(unsafe { bus.as_ref() });
        self.remote.enter();
        self.service_flush();
        Some(r)
    }

    fn device_read(&mut self, address: GuestPhys, out: &mut [u8]) -> Guest<()> {
        self.leave_chain()?;
        if self.is_apic_page(address) {
            return self.apic_mmio_read(address.page_offset(), out);
        }
        for (i, part) in out.chunks_mut(8).enumerate() {
            part.fill(0xff);
            self.outside(|bus| bus.mmio_read(address.wrapping_add(i as u64 * 8), part));
        }
        Ok(())
    }

    fn device_write(&mut self, address: GuestPhys, data: &[u8]) -> Guest<()> {
        self.leave_chain()?;
        if self.is_apic_page(address) {
            return self.apic_mmio_write(address.page_offset(), data);
        }
        for (i, part) in data.chunks(8).enumerate() {
            self.outside(|bus| bus.mmio_write(address.wrapping_add(i as u64 * 8), part));
        }
        Ok(())
    }

    /// What T0 and T1 do in step may not reach a device.
    fn leave_chain(&mut self) -> Guest<()> {
        if self.in_step == crate::lockstep::Step::Chain {
            return self.raise(Fault::Restart);
        }
        Ok(())
    }

    /// Sets a pending bit on the vCPU's own thread.
    pub fn recheck(&self) {
        self.remote.pending.fetch_or(pending::RECHECK, SeqCst);
    }
}

/// Stores bytes to memory that the guest's other processors may be reading: scalars in one access.
fn store(p: NonNull<u8>, data: &[u8]) {
    // SAFETY: the caller's target is valid for `data.len()` bytes within one page.
    unsafe {
        match *data {
            [b] => p.as_ptr().write(b),
            [a, b] => p.as_ptr().cast::<u16>().write_unaligned(u16::from_le_bytes([a, b])),
            [a, b, c, d] => p.as_ptr().cast::<u32>().write_unaligned(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => {
                p.as_ptr().cast::<u64>().write_unaligned(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => std::ptr::copy_nonoverlapping(data.as_ptr(), p.as_ptr(), data.len()),
        }
    }
}
