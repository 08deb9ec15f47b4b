//! The Linux boot protocol's loader: a file with its magic numbers and anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut kernel = data.to_vec();
    // Linux, Documentation/arch/x86/boot.rst: boot_flag and header.
    for (offset, magic) in [(0x1fe, b"\x55\xaa".as_slice()), (0x202, b"HdrS")] {
        if let Some(field) = kernel.get_mut(offset..offset + magic.len()) {
            field.copy_from_slice(magic);
        }
    }
    fuzz::load(&kernel);
});
