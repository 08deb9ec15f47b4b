/* The kernel's work: system calls, page faults, processes, context switches. */
#define _GNU_SOURCE
#include "bench.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t getppid_calls(void)
{
	uint64_t answered = 0;
	for (int i = 0; i < 1000000; i++)
		answered += syscall(SYS_getppid) >= 0;
	return answered;
}

#define PAGE 4096
#define PAGES 16384

static uint64_t page_faults(void)
{
	uint64_t sum = 0;
	for (int turn = 0; turn < 3; turn++) {
		unsigned char *pages =
			mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pages == MAP_FAILED)
			give_up("could not map memory");
		/* A kernel without huge pages has no need of the advice. */
		(void)madvise(pages, PAGES * PAGE, MADV_NOHUGEPAGE);
		for (size_t page = 0; page < PAGES; page++) {
			pages[page * PAGE] = (unsigned char)page;
			sum = mix(sum, pages[page * PAGE] + pages[page * PAGE + 1]);
		}
		munmap(pages, PAGES * PAGE);
	}
	return sum;
}

static uint64_t fork_exec(void)
{
	uint64_t ended = 0;
	for (int i = 0; i < 100; i++) {
		pid_t child = fork();
		if (child < 0)
			give_up("could not fork");
		if (child == 0) {
			execl("/proc/self/exe", "bench", "nothing", (char *)NULL);
			_exit(127);
		}
		int status;
		if (waitpid(child, &status, 0) != child)
			give_up("a child was lost");
		ended += WIFEXITED(status) && WEXITSTATUS(status) == 0;
	}
	return ended;
}

#define ROUND_TRIPS 5000

/* Both processes on one processor, so that every message is a context switch. */
static void stay_here(void)
{
	cpu_set_t here;
	int cpu = sched_getcpu();
	if (cpu < 0)
		give_up("could not ask for the processor");
	CPU_ZERO(&here);
	CPU_SET((size_t)cpu, &here);
	if (sched_setaffinity(0, sizeof here, &here))
		give_up("could not stay on one processor");
}

static uint64_t context_switches(void)
{
	cpu_set_t before;
	int there[2], back[2];
	uint64_t sum = 0;
	if (sched_getaffinity(0, sizeof before, &before) || pipe(there) || pipe(back))
		give_up("could not make pipes");
	stay_here();
	pid_t child = fork();
	if (child < 0)
		give_up("could not fork");
	if (child == 0) {
		uint32_t token;
		close(there[1]);
		while (read(there[0], &token, sizeof token) == sizeof token) {
			token = token * 3 + 1;
			if (write(back[1], &token, sizeof token) != sizeof token)
				_exit(1);
		}
		_exit(0);
	}
	uint32_t token = 1;
	for (int i = 0; i < ROUND_TRIPS; i++) {
		if (write(there[1], &token, sizeof token) != sizeof token ||
		    read(back[0], &token, sizeof token) != sizeof token)
			give_up("a pipe broke");
		sum = mix(sum, token);
	}
	close(there[0]), close(there[1]), close(back[0]), close(back[1]);
	waitpid(child, NULL, 0);
	sched_setaffinity(0, sizeof before, &before);
	return sum;
}

const struct row system_rows[] = {
	{"getppid", NULL, getppid_calls, NULL},
	{"page-fault", NULL, page_faults, NULL},
	{"fork-exec", NULL, fork_exec, NULL},
	{"context-switch", NULL, context_switches, NULL},
	{NULL, NULL, NULL, NULL},
};
