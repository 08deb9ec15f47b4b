/* Memory: pointer chases through 32 KB, 4 MB and 128 MB, and copies of 4 KB. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

/* A node fills a cache line. */
struct node {
	struct node *next;
	uint64_t value;
	char rest[48];
};

static struct node *nodes;

/* One cycle through all nodes in random order (Sattolo's shuffle). */
static void link_nodes(size_t bytes)
{
	size_t count = bytes / sizeof *nodes;
	uint32_t *order = memory(count * sizeof *order);
	uint64_t seed = 5;
	free(nodes);
	nodes = memory(bytes);
	for (size_t i = 0; i < count; i++)
		order[i] = (uint32_t)i;
	for (size_t i = count - 1; i > 0; i--) {
		size_t other = next_random(&seed) % i;
		uint32_t kept = order[i];
		order[i] = order[other];
		order[other] = kept;
	}
	for (size_t i = 0; i < count; i++) {
		nodes[order[i]].next = &nodes[order[(i + 1) % count]];
		nodes[order[i]].value = i;
	}
	free(order);
}

static NOINLINE uint64_t chase(size_t steps)
{
	const struct node *at = nodes;
	for (size_t i = 0; i < steps; i += 8) {
		at = at->next->next->next->next;
		at = at->next->next->next->next;
	}
	return at->value;
}

static void chase_32k_prepare(void)
{
	link_nodes(32 << 10);
}

static uint64_t chase_32k(void)
{
	return chase(200000000);
}

static void chase_4m_prepare(void)
{
	link_nodes(4 << 20);
}

static uint64_t chase_4m(void)
{
	return chase(8000000);
}

static void chase_128m_prepare(void)
{
	link_nodes(128 << 20);
}

static uint64_t chase_128m(void)
{
	return chase(4000000);
}

#define COPY 4096
#define BUFFERS 8
static unsigned char *from, *to;

static void copy_prepare(void)
{
	uint64_t seed = 11;
	from = memory(BUFFERS * COPY);
	to = memory(BUFFERS * COPY);
	for (size_t i = 0; i < BUFFERS * COPY; i++)
		from[i] = (unsigned char)next_random(&seed);
}

/* The C library's, whichever it takes for this processor. */
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;

static uint64_t copy_library(void)
{
	memset(to, 0, BUFFERS * COPY);
	for (size_t i = 0; i < 200000; i++) {
		size_t at = i % BUFFERS * COPY;
		copy(to + at, from + at, COPY);
	}
	return mix_bytes(0, to, BUFFERS * COPY);
}

static uint64_t copy_movsb(void)
{
	memset(to, 0, BUFFERS * COPY);
	for (size_t i = 0; i < 60000; i++) {
		unsigned char *target = to + i % BUFFERS * COPY;
		const unsigned char *source = from + i % BUFFERS * COPY;
		size_t count = COPY;
		__asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(count) : : "memory");
	}
	return mix_bytes(0, to, BUFFERS * COPY);
}

const struct row memory_rows[] = {
	{"chase-32k", chase_32k_prepare, chase_32k, NULL},
	{"chase-4m", chase_4m_prepare, chase_4m, NULL},
	{"chase-128m", chase_128m_prepare, chase_128m, NULL},
	{"memcpy-4k", copy_prepare, copy_library, NULL},
	{"rep-movsb-4k", copy_prepare, copy_movsb, NULL},
	{NULL, NULL, NULL, NULL},
};
