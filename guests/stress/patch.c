// Code that changes: by its own thread, by another one, through another mapping, by the kernel, by a disk, and under
// mappings that change.
#include "stress.h"
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

typedef uint32_t (*function)(void);

static unsigned char *map(size_t pages, int protection, int flags, int file, off_t at) {
	void *memory = mmap(NULL, pages * PAGE, protection, flags, file, at);
	if (memory == MAP_FAILED)
		FAIL("mmap: %s", strerror(errno));
	return memory;
}

// Writes a function that adds `terms` numbers, and gives their sum.
static uint32_t emit(unsigned char *at, int terms, uint64_t *random) {
	uint32_t sum = 0;
	*at++ = 0x31, *at++ = 0xc0; // xor eax, eax
	for (int i = 0; i < terms; i++) {
		uint32_t term = next(random);
		*at++ = 0x05; // add eax, term
		memcpy(at, &term, 4), at += 4;
		sum += term;
	}
	*at = 0xc3; // ret
	return sum;
}

static void check(const char *what, int round, uint32_t got, uint32_t expected) {
	if (got != expected)
		FAIL("%s, round %d: the code gave %#x, not %#x", what, round, got, expected);
}

// Functions of any length at any place of three pages, so that many straddle two.
void patch_here(void) {
	double began = seconds();
	unsigned char *code = map(3, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t random = 1;
	for (int round = 0; go_on(round, 10000, began); round++) {
		int terms = next(&random) % 40;
		unsigned char *at = code + (round % 4 ? next(&random) % (2 * PAGE) : PAGE - 1 - round / 4 % 100);
		uint32_t sum = emit(at, terms, &random);
		for (int call = next(&random) % 4; call >= 0; call--)
			check("rewritten", round, ((function)at)(), sum);
		if (terms == 0)
			continue;
		// One byte of one term.
		unsigned char *byte = at + 3 + next(&random) % terms * 5, more = next(&random);
		sum += more - *byte;
		*byte = more;
		check("one byte", round, ((function)at)(), sum);
	}
	// What ran hot, with a loop in it.
	static const unsigned char loop[] = {
		0x31, 0xc0, 0xb9, 0x32, 0, 0, 0, // xor eax, eax; mov ecx, 50
		0x83, 0xc0, 0x01,                // add eax, 1
		0xff, 0xc9, 0x75, 0xf9, 0xc3,    // dec ecx; jnz; ret
	};
	memcpy(code + PAGE - 9, loop, sizeof loop);
	for (int round = 0; go_on(round, 2000, began); round++) {
		unsigned char step = round % 100;
		code[PAGE] = step; // the byte added, first in its page
		for (int call = 0; call < 20; call++)
			check("loop", round, ((function)(code + PAGE - 9))(), step * 50);
	}
}

// Code that writes into the instruction behind the one that writes, which a processor does right without being told.
void patch_itself(void) {
	unsigned char *code = map(2, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const unsigned char text[] = {
		0x89, 0x3d, 0x01, 0, 0, 0, // mov [rip + 1], edi
		0xb8, 0, 0, 0, 0,          // mov eax, 0
		0x01, 0x05, 0x01, 0, 0, 0, // add [rip + 1], eax
		0xb9, 0, 0, 0, 0,          // mov ecx, 0: adds up
		0x8d, 0x04, 0x08,          // lea eax, [rax + rcx]
		0xc3,
	};
	for (size_t at = PAGE - sizeof text - 1; at < PAGE + 1; at++) {
		memcpy(code + at, text, sizeof text);
		uint32_t sum = 0;
		for (uint32_t round = 1; round < 200; round++) {
			uint32_t value = round * 2654435761u;
			sum += value;
			check("itself", round, ((uint32_t(*)(uint32_t))(code + at))(value), value + sum);
		}
	}
}

// Written through one mapping of a page, run through another.
void patch_alias(void) {
	double began = seconds();
	int file = MUST(memfd_create("code", 0));
	MUST(ftruncate(file, 3 * PAGE));
	unsigned char *writable = map(3, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	unsigned char *first = map(3, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
	unsigned char *second = map(3, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
	uint64_t random = 2;
	for (int round = 0; go_on(round, 5000, began); round++) {
		size_t at = round % 2 ? next(&random) % (2 * PAGE) : PAGE - 1 - round % 60;
		uint32_t sum = emit(writable + at, next(&random) % 20, &random);
		serialise();
		check("first alias", round, ((function)(first + at))(), sum);
		check("second alias", round, ((function)(second + at))(), sum);
	}
	close(file);
}

static struct {
	unsigned char *writable, *code;
	_Atomic uint32_t published, seen;
	_Atomic int ended;
} shared;

static void *patcher(void *nothing) {
	double began = seconds();
	for (uint32_t version = 1; go_on(version, 20000, began); version++) {
		// An aligned store, as those who patch code that runs have to do it.
		*(volatile uint32_t *)(shared.writable + PAGE) = version;
		shared.published = version;
		// Every other version waits until it was seen, so that neither side leaves the other behind.
		for (int wait = 0; version % 2 && shared.seen < version && wait < 1000000; wait++)
			if (wait % 100 == 99)
				usleep(1);
	}
	shared.ended = 1;
	return nothing;
}

// Another thread changes an instruction, tells of it, and this one serialises before it runs that.
void patch_thread(void) {
	int file = MUST(memfd_create("code", 0));
	MUST(ftruncate(file, 2 * PAGE));
	shared.writable = map(2, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	shared.code = map(2, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
	shared.published = shared.seen = 0;
	shared.ended = 0;
	shared.writable[PAGE - 1] = 0xb8; // mov eax, version: its operand begins the second page
	shared.writable[PAGE + 4] = 0xc3;
	pthread_t thread;
	if (pthread_create(&thread, NULL, patcher, NULL))
		FAIL("no thread");
	uint32_t last = 0;
	while (!shared.ended || last != shared.published) {
		uint32_t published = shared.published;
		serialise();
		uint32_t got = ((function)(shared.code + PAGE - 1))();
		if (got < published || got < last)
			FAIL("version %u was published, and %u seen before, but the code gave %u", published, last, got);
		shared.seen = last = got;
	}
	pthread_join(thread, NULL);
	close(file);
}

static sigjmp_buf escape;

static void escaping(int signal) {
	siglongjmp(escape, signal);
}

static void must_fault(const char *what, void *code) {
	struct sigaction action = {.sa_handler = escaping}, old;
	sigaction(SIGSEGV, &action, &old);
	if (sigsetjmp(escape, 1) == 0)
		FAIL("%s: code that is not there gave %#x", what, ((function)code)());
	sigaction(SIGSEGV, &old, NULL);
}

// Other pages under the same address, and the same page under other addresses.
void patch_remap(void) {
	double began = seconds();
	int file = MUST(memfd_create("code", 0));
	MUST(ftruncate(file, 4 * PAGE));
	unsigned char *all = map(4, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	uint32_t sums[4];
	uint64_t random = 3;
	for (int page = 0; page < 4; page++)
		sums[page] = emit(all + page * PAGE + 100, 10, &random);
	unsigned char *code = map(8, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int round = 0; go_on(round, 3000, began); round++) {
		int page = next(&random) % 4;
		unsigned char *at = mmap(code, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, file, page * PAGE);
		check("mapped over", round, ((function)(at + 100))(), sums[page]);
		at = mremap(code, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, code + (4 + page) * PAGE);
		check("moved", round, ((function)(at + 100))(), sums[page]);
		if (round % 8 == 0) {
			must_fault("moved away", code + 100);
			munmap(at, PAGE);
			must_fault("unmapped", at + 100);
		}
	}
	close(file);
}

// A child's change of code that it shared with its parent until then.
void patch_fork(void) {
	double began = seconds();
	unsigned char *code = map(1, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t random = 4;
	for (int round = 0; go_on(round, 150, began); round++) {
		uint32_t sum = emit(code, 5, &random);
		check("before fork", round, ((function)code)(), sum);
		int child = MUST(fork());
		if (child == 0) {
			check("child, before", round, ((function)code)(), sum);
			sum = emit(code, 6, &random);
			check("child, after", round, ((function)code)(), sum);
			_exit(0);
		}
		check("parent", round, ((function)code)(), sum);
		reap(child, "fork");
		check("parent, after", round, ((function)code)(), sum);
	}
}

// Written while not executable, executed while not writable.
void patch_protect(void) {
	double began = seconds();
	unsigned char *code = map(2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t random = 5;
	for (int round = 0; go_on(round, 3000, began); round++) {
		MUST(mprotect(code, 2 * PAGE, PROT_READ | PROT_WRITE));
		if (round % 16 == 0)
			must_fault("not executable", code);
		unsigned char *at = code + (round % 2 ? 0 : PAGE - 7);
		uint32_t sum = emit(at, next(&random) % 8, &random);
		MUST(mprotect(code, 2 * PAGE, PROT_READ | PROT_EXEC));
		check("protected", round, ((function)at)(), sum);
	}
}

// Code that the kernel copies to where other code ran.
void patch_pipe(void) {
	double began = seconds();
	unsigned char *code = map(2, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char buffer[256];
	int ends[2];
	MUST(pipe(ends));
	uint64_t random = 6;
	for (int round = 0; go_on(round, 5000, began); round++) {
		int terms = next(&random) % 40, size = terms * 5 + 3;
		uint32_t sum = emit(buffer, terms, &random);
		unsigned char *at = code + PAGE - next(&random) % 256;
		MUST(write(ends[1], buffer, size));
		if (read(ends[0], at, size) != size)
			FAIL("the pipe gave less");
		check("read from a pipe", round, ((function)at)(), sum);
	}
}

// Code that a disk puts where other code ran, without the kernel's hands on it. The disk's first 64 pages each hold a
// function that returns its page's number plus 1000; the program's file is /dev/vda.
void patch_disk(void) {
	double began = seconds();
	int disk = open("/dev/vda", O_RDONLY | O_DIRECT);
	if (disk < 0)
		FAIL("/dev/vda: %s", strerror(errno));
	unsigned char *code = map(4, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t random = 7;
	for (int round = 0; go_on(round, 1500, began); round++) {
		unsigned page = next(&random) % 61, count = 1 + next(&random) % 4;
		if (pread(disk, code, count * PAGE, page * PAGE) != (ssize_t)count * PAGE)
			FAIL("/dev/vda: %s", strerror(errno));
		for (unsigned i = 0; i < count; i++)
			check("read from a disk", round, ((function)(code + i * PAGE))(), 1000 + page + i);
	}
	close(disk);
}
