// The way in: a Linux arm64 Image (Documentation/arch/arm64/booting.rst), linked at 0 and relocated to wherever it was loaded.
// The MMU and data cache are off, X0 is the device tree.

// Stores (stp) or loads (ldp) X2 to X29, which lie at \base as an array of X0 to X30.
.macro x2_to_x29 op, base
    \op x2, x3, [\base, #16]
    \op x4, x5, [\base, #32]
    \op x6, x7, [\base, #48]
    \op x8, x9, [\base, #64]
    \op x10, x11, [\base, #80]
    \op x12, x13, [\base, #96]
    \op x14, x15, [\base, #112]
    \op x16, x17, [\base, #128]
    \op x18, x19, [\base, #144]
    \op x20, x21, [\base, #160]
    \op x22, x23, [\base, #176]
    \op x24, x25, [\base, #192]
    \op x26, x27, [\base, #208]
    \op x28, x29, [\base, #224]
.endm

.section .head, "ax"
.global _start
_start:
    ccmp    x18, #0, #0xd, pl       // No effect; its first two bytes are "MZ", as an EFI program begins.
    b       1f
    .quad   0                       // text_offset
    .quad   __own_size              // image_size: the pool's place is ours as well
    .quad   0xa                     // little-endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   efi_header - _start

// The same as an EFI program, which GRUB's xen_hypervisor takes (PE/COFF specification, 3 and 4; UEFI 2.10, 2.1.1).
efi_header:
    .ascii  "PE\0\0"
    .short  0xaa64, 1               // Machine: ARM64; one section;
    .long   0, 0, 0                 // no time, no symbols;
    .short  efi_sections - efi_optional, 0x206 // executable, without lines and symbols.
efi_optional:
    .short  0x20b, 0                // PE32+
    .long   __file_end, 0, 0        // Sizes of code and data,
    .long   efi_entry - _start, 0x1000 // the entry, and where code begins;
    .quad   0                       // the base, which is anywhere.
    .long   0x1000, 0x200           // Alignments in memory and in the file;
    .long   0, 0, 0, 0              // no versions.
    .long   __own_size, 0x1000, 0   // Sizes of all and of what comes before the section; no checksum.
    .short  10, 0                   // An EFI application.
    .quad   0, 0, 0, 0
    .long   0, 6                    // Six empty directories.
    .quad   0, 0, 0, 0, 0, 0
efi_sections:
    .ascii  ".text\0\0\0"
    .long   __own_size - 0x1000, 0x1000, __file_end - 0x1000, 0x1000, 0, 0, 0, 0xe0000020

1:  msr     daifset, #0xf
    msr     spsel, #1
    mov     x19, x0
    adr     x20, _start
    bl      relocate
    adrp    x0, __bss_start
    adrp    x1, __bss_end
4:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    4b
    adrp    x0, __stacks
    add     x0, x0, #{stack}
    mov     sp, x0
    mrs     x1, CurrentEL
    lsr     x1, x1, #2
    cmp     x1, #2
    b.eq    5f
    mov     x0, x19
    bl      wrong_level
5:  mov     x0, #{rw}
    msr     hcr_el2, x0             // E2H is 0: not the Virtualization Host Extensions' registers.
    isb
    mov     x0, x20
    bl      early_tables
    mov     x21, x0
    // What was written so far went past the caches: throw away what they may have of it.
    adrp    x0, __data_start
    adrp    x1, __bss_end
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4
    mov     x3, #4
    lsl     x3, x3, x2
6:  dc      ivac, x0
    add     x0, x0, x3
    cmp     x0, x1
    b.lo    6b
    dsb     sy
    ic      iallu
    bl      translation_control
    mov     x1, x0
    mov     x0, x21
    bl      use_table
    mov     x0, x19
    bl      start

// relocate(X20: _start): adds it to what is to be relocated; done again, it changes nothing. Uses X9 to X13.
relocate:
    // R_AARCH64_RELATIVE (1027) is the only kind of relocation in .relocations.
    adrp    x9, __relocations_start
    add     x9, x9, :lo12:__relocations_start
    adrp    x10, __relocations_end
    add     x10, x10, :lo12:__relocations_end
2:  cmp     x9, x10
    b.hs    3f
    ldp     x11, x12, [x9], #16
    ldr     x13, [x9], #8
    cmp     w12, #1027
    b.ne    2b
    add     x13, x13, x20
    str     x13, [x20, x11]
    b       2b
3:  ret

// The way in from UEFI, with caches and MMU on, memory at its own address and UEFI's stack: X0 is our handle, X1 the system table.
efi_entry:
    stp     x29, x30, [sp, #-32]!
    stp     x19, x20, [sp, #16]
    adr     x20, _start
    bl      relocate
    bl      efi_leave
    cbnz    x0, 4f
    mov     x0, #3                  // EFI_UNSUPPORTED
    movk    x0, #0x8000, lsl #48
    ldp     x19, x20, [sp, #16]
    ldp     x29, x30, [sp], #32
    ret
    // From now on as without UEFI: what lies in the caches of us goes to memory, and they and the MMU are off.
4:  msr     daifset, #0xf
    adrp    x1, __bss_end
    mov     x2, x20
5:  dc      civac, x2
    add     x2, x2, #16
    cmp     x2, x1
    b.lo    5b
    dsb     sy
    mrs     x1, CurrentEL
    mov     x2, #0x1005             // M, C, I
    cmp     x1, #8
    b.eq    6f
    mrs     x1, sctlr_el1
    bic     x1, x1, x2
    msr     sctlr_el1, x1
    b       7f
6:  mrs     x1, sctlr_el2
    bic     x1, x1, x2
    msr     sctlr_el2, x1
7:  isb
    b       _start

// A processor that PSCI starts or resumes for us: X0 is its PerCpu, a boot record first.
.global secondary_entry
secondary_entry:
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x19, x0
    mov     x0, #{rw}
    msr     hcr_el2, x0
    isb
    ldp     x0, x1, [x19]
    ldr     x20, [x19, #16]
    bl      use_table
    mov     sp, x20
    mov     x0, x19
    bl      secondary

// use_table(X0: TTBR0_EL2, X1: TCR_EL2): the stage 1 of EL2, from now on, with the MMU off in between.
.global use_table
use_table:
    mrs     x2, sctlr_el2
    bic     x2, x2, #1
    msr     sctlr_el2, x2
    isb
    ldr     x2, ={mair}
    msr     mair_el2, x2
    msr     tcr_el2, x1
    msr     ttbr0_el2, x0
    isb
    tlbi    alle2
    dsb     nsh
    ldr     x2, ={sctlr}
    msr     sctlr_el2, x2
    isb
    ret

.section .text.vectors, "ax"
.macro vector number
    .balign 128
    sub     sp, sp, #{frame}
    stp     x0, x1, [sp]
    mov     x1, #\number
    b       save
.endm
.balign 2048
.global vectors
vectors:
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vector \number
    .endr

// X1: the vector's number. The rest of the frame (exceptions::Frame), and on to Rust.
save:
    x2_to_x29 stp, sp
    mrs     x2, elr_el2
    stp     x30, x2, [sp, #240]
    mrs     x2, spsr_el2
    str     x2, [sp, #256]
    mov     x0, sp
    bl      exception

// Leaves EL2 as the frame at SP says.
.global restore
restore:
    ldp     x30, x2, [sp, #240]
    msr     elr_el2, x2
    ldr     x2, [sp, #256]
    msr     spsr_el2, x2
    x2_to_x29 ldp, sp
    ldp     x0, x1, [sp]
    add     sp, sp, #{frame}
    eret

// enter_control(X0: entry, X1: its X0, X2: SPSR, X3: this processor's stack): never back.
.global enter_control
enter_control:
    mov     sp, x3
    msr     elr_el2, x0
    msr     spsr_el2, x2
    mov     x0, x1
    mov     x1, #0
    mov     x2, #0
    mov     x3, #0
    isb
    eret
