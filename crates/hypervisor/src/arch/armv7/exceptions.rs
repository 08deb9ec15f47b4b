//! Exceptions taken to Hyp mode.

use address::HostPhys;
use arm::control::mode;
use arm::psci;
use arm::syndrome::{Syndrome, class, fault_page};

use super::inject::{self, Place};
use crate::control::{self, Control};
use crate::firmware::Arguments;
use crate::per_cpu::{CPUS, cpu_number};
use crate::{calls, console, firmware};

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
const HYP_TRAP: u32 = 5;

/// Every exception comes here, from start.s; back is to where the frame says.
#[unsafe(no_mangle)]
extern "C" fn exception(frame: &mut Frame, vector: u32) {
    let syndrome = Syndrome(read_register!(HSR).into());
    match (vector, control::get()) {
        (HYP_TRAP, Some(control)) => from_control(control, frame, syndrome),
        _ => panic!(
            "exception {vector} at {:#x}, syndrome {:#x}, address {:#x}",
            frame.pc,
            syndrome.0,
            read_register!(HDFAR)
        ),
    }
}

/// An exception of the control domain.
fn from_control(control: &Control, frame: &mut Frame, syndrome: Syndrome) {
    match syndrome.class() {
        class::SMC32 => {
            // The exception is taken before the instruction, unlike HVC's.
            frame.pc = frame.pc.wrapping_add(4);
            let mut x = Arguments::default();
            x.iter_mut().zip(frame.r).take(8).for_each(|(x, r)| *x = r.into());
            firmware::call(&CPUS, cpu_number(), &mut x);
            frame.r.iter_mut().zip(x).take(8).for_each(|(r, x)| *r = x as u32);
        }
        class::HVC32 => frame.r[0] = psci::NOT_SUPPORTED as u32,
        class::DATA_ABORT_LOWER => data_abort(control, frame, syndrome),
        class::INSTRUCTION_ABORT_LOWER => {
            refuse(frame, "execute", fault_page(read_register!(HPFAR).into()), |place| {
                inject::abort_at(place, read_register!(HIFAR), true, false)
            });
        }
        other => {
            console::limited_line(format_args!(
                "the control domain's exception of class {other:#x} at {:#x} is undefined to it",
                frame.pc
            ));
            inject(frame, inject::undefined_at);
        }
    }
}

/// A store to the doorbell is a call; what else stage 2 doesn't map is refused.
fn data_abort(control: &Control, frame: &mut Frame, syndrome: Syndrome) {
    let far = read_register!(HDFAR);
    let address = fault_page(read_register!(HPFAR).into()) | u64::from(far & 0xfff);
    let abort = |place| inject::abort_at(place, far, false, syndrome.write());
    let doorbell = syndrome.access().filter(|a| a.write && a.size == 4 && address == control.doorbell.0);
    let Some(access) = doorbell.filter(|_| syndrome.is_stage2_fault()) else {
        return refuse(frame, if syndrome.write() { "write" } else { "read" }, address, abort);
    };
    let value = match access.register {
        n @ 0..=12 => frame.r[n as usize],
        14 if frame.cpsr & mode::MASK == mode::USR => frame.lr,
        // A program that calls so isn't ours.
        _ => return refuse(frame, "call with", address, abort),
    };
    match calls::dispatch(control, value) {
        Ok(()) => frame.pc = frame.pc.wrapping_add(syndrome.instruction_length() as u32),
        Err(calls::NotItsMemory) => refuse(frame, "call from", u64::from(value) << 12, abort),
    }
}

/// Names an access that isn't allowed, and lets the control domain take an external abort for it.
fn refuse(frame: &mut Frame, what: &str, address: u64, abort: impl FnOnce(Place) -> Place) {
    console::limited_line(format_args!(
        "refused the control domain's {what} {} at PC {:#x}",
        HostPhys(address),
        frame.pc
    ));
    inject(frame, abort);
}

fn inject(frame: &mut Frame, exception: impl FnOnce(Place) -> Place) {
    let to = exception(Place { pc: frame.pc, cpsr: frame.cpsr });
    (frame.pc, frame.cpsr) = (to.pc, to.cpsr);
}
