//! Privileged instructions, control transfers through descriptors, exceptions, interrupts.
//!
//! - [`select`]: which instruction is whose
//! - instructions: `control`, `tables`, `segments`, `far`, `returns`, `interrupts`, `fast_call`, `flags`, `io`, `msrs`, `cpuid`, `time`, `debug`
//! - entering handlers: `deliver` (gates), `exceptions` (double faults), `task` (task switches), `v86`
//! - between instructions: `events`, `apic`; between runs: `saved`

mod apic;
mod control;
pub mod cpuid;
mod debug;
mod deliver;
mod descriptors;
mod events;
mod exceptions;
mod far;
mod fast_call;
mod flags;
mod interrupts;
mod io;
mod msrs;
mod operand;
mod returns;
mod saved;
mod segments;
mod select;
mod stack;
mod tables;
mod task;
pub mod time;
mod v86;

#[cfg(test)]
mod tests;

pub use apic::Apic;
pub use select::select;

use x86::state::Activity;

/// State that only this folder looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemState {
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) cstar: u64,
    pub(crate) fmask: u64,
    pub(crate) kernel_gs_base: u64,
    pub(crate) sysenter_cs: u64,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
    pub(crate) tsc_aux: u64,
    pub(crate) tsc_adjust: u64,
    /// Guest TSC minus host TSC.
    pub(crate) tsc_offset: u64,
    pub(crate) pat: u64,
    pub(crate) misc_enable: u64,
    pub(crate) mcg_status: u64,
    pub(crate) spec_ctrl: u64,
    pub(crate) system_time: u64,
    pub(crate) wall_clock: u64,
    mtrrs: msrs::Mtrrs,
    /// PAE's top entries, as CR3's last load found them.
    pub(crate) pdpte: [u64; 4],
    /// Halted and waiting processors execute nothing.
    pub(crate) activity: Activity,
    /// From the delivery of an NMI to the next IRET.
    pub(crate) nmi_masked: bool,
    /// Bits of [`crate::remote::pending`] taken but not yet served, since RFLAGS.IF, a shadow or the like forbids.
    pub(crate) waiting: u32,
    /// DR6 bits of a debug trap due before the next instruction.
    pub(crate) pending_debug: u64,
    /// RFLAGS.TF was set when the instruction under way began.
    pub(crate) stepping: bool,
    /// `interrupt_shadow` is that of a load of SS, which holds up debug traps too.
    pub(crate) stack_shadow: bool,
    /// Data breakpoints are armed: every access takes the slow path.
    pub(crate) watching: bool,
    /// The EXT bit of error codes, while an event is being delivered.
    pub(crate) external: u32,
    /// A task switch came past the point where faults belong to the new task.
    pub(crate) switched: bool,
    /// The host TSC at which the APIC timer is due; all ones for never.
    pub(crate) deadline: u64,
    /// Guest-physical page of the xAPIC's registers; all ones for none.
    pub(crate) apic_page: u64,
    pub(crate) apic_enabled: bool,
    /// A log line about page tables outside memory was written.
    pub(crate) told_outside_tables: bool,
}

impl Default for SystemState {
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            tsc_adjust: 0,
            tsc_offset: 0,
            pat: msrs::PAT_RESET,
            misc_enable: msrs::MISC_ENABLE,
            mcg_status: 0,
            spec_ctrl: 0,
            system_time: 0,
            wall_clock: 0,
            mtrrs: msrs::Mtrrs::default(),
            pdpte: [0; 4],
            activity: Activity::Running,
            nmi_masked: false,
            waiting: 0,
            pending_debug: 0,
            stepping: false,
            stack_shadow: false,
            watching: false,
            external: 0,
            switched: false,
            deadline: u64::MAX,
            apic_page: 0xfee0_0000,
            apic_enabled: true,
            told_outside_tables: false,
        }
    }
}
