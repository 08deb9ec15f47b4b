// Entering a guest, and what its exceptions lead to: guest_enter returns when the guest has left.
//
// The places in hypercall::Registers are checked in guest.rs. Of each register its low word is used. Behind start.s.

.fpu neon

.equ PC_AT, 256
.equ CPSR_AT, 264

.text
.arm
// u32 guest_enter(Registers *r0): loads the general registers that all modes but FIQ have, LR_usr, PC and CPSR, and goes there.
// Returns a number of guest.rs.
.global guest_enter
guest_enter:
    push    {{r0, r4-r11, lr}}
    ldr     r2, [r0, #PC_AT]
    ldr     r3, [r0, #CPSR_AT]
    msr     ELR_hyp, r2
    msr     spsr_cxsf, r3
    .irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
    ldr     r\n, [r0, #8 * \n]
    .endr
    ldr     lr, [r0, #112]
    ldr     r0, [r0]
    eret
    // Nothing is executed ahead of an exception return.
    dsb     nsh
    isb

guest_left:
    ldr     r0, [sp, #8]
    .irp n, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
    str     r\n, [r0, #8 * \n]
    .endr
    str     lr, [r0, #112]
    pop     {{r2, r3}}
    str     r2, [r0]
    str     r3, [r0, #8]
    mrs     r2, ELR_hyp
    mrs     r3, spsr
    str     r2, [r0, #PC_AT]
    str     r3, [r0, #CPSR_AT]
    mov     r0, r1
    pop     {{r2, r4-r11, pc}}

.macro left why
    push    {{r0, r1}}
    mov     r1, #\why
    b       guest_left
.endm

guest_trap:
    left    0
guest_interrupt:
    left    1
// A data abort: a guest's is asynchronous and was routed here; else it is our own.
guest_abort:
    push    {{r0, r1}}
    mrs     r0, spsr
    and     r0, r0, #0x1f
    cmp     r0, #0x1a
    movne   r1, #2
    bne     guest_left
    pop     {{r0, r1}}
    b       vector4

// HVBAR while a guest runs. An exception of Hyp mode's own is the same as at any other time.
.balign 32
.global guest_vectors
guest_vectors:
    .irp number, 0, 1, 2, 3
    b       vector\number
    .endr
    b       guest_abort
    b       guest_trap
    b       guest_interrupt
    b       guest_interrupt

// Of D0 to D31, to and from 256 bytes at R0; FPEXC.EN is set.
.global store_vectors
store_vectors:
    vstm    r0!, {{d0-d15}}
    vstm    r0, {{d16-d31}}
    bx      lr
.global fetch_vectors
fetch_vectors:
    vldm    r0!, {{d0-d15}}
    vldm    r0, {{d16-d31}}
    bx      lr
