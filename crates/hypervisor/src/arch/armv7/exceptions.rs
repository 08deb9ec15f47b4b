//! What the control domain had when it took an exception to Hyp mode, and what it is given for it.

use arm::control::mode;
use arm::syndrome::{Syndrome, class};

use super::inject;
use crate::aarch32::Place;
use crate::firmware::Arguments;

/// What the processor had when the exception was taken; what it goes on with.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct Frame {
    /// R0 to R12: those of all modes but FIQ.
    pub r: [u32; 13],
    /// LR_usr, which is Hyp mode's too.
    pub lr: u32,
    /// ELR_hyp.
    pub pc: u32,
    /// SPSR_hyp.
    pub cpsr: u32,
}

/// The vector of what is trapped from lower modes.
pub const TRAPPED: usize = 5;

impl Frame {
    /// The program counter.
    pub fn pc(&self) -> u64 {
        self.pc.into()
    }
    /// Goes on behind an instruction of so many bytes.
    pub fn skip(&mut self, bytes: u64) {
        self.pc = self.pc.wrapping_add(bytes as u32);
    }
    /// A register of the program that runs, by its number in a syndrome. `None`: another mode's, whose programs call nobody.
    pub fn general(&self, n: u8) -> Option<u64> {
        let user = self.cpsr & mode::MASK == mode::USR;
        let r = if n == 14 && user { Some(&self.lr) } else { self.r.get(n as usize) };
        r.map(|r| u64::from(*r))
    }
    /// What a call passes and returns.
    pub fn arguments(&self) -> Arguments {
        core::array::from_fn(|n| if n < 8 { self.r[n].into() } else { 0 })
    }
    pub fn set_arguments(&mut self, x: &Arguments) {
        self.r.iter_mut().zip(x).take(8).for_each(|(r, x)| *r = *x as u32);
    }
    /// The control domain takes an undefined instruction.
    pub fn undefined(&mut self) {
        self.take(inject::undefined_at);
    }
    /// It takes a synchronous external abort for what was trapped with `syndrome`.
    pub fn abort(&mut self, syndrome: Syndrome) {
        let fetch = syndrome.class() == class::INSTRUCTION_ABORT_LOWER;
        let address = if fetch { read_register!(HIFAR) } else { read_register!(HDFAR) };
        self.take(|place| inject::abort_at(place, address, fetch, !fetch && syndrome.write()));
    }

    fn take(&mut self, exception: impl FnOnce(Place) -> Place) {
        let to = exception(Place { pc: self.pc.into(), cpsr: self.cpsr.into() });
        (self.pc, self.cpsr) = (to.pc as u32, to.cpsr as u32);
    }
}
