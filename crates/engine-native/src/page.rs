//! A call page of this process: accessed a word at a time, since the hypervisor accesses it too.

use hypercall::page::{BODY, CallPage, Exit};
use hypercall::{MAX_FRAMES, Registers};
use memory::mapping::Mapping;
use std::mem::{offset_of, size_of};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::*};

const SIZE: usize = size_of::<CallPage>();
const EXIT: usize = offset_of!(CallPage, exit);

/// One page of a mapping, as a [`CallPage`].
#[derive(Debug)]
pub struct Page {
    base: NonNull<u8>,
    frame: u64,
    _mapping: Arc<Mapping>,
}

// SAFETY: all accesses are atomic, and the mapping lives as long as this.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Page `index` of `mapping`, which lies in frame number `frame`; `None` past the mapping's end.
    pub fn new(mapping: &Arc<Mapping>, index: usize, frame: u64) -> Option<Page> {
        let offset = index.checked_mul(SIZE)?;
        if offset.checked_add(SIZE)? > mapping.len() {
            return None;
        }
        // SAFETY: the page was just seen to lie in the mapping.
        let base = unsafe { mapping.host().add(offset) };
        Some(Page { base, frame, _mapping: mapping.clone() })
    }

    /// The number of the frame that the page lies in.
    pub fn frame(&self) -> u64 {
        self.frame
    }

    fn u8(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < SIZE);
        // SAFETY: the byte lies in the page, which is mapped while `self` lives; others access it atomically too.
        unsafe { self.base.add(offset).cast().as_ref() }
    }
    fn u32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < SIZE);
        // SAFETY: as in `u8`; pages are aligned, and so is the word.
        unsafe { self.base.add(offset).cast().as_ref() }
    }
    fn u64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < SIZE);
        // SAFETY: as in `u32`.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    pub fn call(&self) -> u32 {
        self.u32(offset_of!(CallPage, call)).load(Acquire)
    }
    /// Fills in a call: its number and arguments. The result is none of [`hypercall::Status`] until it is made.
    pub fn set_call(&self, number: u32, arguments: &[u64]) {
        self.u32(offset_of!(CallPage, call)).store(number, Relaxed);
        self.set_result(i32::MIN);
        for n in 0..6 {
            let argument = arguments.get(n).copied().unwrap_or(0);
            self.u64(offset_of!(CallPage, arguments) + 8 * n).store(argument, Relaxed);
        }
        for n in 0..2 {
            self.set_results(n, 0);
        }
    }
    pub fn argument(&self, n: usize) -> u64 {
        self.u64(offset_of!(CallPage, arguments) + 8 * n.min(5)).load(Relaxed)
    }
    pub fn result(&self) -> i32 {
        self.u32(offset_of!(CallPage, result)).load(Acquire) as i32
    }
    /// The hypervisor's side, as a fake one has it.
    pub fn set_result(&self, result: i32) {
        self.u32(offset_of!(CallPage, result)).store(result as u32, Release);
    }
    /// r0 and r1.
    pub fn results(&self, n: usize) -> u64 {
        self.u64(offset_of!(CallPage, results) + 8 * n.min(1)).load(Relaxed)
    }
    pub fn set_results(&self, n: usize, value: u64) {
        self.u64(offset_of!(CallPage, results) + 8 * n.min(1)).store(value, Relaxed);
    }

    /// Whether the next run is to leave at once. From any thread.
    pub fn set_immediate_exit(&self, leave: bool) {
        self.u32(offset_of!(CallPage, immediate_exit)).store(leave.into(), SeqCst);
    }
    pub fn immediate_exit(&self) -> bool {
        self.u32(offset_of!(CallPage, immediate_exit)).load(SeqCst) != 0
    }

    /// The exit record of a run.
    pub fn exit(&self) -> Exit {
        let u64 = |offset| self.u64(EXIT + offset).load(Relaxed);
        Exit {
            reason: self.u32(EXIT + offset_of!(Exit, reason)).load(Relaxed),
            size: self.u8(EXIT + offset_of!(Exit, size)).load(Relaxed),
            write: self.u8(EXIT + offset_of!(Exit, write)).load(Relaxed),
            reserved: [0; 2],
            address: u64(offset_of!(Exit, address)),
            data: u64(offset_of!(Exit, data)),
            deadline: u64(offset_of!(Exit, deadline)),
            syndrome: u64(offset_of!(Exit, syndrome)),
            pc: u64(offset_of!(Exit, pc)),
            arguments: std::array::from_fn(|n| u64(offset_of!(Exit, arguments) + 8 * n)),
        }
    }
    /// The hypervisor's side.
    pub fn set_exit(&self, exit: &Exit) {
        let set = |offset, value| self.u64(EXIT + offset).store(value, Relaxed);
        self.u32(EXIT + offset_of!(Exit, reason)).store(exit.reason, Relaxed);
        self.u8(EXIT + offset_of!(Exit, size)).store(exit.size, Relaxed);
        self.u8(EXIT + offset_of!(Exit, write)).store(exit.write, Relaxed);
        set(offset_of!(Exit, address), exit.address);
        set(offset_of!(Exit, data), exit.data);
        set(offset_of!(Exit, deadline), exit.deadline);
        set(offset_of!(Exit, syndrome), exit.syndrome);
        set(offset_of!(Exit, pc), exit.pc);
        for (n, &argument) in exit.arguments.iter().enumerate() {
            set(offset_of!(Exit, arguments) + 8 * n, argument);
        }
    }
    /// The answer to an exit that wants one.
    pub fn answer(&self, data: u64) {
        self.u64(EXIT + offset_of!(Exit, data)).store(data, Relaxed);
    }

    /// Writes the body's first words; what doesn't fit is left out.
    pub fn set_body(&self, words: impl Iterator<Item = u64>) {
        for (n, word) in words.take(MAX_FRAMES).enumerate() {
            self.u64(BODY + 8 * n).store(word, Relaxed);
        }
    }
    /// Word `n` of the body; of those past its end the last.
    pub fn body(&self, n: usize) -> u64 {
        self.u64(BODY + 8 * n.min(MAX_FRAMES - 1)).load(Relaxed)
    }

    pub fn set_registers(&self, r: &Registers) {
        self.set_body(words(r));
    }
    pub fn registers(&self) -> Registers {
        let mut r = Registers::RESET;
        let mut n = 0;
        let mut next = || {
            n += 1;
            self.body(n - 1)
        };
        r.x.fill_with(&mut next);
        r.sp = next();
        r.pc = next();
        r.pstate = next();
        r.v.as_flattened_mut().fill_with(&mut next);
        r.fp_control.fill_with(&mut next);
        r.system.fill_with(&mut next);
        r.off = next();
        r
    }
}

/// A register file's words in memory.
fn words(r: &Registers) -> impl Iterator<Item = u64> {
    let general = r.x.iter().chain([&r.sp, &r.pc, &r.pstate]);
    let rest = r.v.as_flattened().iter().chain(&r.fp_control).chain(&r.system).chain([&r.off]);
    general.chain(rest).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        Page::new(&Arc::new(Mapping::new("test", 8192).unwrap()), 1, 5).unwrap()
    }

    #[test]
    fn registers_lie_where_the_contract_has_them() {
        let mut r = Registers::RESET;
        r.x[30] = 1;
        r.pc = 2;
        r.v[31][1] = 3;
        r.system[0] = 4;
        r.off = 5;
        let words: Vec<u64> = words(&r).collect();
        assert_eq!(words.len() * 8, size_of::<Registers>());
        let at = |offset: usize| words[offset / 8];
        assert_eq!(at(offset_of!(Registers, x) + 30 * 8), 1);
        assert_eq!(at(offset_of!(Registers, pc)), 2);
        assert_eq!(at(offset_of!(Registers, v) + 63 * 8), 3);
        assert_eq!(at(offset_of!(Registers, system)), 4);
        assert_eq!(at(offset_of!(Registers, off)), 5);
        let page = page();
        page.set_registers(&r);
        assert_eq!(page.registers(), r);
    }

    #[test]
    fn exit_and_call_come_back_as_they_were_put() {
        let page = page();
        let exit = Exit {
            reason: 2,
            size: 4,
            write: 1,
            address: 7,
            data: 8,
            arguments: [1, 2, 3, 4],
            ..Exit::default()
        };
        page.set_exit(&exit);
        assert_eq!(page.exit(), exit);
        page.answer(9);
        assert_eq!(page.exit().data, 9);
        page.set_call(7, &[1, 2]);
        assert_eq!((page.call(), page.argument(1), page.argument(2)), (7, 2, 0));
    }

    #[test]
    fn new_past_the_mapping_is_none_and_a_long_body_is_cut() {
        let mapping = Arc::new(Mapping::new("test", 4096).unwrap());
        assert!(Page::new(&mapping, 1, 0).is_none() && Page::new(&mapping, usize::MAX, 0).is_none());
        let page = Page::new(&mapping, 0, 0).unwrap();
        page.set_body((0..).take(1000));
        assert_eq!(page.body(usize::MAX), MAX_FRAMES as u64 - 1);
    }
}
