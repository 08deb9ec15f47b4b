//! The calls, each as a function.

use crate::NAME;
use crate::host::Host;
use crate::page::Page;
use engine::{Error, Result};
use hypercall::{Call, GuestMode, MAX_FRAMES, Registers, Status, VERSION, features};

/// What the hypervisor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    pub fn new(bits: u64) -> Self {
        Self(bits)
    }
    /// The version of the guests' GIC.
    pub fn gic(self) -> u64 {
        self.0 & features::GIC
    }
    pub fn runs(self, mode: GuestMode) -> bool {
        self.0
            & match mode {
                GuestMode::Aarch64 => features::AARCH64,
                GuestMode::Aarch32 => features::AARCH32,
            }
            != 0
    }
}

/// Makes a call; what it gives when it is not done is a sentence about `what`.
fn make(host: &dyn Host, page: &Page, call: Call, arguments: &[u64], what: &str) -> Result<[u64; 2]> {
    page.set_call(call as u32, arguments);
    host.call(page);
    match Status::from_number(page.result()) {
        Some(Status::Done) => Ok([page.results(0), page.results(1)]),
        status => Err(refused(status, page.result(), what)),
    }
}

fn refused(status: Option<Status>, number: i32, what: &str) -> Error {
    let why = match status {
        Some(Status::Unsupported) => "it can't do that here",
        Some(Status::Invalid) => "an argument is out of range",
        Some(Status::NoVm) => "it has no such machine, or none any more",
        Some(Status::NoMemory) => "it has no room for more",
        Some(Status::Refused) => "the memory is not the control domain's, or something is there already",
        Some(Status::Busy) => "the vCPU is being run",
        Some(Status::Done) | None => "it did not answer",
    };
    Error::Unsupported {
        engine: NAME,
        what: format!("the hypervisor refused {what}: {why} (status {number})"),
    }
}

/// Asks which hypervisor this is.
pub fn version(host: &dyn Host, page: &Page) -> Result<Features> {
    let [version, features] = make(host, page, Call::Version, &[], "to say its version")?;
    if version != u64::from(VERSION) {
        return Err(Error::Unsupported {
            engine: NAME,
            what: format!("the hypervisor speaks version {version} of its calls, and this program {VERSION}"),
        });
    }
    Ok(Features(features))
}

/// Destroys every machine; for a daemon that starts.
pub fn destroy_all(host: &dyn Host, page: &Page) -> Result<()> {
    make(host, page, Call::DestroyAll, &[], "to destroy all machines").map(drop)
}

/// Makes a machine; gives its handle.
pub fn create_vm(host: &dyn Host, page: &Page, mode: GuestMode, vcpus: u32, gic: [u64; 2]) -> Result<u64> {
    let arguments = [mode as u64, vcpus.into(), gic[0], gic[1]];
    make(host, page, Call::CreateVm, &arguments, "a machine").map(|[handle, _]| handle)
}

pub fn destroy_vm(host: &dyn Host, page: &Page, handle: u64) -> Result<()> {
    make(host, page, Call::DestroyVm, &[handle], "to destroy a machine").map(drop)
}

/// A piece of guest memory: frames of one size, one after the other in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub guest: u64,
    /// log2 of a frame's bytes.
    pub shift: u32,
    pub writable: bool,
    /// Physical addresses.
    pub frames: Vec<u64>,
}

/// Gives a machine memory, in as many calls as it takes.
pub fn add_memory(host: &dyn Host, page: &Page, handle: u64, piece: &Piece) -> Result<()> {
    for (n, frames) in piece.frames.chunks(MAX_FRAMES).enumerate() {
        let guest = piece.guest + (((n * MAX_FRAMES) as u64) << piece.shift);
        page.set_body(frames.iter().copied());
        let arguments = [handle, guest, frames.len() as u64, piece.shift.into(), piece.writable.into()];
        make(host, page, Call::AddMemory, &arguments, "memory for a machine")?;
    }
    Ok(())
}

pub fn registers(host: &dyn Host, page: &Page, handle: u64, vcpu: u32) -> Result<Registers> {
    make(host, page, Call::GetRegisters, &[handle, vcpu.into()], "a vCPU's registers")?;
    Ok(page.registers())
}

pub fn set_registers(
    host: &dyn Host,
    page: &Page,
    handle: u64,
    vcpu: u32,
    r: &Registers,
    reset_gic: bool,
) -> Result<()> {
    page.set_registers(r);
    make(
        host,
        page,
        Call::SetRegisters,
        &[handle, vcpu.into(), reset_gic.into()],
        "to change a vCPU's registers",
    )
    .map(drop)
}

/// Runs a vCPU to its next exit, which is in the page then.
pub fn run(host: &dyn Host, page: &Page, handle: u64, vcpu: u32) -> Result<()> {
    make(host, page, Call::Run, &[handle, vcpu.into()], "to run a vCPU").map(drop)
}

/// Sets an interrupt line; gives the vCPUs (bit n: number n) that it woke.
pub fn set_line(host: &dyn Host, page: &Page, handle: u64, intid: u32, level: bool) -> Result<u64> {
    let arguments = [handle, intid.into(), level.into()];
    make(host, page, Call::SetLine, &arguments, "an interrupt line").map(|[woken, _]| woken)
}
