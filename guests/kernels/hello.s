# Says hello, then what the boot loader told it (its command line, the memory it counted, the modules' strings),
# and ends with status 16 through the debug-exit port. Without such a port it halts for ever.

	.include "multiboot.inc"
	.globl _start
_start:
	mov	esp, offset stack_top
	mov	ebp, eax
	mov	edi, ebx		# Multiboot information, section 3.3
	mov	esi, offset hello
	call	print
	cmp	ebp, BOOTED_BY_MULTIBOOT
	jne	wrong
	test	dword ptr [edi], 1 << 2	# flags: cmdline is there
	jz	1f
	mov	esi, offset cmdline
	call	print
	mov	esi, [edi + 16]
	call	print
	mov	esi, offset newline
	call	print
1:	test	dword ptr [edi], 1 << 0	# flags: mem_upper, in KiB above 1 MiB
	jz	2f
	mov	esi, offset memory
	call	print
	mov	eax, [edi + 8]
	call	print_decimal
	mov	esi, offset kib
	call	print
2:	test	dword ptr [edi], 1 << 3	# flags: mods_count, mods_addr
	jz	4f
	mov	ebp, [edi + 20]
	mov	ebx, [edi + 24]
3:	test	ebp, ebp
	jz	4f
	mov	esi, offset module
	call	print
	mov	eax, [ebx + 4]
	sub	eax, [ebx]
	call	print_decimal
	mov	esi, offset bytes
	call	print
	mov	esi, [ebx + 8]
	test	esi, esi
	jz	5f
	call	print
5:	mov	esi, offset newline
	call	print
	add	ebx, 16
	dec	ebp
	jmp	3b
4:	mov	al, 16
	out	DEBUG_EXIT, al
	jmp	stop
wrong:	mov	esi, offset magic
	call	print
	mov	al, 17
	out	DEBUG_EXIT, al
stop:	cli
	hlt
	jmp	stop

# Prints EAX in decimal; spoils EAX, ECX, EDX, ESI.
print_decimal:
	mov	esi, offset digits_end
	mov	ecx, 10
1:	xor	edx, edx
	div	ecx
	add	dl, '0'
	dec	esi
	mov	[esi], dl
	test	eax, eax
	jnz	1b
	jmp	print

	.data
hello:	.asciz	"Hello from a Multiboot kernel\n"
cmdline: .asciz	"command line: "
memory:	.asciz	"memory above 1 MiB: "
kib:	.asciz	" KiB\n"
module:	.asciz	"module of "
bytes:	.asciz	" bytes: "
magic:	.asciz	"EAX holds no Multiboot magic\n"
newline: .asciz	"\n"
	.skip	10
digits_end: .byte 0
