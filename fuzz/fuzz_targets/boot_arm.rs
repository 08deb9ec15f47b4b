//! The virt board's loader: an Image, a zImage, a gzip or a zboot program with its magic numbers and anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, kernel)) = data.split_first() else { return };
    let mut kernel = kernel.to_vec();
    let magics: &[(usize, &[u8])] = match kind % 5 {
        0 => &[(0x38, b"ARM\x64")],
        1 => &[(0x24, b"\x18\x28\x6f\x01")],
        2 => &[(0, b"\x1f\x8b\x08")],
        3 => &[(0, b"MZ"), (4, b"zimg"), (24, b"gzip\0")],
        _ => &[],
    };
    for (offset, magic) in magics {
        if let Some(field) = kernel.get_mut(*offset..offset + magic.len()) {
            field.copy_from_slice(magic);
        }
    }
    fuzz::load_on_arm(&kernel);
});
