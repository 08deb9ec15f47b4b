# debug-exit STATUS: writes STATUS to the debug-exit port (0xf4), which ends the machine where it has one.
# Debian's cloud kernel has no /dev/port, and busybox has no `out`; ioperm(2) and one instruction do.
# Exits with 1 when the machine is still there. Assembled for i386 and for amd64 (symbol AMD64).

	.intel_syntax noprefix
	.globl _start
	.text
.ifdef AMD64
	.set SYS_exit, 60
	.set SYS_ioperm, 173
_start:
	xor	ebx, ebx
	cmp	qword ptr [rsp], 2
	jb	1f
	mov	rsi, [rsp + 16]
	call	parse
1:	mov	eax, SYS_ioperm
	mov	edi, 0xf4
	mov	esi, 1
	mov	edx, 1
	syscall
	test	eax, eax
	jnz	2f
	mov	eax, ebx
	out	0xf4, al
2:	mov	eax, SYS_exit
	mov	edi, 1
	syscall
parse:
	movzx	eax, byte ptr [rsi]
	sub	eax, '0'
	cmp	eax, 9
	ja	3f
	imul	ebx, ebx, 10
	add	ebx, eax
	inc	rsi
	jmp	parse
3:	ret
.else
	.set SYS_exit, 1
	.set SYS_ioperm, 101
_start:
	xor	edi, edi
	cmp	dword ptr [esp], 2
	jb	1f
	mov	esi, [esp + 8]
	call	parse
1:	mov	eax, SYS_ioperm
	mov	ebx, 0xf4
	mov	ecx, 1
	mov	edx, 1
	int	0x80
	test	eax, eax
	jnz	2f
	mov	eax, edi
	out	0xf4, al
2:	mov	eax, SYS_exit
	mov	ebx, 1
	int	0x80
parse:
	movzx	eax, byte ptr [esi]
	sub	eax, '0'
	cmp	eax, 9
	ja	3f
	imul	edi, edi, 10
	add	edi, eax
	inc	esi
	jmp	parse
3:	ret
.endif
