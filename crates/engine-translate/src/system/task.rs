//! Hardware task switches (SDM 3A 7.2, 7.3).

use super::deliver::Event;
use super::descriptors::v86_segment;
use super::stack::Stack;
use crate::cpu::{CS, Cpu, DS, ES, FS, GS, RIP, RSP, SS};
use crate::fault::Guest;
use crate::op::Op;
use x86::descriptor::kind;
use x86::{Cr0, Descriptor, Exception, Rflags, Segment, Vector};

/// How a task switch comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    Jump,
    /// CALL, interrupt or exception: the new task links back.
    Call,
    /// IRET with NT.
    Return,
}

/// Smallest limits of the two kinds of TSS.
const LIMIT32: u32 = 0x67;
const LIMIT16: u32 = 0x2b;

/// The dynamic part of a TSS.
#[derive(Clone, Copy, Debug, Default)]
struct Image {
    cr3: u32,
    eip: u32,
    eflags: u32,
    gpr: [u32; 8],
    /// ES, CS, SS, DS, FS, GS.
    seg: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Cpu {
    /// JMP or CALL far to a TSS, directly or through a task gate.
    pub(super) fn jump_to_task(&mut self, tss: u16, how: Switch, op: &Op) -> Guest<()> {
        let next = self.next_rip(op);
        let r = self.find_task(tss).and_then(|d| self.switch_task(tss, d, how, next, None));
        self.after_transfer(op, r)
    }

    /// IRET with NT set: to the task that the link names.
    pub(super) fn return_to_previous_task(&mut self, op: &Op) -> Guest<()> {
        let next = self.next_rip(op);
        let link: u16 = self.system_read(self.tr.base)?;
        if link & 4 != 0 || link & 0xfffc == 0 {
            return self.selector_fault(Vector::TS, link);
        }
        let d = self.descriptor(link, Vector::TS)?;
        if d.is_code_or_data() || !matches!(d.kind(), kind::TSS16_BUSY | kind::TSS32_BUSY) {
            return self.selector_fault(Vector::TS, link);
        }
        if !d.present() {
            return self.selector_fault(Vector::NP, link);
        }
        let r = self.switch_task(link, d, Switch::Return, next, None);
        self.after_transfer(op, r)
    }

    /// An interrupt or exception through a task gate.
    pub(super) fn deliver_by_task(&mut self, tss: u16, event: &Event) -> Guest<()> {
        let d = self.find_task(tss)?;
        self.switch_task(tss, d, Switch::Call, event.rip, event.error)
    }

    /// The descriptor of a task that may be entered.
    fn find_task(&mut self, selector: u16) -> Guest<Descriptor> {
        if selector & 0xfffc == 0 || selector & 4 != 0 {
            return self.selector_fault(Vector::GP, selector);
        }
        let d = self.descriptor(selector, Vector::GP)?;
        if d.is_code_or_data() || !matches!(d.kind(), kind::TSS16_AVAILABLE | kind::TSS32_AVAILABLE) {
            return self.selector_fault(Vector::GP, selector);
        }
        if !d.present() {
            return self.selector_fault(Vector::NP, selector);
        }
        Ok(d)
    }

    fn switch_task(
        &mut self,
        selector: u16,
        d: Descriptor,
        how: Switch,
        rip: u64,
        error: Option<u32>,
    ) -> Guest<()> {
        let is32 = d.kind() & 8 != 0;
        if d.limit() < if is32 { LIMIT32 } else { LIMIT16 } {
            return self.selector_fault(Vector::TS, selector);
        }
        let new_base = d.base() as u64;
        let image = self.read_image(new_base, is32)?;
        let old32 = self.tr.kind() & 8 != 0;
        let old_base = self.tr.base;
        let old_selector = self.tr.selector;
        // All that is written must be writable before anything is.
        let len = if old32 { 0x60 } else { 0x2a };
        self.probe_system_write(old_base, len)?;
        self.probe_system_write(new_base, 2)?;
        let mut flags = self.rflags() as u32;
        if how == Switch::Return {
            flags &= !(Rflags::NT.bits() as u32);
        }
        if how != Switch::Call {
            self.clear_busy(old_selector)?;
        }
        self.write_image(old_base, old32, rip as u32, flags)?;
        if how == Switch::Call {
            self.system_write(new_base, old_selector)?;
        }
        let d = if how == Switch::Return { d } else { self.set_busy(selector, d)? };
        // From here on faults belong to the new task.
        self.sys.switched = true;
        self.tr = d.segment(selector);
        self.cr0.insert(Cr0::TS);
        self.load_image(&image, is32, how)?;
        if image.trap {
            self.sys.pending_debug |= super::debug::BT;
            self.recheck();
        }
        // Local breakpoints end with the task.
        self.dr[5] &= !0x155;
        self.debug_registers_changed();
        if let Some(error) = error {
            let mut stack = Stack::current(self);
            stack.push(self, if is32 { 4 } else { 2 }, error as u64)?;
            self.regs[RSP] = stack.new_rsp(self.regs[RSP]);
        }
        let eip = self.regs[RIP];
        let cs = self.seg[CS];
        self.check_code_limit(&cs, eip)
    }

    fn probe_system_write(&mut self, linear: u64, len: u64) -> Guest<()> {
        // Writing back what is there, byte by byte at both ends, faults where a write would.
        for at in [linear, linear + len - 1] {
            let b: u8 = self.system_read(at)?;
            self.system_write(at, b)?;
        }
        Ok(())
    }

    fn read_image(&mut self, base: u64, is32: bool) -> Guest<Image> {
        let mut i = Image::default();
        if is32 {
            i.cr3 = self.system_read(base + 0x1c)?;
            i.eip = self.system_read(base + 0x20)?;
            i.eflags = self.system_read(base + 0x24)?;
            for (n, r) in i.gpr.iter_mut().enumerate() {
                *r = self.system_read(base + 0x28 + 4 * n as u64)?;
            }
            for (n, s) in i.seg.iter_mut().enumerate() {
                *s = self.system_read(base + 0x48 + 4 * n as u64)?;
            }
            i.ldt = self.system_read(base + 0x60)?;
            i.trap = self.system_read::<u16>(base + 0x64)? & 1 != 0;
        } else {
            i.eip = self.system_read::<u16>(base + 0xe)? as u32;
            i.eflags = self.system_read::<u16>(base + 0x10)? as u32;
            for (n, r) in i.gpr.iter_mut().enumerate() {
                *r = self.system_read::<u16>(base + 0x12 + 2 * n as u64)? as u32 | 0xffff_0000;
            }
            for (n, s) in i.seg.iter_mut().take(4).enumerate() {
                *s = self.system_read(base + 0x22 + 2 * n as u64)?;
            }
            i.ldt = self.system_read(base + 0x2a)?;
        }
        Ok(i)
    }

    fn write_image(&mut self, base: u64, is32: bool, eip: u32, eflags: u32) -> Guest<()> {
        if is32 {
            self.system_write(base + 0x20, eip)?;
            self.system_write(base + 0x24, eflags)?;
            for n in 0..8 {
                self.system_write(base + 0x28 + 4 * n as u64, self.regs[n] as u32)?;
            }
            for n in 0..6 {
                self.system_write(base + 0x48 + 4 * n as u64, self.seg[n].selector)?;
            }
        } else {
            self.system_write(base + 0xe, eip as u16)?;
            self.system_write(base + 0x10, eflags as u16)?;
            for n in 0..8 {
                self.system_write(base + 0x12 + 2 * n as u64, self.regs[n] as u16)?;
            }
            for n in 0..4 {
                self.system_write(base + 0x22 + 2 * n as u64, self.seg[n].selector)?;
            }
        }
        Ok(())
    }

    fn load_image(&mut self, image: &Image, is32: bool, how: Switch) -> Guest<()> {
        for n in 0..8 {
            self.regs[n] = image.gpr[n] as u64;
        }
        self.regs[RIP] = image.eip as u64;
        let mut flags = image.eflags as u64;
        if how == Switch::Call {
            flags |= Rflags::NT.bits();
        }
        self.set_rflags(flags);
        let v86 = self.v86();
        // Selectors count at once, the rest as each is checked.
        for n in 0..6 {
            self.seg[n] = if v86 {
                v86_segment(image.seg[n])
            } else {
                Segment { selector: image.seg[n], unusable: true, ..Segment::default() }
            };
        }
        self.ldtr = Segment { selector: image.ldt, unusable: true, ..Segment::default() };
        self.cpl = if v86 { 3 } else { (image.seg[CS] & 3) as u8 };
        self.update_mode();
        if is32 && self.cr0.contains(Cr0::PG) {
            self.load_cr3(image.cr3 as u64)?;
        }
        self.ldtr = self.fetch_ldt(image.ldt, Vector::TS, Vector::TS)?;
        if v86 {
            return Ok(());
        }
        let cs = self.fetch_task_code(image.seg[CS])?;
        self.seg[CS] = cs;
        self.update_mode();
        let cpl = self.cpl;
        self.seg[SS] = self.fetch_stack_segment(image.seg[SS], cpl, Vector::TS)?;
        for reg in [ES, DS, FS, GS] {
            if !is32 && matches!(reg, FS | GS) {
                continue;
            }
            self.seg[reg] = self.fetch_data_segment(image.seg[reg], Vector::TS)?;
        }
        self.update_mode();
        Ok(())
    }

    fn fetch_task_code(&mut self, selector: u16) -> Guest<Segment> {
        if selector & 0xfffc == 0 {
            return self.exception(Exception::with_code(Vector::TS, self.sys.external));
        }
        let d = self.descriptor(selector, Vector::TS)?;
        let rpl = (selector & 3) as u8;
        let privileged = if d.is_conforming_code() { d.dpl() <= rpl } else { d.dpl() == rpl };
        if !d.is_code() || !privileged {
            return self.selector_fault(Vector::TS, selector);
        }
        if !d.present() {
            return self.selector_fault(Vector::NP, selector);
        }
        Ok(self.set_accessed(selector, d)?.segment(selector))
    }
}
