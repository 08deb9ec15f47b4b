# Writes to the console as fast as it can, for ever, never asking whether the transmitter is ready.

	.include "multiboot.inc"
	.globl _start
_start:
	mov	edx, COM1
	mov	al, 'A'
1:	out	dx, al
	inc	al
	cmp	al, 'Z' + 1
	jne	1b
	mov	al, 10
	out	dx, al
	mov	al, 'A'
	jmp	1b
