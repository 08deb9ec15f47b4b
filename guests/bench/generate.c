/* Inputs for the programs, the same bytes everywhere: prose-like text, and C source. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed = 23;

static unsigned below(unsigned limit)
{
	return (unsigned)((next_random(&seed) >> 33) % limit);
}

/* Words of a small language: few are frequent, many are rare, as in prose. */
static size_t word(char *to)
{
	static const char *const syllables[] = {"an", "bel", "co", "dar", "e", "fin", "gor", "hal", "in", "jo", "ka",
						"lum", "mar", "no", "or", "pel", "qui", "ra", "sen", "tor", "u", "ven"};
	unsigned rank = below(1 + below(4000)), count = 1 + rank % 3;
	size_t length = 0;
	for (unsigned i = 0; i <= count; i++) {
		const char *syllable = syllables[(rank * 7 + i * i * 5) % 22];
		rank /= 3;
		length += (size_t)sprintf(to + length, "%s", syllable);
	}
	return length;
}

static void text(size_t bytes)
{
	char buffer[64];
	size_t column = 0;
	for (size_t done = 0; done < bytes;) {
		size_t length = word(buffer);
		if (column + length > 90) {
			putchar('\n');
			column = 0;
		}
		done += (size_t)printf("%s%s%s", column ? " " : "", buffer, below(11) ? "" : ",");
		column += length + 1;
		if (below(29) == 0)
			done += (size_t)printf(" %u.%02u", below(10000), below(100));
	}
	putchar('\n');
}

static void expression(unsigned depth)
{
	static const char *const operators[] = {"+", "-", "*", "^", "&", "|"};
	if (depth == 0 || below(4) == 0) {
		switch (below(4)) {
		case 0:
			printf("%u", 1 + below(999));
			break;
		case 1:
			printf("a[(i + %u) & 63]", below(64));
			break;
		case 2:
			printf("s->f%u", below(6));
			break;
		default:
			printf("v%u", below(4));
		}
		return;
	}
	putchar('(');
	expression(depth - 1);
	printf(" %s ", operators[below(6)]);
	expression(depth - 1);
	putchar(')');
}

static void statement(unsigned depth, unsigned function)
{
	switch (depth ? below(6) : 5) {
	case 0:
		printf("\tfor (int i%u = 0; i%u < (int)(n & %u); i%u++) { i += i%u;\n", depth, depth, 7 + below(50), depth, depth);
		statement(depth - 1, function);
		statement(depth - 1, function);
		printf("\t}\n");
		break;
	case 1:
		printf("\tif (");
		expression(2);
		printf(" > %u) {\n", below(5000));
		statement(depth - 1, function);
		printf("\t} else {\n");
		statement(depth - 1, function);
		printf("\t}\n");
		break;
	case 2:
		printf("\tswitch ((unsigned)v%u & 7) {\n", below(4));
		for (unsigned i = 0; i < 5; i++) {
			printf("\tcase %u: v%u = ", i, below(4));
			expression(2);
			printf("; break;\n");
		}
		printf("\tdefault: s->f%u ^= v%u;\n\t}\n", below(6), below(4));
		break;
	case 3:
		if (function) {
			printf("\tv%u += function%u(s, a, ", below(4), below(function));
			expression(1);
			printf(");\n");
			break;
		}
		/* fall through */
	case 4:
		printf("\ts->f%u = ", below(6));
		expression(3);
		printf(";\n");
		break;
	default:
		printf("\tv%u = ", below(4));
		expression(3);
		printf(";\n\ta[(i + %u) & 63] = v%u;\n", below(64), below(4));
	}
}

/* Functions with loops, branches, switches and calls of earlier ones, until there are `bytes` or a little more. */
static void source(size_t bytes)
{
	printf("struct state { long f0, f1, f2, f3, f4, f5; };\n");
	for (unsigned function = 0; ftell(stdout) >= 0 && (size_t)ftell(stdout) < bytes; function++) {
		printf("long function%u(struct state *s, long *a, long n)\n{\n", function);
		printf("\tlong v0 = n, v1 = s->f1, v2 = a[%u], v3 = %u;\n\tunsigned long i = (unsigned long)n;\n",
		       below(64), below(100));
		for (unsigned i = 0; i < 4; i++)
			statement(3, function);
		printf("\treturn v0 ^ v1 ^ v2 ^ v3;\n}\n");
	}
}

int generate_command(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "text")) {
		text(strtoul(argv[2], NULL, 10));
		return ferror(stdout) != 0;
	}
	if (argc == 3 && !strcmp(argv[1], "source")) {
		source(strtoul(argv[2], NULL, 10));
		return ferror(stdout) != 0;
	}
	fprintf(stderr, "usage: bench generate text|source BYTES\n");
	return 2;
}
