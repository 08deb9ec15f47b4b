// Signals at any instruction: timers that go off all the time, faults in great number, and samples of a profiler.
#include "stress.h"
#include "state.h"
#include <linux/perf_event.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

static volatile long handled;

// Spoils what a handler may spoil, which is everything.
static void spoil(int signal) {
	volatile long double x = 1.5L;
	for (int i = 0; i < 4; i++)
		x = x * 3 - (long double)signal / 7;
	__asm__ volatile(
		"fninit\n	fldpi\n	fld1\n	pcmpeqd %%xmm0, %%xmm0\n	pcmpeqd %%xmm5, %%xmm5\n	pcmpeqd %%xmm15, %%xmm15\n"
		: : : "xmm0", "xmm5", "xmm15", "memory");
	uint64_t flags;
	__asm__ volatile("pushfq\n	pop %0" : "=r"(flags));
	if (flags & 0x400)
		FAIL("a handler began with the direction flag set");
	unsigned rounding = 0x1f80 | 3 << 13;
	__asm__ volatile("ldmxcsr %0" : : "m"(rounding));
	handled++;
}

static timer_t timer(long nanoseconds, clockid_t clock) {
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
	struct itimerspec times = {{0, nanoseconds}, {0, nanoseconds}};
	timer_t timer;
	MUST(timer_create(clock, &event, &timer));
	MUST(timer_settime(timer, 0, &times, NULL));
	return timer;
}

// One timer by setitimer, and others at 20, 50 and 100 us, each for a while.
void signals_timer(void) {
	struct sigaction action = {.sa_handler = spoil, .sa_flags = SA_RESTART};
	sigaction(SIGALRM, &action, NULL);
	struct state state;
	for (int kind = 0; kind < 4; kind++) {
		static const long periods[] = {20000, 50000, 100000};
		timer_t running = 0;
		struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
		if (kind == 3)
			MUST(setitimer(ITIMER_REAL, &often, NULL));
		else
			running = timer(periods[kind], CLOCK_MONOTONIC);
		long before = handled;
		double end = seconds() + 0.7;
		for (uint64_t round = 0; seconds() < end; round++) {
			state_fill(&state, kind * 100000 + round);
			state_check(&state, 1 + next(&round) % 5000, "under signals");
		}
		if (kind == 3)
			MUST(setitimer(ITIMER_REAL, &never, NULL));
		else
			MUST(timer_delete(running));
		if (handled - before < 20)
			FAIL("only %ld signals", handled - before);
	}
	signal(SIGALRM, SIG_IGN);
}

static volatile struct {
	int signal, code;
	uintptr_t at, address;
} last;

// Goes on behind the instruction that failed, whose length is in r15, with another value in rax.
static void skip(int signal, siginfo_t *info, void *context) {
	gregset_t *registers = &((ucontext_t *)context)->uc_mcontext.gregs;
	last.signal = signal;
	last.code = info->si_code;
	last.at = (*registers)[REG_RIP];
	last.address = (uintptr_t)info->si_addr;
	(*registers)[REG_RIP] += (*registers)[REG_R15];
	(*registers)[REG_RAX] = 0x1234567887654321;
	handled++;
}

// Runs one instruction of `length` bytes and checks that it failed with the signal. It finds rbx = `value`.
#define FAILS(instruction, length, number, where, value) \
	do { \
		uintptr_t at_, result_ = 0, kept_ = 0x5555aaaa; \
		register uint64_t length_ __asm__("r15") = length; \
		__asm__ volatile("lea 1f(%%rip), %0\n	xor %%edx, %%edx\n	mov %4, %%rcx\n1:	" instruction "\n	nop\n" \
			: "=&r"(at_), "+a"(result_), "+r"(length_), "+r"(kept_) : "r"((uint64_t)(value)) : "rcx", "rdx", "memory", "cc"); \
		if (last.signal != (number) || last.at != at_ || kept_ != 0x5555aaaa) \
			FAIL("%s: signal %d at %#lx, not %d at %#lx", instruction, last.signal, last.at, number, at_); \
		if (result_ != 0x1234567887654321) \
			FAIL("%s: the handler's value did not arrive: %#lx", instruction, result_); \
		if ((where) && last.address != (uintptr_t)(where)) \
			FAIL("%s: address %#lx, not %#lx", instruction, last.address, (uintptr_t)(where)); \
		last.signal = 0; \
	} while (0)

void signals_faults(void) {
	struct sigaction action = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO}, usual = {.sa_handler = SIG_DFL};
	const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP};
	for (int i = 0; i < 5; i++)
		sigaction(signals[i], &action, NULL);
	handled = 0;
	unsigned char *none = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(mprotect(none + PAGE, PAGE, PROT_NONE));
	MUST(mprotect(none + 2 * PAGE, PAGE, PROT_READ));
	double began = seconds();
	int round;
	for (round = 0; go_on(round, 1500, began); round++) {
		FAILS("mov (%%rcx), %%rax", 3, SIGSEGV, none + PAGE + round, none + PAGE + round);
		FAILS("mov (%%rcx), %%rax", 3, SIGSEGV, none + PAGE, none + PAGE - 1 - round % 7);
		FAILS("mov %%rax, (%%rcx)", 3, SIGSEGV, none + 2 * PAGE + round, none + 2 * PAGE + round);
		FAILS("addl $1, (%%rcx)", 3, SIGSEGV, none + 2 * PAGE, none + 2 * PAGE);
		FAILS("mov (%%rcx), %%rax", 3, SIGSEGV, 0, 0x8000000000000000); // not canonical: no address
		FAILS("ud2", 2, SIGILL, last.at, 0);
		FAILS("div %%rcx", 3, SIGFPE, last.at, 0);
		FAILS("hlt", 1, SIGSEGV, 0, 0);
		FAILS("movaps (%%rcx), %%xmm0", 3, SIGSEGV, 0, none + 1);
	}
	if (handled != 9 * round)
		FAIL("%ld signals, not %d", handled, 9 * round);
	for (int i = 0; i < 5; i++)
		sigaction(signals[i], &usual, NULL);
}

// A profiler's samples, by the kernel's timer: each tells of an instruction of this program or of the kernel.
void signals_perf(void) {
	struct perf_event_attr attributes = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof attributes,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = 50000, // ns
		.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_CALLCHAIN,
		.exclude_kernel = 1,
		.disabled = 1,
	};
	int event = MUST(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0));
	const size_t pages = 16;
	struct perf_event_mmap_page *page = mmap(NULL, (1 + pages) * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0);
	if (page == MAP_FAILED)
		FAIL("mmap of perf events: %s", strerror(errno));
	MUST(ioctl(event, PERF_EVENT_IOC_ENABLE, 0));
	struct state state;
	long samples = 0;
	double end = seconds() + 1;
	for (uint64_t round = 0; seconds() < end; round++) {
		state_fill(&state, round);
		state_check(&state, 3000, "under a profiler");
		unsigned char *data = (unsigned char *)page + PAGE;
		uint64_t head = page->data_head;
		__sync_synchronize();
		while (page->data_tail < head) {
			struct perf_event_header *header = (void *)(data + page->data_tail % (pages * PAGE));
			if (header->size < sizeof *header || header->size % 8)
				FAIL("a perf event of %d bytes", header->size);
			samples += header->type == PERF_RECORD_SAMPLE;
			page->data_tail += header->size;
		}
	}
	MUST(ioctl(event, PERF_EVENT_IOC_DISABLE, 0));
	if (samples < 100)
		FAIL("only %ld samples", samples);
	close(event);
}
