// Entering a guest, and what its exceptions lead to: guest_enter returns when the guest has left.
//
// The places in hypercall::Registers are checked in guest.rs. Of each register its low word is used.

.arch_extension virt
.fpu neon

.equ PC_AT, 256
.equ CPSR_AT, 264

.text
.arm
// u32 guest_enter(Registers *r0): loads the general registers that all modes but FIQ have, LR_usr, PC and CPSR, and goes there.
// Returns a number of guest.rs.
.global guest_enter
guest_enter:
    push    {r0, r4-r11, lr}
    ldr     r2, [r0, #PC_AT]
    ldr     r3, [r0, #CPSR_AT]
    msr     ELR_hyp, r2
    msr     spsr_cxsf, r3
    ldr     r1, [r0, #8]
    ldr     r2, [r0, #16]
    ldr     r3, [r0, #24]
    ldr     r4, [r0, #32]
    ldr     r5, [r0, #40]
    ldr     r6, [r0, #48]
    ldr     r7, [r0, #56]
    ldr     r8, [r0, #64]
    ldr     r9, [r0, #72]
    ldr     r10, [r0, #80]
    ldr     r11, [r0, #88]
    ldr     r12, [r0, #96]
    ldr     lr, [r0, #112]
    ldr     r0, [r0]
    eret
    // Nothing is executed ahead of an exception return.
    dsb     nsh
    isb

guest_left:
    ldr     r0, [sp, #8]
    str     r2, [r0, #16]
    str     r3, [r0, #24]
    str     r4, [r0, #32]
    str     r5, [r0, #40]
    str     r6, [r0, #48]
    str     r7, [r0, #56]
    str     r8, [r0, #64]
    str     r9, [r0, #72]
    str     r10, [r0, #80]
    str     r11, [r0, #88]
    str     r12, [r0, #96]
    str     lr, [r0, #112]
    pop     {r2, r3}
    str     r2, [r0]
    str     r3, [r0, #8]
    mrs     r2, ELR_hyp
    mrs     r3, spsr
    str     r2, [r0, #PC_AT]
    str     r3, [r0, #CPSR_AT]
    mov     r0, r1
    pop     {r2, r4-r11, pc}

.macro left why
    push    {r0, r1}
    mov     r1, #\why
    b       guest_left
.endm

guest_trap:
    left    0
guest_interrupt:
    left    1
// A data abort: a guest's is asynchronous and was routed here; else it is our own.
guest_abort:
    push    {r0, r1}
    mrs     r0, spsr
    and     r0, r0, #0x1f
    cmp     r0, #0x1a
    movne   r1, #2
    bne     guest_left
    pop     {r0, r1}
    b       vector4

// HVBAR while a guest runs. An exception of Hyp mode's own is the same as at any other time.
.balign 32
.global guest_vectors
guest_vectors:
    b       vector0
    b       vector1
    b       vector2
    b       vector3
    b       guest_abort
    b       guest_trap
    b       guest_interrupt
    b       guest_interrupt

// Of D0 to D31, to and from 256 bytes at R0; FPEXC.EN is set.
.global store_vectors
store_vectors:
    vstm    r0!, {d0-d15}
    vstm    r0, {d16-d31}
    bx      lr
.global fetch_vectors
fetch_vectors:
    vldm    r0!, {d0-d15}
    vldm    r0, {d16-d31}
    bx      lr
