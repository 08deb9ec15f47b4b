# Loads an interrupt descriptor table with no room for a single gate and raises an exception: a triple fault.

	.include "multiboot.inc"
	.globl _start
_start:
	lidt	[empty]
	ud2

	.data
empty:	.word	0
	.long	0
