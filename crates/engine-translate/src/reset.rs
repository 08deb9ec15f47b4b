//! A new vCPU.

use crate::block::BlockCache;
use crate::cpu::{Cpu, Mode, RIP};
use crate::remote::{Remote, Shared};
use crate::system::SystemState;
use crate::vector::VectorState;
use std::sync::Arc;
use x86::State;

impl Cpu {
    /// vCPU `id` as power-on leaves it (SDM 3A table 9-1), ready to fetch at F000:FFF0.
    pub fn new(id: u32, shared: Arc<Shared>, remote: Arc<Remote>) -> Self {
        let s = State::reset();
        let reader = shared.code.join();
        let mut cpu = Self {
            regs: [0; 18],
            status: 0,
            cpl: 0,
            mode: Mode::default(),
            tlb_entries: crate::tlb::Tlb::nothing(),
            tlb_select: crate::tlb::SUPERVISOR_ANY,
            alignment_check: false,
            interrupt_shadow: false,
            system_flags: s.rflags,
            seg_base: [0; 8],
            code_limit: 0,
            t1: crate::t1::T1::new(&raw const remote.pending),
            tlb: Box::default(),
            fault: None,
            seg: s.seg,
            ldtr: s.ldtr,
            tr: s.tr,
            gdtr: s.gdtr,
            idtr: s.idtr,
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            efer: s.efer,
            dr: s.dr,
            vector: VectorState::default(),
            sys: SystemState::default(),
            single: false,
            executing: [u64::MAX; 2],
            blocks: Box::<BlockCache>::default(),
            reader,
            code_epoch: crate::cache::NOTHING_HELD,
            caches_epoch: crate::cache::NOTHING_HELD,
            windows: Default::default(),
            retired: 0,
            id,
            shared,
            remote,
            in_step: Default::default(),
            lockstep: None,
            journal: None,
            bus: None,
        };
        cpu.regs[..16].copy_from_slice(&s.gpr);
        cpu.regs[RIP] = s.rip;
        cpu.set_rflags(s.rflags.bits());
        cpu.sys.tsc_offset = 0u64.wrapping_sub(cpu.shared.tsc_origin);
        cpu.update_mode();
        cpu
    }
}
