// A program's registers, as state_hold() lays them out.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct registers {
	uint64_t general[16]; // rax rcx rdx rbx rbp rsi rdi r8..r15, and the flags after
	unsigned char vector[16][32];
	uint32_t mxcsr;
	uint16_t control, status;
	struct {
		uint64_t significand;
		uint16_t exponent;
		uint16_t unused[3];
	} __attribute__((aligned(16))) x87[3];
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct registers, vector) == 128, "as the code has it");
_Static_assert(offsetof(struct registers, mxcsr) == 640, "as the code has it");
_Static_assert(offsetof(struct registers, x87) == 656, "as the code has it");
_Static_assert(sizeof(struct registers) == 704, "as the code has it");

struct state {
	struct registers before, after;
};

// Values that the seed gives, for all registers.
void state_fill(struct state *state, uint64_t seed);

// Holds these values in the registers for so many rounds, at least one, and fails when one is another one then.
void state_check(struct state *state, uint64_t rounds, const char *what);
