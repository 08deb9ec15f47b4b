//! ELF kernels with the PVH note: an ELF file's identification and anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut kernel = data.to_vec();
    if let Some(field) = kernel.get_mut(..4) {
        field.copy_from_slice(b"\x7fELF");
    }
    // EI_CLASS: half of all inputs are 32-bit and half 64-bit. EI_DATA little-endian, EI_VERSION 1.
    if let Some([class, order, version]) = kernel.get_mut(4..7) {
        *class = 1 + (*class & 1);
        *order = 1;
        *version = 1;
    }
    fuzz::load(&kernel);
});
