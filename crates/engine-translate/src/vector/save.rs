//! FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XRSTOR, XGETBV, XSETBV, LDMXCSR, STMXCSR.

use super::environment::summarise;
use super::features::mxcsr_mask;
use super::state::{
    AREA, AVX, FCW, FDP, FIP, FOP, FSW, FTW, HEADER_END, MXCSR, MXCSR_MASK, SSE, ST0, X87, XMM0, XSTATE_BV,
    YMM_HIGH,
};
use crate::cpu::{Cpu, RAX, RCX, RDX};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::Op;
use crate::vendor;
use iced_x86::{Code, Instruction};
use x86::{Cr0, Cr4};

/// Chooses the handler; `None` if it isn't one of these.
pub(super) fn select(i: &Instruction) -> Option<Lowered> {
    match i.code() {
        Code::Fxsave_m512byte => Lowered::next(fxsave::<false>),
        Code::Fxsave64_m512byte => Lowered::next(fxsave::<true>),
        Code::Fxrstor_m512byte => Lowered::next(fxrstor::<false>),
        Code::Fxrstor64_m512byte => Lowered::next(fxrstor::<true>),
        Code::Xsave_mem => Lowered::next(xsave::<false, false>),
        Code::Xsave64_mem => Lowered::next(xsave::<true, false>),
        Code::Xsaveopt_mem => Lowered::next(xsave::<false, true>),
        Code::Xsaveopt64_mem => Lowered::next(xsave::<true, true>),
        Code::Xrstor_mem => Lowered::next(xrstor::<false>),
        Code::Xrstor64_mem => Lowered::next(xrstor::<true>),
        Code::Xgetbv => Lowered::next(xgetbv),
        // What the code behind it means may change.
        Code::Xsetbv => Lowered::end(xsetbv),
        Code::Ldmxcsr_m32 => Lowered::next(ldmxcsr::<false>),
        Code::VEX_Vldmxcsr_m32 => Lowered::next(ldmxcsr::<true>),
        Code::Stmxcsr_m32 => Lowered::next(stmxcsr::<false>),
        Code::VEX_Vstmxcsr_m32 => Lowered::next(stmxcsr::<true>),
        _ => None,
    }
}

/// FSW's exception summary.
const ES: u16 = 0x80;

/// The memory image of FXSAVE and XSAVE, as far as it goes.
type Image = [u8; AREA];

impl Cpu {
    /// XMM registers that the mode has, in bytes.
    fn xmm_bytes(&self) -> usize {
        if self.mode.is64() { 256 } else { 128 }
    }

    /// Fills in the x87 part; `WIDE` (REX.W) with 64-bit pointers, else with 32-bit ones and zero selectors.
    fn put_x87<const WIDE: bool>(&self, image: &mut Image) {
        let from = &self.vector.area.0;
        image[FCW..MXCSR].copy_from_slice(&from[FCW..MXCSR]);
        image[FTW + 1] = 0;
        if !WIDE {
            image[FIP + 4..FIP + 8].fill(0);
            image[FDP + 4..FDP + 8].fill(0);
        }
        // AMD's processors show the pointers of a pending exception only (APM 5 "FXSAVE"; measured on Zen 3).
        if vendor::amd() && self.vector.get16(FSW) & ES == 0 {
            image[FOP..MXCSR].fill(0);
        }
        image[ST0..XMM0].copy_from_slice(&from[ST0..XMM0]);
    }

    fn take_x87<const WIDE: bool>(&mut self, image: &Image) {
        let mut header: [u8; MXCSR] = std::array::from_fn(|i| image[i]);
        if !WIDE {
            header[FIP + 4..FIP + 8].fill(0);
            header[FDP + 4..FDP + 8].fill(0);
        }
        header[FTW + 1] = 0;
        let fcw = u16::from_le_bytes([header[FCW], header[FCW + 1]]) & 0x1f3f | 0x40;
        let fsw = summarise(u16::from_le_bytes([header[FSW], header[FSW + 1]]), fcw);
        let fop = u16::from_le_bytes([header[FOP], header[FOP + 1]]) & 0x7ff;
        header[FCW..FCW + 2].copy_from_slice(&fcw.to_le_bytes());
        header[FSW..FSW + 2].copy_from_slice(&fsw.to_le_bytes());
        header[FOP..FOP + 2].copy_from_slice(&fop.to_le_bytes());
        self.vector.put(0, &header);
        for n in 0..8 {
            let at = ST0 + n * 16;
            self.vector.put(at, &image[at..at + 10]);
            self.vector.put(at + 10, &[0; 6]);
        }
    }

    /// The checked linear address of a state image.
    fn image_at(&mut self, op: &Op, len: u64, align: u64, write: bool) -> Guest<u64> {
        let linear = self.vector_linear(op, len, write)?;
        if linear & (align - 1) != 0 {
            return self.gp(0);
        }
        Ok(linear)
    }

    fn guard_xsave(&mut self) -> Guest<()> {
        if !self.cr4.contains(Cr4::OSXSAVE) {
            return self.ud();
        }
        if self.cr0.contains(Cr0::TS) {
            return self.exception(x86::Exception::plain(x86::Vector::NM));
        }
        Ok(())
    }

    /// EDX:EAX limited to what is enabled.
    fn requested(&self) -> u64 {
        (self.regs[RDX] << 32 | self.regs[RAX] & 0xffff_ffff) & self.vector.xcr0
    }
}

fn fxsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    let linear = cpu.image_at(op, 512, 16, true)?;
    let mut image = [0u8; AREA];
    cpu.put_x87::<WIDE>(&mut image);
    image[MXCSR..MXCSR + 4].copy_from_slice(&cpu.vector.mxcsr().to_le_bytes());
    image[MXCSR_MASK..MXCSR_MASK + 4].copy_from_slice(&mxcsr_mask().to_le_bytes());
    let xmm = cpu.xmm_bytes();
    image[XMM0..XMM0 + xmm].copy_from_slice(&cpu.vector.area.0[XMM0..XMM0 + xmm]);
    // Bytes behind the registers are left alone, but the whole image has to be writable.
    cpu.probe_write(linear, 512)?;
    cpu.write_bytes(linear, &image[..XMM0 + xmm])
}

fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    let linear = cpu.image_at(op, 512, 16, false)?;
    let mut image = [0u8; AREA];
    cpu.read_bytes(linear, &mut image[..512])?;
    let mxcsr = u32::from_le_bytes(std::array::from_fn(|i| image[MXCSR + i]));
    if mxcsr & !mxcsr_mask() != 0 {
        return cpu.gp(0);
    }
    cpu.take_x87::<WIDE>(&image);
    cpu.vector.set_mxcsr(mxcsr);
    let xmm = cpu.xmm_bytes();
    cpu.vector.put(XMM0, &image[XMM0..XMM0 + xmm]);
    Ok(())
}

fn xsave<const WIDE: bool, const OPT: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_xsave()?;
    let requested = cpu.requested();
    let len = if requested & AVX != 0 { AREA } else { HEADER_END };
    let linear = cpu.image_at(op, len as u64, 64, true)?;
    cpu.probe_write(linear, len as u64)?;
    let mut image = [0u8; AREA];
    cpu.read_bytes(linear, &mut image[..len])?;
    let in_use = cpu.vector.in_use();
    // XSAVEOPT leaves out what is in its initial configuration.
    let store = if OPT { requested & in_use } else { requested };
    if store & X87 != 0 {
        cpu.put_x87::<WIDE>(&mut image);
    }
    let xmm = cpu.xmm_bytes();
    if requested & (SSE | AVX) != 0 {
        image[MXCSR..MXCSR + 4].copy_from_slice(&cpu.vector.mxcsr().to_le_bytes());
        image[MXCSR_MASK..MXCSR_MASK + 4].copy_from_slice(&mxcsr_mask().to_le_bytes());
    }
    if store & SSE != 0 {
        image[XMM0..XMM0 + xmm].copy_from_slice(&cpu.vector.area.0[XMM0..XMM0 + xmm]);
    }
    if store & AVX != 0 {
        image[YMM_HIGH..YMM_HIGH + xmm].copy_from_slice(&cpu.vector.area.0[YMM_HIGH..YMM_HIGH + xmm]);
    }
    let old = u64::from_le_bytes(std::array::from_fn(|i| image[XSTATE_BV + i]));
    let present = old & !requested | in_use & requested;
    image[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&present.to_le_bytes());
    cpu.write_bytes(linear, &image[..len])
}

fn xrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_xsave()?;
    let requested = cpu.requested();
    let len = if requested & AVX != 0 { AREA } else { HEADER_END };
    let linear = cpu.image_at(op, len as u64, 64, false)?;
    let mut image = [0u8; AREA];
    cpu.read_bytes(linear, &mut image[..len])?;
    let present = u64::from_le_bytes(std::array::from_fn(|i| image[XSTATE_BV + i]));
    // The compacted form isn't offered; XCOMP_BV and the eight bytes behind it have to be zero (SDM 1 13.8.1).
    let compacted = image[XSTATE_BV + 8..XSTATE_BV + 24].iter().any(|b| *b != 0);
    if present & !cpu.vector.xcr0 != 0 || compacted {
        return cpu.gp(0);
    }
    if requested & (SSE | AVX) != 0 {
        let mxcsr = u32::from_le_bytes(std::array::from_fn(|i| image[MXCSR + i]));
        if mxcsr & !mxcsr_mask() != 0 {
            return cpu.gp(0);
        }
        cpu.vector.set_mxcsr(mxcsr);
    }
    if requested & X87 != 0 {
        if present & X87 != 0 {
            cpu.take_x87::<WIDE>(&image);
        } else {
            cpu.vector.init_x87();
        }
    }
    let xmm = cpu.xmm_bytes();
    for (component, at) in [(SSE, XMM0), (AVX, YMM_HIGH)] {
        if requested & component == 0 {
            continue;
        }
        if present & component == 0 {
            image[at..at + xmm].fill(0);
        }
        cpu.vector.put(at, &image[at..at + xmm]);
    }
    Ok(())
}

fn xgetbv(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    if !cpu.cr4.contains(Cr4::OSXSAVE) {
        return cpu.ud();
    }
    if cpu.regs[RCX] as u32 != 0 {
        return cpu.gp(0);
    }
    let xcr0 = cpu.vector.xcr0;
    cpu.regs[RAX] = xcr0 & 0xffff_ffff;
    cpu.regs[RDX] = xcr0 >> 32;
    Ok(())
}

fn xsetbv(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    if !cpu.cr4.contains(Cr4::OSXSAVE) {
        return cpu.ud();
    }
    let value = cpu.regs[RDX] << 32 | cpu.regs[RAX] & 0xffff_ffff;
    let privileged = cpu.cpl == 0 && !cpu.v86();
    if !privileged || cpu.regs[RCX] as u32 != 0 || cpu.vector.set_xcr0(value).is_err() {
        return cpu.gp(0);
    }
    Ok(())
}

fn ldmxcsr<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if VEX {
        cpu.guard_avx()?
    } else {
        cpu.guard_sse()?
    }
    let linear = cpu.vector_linear(op, 4, false)?;
    let value: u32 = cpu.read(linear)?;
    if value & !mxcsr_mask() != 0 {
        return cpu.gp(0);
    }
    cpu.vector.set_mxcsr(value);
    Ok(())
}

fn stmxcsr<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if VEX {
        cpu.guard_avx()?
    } else {
        cpu.guard_sse()?
    }
    let linear = cpu.vector_linear(op, 4, true)?;
    cpu.write(linear, cpu.vector.mxcsr())
}
