// The way in: a Linux arm64 Image (Documentation/arch/arm64/booting.rst), linked at 0 and relocated to wherever it was loaded.
// The MMU and data cache are off, X0 is the device tree.

.section .head, "ax"
.global _start
_start:
    b       1f
    .long   0
    .quad   0                       // text_offset
    .quad   __own_size              // image_size: the pool's place is ours as well
    .quad   0xa                     // little-endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

1:  msr     daifset, #0xf
    msr     spsel, #1
    mov     x19, x0
    adr     x20, _start
    // R_AARCH64_RELATIVE (1027) is the only kind of relocation in .rela.dyn.
    adrp    x0, __rela_start
    add     x0, x0, :lo12:__rela_start
    adrp    x1, __rela_end
    add     x1, x1, :lo12:__rela_end
2:  cmp     x0, x1
    b.hs    3f
    ldp     x2, x3, [x0], #16
    ldr     x4, [x0], #8
    cmp     w3, #1027
    b.ne    2b
    add     x4, x4, x20
    str     x4, [x20, x2]
    b       2b
3:  adrp    x0, __bss_start
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
    mov     x22, x1
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
    mov     x0, x21
    mov     x1, x22
    bl      use_table
    mov     x0, x19
    bl      start

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
    vector 0
    vector 1
    vector 2
    vector 3
    vector 4
    vector 5
    vector 6
    vector 7
    vector 8
    vector 9
    vector 10
    vector 11
    vector 12
    vector 13
    vector 14
    vector 15

// X1: the vector's number. The rest of the frame (exceptions::Frame), and on to Rust.
save:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
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
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
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
