/*
 * The benchmark program: the same file runs natively and in every guest.
 *
 *   bench list                               the rows
 *   bench run [-s SECONDS] [-n LEAST] ROW...     rows by name, or all
 *   bench exec [-s SECONDS] [-n LEAST] [-r ROOT] [-d DIRECTORY] NAME PROGRAM [ARGUMENT...]
 *                                            a program as a row: its output is summed, its status must be 0;
 *                                            it runs once before the clock does, unless LEAST is 1
 *   bench generate text|source BYTES         an input for a program, on standard output
 *
 * A row repeats at least LEAST times (3) and until SECONDS (0.5) have passed. Lines on standard output:
 *   bench begin NAME
 *   bench end NAME repeats N best NS median NS total NS cpu NS checksum HEX
 *   bench skip NAME SENTENCE
 *   bench fail NAME SENTENCE
 * Times are CLOCK_MONOTONIC's in nanoseconds; cpu is this process's and its children's over all repetitions.
 */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MOST_REPEATS 100000

static const struct row *const groups[] = {integer_rows, memory_rows, control_rows, float_rows, system_rows};
#define GROUPS (sizeof groups / sizeof *groups)

static uint64_t samples[MOST_REPEATS];

_Noreturn void give_up(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

void *memory(size_t size)
{
	void *got = aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
	if (!got)
		give_up("could not get memory");
	memset(got, 1, size);
	return got;
}

uint64_t mix_bytes(uint64_t sum, const void *bytes, size_t count)
{
	const unsigned char *at = bytes;
	for (size_t i = 0; i < count; i++)
		sum = mix(sum, at[i]);
	return sum;
}

static uint64_t now(void)
{
	struct timespec time;
	if (clock_gettime(CLOCK_MONOTONIC, &time))
		give_up("there is no clock");
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t of_timeval(struct timeval time)
{
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_usec * 1000u;
}

static uint64_t cpu_time(void)
{
	struct rusage own, children;
	if (getrusage(RUSAGE_SELF, &own) || getrusage(RUSAGE_CHILDREN, &children))
		give_up("could not ask for the processor time");
	return of_timeval(own.ru_utime) + of_timeval(own.ru_stime) + of_timeval(children.ru_utime) +
	       of_timeval(children.ru_stime);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

int measure(const char *name, uint64_t (*repeat)(void), double seconds, unsigned least)
{
	printf("bench begin %s\n", name);
	fflush(stdout);
	uint64_t checksum = 0, cpu = cpu_time(), begun = now(), total = 0;
	unsigned repeats = 0;
	while (repeats < MOST_REPEATS && (repeats < least || (double)total < seconds * 1e9)) {
		uint64_t before = now();
		uint64_t sum = repeat();
		uint64_t after = now();
		samples[repeats] = after - before;
		total = after - begun;
		if (repeats++ && sum != checksum) {
			printf("bench fail %s two repetitions gave %016llx and %016llx\n", name,
			       (unsigned long long)checksum, (unsigned long long)sum);
			fflush(stdout);
			return 1;
		}
		checksum = sum;
	}
	cpu = cpu_time() - cpu;
	qsort(samples, repeats, sizeof *samples, by_size);
	printf("bench end %s repeats %u best %llu median %llu total %llu cpu %llu checksum %016llx\n", name, repeats,
	       (unsigned long long)samples[0], (unsigned long long)samples[repeats / 2], (unsigned long long)total,
	       (unsigned long long)cpu, (unsigned long long)checksum);
	fflush(stdout);
	return 0;
}

static int run_row(const struct row *row, double seconds, unsigned least)
{
	const char *missing = row->missing ? row->missing() : NULL;
	if (missing) {
		printf("bench skip %s %s\n", row->name, missing);
		fflush(stdout);
		return 0;
	}
	if (row->prepare)
		row->prepare();
	return measure(row->name, row->repeat, seconds, least);
}

static int list(void)
{
	for (size_t group = 0; group < GROUPS; group++)
		for (const struct row *row = groups[group]; row->name; row++)
			puts(row->name);
	return 0;
}

static int run_command(int argc, char **argv)
{
	double seconds = 0.5;
	unsigned least = 3;
	int option, failed = 0;
	while ((option = getopt(argc, argv, "+s:n:")) != -1) {
		if (option == 's')
			seconds = atof(optarg);
		else if (option == 'n')
			least = (unsigned)atoi(optarg);
		else
			return 2;
	}
	for (int i = optind; i < argc; i++) {
		int known = 0, all = !strcmp(argv[i], "all");
		for (size_t group = 0; group < GROUPS; group++)
			for (const struct row *row = groups[group]; row->name; row++)
				if (all || !strcmp(argv[i], row->name)) {
					known = 1;
					failed |= run_row(row, seconds, least);
				}
		if (!known) {
			fprintf(stderr, "bench: there is no row %s; bench list shows them\n", argv[i]);
			failed = 1;
		}
	}
	return failed;
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";
	if (!strcmp(command, "nothing"))
		return 0; /* what the row fork-exec starts */
	if (!strcmp(command, "list"))
		return list();
	if (!strcmp(command, "run"))
		return run_command(argc - 1, argv + 1);
	if (!strcmp(command, "exec"))
		return exec_command(argc - 1, argv + 1);
	if (!strcmp(command, "generate"))
		return generate_command(argc - 1, argv + 1);
	fprintf(stderr, "usage: bench list | run ROW... | exec NAME PROGRAM... | generate text|source BYTES\n");
	return 2;
}
