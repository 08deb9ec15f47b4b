/* What the benchmark programs share: a row, and small tools that every row uses alike. */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

/* A row of the table: the same work in every repetition, and so the same result. */
struct row {
	const char *name;
	/* What has to be there before the clock runs; may be null. */
	void (*prepare)(void);
	/* One repetition; gives a checksum of its result. */
	uint64_t (*repeat)(void);
	/* A sentence when this processor can't run it, else null; may be null. */
	const char *(*missing)(void);
};

/* Each file's rows, ended by one without a name. */
extern const struct row integer_rows[], memory_rows[], control_rows[], float_rows[], system_rows[];

/* Keeps a loop from being folded: the compiler must take `value` for unknown. */
#define OPAQUE(value) __asm__ volatile("" : "+r"(value))
/* All memory may have changed. */
#define BARRIER() __asm__ volatile("" ::: "memory")
#define NOINLINE __attribute__((noinline, noclone))

/* A xorshift generator: the same numbers everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

/* Takes one more value into a checksum. */
static inline uint64_t mix(uint64_t sum, uint64_t value)
{
	sum = (sum ^ value) * 0x9e3779b97f4a7c15u;
	return sum ^ sum >> 29;
}

/* A checksum of bytes. */
uint64_t mix_bytes(uint64_t sum, const void *bytes, size_t count);
/* Ends the program with a sentence on standard error when a system call failed. */
_Noreturn void give_up(const char *what);
/* Memory that is there: every page written. */
void *memory(size_t size);

/* `bench exec`: a whole program as a row. */
int exec_command(int argc, char **argv);
/* `bench generate`: inputs of the programs. */
int generate_command(int argc, char **argv);
/* Prints a row's lines around repetitions of `repeat`. */
int measure(const char *name, uint64_t (*repeat)(void), double seconds, unsigned least);

#endif
