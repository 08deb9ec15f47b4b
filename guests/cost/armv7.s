@ The measured loops for ARMv7. Each takes R0, how often, and gives in R0 the ticks of the virtual counter that it took: the lower half.
@
@ The image begins as a zImage does (Linux, Documentation/arch/arm/booting.rst), so that everybody starts it in Supervisor mode with the
@ MMU off. Then come the parameters, which xtask writes there: main.rs's `Parameters`.

.syntax unified
.arm
.arch armv7-a
.arch_extension virt
.section .head, "ax"
.global _start
_start:
.rept 8
    nop
.endr
    b start
    .long 0x016f2818
    .long 0                     @ Anywhere in memory.
    .long __image_end - _start
    .balign 64
parameters:
    .quad 0, 0, 0, 0, 0

start:
    cpsid aif, #0x13
    adr r0, start
    ldr r1, =__stack_end - start
    add sp, r0, r1
    ldr r1, =vectors - start
    add r1, r0, r1
    mcr p15, 0, r1, c12, c0, 0  @ VBAR
    isb
    adr r0, parameters
    b main
    .ltorg

.text
.macro now to
    isb
    mrrc p15, 1, \to, r12, c14
.endm
@ What all loops begin and end with: R4 counts down, R5 is when it began.
.macro begin
    push {r4-r11, lr}
    mov r4, r0
    now r5
.endm
.macro finish
    now r0
    sub r0, r0, r5
    pop {r4-r11, pc}
.endm

@ Nothing: three instructions a turn, by which the counter is known to count instructions.
.global empty_loop
empty_loop:
    begin
1:  nop
    subs r4, r4, #1
    bne 1b
    finish

@ A call that every hypervisor has to answer: SMCCC_VERSION.
.global null_call
null_call:
    begin
1:  mov r0, #0x80000000
    hvc #0
    subs r4, r4, #1
    bne 1b
    finish

@ ACTLR.
.global trapped_register
trapped_register:
    begin
1:  mrc p15, 0, r0, c1, c0, 1
    subs r4, r4, #1
    bne 1b
    finish

@ A word in memory at R1.
.global read_word
read_word:
    begin
1:  ldr r0, [r1]
    subs r4, r4, #1
    bne 1b
    finish

@ Interrupts. The loops below let them in and wait; the handler has these registers for itself.
@   R8   the GICv2's CPU interface
@   R9   interrupts taken
@   R10  interrupts taken before this turn
@   R11, R7  free
.macro interrupts_begin
    begin
    mov r8, r1
    mov r9, #0
    cpsie i
.endm
.macro wait
2:  cmp r9, r10
    beq 2b
.endm
.macro interrupts_finish
    cpsid i
    now r0
    sub r0, r0, r5
    @ More than were asked for: all ones.
    cmp r9, r2
    mvnne r0, #0
    pop {r4-r11, pc}
.endm

@ R1: the GICv2's CPU interface; R2: as R0; R3: the GICv2's distributor.
.global self_interrupt
self_interrupt:
    interrupts_begin
    add r3, r3, #0xf00
    mov r6, #0x02000000         @ GICD_SGIR: to the sender itself, SGI 0.
1:  mov r10, r9
    str r6, [r3]
    wait
    subs r4, r4, #1
    bne 1b
    interrupts_finish

@ R1 and R2 as above.
.global timer_interrupt
timer_interrupt:
    interrupts_begin
    mov r6, #1
1:  mov r10, r9
    mrrc p15, 1, r0, r3, c14    @ CNTVCT
    mcrr p15, 3, r0, r3, c14    @ CNTV_CVAL
    mcr p15, 0, r6, c14, c3, 1  @ CNTV_CTL
    isb
    wait
    subs r4, r4, #1
    bne 1b
    interrupts_finish

@ Of GICv3, which there is none with.
.global start_system_registers
start_system_registers:
    bx lr

.global power_off
power_off:
    ldr r0, =0x84000008
    hvc #0
3:  b 3b
    .ltorg

interrupt:
    ldr r11, [r8, #0xc]         @ GICC_IAR
    cmp r11, #1020
    bhs 5f
    cmp r11, #27
    bne 6f
    mov r7, #3
    mcr p15, 0, r7, c14, c3, 1
6:  str r11, [r8, #0x10]        @ GICC_EOIR
    add r9, r9, #1
5:  subs pc, lr, #4

.balign 32
vectors:
.rept 6
    b unexpected
.endr
    b interrupt
    b unexpected
unexpected:
    mrc p15, 0, r0, c5, c0, 0   @ DFSR
    mov r1, lr
    mrc p15, 0, r2, c6, c0, 0   @ DFAR
    cpsid aif, #0x13
    mrc p15, 0, r3, c12, c0, 0  @ VBAR
    ldr r4, =parameters - vectors
    add r3, r3, r4
    b fault
    .ltorg
