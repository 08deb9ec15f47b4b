// The way in: a Linux zImage (Documentation/arch/arm/booting.rst), linked at 0 and relocated to wherever it was loaded.
// The MMU and data cache are off, R2 is the device tree.

.arch_extension virt
.arch_extension sec

.macro address register, symbol
    ldr     \register, 9f
8:  add     \register, pc, \register
    b       7f
9:  .word   \symbol - (8b + 8)
7:
.endm

.section .head, "ax"
.arm
.global _start
_start:
    .rept   8
    nop
    .endr
    b       1f
    .word   0x016f2818              // zImage's magic number,
    .word   0                       // its start, which is anywhere,
    .word   __file_end              // and its end.

1:  mrs     r0, cpsr
    and     r0, r0, #0x1f
    mov     r5, r0
    mov     r4, r2
    cmp     r0, #{hyp}
    orr     r1, r0, #0x1c0
    msr     cpsr_c, r1              // The same mode, with A, I and F masked.
    adr     r6, _start
    // R_ARM_RELATIVE (23) is the only kind of relocation in .relocations.
    address r0, __relocations_start
    address r1, __relocations_end
2:  cmp     r0, r1
    bhs     3f
    ldm     r0!, {{r2, r3}}
    and     r3, r3, #0xff
    cmp     r3, #23
    bne     2b
    ldr     r3, [r6, r2]
    add     r3, r3, r6
    str     r3, [r6, r2]
    b       2b
3:  address r0, __bss_start
    address r1, __bss_end
    mov     r2, #0
4:  str     r2, [r0], #4
    cmp     r0, r1
    blo     4b
    address r0, __stacks
    add     sp, r0, #{stack}
    cmp     r5, #{hyp}
    beq     5f
    mov     r0, r4
    mov     r1, r5
    bl      wrong_level
5:  mov     r0, r6
    bl      early_tables
    mov     r7, r0
    // What was written so far went past the caches: throw away what they may have of it.
    address r0, __data_start
    address r1, __bss_end
    mrc     p15, 0, r2, c0, c0, 1   // CTR.DminLine: words, as a power of two.
    ubfx    r2, r2, #16, #4
    mov     r3, #4
    lsl     r3, r3, r2
6:  mcr     p15, 0, r0, c7, c6, 1   // DCIMVAC
    add     r0, r0, r3
    cmp     r0, r1
    blo     6b
    dsb     sy
    mov     r0, r7
    ldr     r1, ={htcr}
    bl      use_table
    mov     r0, r4
    bl      start

// A processor that PSCI starts or resumes for us: R0 is its PerCpu, a boot record first.
.global secondary_entry
secondary_entry:
    cpsid   aif
    mov     r4, r0
    ldr     r0, [r4]
    ldr     r1, [r4, #8]
    ldr     r5, [r4, #16]
    bl      use_table
    mov     sp, r5
    mov     r0, r4
    bl      secondary

// use_table(R0: HTTBR's low word, R1: HTCR): the stage 1 of Hyp mode, from now on, with the MMU off in between.
.global use_table
use_table:
    mrc     p15, 4, r2, c1, c0, 0   // HSCTLR
    bic     r2, r2, #1
    mcr     p15, 4, r2, c1, c0, 0
    isb
    movw    r2, #{mair}
    mcr     p15, 4, r2, c10, c2, 0  // HMAIR0
    mcr     p15, 4, r1, c2, c0, 2   // HTCR
    mov     r2, #0
    mcrr    p15, 4, r0, r2, c2      // HTTBR
    isb
    mcr     p15, 4, r2, c8, c7, 0   // TLBIALLH
    mcr     p15, 0, r2, c7, c5, 0   // ICIALLU
    mcr     p15, 0, r2, c7, c5, 6   // BPIALL
    dsb     sy
    ldr     r2, ={hsctlr}
    mcr     p15, 4, r2, c1, c0, 0
    isb
    bx      lr
.ltorg

.section .text.vectors, "ax"
.arm
// HVBAR: where Hyp mode takes exceptions (DDI 0406C B1.8.1).
.balign 32
.global vectors
vectors:
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7
    b       vector\number
    .endr

.macro vector number
.global vector\number
vector\number:
    sub     sp, sp, #{frame}
    stm     sp, {{r0-r12, lr}}
    mov     r1, #\number
    b       save
.endm
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7
    vector \number
    .endr

// R1: the vector's number. The rest of the frame (exceptions::Frame), and on to Rust.
save:
    mrs     r2, ELR_hyp
    mrs     r3, spsr
    str     r2, [sp, #56]
    str     r3, [sp, #60]
    mov     r0, sp
    bl      exception

// Leaves Hyp mode as the frame at SP says.
.global restore
restore:
    ldr     r2, [sp, #56]
    ldr     r3, [sp, #60]
    msr     ELR_hyp, r2
    msr     spsr_cxsf, r3
    ldm     sp, {{r0-r12, lr}}
    add     sp, sp, #{frame}
    eret

// enter_control(R0: the registers R0 to R2, then PC and CPSR; R1: this processor's stack): never back.
.global enter_control
enter_control:
    mov     sp, r1
    ldr     r2, [r0, #12]
    ldr     r3, [r0, #16]
    msr     ELR_hyp, r2
    msr     spsr_cxsf, r3
    ldm     r0, {{r0-r2}}
    mov     r3, #0
    isb
    eret

// firmware_call(R0: Arguments): the firmware is called with the low words of the first eight, which it may change.
.global firmware_call
firmware_call:
    push    {{r0, r4-r11, lr}}
    mov     r12, r0
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    ldr     r\n, [r12, #8 * \n]
    .endr
    smc     #0
    ldr     r12, [sp]
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    str     r\n, [r12, #8 * \n]
    .endr
    pop     {{r0, r4-r11, pc}}
