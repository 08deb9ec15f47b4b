// Mappings that change under those who use them, processes in great number, and memory that runs out.
#include "stress.h"
#include <pthread.h>
#include <sched.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

static int file;
static volatile uint32_t *page;
static _Atomic uint32_t version;
static _Atomic int ended;

// Reads through the mapping: never an older page than the one that was put there before.
static void *reader(void *nothing) {
	uint64_t reads = 0;
	while (!ended) {
		uint32_t before = version;
		uint32_t got = *page;
		if (got < before)
			FAIL("version %u was mapped, but the page of version %u read", before, got);
		if (++reads % 64 == 0)
			sched_yield();
	}
	return nothing;
}

// Puts one page after the other under the same address while another thread reads there.
void memory_shootdown(void) {
	const uint32_t versions = 10000, pages = 64;
	file = MUST(memfd_create("pages", 0));
	MUST(ftruncate(file, pages * PAGE));
	uint32_t *all = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	void *place = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0);
	if (all == MAP_FAILED || place == MAP_FAILED)
		FAIL("mmap: %s", strerror(errno));
	page = place;
	version = 0;
	ended = 0;
	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, reader, NULL))
			FAIL("no thread");
	double began = seconds();
	for (uint32_t v = 1; go_on(v, versions, began); v++) {
		uint32_t slot = v % pages;
		all[slot * PAGE / 4] = v;
		if (mmap(place, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, slot * PAGE) != place)
			FAIL("mmap: %s", strerror(errno));
		version = v;
		if (v % 16 == 0)
			sched_yield();
	}
	ended = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	close(file);
}

static __thread sigjmp_buf escape;
static _Atomic long faults, forbidden;
static unsigned char *area;

static void escaping(int signal) {
	siglongjmp(escape, signal);
}

// Writes to a page while it may, and is stopped by a fault while it may not.
static void *writer(void *nothing) {
	while (!ended) {
		if (sigsetjmp(escape, 1)) {
			faults++;
			sched_yield();
			continue;
		}
		long before = forbidden;
		(*(volatile uint64_t *)area)++;
		// An odd number: it was forbidden when this began, and when it ended it was still the same time.
		if (before % 2 && forbidden == before)
			FAIL("a page that may not be written was written");
	}
	return nothing;
}

void memory_protect(void) {
	struct sigaction action = {.sa_handler = escaping}, usual = {.sa_handler = SIG_DFL};
	sigaction(SIGSEGV, &action, NULL);
	area = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ended = 0;
	faults = 0;
	forbidden = 0;
	pthread_t thread;
	if (pthread_create(&thread, NULL, writer, NULL))
		FAIL("no thread");
	double began = seconds();
	for (int round = 0; go_on(round, 3000, began) || (faults < 1 && seconds() < began + 30); round++) {
		MUST(mprotect(area, PAGE, PROT_READ));
		forbidden++;
		uint64_t before = *(volatile uint64_t *)area;
		if (round % 8 == 0)
			sched_yield();
		if (*(volatile uint64_t *)area != before)
			FAIL("a page that may not be written has changed");
		forbidden++;
		MUST(mprotect(area, PAGE, PROT_READ | PROT_WRITE));
	}
	ended = 1;
	pthread_join(thread, NULL);
	if (faults < 1)
		FAIL("no faults");
	sigaction(SIGSEGV, &usual, NULL);
}

// A word that goes back and forth between two processes over pipes, with a sum that each of them changes.
void memory_ping_pong(void) {
	int there[2], back[2];
	MUST(pipe(there));
	MUST(pipe(back));
	int child = MUST(fork());
	if (child == 0) {
		close(there[1]);
		uint32_t word;
		for (;;) {
			ssize_t got = read(there[0], &word, 4);
			if (got != 4)
				_exit(got != 0);
			word = word * 5 + 1;
			if (write(back[1], &word, 4) != 4)
				_exit(2);
		}
	}
	uint32_t word = 1, expected = 1;
	double began = seconds();
	for (int i = 0; go_on(i, 20000, began); i++) {
		if (write(there[1], &word, 4) != 4 || read(back[0], &word, 4) != 4)
			FAIL("a pipe broke");
		expected = expected * 5 + 1;
		if (word != expected)
			FAIL("round %d: %#x came back, not %#x", i, word, expected);
		word = word ^ i, expected = expected ^ i;
	}
	close(there[1]);
	reap(child, "ping-pong");
	close(there[0]);
	close(back[0]);
	close(back[1]);
}

// Processes that start processes until the limit refuses more; all of them are gone in the end.
void memory_fork_bomb(void) {
	// The limit is an ordinary user's.
	int bomb = MUST(fork());
	if (bomb == 0) {
		struct rlimit limit = {150, 150};
		MUST(setpgid(0, 0));
		MUST(setrlimit(RLIMIT_NPROC, &limit));
		MUST(setresuid(12345, 12345, 12345));
		int refused = 0;
		for (int i = 0; i < 12; i++)
			if (fork() < 0)
				refused++;
		while (wait(NULL) > 0)
			;
		_exit(refused > 0 ? 0 : 3);
	}
	int status;
	MUST(waitpid(bomb, &status, 0));
	// The first one may have started all its children before the others used the limit up.
	if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 3))
		FAIL("the fork bomb ended with %#x", status);
	if (kill(-bomb, 0) == 0)
		FAIL("some of the fork bomb's processes are still there");
}

// Eats memory until the kernel kills it, with this program's parent left alone. For a guest with little memory.
void memory_eat(void) {
	for (int round = 0; round < 3; round++) {
		int eater = MUST(fork());
		if (eater == 0) {
			int score = open("/proc/self/oom_score_adj", O_WRONLY);
			MUST(write(score, "1000", 4));
			for (size_t size = 1 << 20;; ) {
				unsigned char *more = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
				if (more == MAP_FAILED)
					_exit(1);
				for (size_t at = 0; at < size; at += PAGE)
					more[at] = at >> 12;
			}
		}
		int status;
		MUST(waitpid(eater, &status, 0));
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			FAIL("the process that ate all memory ended with %#x", status);
	}
}
