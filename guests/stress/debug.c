// A debugger: ptrace's single steps counted exactly, watchpoints in the debug registers, and breakpoints by int3.
#include "stress.h"
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

// What is stepped through: from debug_begin to debug_end, each of which is an int3.
void debug_steps_code(void);
extern char debug_begin[], debug_end[];
__asm__(
	".intel_syntax noprefix\n"
	".text\n"
	"debug_steps_code:\n"
	"	push rbx\n"
	"debug_begin:\n"
	"	int3\n"
	"	mov ecx, 500\n" // 1
	"1:	add eax, ecx\n" // 500 times 3
	"	dec ecx\n"
	"	jnz 1b\n"
	"	mov ecx, 7\n" // 5, and one for each byte
	"	lea rsi, [rsp - 64]\n"
	"	lea rdi, [rsp - 128]\n"
	"	cld\n"
	"	mov edx, 1\n"
	"	rep movsb\n"
	"	rep movsb\n"       // of no byte: 1
	"	call 2f\n"         // 1
	"	pushfq\n"          // 1
	"	lea rsp, [rsp + 8]\n" // 1; popfq would make the step's flag the program's own
	"	push rcx\n"        // 1
	"	mov eax, 39\n"     // 1
	"	syscall\n"         // 1 (getpid)
	"	pop rcx\n"         // 1
	"	movups xmm0, [rsp]\n" // 1
	"	cpuid\n"           // 1
	"	mov eax, ss\n"     // 1
	"	mov ss, eax\n"     // no trap behind it
	"	nop\n"             // 1
	"debug_end:\n"
	"	int3\n"
	"	pop rbx\n"
	"	ret\n"
	"2:	nop\n" // 1
	"	ret\n" // 1
	".att_syntax\n");
#define STEPS (1 + 500 * 3 + 5 + 7 + 1 + 1 + 2 + 8 + 2)

static struct user_regs_struct registers(int child) {
	struct user_regs_struct regs;
	MUST(ptrace(PTRACE_GETREGS, child, NULL, &regs));
	return regs;
}

// Starts a child that runs `code` when it is continued.
static int traced(void (*code)(void)) {
	int child = MUST(fork());
	if (child == 0) {
		MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
		raise(SIGSTOP);
		code();
		_exit(0);
	}
	int status;
	MUST(waitpid(child, &status, 0));
	return child;
}

// Lets a child go on until its next stop; gives the signal that stopped it, or 0 when it has ended.
static int go(int child, int request) {
	int status;
	MUST(ptrace(request, child, NULL, NULL));
	MUST(waitpid(child, &status, 0));
	if (WIFSTOPPED(status))
		return WSTOPSIG(status);
	if (status)
		FAIL("the traced child ended with %#x", status);
	return 0;
}

static void must_trap(int child, int request, const char *what) {
	int signal = go(child, request);
	if (signal != SIGTRAP)
		FAIL("%s: stopped by signal %d at %#llx", what, signal, registers(child).rip);
}

void debug_steps(void) {
	double began = seconds();
	for (int round = 0; round < 5 && (round < 1 || seconds() < began + 3); round++) {
		int child = traced(debug_steps_code);
		must_trap(child, PTRACE_CONT, "the first breakpoint");
		if (registers(child).rip != (uintptr_t)debug_begin + 1)
			FAIL("the breakpoint was reported at %#llx, not behind %p", registers(child).rip, (void *)debug_begin);
		int steps = 0;
		while (registers(child).rip != (uintptr_t)debug_end) {
			must_trap(child, PTRACE_SINGLESTEP, "a step");
			if (++steps > 2 * STEPS)
				FAIL("no end after %d steps", steps);
		}
		if (steps != STEPS)
			FAIL("%d steps, not %d", steps, STEPS);
		must_trap(child, PTRACE_CONT, "the last breakpoint");
		if (registers(child).rip != (uintptr_t)debug_end + 1)
			FAIL("stopped at %#llx, not at the last breakpoint", registers(child).rip);
		if (go(child, PTRACE_CONT))
			FAIL("the child did not end");
	}
}

static volatile _Alignas(64) unsigned char watched[64];

static __attribute__((noinline)) void touch(int round) {
	*(volatile uint64_t *)&watched[0] = round;
	*(volatile uint32_t *)&watched[8] = round;
	*(volatile uint16_t *)&watched[12] = round;
	watched[14] = round;
	(void)watched[9];                           // read only
	*(volatile uint32_t *)&watched[30] = round; // across the end of what is watched from 32
	*(volatile uint32_t *)&watched[24] = round; // before what is watched
	__asm__ volatile("");
}

#define ROUNDS 100

static void touching(void) {
	for (int round = 0; round < ROUNDS; round++)
		touch(round);
	for (int round = 0; round < ROUNDS; round++) {
		const volatile unsigned char *to = watched + 40;
		long count = 20;
		__asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(round) : "memory");
	}
}

static void set_debug_register(int child, int number, uintptr_t value) {
	if (ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[number]), value))
		FAIL("the debug register %d was not set: %s", number, strerror(errno));
}

enum { EXECUTE = 0, WRITE = 1, ACCESS = 3 };

// Runs the child to its end with one watchpoint and gives how often it stopped for that.
static int hits(void (*code)(void), const volatile void *address, int kind, int size) {
	int child = traced(code), count = 0;
	set_debug_register(child, 1, (uintptr_t)address);
	set_debug_register(child, 7, 1 << 2 | kind << 20 | (size == 8 ? 2 : size - 1) << 22);
	while (go(child, PTRACE_CONT)) {
		count++;
		long status = ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, u_debugreg[6]), NULL);
		if ((status & 0xf) != 2)
			FAIL("DR6 is %#lx after a hit of the breakpoint 1", status);
		set_debug_register(child, 6, 0);
	}
	return count;
}

void debug_watch(void) {
	static const struct {
		const char *what;
		int at, kind, size, count;
	} watches[] = {
		{"8 bytes written", 0, WRITE, 8, ROUNDS},
		{"4 bytes written", 8, WRITE, 4, ROUNDS},
		{"4 bytes written and read", 8, ACCESS, 4, 2 * ROUNDS},
		{"the second of 8 bytes written", 1, WRITE, 1, ROUNDS},
		{"2 bytes written", 12, WRITE, 2, ROUNDS},
		{"1 byte written", 14, WRITE, 1, ROUNDS},
		{"4 bytes written across", 32, WRITE, 4, ROUNDS},
		{"nothing", 16, ACCESS, 4, 0},
	};
	for (size_t i = 0; i < sizeof watches / sizeof *watches; i++) {
		int count = hits(touching, watched + watches[i].at, watches[i].kind, watches[i].size);
		if (count != watches[i].count)
			FAIL("%s: %d stops, not %d", watches[i].what, count, watches[i].count);
	}
	// A processor may tell of several bytes of a string instruction at once, but not of none.
	int count = hits(touching, watched + 48, WRITE, 4);
	if (count < ROUNDS || count > 4 * ROUNDS)
		FAIL("rep stosb: %d stops", count);
	count = hits(touching, (void *)touch, EXECUTE, 1);
	if (count != ROUNDS)
		FAIL("a function called: %d stops, not %d", count, ROUNDS);
}

static volatile int calls;

static __attribute__((noinline)) int called(int x) {
	calls++;
	return x * 3 + 1;
}

static void calling(void) {
	int sum = 0;
	// Hot before the breakpoint comes, at the stop.
	for (int i = 0; i < 20000; i++)
		sum += called(i);
	raise(SIGSTOP);
	for (int i = 0; i < 200; i++)
		sum += called(i);
	raise(SIGSTOP);
	for (int i = 0; i < 20000; i++)
		sum += called(i);
	_exit(calls != 40200 || sum != 1200039900);
}

void debug_breakpoints(void) {
	int child = traced(calling);
	if (go(child, PTRACE_CONT) != SIGSTOP)
		FAIL("no stop where the breakpoint is to be set");
	errno = 0;
	long original = ptrace(PTRACE_PEEKTEXT, child, called, NULL);
	if (errno)
		FAIL("PTRACE_PEEKTEXT: %s", strerror(errno));
	long patched = (original & ~0xffL) | 0xcc;
	MUST(ptrace(PTRACE_POKETEXT, child, called, patched));
	int count = 0, signal;
	while ((signal = go(child, PTRACE_CONT)) == SIGTRAP) {
		struct user_regs_struct regs = registers(child);
		if (regs.rip != (uintptr_t)called + 1)
			FAIL("the breakpoint was reported at %#llx", regs.rip);
		if ((int)regs.rdi != count)
			FAIL("the breakpoint %d came with the argument %lld", count, regs.rdi);
		count++;
		// The instruction itself, and the breakpoint again.
		regs.rip--;
		MUST(ptrace(PTRACE_SETREGS, child, NULL, &regs));
		MUST(ptrace(PTRACE_POKETEXT, child, called, original));
		must_trap(child, PTRACE_SINGLESTEP, "the step over a breakpoint");
		MUST(ptrace(PTRACE_POKETEXT, child, called, patched));
	}
	if (signal != SIGSTOP || count != 200)
		FAIL("%d breakpoints, not 200, then signal %d", count, signal);
	MUST(ptrace(PTRACE_POKETEXT, child, called, original));
	if (go(child, PTRACE_CONT))
		FAIL("the child did not end");
}
