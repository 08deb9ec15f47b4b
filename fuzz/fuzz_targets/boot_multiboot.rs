//! Multiboot 1 kernels, ELF and with the addresses in the header: a header that is one, and anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;

const MAGIC: u32 = 0x1bad_b002;

fuzz_target!(|data: &[u8]| {
    let Some((&at, data)) = data.split_first() else { return };
    let mut kernel = data.to_vec();
    // Multiboot Specification 0.6.96, section 3.1.1: 4-byte aligned, the three first words add up to 0.
    let at = usize::from(at) * 4;
    if let Some(header) = kernel.get_mut(at..at + 12) {
        let flags = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[8..].copy_from_slice(&0u32.wrapping_sub(MAGIC).wrapping_sub(flags).to_le_bytes());
    }
    fuzz::load(&kernel);
});
