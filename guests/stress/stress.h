// What the stress programs share.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096

// Ends the program with a sentence that says what was wrong.
#define FAIL(...) (fprintf(stdout, __VA_ARGS__), fputc('\n', stdout), fflush(stdout), _exit(1))
// For what has to work before anything can be tested.
#define MUST(call) ({ __typeof__(call) result_ = (call); if ((long)result_ == -1) FAIL("%s: %s", #call, strerror(errno)); result_; })

// A number that looks random; the same row of numbers in every run.
static inline uint32_t next(uint64_t *state) {
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*state >> 33);
}

static inline void serialise(void) {
	unsigned a = 0, b, c = 0, d;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

// Waits for a child, which has to end with status 0.
void reap(int pid, const char *what);

// Seconds of the monotonic clock.
double seconds(void);

// Whether to go on with another round of so many: on a machine that is too busy for all of them, some will do.
static inline int go_on(int round, int rounds, double began) {
	return round < rounds && (round < 10 || round % 8 || seconds() < began + 3);
}

// Each prints nothing and returns, or fails.
void patch_here(void), patch_itself(void), patch_alias(void), patch_thread(void), patch_remap(void), patch_fork(void),
	patch_protect(void), patch_pipe(void), patch_disk(void);
void debug_steps(void), debug_watch(void), debug_breakpoints(void);
void signals_timer(void), signals_faults(void), signals_perf(void);
void state_processes(void), state_threads(void);
void memory_shootdown(void), memory_protect(void), memory_fork_bomb(void), memory_eat(void), memory_ping_pong(void);
