//! A vCPU's whole register file, as engines read and write it between runs.

extern crate alloc;
use crate::control::{Cr0, Cr4, Efer, Rflags};
use crate::segment::{Segment, Table};
use alloc::vec::Vec;

/// Order of [`State::gpr`], as instructions encode registers.
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// What a processor that is not running instructions waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activity {
    #[default]
    Running,
    /// After HLT.
    Halted,
    /// After INIT, until a start-up IPI.
    WaitForSipi,
}

/// One vCPU's registers. MSRs without a field of their own are in `msrs`.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: Rflags,
    /// ES, CS, SS, DS, FS, GS, indexed by [`crate::SegReg`].
    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: Table,
    pub idtr: Table,
    pub cr0: Cr0,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: Cr4,
    /// Task priority, CR8 (64-bit mode): bits 7:4 of the local APIC's TPR.
    pub cr8: u64,
    pub efer: Efer,
    /// DR0-DR3, then DR6, DR7.
    pub dr: [u64; 6],
    pub xcr0: u64,
    /// The guest's FPU and vector state in XSAVE's standard (non-compacted) format, SDM 1 13.4.
    pub xsave: Vec<u8>,
    /// (MSR index, value).
    pub msrs: Vec<(u32, u64)>,
    pub apic_base: u64,
    /// The local APIC's registers, one u32 per 16-byte slot (SDM 3A table 10-1), 64 of them.
    pub apic: Vec<u32>,
    pub activity: Activity,
    /// One instruction's interrupt shadow after STI or a load of SS.
    pub interrupt_shadow: bool,
    pub nmi_pending: bool,
    pub nmi_masked: bool,
}

impl State {
    /// The register file after power-on or RESET# (SDM 3A table 9-1).
    pub fn reset() -> Self {
        let data = Segment::real_mode(0, false);
        let mut cs = Segment::real_mode(0xf000, true);
        cs.base = 0xffff_0000;
        let mut xsave = alloc::vec![0u8; 576];
        xsave[0..2].copy_from_slice(&0x037fu16.to_le_bytes());
        xsave[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        let mut s = Self {
            gpr: [0; 16],
            rip: 0xfff0,
            rflags: Rflags::RESERVED_1,
            seg: [data, cs, data, data, data, data],
            ldtr: Segment { limit: 0xffff, attributes: 0x82, ..Segment::default() },
            tr: Segment { limit: 0xffff, attributes: 0x8b, ..Segment::default() },
            gdtr: Table { base: 0, limit: 0xffff },
            idtr: Table { base: 0, limit: 0xffff },
            cr0: Cr0::ET | Cr0::NW | Cr0::CD,
            cr2: 0,
            cr3: 0,
            cr4: Cr4::empty(),
            cr8: 0,
            efer: Efer::empty(),
            dr: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
            xcr0: 1,
            xsave,
            msrs: Vec::new(),
            apic_base: 0xfee0_0000 | 1 << 11,
            apic: Vec::new(),
            activity: Activity::Running,
            interrupt_shadow: false,
            nmi_pending: false,
            nmi_masked: false,
        };
        // Family, model and stepping, as RESET leaves them in EDX.
        s.gpr[gpr::RDX] = 0x0006_06a0;
        s
    }
}
