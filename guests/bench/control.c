/* Control flow: a threaded interpreter, recursive calls, indirect calls. */
#include "bench.h"

/* --- An interpreter whose every operation jumps to the next (computed goto) --- */

enum operation { LOAD, ADD, XOR, SHIFT, MULTIPLY, SWAP, STORE, LOOP, STOP };

struct instruction {
	const void *code;
	uint64_t operand;
};

static const unsigned char program[] = {LOAD, ADD, XOR, SHIFT, STORE, LOAD, MULTIPLY, SWAP,
					ADD, STORE, LOAD, XOR, SWAP, SHIFT, ADD, STORE, LOOP, STOP};
#define LENGTH (sizeof program)

static NOINLINE uint64_t interpret(uint64_t turns)
{
	static const void *const codes[] = {&&load, &&add, &&exclusive_or, &&shift, &&multiply,
					    &&swap, &&store, &&loop, &&stop};
	struct instruction translated[LENGTH];
	uint64_t cells[8] = {1, 2, 3, 4, 5, 6, 7, 8}, a = 0, b = 1;
	for (size_t i = 0; i < LENGTH; i++) {
		translated[i].code = codes[program[i]];
		translated[i].operand = i * 3 % 8;
	}
	const struct instruction *at = translated;
#define NEXT goto *(++at)->code
	goto *at->code;
load:
	a = cells[at->operand];
	NEXT;
add:
	a += b + at->operand;
	NEXT;
exclusive_or:
	a ^= cells[at->operand];
	NEXT;
shift:
	a = a << 7 | a >> 57;
	NEXT;
multiply:
	a *= b | 1;
	NEXT;
swap : {
	uint64_t kept = a;
	a = b;
	b = kept;
	NEXT;
}
store:
	cells[at->operand] = a;
	NEXT;
loop:
	if (--turns) {
		at = translated;
		goto *at->code;
	}
	NEXT;
stop:
	for (int i = 0; i < 8; i++)
		a = mix(a, cells[i]);
	return mix(a, b);
}

static uint64_t interpreter(void)
{
	return interpret(4000000);
}

/* --- Two calls of itself in each call --- */

static NOINLINE uint64_t recurse(unsigned depth, uint64_t value)
{
	if (depth < 2)
		return value + depth;
	return (recurse(depth - 1, value + 1) ^ depth) + 3 * recurse(depth - 2, value + 2);
}

static uint64_t recursive_calls(void)
{
	unsigned depth = 35;
	OPAQUE(depth);
	return recurse(depth, 1);
}

/* --- Calls through a table, in an order that repeats after 61 calls --- */

typedef uint64_t function(uint64_t);
#define FUNCTION(name, expression) \
	static NOINLINE uint64_t name(uint64_t x) { return expression; }
FUNCTION(f0, x + 1)
FUNCTION(f1, x ^ 0x55)
FUNCTION(f2, x * 3)
FUNCTION(f3, x << 1 | x >> 63)
FUNCTION(f4, x - 7)
FUNCTION(f5, x ^ x >> 9)
FUNCTION(f6, ~x)
FUNCTION(f7, x + (x << 3))
FUNCTION(f8, x * 5 + 1)
FUNCTION(f9, x ^ 0x1234)
FUNCTION(f10, x - (x >> 3))
FUNCTION(f11, x << 5 | x >> 59)
FUNCTION(f12, x + 0x777)
FUNCTION(f13, x ^ x << 11)
FUNCTION(f14, x * 9)
FUNCTION(f15, x >> 1 | x << 63)

static function *const functions[16] = {f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15};
#define PERIOD 61
static function *order[PERIOD];

static void indirect_prepare(void)
{
	uint64_t seed = 13;
	for (int i = 0; i < PERIOD; i++)
		order[i] = functions[next_random(&seed) >> 60];
}

static uint64_t indirect_calls(void)
{
	uint64_t value = 1;
	for (int turn = 0; turn < 500000; turn++) {
		BARRIER();
		for (int i = 0; i < PERIOD; i++)
			value = order[i](value);
	}
	return value;
}

const struct row control_rows[] = {
	{"interpreter", NULL, interpreter, NULL},
	{"recursive-calls", NULL, recursive_calls, NULL},
	{"indirect-calls", indirect_prepare, indirect_calls, NULL},
	{NULL, NULL, NULL, NULL},
};
