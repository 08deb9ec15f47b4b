// The measured loops for AArch64. Each takes X0, how often, and gives in X0 the ticks of the virtual counter that it took.
//
// The image begins as a kernel does (Linux, Documentation/arch/arm64/booting.rst), so that everybody starts it at EL1 with the MMU off.
// Then come the parameters, which xtask writes there: main.rs's `Parameters`.

.section .head, "ax"
.global _start
_start:
    b start
    .long 0
    .quad 0                     // From a multiple of 2 MiB.
    .quad __image_end
    .quad 0b1010                // Little-endian, 4 KiB pages, anywhere in memory.
    .quad 0, 0, 0
    .ascii "ARM\x64"
    .long 0
parameters:
    .quad 0, 0, 0, 0, 0

start:
    msr daifset, #0xf
    adrp x9, __stack_end
    mov sp, x9
    adrp x9, vectors
    add x9, x9, :lo12:vectors
    msr vbar_el1, x9
    isb
    adr x0, parameters
    b main

.text
// The counter's value to \to, when everything before it is done.
.macro now to
    isb
    mrs \to, cntvct_el0
.endm
// What all loops begin and end with: X19 counts down, X20 is when it began.
.macro begin
    stp x29, x30, [sp, #-32]!
    stp x19, x20, [sp, #16]
    mov x19, x0
    now x20
.endm
.macro finish
    now x0
    sub x0, x0, x20
    ldp x19, x20, [sp, #16]
    ldp x29, x30, [sp], #32
    ret
.endm

// Nothing: three instructions a turn, by which the counter is known to count instructions.
.global empty_loop
empty_loop:
    begin
1:  nop
    subs x19, x19, #1
    b.ne 1b
    finish

// A call that every hypervisor has to answer: SMCCC_VERSION.
.global null_call
null_call:
    begin
1:  mov w0, #0x80000000
    hvc #0
    subs x19, x19, #1
    b.ne 1b
    finish

.global trapped_register
trapped_register:
    begin
1:  mrs x0, actlr_el1
    subs x19, x19, #1
    b.ne 1b
    finish

// A word in memory at X1.
.global read_word
read_word:
    begin
1:  ldr w0, [x1]
    subs x19, x19, #1
    b.ne 1b
    finish

// Interrupts. The loops below let them in and wait; the handler has these registers for itself.
//   X10  the GICv2's CPU interface; 0 with a GICv3
//   X11  interrupts taken
//   X12  interrupts taken before this turn
//   X9   free
.macro interrupts_begin
    begin
    mov x10, x1
    mov x11, #0
    msr daifclr, #2
.endm
.macro wait
2:  cmp x11, x12
    b.eq 2b
.endm
.macro interrupts_finish
    msr daifset, #2
    // More than were asked for: all ones.
    mov x9, x11
    now x0
    sub x0, x0, x20
    cmp x9, x2
    csinv x0, x0, xzr, eq
    ldp x19, x20, [sp, #16]
    ldp x29, x30, [sp], #32
    ret
.endm

// X1: the GICv2's CPU interface or 0; X2: as X0; X3: the GICv2's distributor.
.global self_interrupt
self_interrupt:
    interrupts_begin
    mov w4, #0x02000000         // GICD_SGIR: to the sender itself, SGI 0.
    mov x5, #1                  // ICC_SGI1R_EL1: to affinity 0, SGI 0.
1:  mov x12, x11
    cbz x10, 3f
    str w4, [x3, #0xf00]
    b 2f
3:  msr s3_0_c12_c11_5, x5
    isb
    wait
    subs x19, x19, #1
    b.ne 1b
    interrupts_finish

// X1 and X2 as above.
.global timer_interrupt
timer_interrupt:
    interrupts_begin
    mov x4, #1
1:  mov x12, x11
    mrs x5, cntvct_el0
    msr cntv_cval_el0, x5
    msr cntv_ctl_el0, x4
    isb
    wait
    subs x19, x19, #1
    b.ne 1b
    interrupts_finish

// The GICv3's CPU interface on: system registers, every priority, group 1.
.global start_system_registers
start_system_registers:
    mov x0, #7
    msr s3_0_c12_c12_5, x0      // ICC_SRE_EL1
    isb
    mov x0, #0xff
    msr s3_0_c4_c6_0, x0        // ICC_PMR_EL1
    mov x0, #1
    msr s3_0_c12_c12_7, x0      // ICC_IGRPEN1_EL1
    isb
    ret

.global power_off
power_off:
    mov w0, #0x84000000
    orr w0, w0, #8
    hvc #0
3:  b 3b

interrupt:
    cbz x10, 4f
    ldr w9, [x10, #0xc]         // GICC_IAR
    cmp w9, #1020
    b.hs 5f
    cmp w9, #27
    b.ne 6f
    mov x13, #3
    msr cntv_ctl_el0, x13
6:  str w9, [x10, #0x10]        // GICC_EOIR
    add x11, x11, #1
5:  eret
4:  mrs x9, s3_0_c12_c12_0      // ICC_IAR1_EL1
    cmp w9, #1020
    b.hs 5b
    cmp w9, #27
    b.ne 6f
    mov x13, #3
    msr cntv_ctl_el0, x13
6:  msr s3_0_c12_c12_1, x9      // ICC_EOIR1_EL1
    add x11, x11, #1
    eret

// Only interrupts at EL1 with its own stack are expected.
.macro vector to
    .balign 128
    b \to
.endm
.balign 2048
vectors:
.rept 5
    vector unexpected
.endr
    vector interrupt
.rept 10
    vector unexpected
.endr
unexpected:
    mrs x0, esr_el1
    mrs x1, elr_el1
    mrs x2, far_el1
    adrp x3, parameters
    add x3, x3, :lo12:parameters
    b fault
