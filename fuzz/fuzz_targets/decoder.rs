//! The interpreter's decoder: any bytes, in any mode.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use address::GuestPhys;
use engine_translate::cpu::{Cpu, Mode};
use engine_translate::decode::decode;
use engine_translate::remote::{Remote, Shared};
use libfuzzer_sys::fuzz_target;
use memory::{GuestMemory, Kind, RegionConfig};

/// Instructions a block may have.
const MOST: usize = 64;

thread_local! {
    static CPU: RefCell<Cpu> = RefCell::new(cpu());
}

fn cpu() -> Cpu {
    let config = RegionConfig { base: GuestPhys(0), len: 64 << 10, kind: Kind::Ram };
    let memory = Arc::new(GuestMemory::new(&[config]).expect("64 KiB of memory"));
    let remote = Arc::new(Remote::new(Default::default()));
    Cpu::new(0, Arc::new(Shared::new(memory, 1, 1_000_000)), remote)
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, code)) = data.split_first() else { return };
    // A block never crosses a page.
    let code = &code[..code.len().min(4096)];
    CPU.with_borrow_mut(|cpu| {
        cpu.mode = match mode % 3 {
            0 => Mode(Mode::CODE64 | Mode::FLAT),
            1 => Mode(Mode::CODE32 | Mode::STACK32),
            _ => Mode(Mode::CODE16),
        };
        let ops = decode(cpu, code, 0x1000, MOST);
        assert!(ops.len() <= MOST, "{} instructions", ops.len());
        let mut end = 0;
        for op in &ops {
            assert_eq!(usize::from(op.offset), end, "instructions follow each other");
            assert!((1..=15).contains(&op.len), "an instruction of {} bytes", op.len);
            end += usize::from(op.len);
        }
        assert!(end <= code.len(), "{end} bytes decoded of {}", code.len());
    });
});
