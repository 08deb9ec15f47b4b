# Says it is running, then loops for ever with interrupts off: only the machine's owner can end it.

	.include "multiboot.inc"
	.globl _start
_start:
	mov	esp, offset stack_top
	mov	esi, offset running
	call	print
	cli
1:	jmp	1b

	.data
running: .asciz	"Spinning\n"
