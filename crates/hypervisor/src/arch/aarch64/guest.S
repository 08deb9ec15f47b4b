// Entering a guest, and what its exceptions lead to: guest_enter returns when the guest has left.
//
// The places in hypercall::Registers are checked in guest.rs.

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
    ldp x2, x3, [x0, #16]
    ldp x4, x5, [x0, #32]
    ldp x6, x7, [x0, #48]
    ldp x8, x9, [x0, #64]
    ldp x10, x11, [x0, #80]
    ldp x12, x13, [x0, #96]
    ldp x14, x15, [x0, #112]
    ldp x16, x17, [x0, #128]
    ldp x18, x19, [x0, #144]
    ldp x20, x21, [x0, #160]
    ldp x22, x23, [x0, #176]
    ldp x24, x25, [x0, #192]
    ldp x26, x27, [x0, #208]
    ldp x28, x29, [x0, #224]
    ldr x30, [x0, #240]
    ldp x0, x1, [x0]
    eret
    // Nothing is executed ahead of an exception return.
    dsb nsh
    isb

guest_left:
    ldr x0, [sp, #16]
    stp x2, x3, [x0, #16]
    stp x4, x5, [x0, #32]
    stp x6, x7, [x0, #48]
    stp x8, x9, [x0, #64]
    stp x10, x11, [x0, #80]
    stp x12, x13, [x0, #96]
    stp x14, x15, [x0, #112]
    stp x16, x17, [x0, #128]
    stp x18, x19, [x0, #144]
    stp x20, x21, [x0, #160]
    stp x22, x23, [x0, #176]
    stp x24, x25, [x0, #192]
    stp x26, x27, [x0, #208]
    stp x28, x29, [x0, #224]
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
    own 0x000
    own 0x080
    own 0x100
    own 0x180
    own 0x200
    own 0x280
    own 0x300
    own 0x380
    left 0
    left 1
    left 1
    left 2
    left 0
    left 1
    left 1
    left 2
.balign 128
