//! The page that a call lies in.

use core::mem::{offset_of, size_of};

/// Physical addresses of frames in [`CallPage::body`], at most.
pub const MAX_FRAMES: usize = BODY_WORDS;
const BODY_WORDS: usize = (4096 - BODY) / 8;
/// Offset of [`CallPage::body`], in bytes.
pub const BODY: usize = 256;

/// A call: 4096 bytes on a 4 KiB boundary, little-endian.
///
/// Both sides access it a word at a time: the other side may be writing.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
pub struct CallPage {
    /// In: a [`crate::Call`].
    pub call: u32,
    /// Out: a [`crate::Status`].
    pub result: i32,
    pub arguments: [u64; 6],
    /// Out, where the call has results.
    pub results: [u64; 2],
    /// In, of a run: leave at once with [`crate::Reason::Immediate`] if it isn't 0. It is read with interrupts masked, right before the
    /// guest is entered: a signal handler that sets it can't come too late.
    pub immediate_exit: u32,
    pub reserved: u32,
    /// Out, of a run; and in, its answer.
    pub exit: Exit,
    pub reserved2: [u64; (BODY - 80 - size_of::<Exit>()) / 8],
    /// Frames, or [`crate::Registers`].
    pub body: [u64; BODY_WORDS],
}

const _: () = assert!(size_of::<CallPage>() == 4096);
const _: () = assert!(offset_of!(CallPage, exit) == 80 && offset_of!(CallPage, body) == BODY);
const _: () = assert!(size_of::<crate::Registers>() <= BODY_WORDS * 8);

/// Why a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exit {
    /// A [`crate::Reason`].
    pub reason: u32,
    /// Of MMIO: 1, 2, 4 or 8 bytes.
    pub size: u8,
    /// Of MMIO: 1 if it is a store, 0 if a load.
    pub write: u8,
    pub reserved: [u8; 2],
    /// Of MMIO and failures: the guest-physical address.
    pub address: u64,
    /// Of a store: what is stored, zero-extended. The answer to a load or call.
    pub data: u64,
    /// Of a halt: when the guest's virtual timer fires, as a value of the control domain's physical counter (CNTPCT); all ones if it
    /// never does.
    pub deadline: u64,
    /// Of a failure: the syndrome (ESR_EL2, HSR).
    pub syndrome: u64,
    /// Of a failure: the program counter.
    pub pc: u64,
    /// Of a call: X0 to X3.
    pub arguments: [u64; 4],
}
