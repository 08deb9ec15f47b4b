//! Exceptions taken to EL2.

use address::HostPhys;
use arm::psci;
use arm::syndrome::{EXTERNAL_ABORT, IL, Syndrome, class, fault_page};

use super::inject;
use crate::control::{self, Control};
use crate::firmware::Arguments;
use crate::per_cpu::{CPUS, cpu_number};
use crate::{calls, console, firmware};

/// What the processor had when the exception was taken; what it goes on with.
#[repr(C, align(16))]
#[derive(Debug)]
pub struct Frame {
    /// X0 to X30.
    pub x: [u64; 31],
    /// ELR_EL2.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
}

/// The vector of a synchronous exception from a lower level in AArch64.
const LOWER_SYNCHRONOUS: u64 = 8;

/// Every exception comes here, from start.s; back is to where the frame says.
#[unsafe(no_mangle)]
extern "C" fn exception(frame: &mut Frame, vector: u64) {
    let syndrome = Syndrome(read_register!("esr_el2"));
    match (vector, control::get()) {
        (LOWER_SYNCHRONOUS, Some(control)) => from_control(control, frame, syndrome),
        _ => panic!(
            "exception {vector} at {:#x}, syndrome {:#x}, address {:#x}",
            frame.pc,
            syndrome.0,
            read_register!("far_el2")
        ),
    }
}

/// A synchronous exception of the control domain.
fn from_control(control: &Control, frame: &mut Frame, syndrome: Syndrome) {
    match syndrome.class() {
        class::SMC64 => {
            // The exception is taken before the instruction (Arm ARM D1.3.5), unlike HVC's.
            frame.pc = frame.pc.wrapping_add(4);
            let mut x = Arguments::default();
            let count = x.len();
            x.copy_from_slice(&frame.x[..count]);
            firmware::call(&CPUS, cpu_number(), &mut x);
            frame.x[..count].copy_from_slice(&x);
        }
        class::HVC64 => frame.x[0] = psci::NOT_SUPPORTED as u64,
        class::DATA_ABORT_LOWER => data_abort(control, frame, syndrome),
        class::INSTRUCTION_ABORT_LOWER => {
            refuse(frame, syndrome, "execute", fault_page(read_register!("hpfar_el2")));
        }
        other => {
            console::limited_line(format_args!(
                "the control domain's exception of class {other:#x} at {:#x} is undefined to it",
                frame.pc
            ));
            inject(frame, Syndrome(IL));
        }
    }
}

/// A store to the doorbell is a call; what else stage 2 doesn't map is refused.
fn data_abort(control: &Control, frame: &mut Frame, syndrome: Syndrome) {
    let far = read_register!("far_el2");
    let address = fault_page(read_register!("hpfar_el2")) | far & 0xfff;
    let doorbell = syndrome.access().filter(|a| a.write && a.size == 4 && address == control.doorbell.0);
    let Some(access) = doorbell.filter(|_| syndrome.is_stage2_fault()) else {
        return refuse(frame, syndrome, if syndrome.write() { "write" } else { "read" }, address);
    };
    let value = frame.x.get(access.register as usize).copied().unwrap_or(0);
    match calls::dispatch(control, value as u32) {
        Ok(()) => frame.pc = frame.pc.wrapping_add(syndrome.instruction_length()),
        Err(calls::NotItsMemory) => refuse(frame, syndrome, "call from", (value & 0xffff_ffff) << 12),
    }
}

/// Names an access that isn't allowed, and lets the control domain take an external abort for it.
fn refuse(frame: &mut Frame, syndrome: Syndrome, what: &str, address: u64) {
    console::limited_line(format_args!(
        "refused the control domain's {what} {} at PC {:#x}",
        HostPhys(address),
        frame.pc
    ));
    let instruction = syndrome.class() == class::INSTRUCTION_ABORT_LOWER;
    let class = inject::abort_class(frame.pstate, instruction);
    let write = if !instruction && syndrome.write() { 1 << 6 } else { 0 };
    let length = syndrome.0 & IL;
    inject(frame, Syndrome((class as u64) << 26 | length | write | EXTERNAL_ABORT));
}

/// Lets the control domain take a synchronous exception where the frame is.
fn inject(frame: &mut Frame, syndrome: Syndrome) {
    inject::take(&mut frame.pc, &mut frame.pstate, syndrome, Some(read_register!("far_el2")));
}
