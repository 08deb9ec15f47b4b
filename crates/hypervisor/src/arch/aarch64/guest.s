// Entering a guest, and what its exceptions lead to: guest_enter returns when the guest has left. Behind start.s, with its macros.
//
// The places in hypercall::Registers are checked in guest.rs.

.text

.equ SP_EL0_AT, 248
.equ PC_AT, 256

// u64 guest_enter(Registers *x0): loads the general registers, PC and PSTATE, and goes there. Returns a number of guest.rs's `Left`.
.global guest_enter
guest_enter:
    stp x29, x30, [sp, #-16]!
    stp x27, x28, [sp, #-16]!
    stp x25, x26, [sp, #-16]!
    stp x23, x24, [sp, #-16]!
    stp x21, x22, [sp, #-16]!
    stp x19, x20, [sp, #-16]!
    str x0, [sp, #-16]!
    ldp x2, x3, [x0, #PC_AT]
    msr elr_el2, x2
    msr spsr_el2, x3
    x2_to_x29 ldp, x0
    ldr x30, [x0, #240]
    ldp x0, x1, [x0]
    eret
    // Nothing is executed ahead of an exception return.
    dsb nsh
    isb

guest_left:
    ldr x0, [sp, #16]
    x2_to_x29 stp, x0
    str x30, [x0, #240]
    ldp x2, x3, [sp], #16
    stp x2, x3, [x0]
    mrs x2, elr_el2
    mrs x3, spsr_el2
    stp x2, x3, [x0, #PC_AT]
    add sp, sp, #16
    mov x0, x1
    ldp x19, x20, [sp], #16
    ldp x21, x22, [sp], #16
    ldp x23, x24, [sp], #16
    ldp x25, x26, [sp], #16
    ldp x27, x28, [sp], #16
    ldp x29, x30, [sp], #16
    ret

.macro left why
    .balign 128
    stp x0, x1, [sp, #-16]!
    mov x1, #\why
    b guest_left
.endm
// An exception of EL2's own is the same there as at any other time: to the vector at the same place of the usual table.
.macro own offset
    .balign 128
    b vectors + \offset
.endm

// VBAR_EL2 while a guest runs.
.balign 2048
.global guest_vectors
guest_vectors:
    .irp offset, 0x000, 0x080, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380
    own \offset
    .endr
    // Synchronous, IRQ, FIQ, SError: from AArch64, then from AArch32.
    .irp why, 0, 1, 1, 2, 0, 1, 1, 2
    left \why
    .endr
.balign 128
