//! Exceptions that the control domain takes to the hypervisor: its calls, and what it may not.

use address::HostPhys;
use arm::psci;
use arm::syndrome::{Syndrome, class, fault_page};

use crate::arch::{Frame, TRAPPED};
use crate::control::{CONTROL, Control};
use crate::per_cpu::{CPUS, cpu_number};
use crate::{calls, console, firmware};

/// Every exception comes here, from start.s; back is to where the frame says.
#[unsafe(no_mangle)]
extern "C" fn exception(frame: &mut Frame, vector: usize) {
    let syndrome = Syndrome(read_register!(HSR));
    match (vector, CONTROL.get()) {
        (TRAPPED, Some(control)) => from_control(control, frame, syndrome),
        _ => panic!(
            "exception {vector} at {:#x}, syndrome {:#x}, address {:#x}",
            frame.pc(),
            syndrome.0,
            read_register!(HDFAR)
        ),
    }
}

fn from_control(control: &Control, frame: &mut Frame, syndrome: Syndrome) {
    control.smmus.iter().for_each(|smmu| smmu.report(control.pool));
    match syndrome.class() {
        class::SMC32 | class::SMC64 => {
            // The exception is taken before the instruction (Arm ARM D1.3.5), unlike HVC's.
            frame.skip(4);
            let mut x = frame.arguments();
            firmware::call(&CPUS, cpu_number(), &mut x);
            frame.set_arguments(&x);
        }
        class::HVC32 | class::HVC64 => {
            let mut x = frame.arguments();
            x[0] = psci::NOT_SUPPORTED as u64;
            frame.set_arguments(&x);
        }
        class::DATA_ABORT_LOWER => data_abort(control, frame, syndrome),
        class::INSTRUCTION_ABORT_LOWER => {
            refuse(frame, syndrome, "execute", fault_page(read_register!(HPFAR)));
        }
        other => {
            console::limited_line(format_args!(
                "the control domain's exception of class {other:#x} at {:#x} is undefined to it",
                frame.pc()
            ));
            frame.undefined();
        }
    }
}

/// A store to the doorbell is a call; what else stage 2 doesn't map is refused.
fn data_abort(control: &Control, frame: &mut Frame, syndrome: Syndrome) {
    let address = fault_page(read_register!(HPFAR)) | read_register!(HDFAR) & 0xfff;
    let doorbell = syndrome.access().filter(|a| a.write && a.size == 4 && address == control.doorbell.0);
    let Some(access) = doorbell.filter(|_| syndrome.is_stage2_fault()) else {
        return refuse(frame, syndrome, if syndrome.write() { "write" } else { "read" }, address);
    };
    let Some(number) = frame.general(access.register).map(|value| value as u32) else {
        return refuse(frame, syndrome, "call with", address);
    };
    match calls::dispatch(control, number) {
        Ok(()) => frame.skip(syndrome.instruction_length()),
        Err(calls::NotItsMemory) => refuse(frame, syndrome, "call from", u64::from(number) << 12),
    }
}

/// Names an access that isn't allowed, and lets the control domain take an external abort for it.
fn refuse(frame: &mut Frame, syndrome: Syndrome, what: &str, address: u64) {
    console::limited_line(format_args!(
        "refused the control domain's {what} {} at PC {:#x}",
        HostPhys(address),
        frame.pc()
    ));
    frame.abort(syndrome);
}
