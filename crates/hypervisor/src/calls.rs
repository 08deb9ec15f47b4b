//! Calls of the control domain's programs: a page of its RAM, named by a store to the doorbell. See the `hypercall` crate.
//!
//! The page is shared with whoever wrote it, and may change at any time: each word of it is read once, into memory of ours, before it
//! is checked and used.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use address::HostPhys;
use hypercall::{Call, CallPage, Status};

use crate::arch;
use crate::control::Control;

/// A call page, as words of 32 bits that others may change.
#[repr(C, align(4096))]
pub struct SharedPage([AtomicU32; 1024]);

impl SharedPage {
    pub const fn zeroed() -> Self {
        Self([const { AtomicU32::new(0) }; 1024])
    }
    /// The word at a byte offset, which wraps within the page.
    pub fn read32(&self, offset: usize) -> u32 {
        self.0[(offset / 4) % 1024].load(Ordering::Relaxed)
    }
    pub fn read64(&self, offset: usize) -> u64 {
        self.read32(offset) as u64 | (self.read32(offset + 4) as u64) << 32
    }
    pub fn write32(&self, offset: usize, value: u32) {
        self.0[(offset / 4) % 1024].store(value, Ordering::Relaxed);
    }
    pub fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

/// The call page isn't the control domain's RAM: the store itself is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotItsMemory;

/// Does the call that lies in frame `frame` (physical address / 4096).
pub fn dispatch(control: &Control, frame: u32) -> Result<(), NotItsMemory> {
    let address = HostPhys((frame as u64) << 12);
    if !control.owns(address, 4096) {
        return Err(NotItsMemory);
    }
    let page = arch::shared_page(address);
    let arguments: [u64; 6] = core::array::from_fn(|n| page.read64(offset_of!(CallPage, arguments) + n * 8));
    let outcome = match Call::from_number(page.read32(offset_of!(CallPage, call))) {
        Some(call) => act(control, call, arguments),
        None => Err(Status::Unsupported),
    };
    let status = match outcome {
        Ok(results) => {
            for (n, result) in results.into_iter().enumerate() {
                page.write64(offset_of!(CallPage, results) + n * 8, result);
            }
            Status::Done
        }
        Err(status) => status,
    };
    page.write32(offset_of!(CallPage, result), status as i32 as u32);
    Ok(())
}

/// One call; returns its results.
fn act(control: &Control, call: Call, _arguments: [u64; 6]) -> Result<[u64; 2], Status> {
    match call {
        Call::Version => Ok([hypercall::VERSION as u64, control.gic as u64 | arch::guest_features()]),
        _ => Err(Status::Unsupported),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arch::{RAM, RAM_PAGES};
    use crate::pool::test_pool;
    use crate::regions::{Region, Regions};
    use crate::table::Table;

    /// A control domain with all of the fake RAM but its second page.
    fn control() -> Control {
        let end = RAM + RAM_PAGES as u64 * 4096;
        let memory = [Region { start: RAM, end: RAM + 4096 }, Region { start: RAM + 8192, end }];
        let stage2 = Table::new(&test_pool(0x1000_0000, 4), 40).unwrap();
        Control { memory: Regions::from_iter(memory), doorbell: HostPhys(0xffff_0000), stage2, gic: 2 }
    }

    #[test]
    fn version_is_told() {
        let page = arch::shared_page(HostPhys(RAM));
        page.write32(0, Call::Version as u32);
        page.write32(4, 0xffff_ffff);
        dispatch(&control(), (RAM >> 12) as u32).unwrap();
        assert_eq!(page.read32(4) as i32, Status::Done as i32);
        assert_eq!(page.read64(offset_of!(CallPage, results)), hypercall::VERSION as u64);
        assert_eq!(page.read64(offset_of!(CallPage, results) + 8) & hypercall::features::GIC, 2);
    }

    #[test]
    fn frames_that_are_not_its_ram_are_refused_untouched() {
        let frame = (RAM >> 12) as u32;
        for frame in [0, frame - 1, frame + 1, frame + RAM_PAGES as u32, u32::MAX] {
            assert_eq!(dispatch(&control(), frame), Err(NotItsMemory));
        }
    }

    proptest! {
        #[test]
        fn no_page_does_harm(frame in 0u32..16, words in proptest::collection::vec(any::<u32>(), 32), small in any::<bool>()) {
            let frame = (RAM >> 12) as u32 - 4 + frame;
            if control().owns(HostPhys((frame as u64) << 12), 4096) {
                let page = arch::shared_page(HostPhys((frame as u64) << 12));
                words.iter().enumerate().for_each(|(n, w)| page.write32(n * 4, *w));
                page.write32(0, if small { words[0] % 16 } else { words[0] });
                dispatch(&control(), frame).unwrap();
                prop_assert!(Status::from_number(page.read32(4) as i32).is_some());
            } else {
                prop_assert_eq!(dispatch(&control(), frame), Err(NotItsMemory));
            }
        }
    }
}
