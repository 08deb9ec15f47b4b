//! Exceptions: their side effects, and what happens when delivering one raises another (SDM 3A 6.15, interrupt 8).

use super::deliver::{Event, Origin};
use crate::cpu::{CS, Cpu, RIP, SS};
use crate::fault::{Fault, Guest};
use engine::Exit;
use x86::{Cr0, Exception, Rflags, Vector};

/// How exceptions combine (SDM 3A tables 6-4 and 6-5).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    Page,
    Double,
}

fn class(v: Vector) -> Class {
    match v {
        Vector::PF => Class::Page,
        Vector::DF => Class::Double,
        v if v.is_contributory() => Class::Contributory,
        _ => Class::Benign,
    }
}

/// What to deliver when `second` is raised while `first` is being delivered; `None` for shutdown.
pub(crate) fn combine(first: Option<Vector>, second: Exception) -> Option<Exception> {
    let first = first.map_or(Class::Benign, class);
    match (first, class(second.vector)) {
        (Class::Double, Class::Contributory | Class::Page) => None,
        (Class::Contributory, Class::Contributory) | (Class::Page, Class::Contributory | Class::Page) => {
            Some(Exception::with_code(Vector::DF, 0))
        }
        _ => Some(second),
    }
}

impl Cpu {
    /// Delivers an exception of the instruction at RIP, and those that its delivery raises. Gives an exit where that
    /// ends in shutdown.
    pub(crate) fn deliver_exception(&mut self, e: Exception) -> Option<Exit> {
        self.deliver_until_done(Some(e), None)
    }

    /// Delivers an interrupt or NMI before the instruction at RIP.
    pub(crate) fn deliver_interrupt(&mut self, vector: u8) -> Option<Exit> {
        self.deliver_until_done(None, Some(vector))
    }

    fn deliver_until_done(&mut self, exception: Option<Exception>, interrupt: Option<u8>) -> Option<Exit> {
        self.executing = [u64::MAX; 2];
        let mut current = exception;
        // Each round is at least one step up the table; benign ones can follow each other only a few times.
        for _ in 0..8 {
            let result = match (current, interrupt) {
                (Some(e), _) => self.deliver_one(e),
                (None, Some(vector)) => {
                    let (rip, rflags) = (self.regs[RIP], self.rflags());
                    self.deliver(Event { vector, origin: Origin::Outside, error: None, rip, rflags })
                }
                (None, None) => return None,
            };
            if result.is_ok() {
                return None;
            }
            let second = match self.fault.take() {
                Some(Fault::Exception(e)) => e,
                Some(Fault::NonCanonical) => Exception::gp(1),
                Some(Fault::Exit(exit)) => return Some(exit),
                Some(Fault::Restart) | None => continue,
            };
            let last = current.unwrap_or(second);
            current = combine(current.map(|e| e.vector), second);
            if current.is_none() {
                return Some(self.shutdown(last, second));
            }
        }
        let e = current.unwrap_or(Exception::ud());
        Some(self.shutdown(e, e))
    }

    fn deliver_one(&mut self, e: Exception) -> Guest<()> {
        let mut rflags = self.rflags();
        match e.vector {
            Vector::PF => self.cr2 = e.payload,
            Vector::DB => {
                self.note_debug_status(e.payload);
                // Instruction breakpoints and general detect are faults, the others traps.
                if e.payload & super::debug::FAULT != 0 {
                    rflags |= Rflags::RF.bits();
                }
            }
            // Traps, and what ends a task rather than an instruction.
            Vector::BP | Vector::OF | Vector::NMI | Vector::MC => {}
            _ => rflags |= Rflags::RF.bits(),
        }
        let real = !self.cr0.contains(Cr0::PE);
        let error = (e.vector.has_error_code() && !real).then_some(e.error_code);
        let rip = self.regs[RIP];
        self.deliver(Event { vector: e.vector as u8, origin: Origin::Outside, error, rip, rflags })
    }

    #[cold]
    fn shutdown(&self, first: Exception, second: Exception) -> Exit {
        Exit::Shutdown(format!(
            "vCPU {}: triple fault: {:?}({:#x}) while delivering {:?}({:#x}), at CS:RIP {:04x}:{:#x}, SS:RSP {:04x}:{:#x}, \
             CR0 {:#x}, CR2 {:#x}, CR3 {:#x}, CR4 {:#x}, EFER {:#x}",
            self.id,
            second.vector,
            second.error_code,
            first.vector,
            first.error_code,
            self.seg[CS].selector,
            self.regs[RIP],
            self.seg[SS].selector,
            self.regs[crate::cpu::RSP],
            self.cr0.bits(),
            self.cr2,
            self.cr3,
            self.cr4.bits(),
            self.efer.bits(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combine_of_every_pair_follows_the_double_fault_table() {
        use Vector::*;
        let contributory = [DE, TS, NP, SS, GP];
        let all = [DE, DB, NMI, BP, OF, BR, UD, NM, TS, NP, SS, GP, PF, MF, AC, MC, XM];
        for second in all {
            let e = Exception::with_code(second, 8);
            assert_eq!(combine(None, e), Some(e));
            let severe = contributory.contains(&second) || second == PF;
            assert_eq!(combine(Some(DF), e), if severe { None } else { Some(e) });
            for first in all {
                let double =
                    contributory.contains(&first) && contributory.contains(&second) || first == PF && severe;
                let expected = if double { Exception::with_code(DF, 0) } else { e };
                assert_eq!(combine(Some(first), e), Some(expected), "{first:?} then {second:?}");
            }
        }
    }
}
