//! A kernel that does what it is told on its serial line, as the least guest that tests can drive.
//!
//! It is a Multiboot 1 image with the address fields (Multiboot Specification 0.6.96, 3.1.1) loaded at 1 MiB. It says `hello`
//! and then obeys each byte it gets; bytes that are no command it sends back.
//!
//! | byte | what it does |
//! |---|---|
//! | `q` | writes 16 to the debug-exit port 0xf4 |
//! | `p` | powers off by PM1a_CNT |
//! | `B` | from now on powers off, with `bye`, when the power button is pressed |
//! | `r` | resets by port 0xcf9 |
//! | `t` | triple fault |
//! | `f` | 10,000 lines of `flood` |
//! | `d` | `debug` on port 0xe9 |

use std::arch::global_asm;

global_asm!(
    ".pushsection .rodata.test_kernel, \"a\", @progbits",
    ".balign 16",
    "test_kernel_start:",
    ".code32",
    ".long 0x1badb002",
    ".long 0x00010000",
    ".long -(0x1badb002 + 0x00010000)",
    ".long 0x100000",                                       // header_addr
    ".long 0x100000",                                       // load_addr
    ".long 0x100000 + test_kernel_end - test_kernel_start", // load_end_addr
    ".long 0x110000",                                       // bss_end_addr
    ".long 0x100000 + 1f - test_kernel_start",              // entry_addr
    "1: mov esp, 0x110000",
    "xor ebx, ebx", // 1: the power button is listened to
    "mov esi, offset test_kernel_hello",
    "call 70f",
    // The loop.
    "2: test ebx, ebx",
    "jz 3f",
    "mov edx, 0x600",
    "in ax, dx",
    "test ah, 1",
    "jz 3f",
    "mov esi, offset test_kernel_bye",
    "call 70f",
    "jmp 12f",
    "3: mov edx, 0x3fd",
    "in al, dx",
    "test al, 1",
    "jz 2b",
    "mov edx, 0x3f8",
    "in al, dx",
    "cmp al, 'q'",
    "je 11f",
    "cmp al, 'p'",
    "je 12f",
    "cmp al, 'B'",
    "je 13f",
    "cmp al, 'r'",
    "je 14f",
    "cmp al, 't'",
    "je 15f",
    "cmp al, 'f'",
    "je 16f",
    "cmp al, 'd'",
    "je 17f",
    "call 60f",
    "jmp 2b",
    "11: mov al, 16",
    "out 0xf4, al",
    "jmp 2b",
    "12: mov edx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
    "jmp 2b",
    "13: mov edx, 0x602",
    "mov ax, 0x100",
    "out dx, ax",
    "mov ebx, 1",
    "jmp 2b",
    "14: mov edx, 0xcf9",
    "mov al, 6",
    "out dx, al",
    "jmp 2b",
    "15: lidt [test_kernel_nothing]",
    "int 3",
    "16: mov edi, 10000",
    "4: mov esi, offset test_kernel_flood",
    "call 70f",
    "dec edi",
    "jnz 4b",
    "jmp 2b",
    "17: mov esi, offset test_kernel_debug",
    "5: lodsb",
    "test al, al",
    "jz 2b",
    "out 0xe9, al",
    "jmp 5b",
    // Sends AL; spoils ECX, EDX.
    "60: mov ecx, eax",
    "6: mov edx, 0x3fd",
    "in al, dx",
    "test al, 0x20",
    "jz 6b",
    "mov eax, ecx",
    "mov edx, 0x3f8",
    "out dx, al",
    "ret",
    // Sends the text at ESI.
    "70: lodsb",
    "test al, al",
    "jz 7f",
    "call 60b",
    "jmp 70b",
    "7: ret",
    "test_kernel_hello_text: .asciz \"hello\\r\\n\"",
    "test_kernel_bye_text: .asciz \"bye\\r\\n\"",
    "test_kernel_flood_text: .asciz \"flood\\r\\n\"",
    "test_kernel_nothing_text: .long 0, 0",
    "test_kernel_debug_text: .asciz \"debug\\n\"",
    "test_kernel_end:",
    // Where the texts are when the image lies at 1 MiB.
    ".set test_kernel_hello, 0x100000 + test_kernel_hello_text - test_kernel_start",
    ".set test_kernel_bye, 0x100000 + test_kernel_bye_text - test_kernel_start",
    ".set test_kernel_flood, 0x100000 + test_kernel_flood_text - test_kernel_start",
    ".set test_kernel_nothing, 0x100000 + test_kernel_nothing_text - test_kernel_start",
    ".set test_kernel_debug, 0x100000 + test_kernel_debug_text - test_kernel_start",
    ".code64",
    ".popsection",
);

unsafe extern "C" {
    static test_kernel_start: u8;
    static test_kernel_end: u8;
}

/// The kernel's file.
pub fn bytes() -> &'static [u8] {
    let (start, end) = (&raw const test_kernel_start, &raw const test_kernel_end);
    // SAFETY: the two labels begin and end one section of constant bytes, assembled above.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}
