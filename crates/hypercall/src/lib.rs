//! The contract between the hypervisor and `vmd`: calls, exits, register files, and the page in which they lie.
//!
//! A program of the control domain that may (it has mapped the *doorbell*, which takes the right to map physical memory) puts a
//! [`CallPage`] into a page of its own memory that stays where it is, fills in a call, and stores the page's frame number as 32 bits
//! to the doorbell's first word. When the store is done, so is the call: its [`CallPage::result`] says how it went. Where the doorbell is
//! says the property `reg` of the control domain's device tree node `/hypervisor`, compatible with [`COMPATIBLE`].
//!
//! The hypervisor reads each word of the page once per call, believes none of it, and never waits. Calls of several pages may be
//! under way at once; one vCPU is run by one call at a time.
#![no_std]
#![forbid(unsafe_code)]

pub mod page;
pub mod registers;

pub use page::{CallPage, Exit, MAX_FRAMES};
pub use registers::{Registers, SYSTEM, SystemRegister};

/// Version of all of this; see CHANGELOG.md.
pub const VERSION: u32 = 1;
/// What the control domain's device tree node is compatible with.
pub const COMPATIBLE: &str = "auberge,hypervisor-1";
/// vCPUs of a machine, at most.
pub const MAX_VCPUS: usize = 8;

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident: $type:ty { $($(#[$inner:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr($type)]
        pub enum $name { $($(#[$inner])* $variant = $value,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The one with this number.
            pub fn from_number(n: $type) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| *v as $type == n)
            }
        }
    };
}

numbers! {
    /// Calls, by their number. `a0` to `a5` are [`CallPage::arguments`], `r0` and `r1` [`CallPage::results`].
    Call: u32 {
        /// r0: [`VERSION`]. r1: [`features`].
        Version = 0,
        /// Destroys every machine; any run under way ends. For a daemon that starts.
        DestroyAll = 1,
        /// A machine. a0: [`GuestMode`]; a1: number of vCPUs, 1 to [`MAX_VCPUS`]; a2: guest-physical address of the GIC's
        /// distributor; a3: of its CPU interface (GICv2) or first redistributor (GICv3). r0: its handle.
        CreateVm = 2,
        /// a0: handle. Its frames are free when this has been answered.
        DestroyVm = 3,
        /// Memory. a0: handle; a1: guest-physical address; a2: number of frames, 1 to [`MAX_FRAMES`]; a3: log2 of the bytes of a
        /// frame, 12 or 21; a4: 1 if the guest may write it, else 0. The frames' physical addresses are in [`CallPage::body`]; they
        /// must be the control domain's RAM. Addresses are aligned to the frame's size, and not mapped yet.
        AddMemory = 4,
        /// a0: handle; a1: vCPU. Its registers are written to [`CallPage::body`] ([`Registers`]).
        GetRegisters = 5,
        /// a0: handle; a1: vCPU. Its registers become those in [`CallPage::body`]. a2: 1 if the machine's interrupt controller is reset
        /// too, which takes that none of its vCPUs runs; else 0.
        SetRegisters = 6,
        /// a0: handle; a1: vCPU. Runs it on the calling CPU until there is something for the caller to do: see
        /// [`CallPage::exit`]. The answer to the exit before, if it was one of those that want one, is in [`Exit::data`];
        /// registers that were set since then make it void.
        Run = 7,
        /// a0: handle; a1: INTID, 32 to 1019; a2: its level, 0 or 1. r0: as [`Exit::data`] of [`Reason::Wake`].
        SetLine = 8,
    }
}

numbers! {
    /// How a call went: [`CallPage::result`].
    Status: i32 {
        Done = 0,
        /// There is no such call, or this hypervisor can't do it here.
        Unsupported = -1,
        /// An argument is out of range.
        Invalid = -2,
        /// There is no machine with this handle, or none any more.
        NoVm = -3,
        /// The hypervisor has no room for more.
        NoMemory = -4,
        /// A frame is not the control domain's, or something is mapped there already.
        Refused = -5,
        /// The vCPU is being run by another call.
        Busy = -6,
    }
}

numbers! {
    /// What a guest's processors are.
    GuestMode: u64 {
        /// They start in 64-bit code.
        Aarch64 = 0,
        /// ARMv7, or ARMv8 in 32-bit code.
        Aarch32 = 1,
    }
}

numbers! {
    /// Why a run ended: [`Exit::reason`].
    Reason: u32 {
        /// A physical interrupt: the control domain's kernel has seen to it by now. Run again.
        Interrupted = 0,
        /// [`CallPage::immediate_exit`] was not 0.
        Immediate = 1,
        /// The guest accessed [`Exit::address`], where it has no memory, with [`Exit::size`] bytes. A load wants [`Exit::data`]
        /// before the next run.
        Mmio = 2,
        /// WFI, and nothing is pending. [`Exit::deadline`] says until when its timer is silent.
        Halt = 3,
        /// HVC or SMC by SMCCC, not answered by the hypervisor: [`Exit::arguments`] are X0 to X3. Wants [`Exit::data`], which becomes X0.
        Call = 4,
        /// The guest did what can't be done for it: [`Exit::syndrome`], at [`Exit::address`]. It is as it was before.
        Failed = 5,
        /// WFE in a guest that waits for another vCPU. Run again, after others.
        Yield = 6,
        /// The guest made something pending for vCPUs that don't run: those whose bit is set in [`Exit::data`], which wait for an interrupt
        /// after a [`Reason::Halt`]. Have them run, and run this one again.
        Wake = 7,
    }
}

/// What the hypervisor offers: r1 of [`Call::Version`].
pub mod features {
    /// Version of the guests' GIC: 2 or 3.
    pub const GIC: u64 = 0xf;
    /// Runs guests in 64-bit code.
    pub const AARCH64: u64 = 1 << 4;
    /// Runs guests in 32-bit code.
    pub const AARCH32: u64 = 1 << 5;
    /// Bits of guest-physical addresses, in bits 15 to 8.
    pub const ADDRESS_BITS_SHIFT: u32 = 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_value() {
        assert_eq!(Call::from_number(7), Some(Call::Run));
        assert_eq!(Call::from_number(99), None);
        assert_eq!(Status::from_number(-5), Some(Status::Refused));
        assert!(Call::ALL.iter().enumerate().all(|(n, c)| *c as usize == n));
    }
}
