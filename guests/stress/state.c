// Every register that a program has, kept over interrupts, signals and switches to others.
#include "stress.h"
#include "state.h"
#include <pthread.h>
#include <sched.h>

// void state_hold(struct state *state, uint64_t rounds): loads all registers from the state, waits for so many rounds
// in which only the flags and a counter on the stack change, and stores all registers in state->after.
__asm__(
	".intel_syntax noprefix\n"
	".macro vectors operation\n"
	"	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	\\operation \\n\n"
	"	.endr\n"
	".endm\n"
	".macro load_ymm n\n	vmovdqu ymm\\n, [rdi + 128 + 32 * \\n]\n.endm\n"
	".macro load_xmm n\n	movdqu xmm\\n, [rdi + 128 + 32 * \\n]\n.endm\n"
	".macro store_ymm n\n	vmovdqu [rax + 128 + 32 * \\n], ymm\\n\n.endm\n"
	".macro store_xmm n\n	movdqu [rax + 128 + 32 * \\n], xmm\\n\n.endm\n"
	".text\n"
	".globl state_hold\n"
	"state_hold:\n"
	"	push rbx\n	push rbp\n	push r12\n	push r13\n	push r14\n	push r15\n"
	"	sub rsp, 16\n"
	"	stmxcsr [rsp]\n"
	"	fnstcw [rsp + 4]\n"
	"	push rdi\n"     // [rsp + 8]: the state
	"	push rsi\n"     // [rsp]: the rounds left
	"	fninit\n"
	"	ldmxcsr [rdi + 640]\n"
	"	fldcw [rdi + 644]\n"
	"	fld tbyte ptr [rdi + 656]\n"
	"	fld tbyte ptr [rdi + 672]\n"
	"	fld tbyte ptr [rdi + 688]\n"
	"	cmp byte ptr state_has_avx[rip], 0\n"
	"	je 1f\n"
	"	vectors load_ymm\n"
	"	jmp 2f\n"
	"1:	vectors load_xmm\n"
	"2:	mov rax, [rdi]\n	mov rcx, [rdi + 8]\n	mov rdx, [rdi + 16]\n	mov rbx, [rdi + 24]\n"
	"	mov rbp, [rdi + 32]\n	mov rsi, [rdi + 40]\n	mov r8, [rdi + 56]\n	mov r9, [rdi + 64]\n"
	"	mov r10, [rdi + 72]\n	mov r11, [rdi + 80]\n	mov r12, [rdi + 88]\n	mov r13, [rdi + 96]\n"
	"	mov r14, [rdi + 104]\n	mov r15, [rdi + 112]\n	mov rdi, [rdi + 48]\n"
	"	std\n"
	"3:	dec qword ptr [rsp]\n"
	"	jnz 3b\n"
	"	push rax\n"             // the pushes keep the direction flag,
	"	pushfq\n"               // which is looked at here
	"	cld\n"
	"	mov rax, [rsp + 24]\n"
	"	lea rax, [rax + 704]\n" // after
	"	pop [rax + 120]\n"
	"	pop [rax]\n"
	"	mov [rax + 8], rcx\n	mov [rax + 16], rdx\n	mov [rax + 24], rbx\n	mov [rax + 32], rbp\n"
	"	mov [rax + 40], rsi\n	mov [rax + 48], rdi\n	mov [rax + 56], r8\n	mov [rax + 64], r9\n"
	"	mov [rax + 72], r10\n	mov [rax + 80], r11\n	mov [rax + 88], r12\n	mov [rax + 96], r13\n"
	"	mov [rax + 104], r14\n	mov [rax + 112], r15\n"
	"	cmp byte ptr state_has_avx[rip], 0\n"
	"	je 4f\n"
	"	vectors store_ymm\n"
	"	vzeroupper\n"
	"	jmp 5f\n"
	"4:	vectors store_xmm\n"
	"5:	stmxcsr [rax + 640]\n"
	"	fnstcw [rax + 644]\n"
	"	fnstsw [rax + 646]\n"
	"	fstp tbyte ptr [rax + 688]\n"
	"	fstp tbyte ptr [rax + 672]\n"
	"	fstp tbyte ptr [rax + 656]\n"
	"	add rsp, 16\n"
	"	ldmxcsr [rsp]\n"
	"	fldcw [rsp + 4]\n"
	"	add rsp, 16\n"
	"	pop r15\n	pop r14\n	pop r13\n	pop r12\n	pop rbp\n	pop rbx\n"
	"	ret\n"
	".att_syntax\n");

char state_has_avx;

void state_fill(struct state *state, uint64_t seed) {
	__builtin_cpu_init();
	state_has_avx = __builtin_cpu_supports("avx") != 0;
	memset(state, 0, sizeof *state);
	for (int i = 0; i < 15; i++)
		state->before.general[i] = (uint64_t)next(&seed) << 33 ^ (uint64_t)next(&seed) << 8 ^ seed;
	for (size_t i = 0; i < sizeof state->before.vector / 4; i++)
		((uint32_t *)state->before.vector)[i] = next(&seed) << 1;
	if (!state_has_avx)
		for (int i = 0; i < 16; i++)
			memset(state->before.vector[i] + 16, 0, 16);
	// All exceptions masked, any rounding.
	state->before.mxcsr = 0x1f80 | (next(&seed) & 3) << 13;
	state->before.control = 0x037f | (next(&seed) & 3) << 10;
	for (int i = 0; i < 3; i++) {
		state->before.x87[i].significand = 1ull << 63 | (uint64_t)next(&seed) << 31 | next(&seed);
		state->before.x87[i].exponent = 0x3fff + next(&seed) % 1000 - 500;
	}
}

void state_hold(struct state *state, uint64_t rounds);

void state_check(struct state *state, uint64_t rounds, const char *what) {
	memset(&state->after, 0, sizeof state->after);
	state_hold(state, rounds);
	const struct registers *before = &state->before, *after = &state->after;
	for (int i = 0; i < 15; i++)
		if (before->general[i] != after->general[i])
			FAIL("%s: general register %d is %#lx, not %#lx", what, i, after->general[i], before->general[i]);
	if (!(after->general[15] & 0x400))
		FAIL("%s: the direction flag is lost: %#lx", what, after->general[15]);
	for (int i = 0; i < 16; i++)
		if (memcmp(before->vector[i], after->vector[i], 32))
			FAIL("%s: vector register %d: %#lx %#lx %#lx %#lx, not %#lx %#lx %#lx %#lx", what, i,
			     *(uint64_t *)after->vector[i], *(uint64_t *)(after->vector[i] + 8),
			     *(uint64_t *)(after->vector[i] + 16), *(uint64_t *)(after->vector[i] + 24),
			     *(uint64_t *)before->vector[i], *(uint64_t *)(before->vector[i] + 8),
			     *(uint64_t *)(before->vector[i] + 16), *(uint64_t *)(before->vector[i] + 24));
	if (before->mxcsr != after->mxcsr || before->control != after->control)
		FAIL("%s: MXCSR %#x, not %#x; x87 control %#x, not %#x", what, after->mxcsr, before->mxcsr, after->control,
		     before->control);
	// Three registers pushed: the top is 5, and nothing else has happened.
	if ((after->status & 0x3fff) != 5 << 11)
		FAIL("%s: x87 status %#x", what, after->status);
	for (int i = 0; i < 3; i++)
		if (before->x87[i].significand != after->x87[i].significand || before->x87[i].exponent != after->x87[i].exponent)
			FAIL("%s: x87 register %d is %#x %#lx, not %#x %#lx", what, i, after->x87[i].exponent,
			     after->x87[i].significand, before->x87[i].exponent, before->x87[i].significand);
}

#define SECONDS 1.5

static void keep(int seed) {
	struct state state;
	double end = seconds() + SECONDS;
	for (uint64_t round = 0; seconds() < end; round++) {
		state_fill(&state, seed * 1000003 + round);
		state_check(&state, 1 + round % 7 * 20000, "switched to others");
		sched_yield();
	}
}

void state_processes(void) {
	int children[6];
	for (int i = 0; i < 6; i++) {
		children[i] = MUST(fork());
		if (children[i] == 0) {
			keep(i + 1);
			_exit(0);
		}
	}
	for (int i = 0; i < 6; i++)
		reap(children[i], "state");
}

static void *thread(void *seed) {
	keep((intptr_t)seed);
	return NULL;
}

void state_threads(void) {
	pthread_t threads[5];
	for (intptr_t i = 0; i < 5; i++)
		if (pthread_create(&threads[i], NULL, thread, (void *)(i + 100)))
			FAIL("no thread");
	for (int i = 0; i < 5; i++)
		pthread_join(threads[i], NULL);
}
