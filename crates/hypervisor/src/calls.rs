//! Calls of the control domain's programs: a page of its RAM, named by a store to the doorbell. See the `hypercall` crate.
//!
//! The page is shared with whoever wrote it, and may change at any time: each word of it is read once, into memory of ours, before it
//! is checked and used.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use address::HostPhys;
use hypercall::page::{BODY, Exit};
use hypercall::{Call, CallPage, GuestMode, MAX_FRAMES, Registers, Status, features};
use irqchip::gic::Version;

use crate::control::Control;
use crate::{arch, vm};

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
    if address.0 >> arch::OWN_BITS != 0 || !control.owns(address, 4096) {
        return Err(NotItsMemory);
    }
    let page = arch::shared_page(address);
    let arguments: [u64; 6] = core::array::from_fn(|n| page.read64(offset_of!(CallPage, arguments) + n * 8));
    let outcome = match Call::from_number(page.read32(offset_of!(CallPage, call))) {
        Some(call) => act(control, page, call, arguments),
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
fn act(control: &Control, page: &SharedPage, call: Call, arguments: [u64; 6]) -> Result<[u64; 2], Status> {
    let pool = control.pool;
    let [a0, a1, a2, a3, a4, _] = arguments;
    let nothing = |()| [0; 2];
    match call {
        Call::Version => Ok([hypercall::VERSION as u64, control.gic as u64 | arch::guest_features()]),
        Call::DestroyAll => vm::destroy_all(pool).map(nothing),
        Call::CreateVm => {
            let mode = GuestMode::from_number(a0).ok_or(Status::Invalid)?;
            let bit = if mode == GuestMode::Aarch64 { features::AARCH64 } else { features::AARCH32 };
            if arch::guest_features() & bit == 0 {
                return Err(Status::Unsupported);
            }
            let vcpus = usize::try_from(a1).map_err(|_| Status::Invalid)?;
            let version = if control.gic == 2 { Version::V2 } else { Version::V3 };
            let frames = vm::Frames { distributor: a2, interface: a3 };
            Ok([vm::create(pool, mode, vcpus, version, frames)?, 0])
        }
        Call::DestroyVm => vm::destroy(pool, a0).map(nothing),
        Call::AddMemory => {
            if a2 == 0 || a2 > MAX_FRAMES as u64 || a4 > 1 || !matches!(a3, 12 | 21) {
                return Err(Status::Invalid);
            }
            let frames = (0..a2 as usize).map(|n| {
                let frame = page.read64(BODY + n * 8);
                if control.owns(HostPhys(frame), 1 << a3) { Ok(frame) } else { Err(Status::Refused) }
            });
            vm::find(a0)?.add_memory(pool, a1, a3, a4 == 1, frames).map(nothing)
        }
        Call::GetRegisters => {
            let vm = vm::find(a0)?;
            let (_, vcpu) = vm.vcpu(a1)?;
            registers(&vcpu.registers, |n, word| page.write64(BODY + n * 8, word));
            Ok([0; 2])
        }
        Call::SetRegisters => {
            let vm = vm::find(a0)?;
            if a2 > 1 {
                return Err(Status::Invalid);
            }
            let (n, mut vcpu) = vm.vcpu(a1)?;
            if a2 == 1 {
                vm.reset_gic()?;
            }
            set_registers(&mut vcpu.registers, |n| page.read64(BODY + n * 8));
            arch::tame(&mut vcpu.registers, vm.is_aarch32());
            vcpu.unanswered = None;
            vm.reset_interface(n, &mut vcpu);
            Ok([0; 2])
        }
        Call::Run => {
            let vm = vm::find(a0)?;
            let (n, mut vcpu) = vm.vcpu(a1)?;
            let answer = page.read64(EXIT + offset_of!(Exit, data));
            let immediate = || page.read32(offset_of!(CallPage, immediate_exit)) != 0;
            write_exit(page, arch::run(&vm, n, &mut vcpu, immediate, answer));
            Ok([0; 2])
        }
        Call::SetLine => Ok([vm::find(a0)?.set_line(a1, a2)?, 0]),
    }
}

const EXIT: usize = offset_of!(CallPage, exit);

fn write_exit(page: &SharedPage, exit: Exit) {
    page.write32(EXIT, exit.reason);
    page.write32(EXIT + offset_of!(Exit, size), exit.size as u32 | (exit.write as u32) << 8);
    let words = [exit.address, exit.data, exit.deadline, exit.syndrome, exit.pc];
    let words = words.into_iter().chain(exit.arguments);
    words.enumerate().for_each(|(n, word)| page.write64(EXIT + offset_of!(Exit, address) + n * 8, word));
}

const _: () = assert!(offset_of!(Exit, arguments) == offset_of!(Exit, address) + 5 * 8);

/// Calls `put` with each word of a register file, in its order.
fn registers(r: &Registers, mut put: impl FnMut(usize, u64)) {
    let start = [r.sp, r.pc, r.pstate];
    let words = r.x.iter().chain(&start).chain(r.v.as_flattened()).chain(&r.fp_control).chain(&r.system);
    words.chain([&r.off]).enumerate().for_each(|(n, word)| put(n, *word));
}

/// The other way round.
fn set_registers(r: &mut Registers, get: impl Fn(usize) -> u64) {
    let Registers { x, sp, pc, pstate, v, fp_control, system, off } = r;
    let words = x.iter_mut().chain([sp, pc, pstate]).chain(v.as_flattened_mut()).chain(fp_control);
    words.chain(system).chain([off]).enumerate().for_each(|(n, word)| *word = get(n));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arch::{RAM, RAM_PAGES};
    use crate::pool::test_pool;
    use crate::regions::{Region, Regions};
    use crate::smmu::Smmus;
    use crate::table::Table;

    /// A control domain with all of the fake RAM but its second page.
    fn control() -> Control {
        let end = RAM + RAM_PAGES as u64 * 4096;
        let memory = [Region { start: RAM, end: RAM + 4096 }, Region { start: RAM + 8192, end }];
        let pool: &'static _ = std::boxed::Box::leak(std::boxed::Box::new(test_pool(0x1000_0000, 64)));
        let stage2 = Table::new(pool, 40).unwrap();
        Control {
            memory: Regions::from_iter(memory),
            doorbell: HostPhys(0xffff_0000),
            stage2,
            pool,
            smmus: Smmus::new(),
            gic: 2,
        }
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

    /// Machines are the whole process's; so one test at a time.
    static MACHINES: std::sync::Mutex<()> = std::sync::Mutex::new(());

    fn call(control: &Control, call: Call, arguments: [u64; 6], body: &[u64]) -> (Status, [u64; 2]) {
        let page = arch::shared_page(HostPhys(RAM));
        page.write32(0, call as u32);
        arguments
            .iter()
            .enumerate()
            .for_each(|(n, a)| page.write64(offset_of!(CallPage, arguments) + n * 8, *a));
        body.iter().enumerate().for_each(|(n, a)| page.write64(BODY + n * 8, *a));
        dispatch(control, (RAM >> 12) as u32).unwrap();
        let results = offset_of!(CallPage, results);
        (
            Status::from_number(page.read32(4) as i32).unwrap(),
            [page.read64(results), page.read64(results + 8)],
        )
    }

    const FRAMES: [u64; 2] = [0x800_0000, 0x801_0000];

    fn create(control: &Control) -> (Status, u64) {
        let [gicd, gicc] = FRAMES;
        let (status, [handle, _]) = call(control, Call::CreateVm, [0, 2, gicd, gicc, 0, 0], &[]);
        (status, handle)
    }

    #[test]
    fn a_machine_lives_from_its_making_to_its_end() {
        let _one = MACHINES.lock().unwrap_or_else(|e| e.into_inner());
        let control = control();
        let (status, vm) = create(&control);
        assert_eq!(status, Status::Done);
        let add = |at, count, shift, write, frames: &[u64]| {
            call(&control, Call::AddMemory, [vm, at, count, shift, write, 0], frames).0
        };
        assert_eq!(add(0x4000_0000, 2, 12, 1, &[RAM + 0x2000, RAM + 0x3000]), Status::Done);
        assert_eq!(add(0x4000_1000, 1, 12, 1, &[RAM + 0x4000]), Status::Refused, "mapped already");
        assert_eq!(add(0x4000_2000, 1, 12, 0, &[RAM + 0x1000]), Status::Refused, "not the control domain's");
        assert_eq!(add(0x4000_2000, 1, 12, 0, &[RAM + 0x2001]), Status::Invalid);
        assert_eq!(add(0x4000_2000, 1, 21, 0, &[RAM]), Status::Refused);
        for (count, shift, write) in [(0, 12, 0), (MAX_FRAMES as u64 + 1, 12, 0), (1, 13, 0), (1, 12, 2)] {
            assert_eq!(add(0x5000_0000, count, shift, write, &[RAM]), Status::Invalid);
        }
        assert_eq!(add(1 << 40, 1, 12, 0, &[RAM]), Status::Invalid);

        // A vCPU that was given no registers can be run.
        assert_eq!(call(&control, Call::Run, [vm, 0, 0, 0, 0, 0], &[]).0, Status::Done);
        let mut words = [0; size_of::<Registers>() / 8];
        (words[5], words[31]) = (77, 0x1000);
        assert_eq!(call(&control, Call::SetRegisters, [vm, 1, 1, 0, 0, 0], &words).0, Status::Done);
        assert_eq!(call(&control, Call::Run, [vm, 1, 0, 0, 0, 0], &[]).0, Status::Done);
        assert_eq!(call(&control, Call::GetRegisters, [vm, 1, 0, 0, 0, 0], &[]).0, Status::Done);
        let page = arch::shared_page(HostPhys(RAM));
        assert_eq!((page.read64(BODY), page.read64(BODY + 5 * 8)), (1, 77), "it ran once");
        for (what, a) in [(Call::Run, 2), (Call::GetRegisters, u64::MAX), (Call::SetRegisters, 8)] {
            assert_eq!(call(&control, what, [vm, a, 0, 0, 0, 0], &[]).0, Status::Invalid);
        }
        for (intid, level) in [(31, 1), (1020, 1), (u64::MAX, 0), (40, 2)] {
            assert_eq!(call(&control, Call::SetLine, [vm, intid, level, 0, 0, 0], &[]).0, Status::Invalid);
        }

        let used = control.pool.used();
        assert_eq!(call(&control, Call::DestroyVm, [vm, 0, 0, 0, 0, 0], &[]).0, Status::Done);
        assert!(control.pool.used() < used);
        for what in [Call::DestroyVm, Call::Run, Call::AddMemory, Call::SetLine, Call::GetRegisters] {
            let arguments = if what == Call::AddMemory { [vm, 0, 1, 12, 0, 0] } else { [vm, 40, 0, 0, 0, 0] };
            assert_eq!(call(&control, what, arguments, &[RAM]).0, Status::NoVm, "{what:?}");
        }
        let (_, next) = create(&control);
        assert_ne!(next, vm, "a handle is never used again");
        assert_eq!(call(&control, Call::DestroyAll, [0; 6], &[]).0, Status::Done);
    }

    #[test]
    fn there_are_only_so_many_machines_and_none_with_impossible_parts() {
        let _one = MACHINES.lock().unwrap_or_else(|e| e.into_inner());
        let control = Control {
            pool: std::boxed::Box::leak(std::boxed::Box::new(test_pool(0x2000_0000, 256))),
            ..control()
        };
        let [gicd, gicc] = FRAMES;
        for bad in [
            [0, 0, gicd, gicc],
            [0, 9, gicd, gicc],
            [2, 1, gicd, gicc],
            [0, 1, gicd + 1, gicc],
            [0, 1, gicd, gicd],
            [0, 1, 1 << 40, gicc],
            [0, 1, gicd, !0xffff],
        ] {
            let [a, b, c, d] = bad;
            let (status, _) = call(&control, Call::CreateVm, [a, b, c, d, 0, 0], &[]);
            assert!(matches!(status, Status::Invalid), "{bad:?}: {status:?}");
        }
        let made = (0..vm::MAX_VMS + 1).filter(|_| create(&control).0 == Status::Done).count();
        assert_eq!(made, vm::MAX_VMS);
        assert_eq!(call(&control, Call::DestroyAll, [0; 6], &[]).0, Status::Done);
        assert_eq!(control.pool.used(), 0);
    }

    proptest! {
        #[test]
        fn no_page_does_harm(frame in 0u32..16, words in proptest::collection::vec(any::<u32>(), 32), small in any::<bool>()) {
            let _one = MACHINES.lock().unwrap_or_else(|e| e.into_inner());
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
