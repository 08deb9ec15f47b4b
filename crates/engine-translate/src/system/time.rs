//! The time-stamp counter, and KVM's paravirtual clock over it (Linux, Documentation/virt/kvm/x86/msr.rst).

use crate::cpu::{Cpu, RAX, RCX, RDX};
use crate::fault::Guest;
use crate::op::Op;
use address::GuestPhys;
use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use x86::Cr4;

/// PVCLOCK_TSC_STABLE_BIT: the clock is the same on every vCPU.
const STABLE: u8 = 1;
/// Bit 0 of the system-time MSRs.
const ENABLED: u64 = 1;

/// The host's counter.
#[inline]
pub fn host_tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC; CR4.TSD is clear wherever ordinary programs read the time.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The host's TSC frequency in kHz, found once: told by CPUID where a short measurement agrees, measured otherwise.
pub fn host_tsc_khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let rough = measure(2);
        match told().filter(|&t| t.abs_diff(rough) < rough / 100) {
            Some(khz) => khz,
            None => measure(100).max(1),
        }
    })
}

/// Ticks a millisecond, over some milliseconds.
fn measure(milliseconds: u64) -> u64 {
    let start = (nanoseconds(ClockId::MonotonicRaw), host_tsc());
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
    let end = (nanoseconds(ClockId::MonotonicRaw), host_tsc());
    let elapsed = (end.0 - start.0).max(1);
    (end.1.wrapping_sub(start.1) as u128 * 1_000_000 / elapsed as u128) as u64
}

/// What CPUID says: leaf 15H (SDM 3B 18.7.3), or a hypervisor's leaf 4000_0010H.
fn told() -> Option<u64> {
    use core::arch::x86_64::__cpuid;
    if __cpuid(0).eax >= 0x15 {
        let l = __cpuid(0x15);
        if l.eax != 0 && l.ebx != 0 && l.ecx != 0 {
            return Some(l.ecx as u64 * l.ebx as u64 / l.eax as u64 / 1000);
        }
    }
    let hypervisor = __cpuid(1).ecx >> 31 != 0;
    if hypervisor && __cpuid(0x4000_0000).eax >= 0x4000_0010 {
        return Some(__cpuid(0x4000_0010).eax as u64).filter(|&khz| khz > 10_000);
    }
    None
}

/// Whether the host's counter runs at a constant rate (CPUID 8000_0007H EDX bit 8).
pub fn host_tsc_is_invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0
}

/// RDTSC, and with `op.imm` 1 RDTSCP.
pub(super) fn rdtsc(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if cpu.cr4.contains(Cr4::TSD) && cpu.cpl != 0 {
        return cpu.gp(0);
    }
    let tsc = cpu.tsc();
    cpu.regs[RAX] = tsc & 0xffff_ffff;
    cpu.regs[RDX] = tsc >> 32;
    if op.imm == 1 {
        cpu.regs[RCX] = cpu.sys.tsc_aux;
    }
    Ok(())
}

/// RDPID to register `op.a`.
pub(super) fn rdpid(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.set_reg(op.a, 8, cpu.sys.tsc_aux);
    Ok(())
}

/// RDPMC: no counters (SDM 2).
pub(super) fn rdpmc(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.gp(0)
}

impl Cpu {
    /// The guest's time-stamp counter.
    #[inline]
    pub fn tsc(&self) -> u64 {
        host_tsc().wrapping_add(self.sys.tsc_offset)
    }

    /// The host's counter at which the guest's is `tsc`.
    pub(super) fn set_tsc(&mut self, tsc: u64) {
        let delta = tsc.wrapping_sub(self.tsc());
        self.sys.tsc_offset = self.sys.tsc_offset.wrapping_add(delta);
        self.sys.tsc_adjust = self.sys.tsc_adjust.wrapping_add(delta);
        self.with_apic(|apic, _| apic.tsc_moved(delta as i64));
        self.write_system_time();
    }

    /// WRMSR to the system-time MSR.
    pub(super) fn set_system_time(&mut self, value: u64) {
        self.sys.system_time = value;
        self.write_system_time();
    }

    /// Writes the structure that tells a vCPU's guest how to make nanoseconds of its TSC.
    fn write_system_time(&mut self) {
        let msr = self.sys.system_time;
        if msr & ENABLED == 0 {
            return;
        }
        let at = GuestPhys(msr & !ENABLED);
        let memory = self.shared.memory.clone();
        let version = memory.read_u32(at).unwrap_or(0) & !1;
        let tsc = self.tsc();
        // Time since the VM was made, whatever the guest wrote to its TSC: that is in the adjustment.
        let time =
            (tsc.wrapping_sub(self.sys.tsc_adjust) as u128 * 1_000_000 / self.shared.tsc_khz as u128) as u64;
        let (mul, shift) = scale(self.shared.tsc_khz);
        let mut s = [0u8; 28];
        s[4..12].copy_from_slice(&tsc.to_le_bytes());
        s[12..20].copy_from_slice(&time.to_le_bytes());
        s[20..24].copy_from_slice(&mul.to_le_bytes());
        s[24] = shift as u8;
        s[25] = STABLE;
        // An odd version says that the rest is being written.
        let ok = memory.write_u32(at, version | 1).is_ok()
            && memory.write(at.wrapping_add(4), &s).is_ok()
            && memory.write_u32(at, version.wrapping_add(2)).is_ok();
        if !ok {
            log::debug!("vCPU {}: the paravirtual clock's page {at} is not RAM", self.id);
        }
    }

    /// WRMSR to the wall-clock MSR: the time of day at which the system time was 0.
    pub(super) fn write_wall_clock(&mut self, address: u64) {
        let at = GuestPhys(address);
        let memory = self.shared.memory.clone();
        let up = (self.tsc().wrapping_sub(self.sys.tsc_adjust) as u128 * 1_000_000
            / self.shared.tsc_khz as u128) as u64;
        let boot = nanoseconds(ClockId::Realtime).saturating_sub(up);
        let version = memory.read_u32(at).unwrap_or(0) & !1;
        let mut s = [0u8; 8];
        s[..4].copy_from_slice(&((boot / 1_000_000_000) as u32).to_le_bytes());
        s[4..].copy_from_slice(&((boot % 1_000_000_000) as u32).to_le_bytes());
        let _ = memory.write_u32(at, version | 1).is_ok()
            && memory.write(at.wrapping_add(4), &s).is_ok()
            && memory.write_u32(at, version.wrapping_add(2)).is_ok();
    }
}

/// (mul, shift) with nanoseconds = ((ticks << shift) * mul) >> 32; a negative shift is to the right.
fn scale(khz: u64) -> (u32, i8) {
    let mut ratio = (1_000_000u128 << 32) / khz.max(1) as u128;
    let mut shift = 0i8;
    // The multiplier is to use all 32 bits.
    while ratio >= 1 << 32 {
        ratio >>= 1;
        shift += 1;
    }
    while ratio < 1 << 31 && shift > -31 {
        shift -= 1;
        ratio = if shift < 0 {
            ((1_000_000u128 << 32) << -shift as u32) / khz.max(1) as u128
        } else {
            ratio << 1
        };
    }
    (ratio as u32, shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_of_common_frequencies_is_exact_to_parts_per_billion() {
        for khz in [10_000, 1_000_000, 999_999, 2_100_000, 3_333_333, 5_000_000] {
            let (mul, shift) = scale(khz);
            let ticks = khz as u128 * 1000 * 10;
            let shifted = if shift < 0 { ticks >> -shift as u32 } else { ticks << shift as u32 };
            let ns = (shifted * mul as u128) >> 32;
            let expected = 10_000_000_000u128;
            assert!(ns.abs_diff(expected) < 20, "{khz} kHz: {ns} ns, mul {mul:#x} shift {shift}");
        }
    }

    #[test]
    fn host_tsc_khz_agrees_with_a_measurement() {
        let (told, measured) = (host_tsc_khz(), measure(50));
        assert!(told.abs_diff(measured) < told / 100, "{told} and {measured}");
    }
}
