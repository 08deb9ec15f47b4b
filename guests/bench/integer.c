/* Integer work: SHA-256 (FIPS 180-4), quicksort, and a hash table of 8 MB. */
#include "bench.h"

#include <string.h>

/* --- SHA-256: 40 MB of blocks, rotations and additions in registers --- */

#define MESSAGE 65536
#define MESSAGES 640
static unsigned char *message;
static uint32_t round_constants[64];

/* The first 32 bits of the fractional part of the cube root of a prime (FIPS 180-4, section 4.2.2). */
static uint32_t cube_root_fraction(unsigned prime)
{
	unsigned __int128 target = (unsigned __int128)prime << 96;
	uint64_t root = 0;
	for (int bit = 36; bit >= 0; bit--) {
		uint64_t trial = root | 1ull << bit;
		if ((unsigned __int128)trial * trial * trial <= target)
			root = trial;
	}
	return (uint32_t)root;
}

static void sha256_prepare(void)
{
	int found = 0;
	for (unsigned candidate = 2; found < 64; candidate++) {
		unsigned divisor = 2;
		while (candidate % divisor)
			divisor++;
		if (divisor == candidate)
			round_constants[found++] = cube_root_fraction(candidate);
	}
	uint64_t seed = 1;
	message = memory(MESSAGE);
	for (size_t i = 0; i < MESSAGE; i++)
		message[i] = (unsigned char)next_random(&seed);
}

static inline uint32_t rotate(uint32_t value, int by)
{
	return value >> by | value << (32 - by);
}

static NOINLINE void sha256_block(uint32_t state[8], const unsigned char *block)
{
	uint32_t w[64];
	for (int i = 0; i < 16; i++) {
		uint32_t word;
		memcpy(&word, block + 4 * i, 4);
		w[i] = __builtin_bswap32(word);
	}
	for (int i = 16; i < 64; i++) {
		uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
		uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
		w[i] = w[i - 16] + s0 + w[i - 7] + s1;
	}
	uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
	uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
	for (int i = 0; i < 64; i++) {
		uint32_t big1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
		uint32_t t1 = h + big1 + ((e & f) ^ (~e & g)) + round_constants[i] + w[i];
		uint32_t big0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
		uint32_t t2 = big0 + ((a & b) ^ (a & c) ^ (b & c));
		h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
	}
	state[0] += a, state[1] += b, state[2] += c, state[3] += d;
	state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static uint64_t sha256(void)
{
	uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
			     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	for (int i = 0; i < MESSAGES; i++)
		for (size_t at = 0; at < MESSAGE; at += 64)
			sha256_block(state, message + at);
	return mix_bytes(0, state, sizeof state);
}

/* --- Quicksort of two million numbers: loads, stores and branches that can't be foretold --- */

#define NUMBERS 2000000
static uint32_t *numbers;

static void quicksort_prepare(void)
{
	numbers = memory(NUMBERS * sizeof *numbers);
}

static void sort(uint32_t *low, uint32_t *high)
{
	while (high - low > 16) {
		uint32_t a = *low, b = low[(high - low) / 2], c = *high;
		uint32_t pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
		uint32_t *left = low, *right = high;
		while (left <= right) {
			while (*left < pivot)
				left++;
			while (pivot < *right)
				right--;
			if (left <= right) {
				uint32_t kept = *left;
				*left++ = *right;
				*right-- = kept;
			}
		}
		if (right - low < high - left) {
			sort(low, right);
			low = left;
		} else {
			sort(left, high);
			high = right;
		}
	}
	for (uint32_t *at = low + 1; at <= high; at++) {
		uint32_t value = *at, *hole = at;
		for (; hole > low && hole[-1] > value; hole--)
			*hole = hole[-1];
		*hole = value;
	}
}

static uint64_t quicksort(void)
{
	uint64_t seed = 7, sum = 0;
	for (size_t i = 0; i < NUMBERS; i++)
		numbers[i] = (uint32_t)next_random(&seed);
	sort(numbers, numbers + NUMBERS - 1);
	for (size_t i = 0; i < NUMBERS; i += 97)
		sum = mix(sum, numbers[i]);
	return sum;
}

/* --- A hash table with open addressing: one million slots of 8 bytes, half of them taken --- */

#define SLOTS (1u << 20)
#define KEYS (SLOTS / 2)
#define LOOKUPS 4000000
static uint64_t *slots;

static void hash_prepare(void)
{
	slots = memory(SLOTS * sizeof *slots);
}

static inline size_t slot_of(uint64_t key)
{
	return (size_t)(key * 0x9e3779b97f4a7c15u >> 44);
}

static NOINLINE void insert(uint64_t key)
{
	size_t slot = slot_of(key);
	while (slots[slot] && slots[slot] != key)
		slot = (slot + 1) % SLOTS;
	slots[slot] = key;
}

static NOINLINE unsigned contains(uint64_t key)
{
	size_t slot = slot_of(key);
	while (slots[slot]) {
		if (slots[slot] == key)
			return 1;
		slot = (slot + 1) % SLOTS;
	}
	return 0;
}

static uint64_t hash_table(void)
{
	uint64_t seed = 3, found = 0;
	memset(slots, 0, SLOTS * sizeof *slots);
	/* Keys are below 2^21, so that about one lookup in four finds something. */
	for (int i = 0; i < (int)KEYS; i++)
		insert((next_random(&seed) >> 43) | 1);
	for (int i = 0; i < LOOKUPS; i++)
		found += contains(next_random(&seed) >> 43);
	return mix(found, seed);
}

const struct row integer_rows[] = {
	{"sha256", sha256_prepare, sha256, NULL},
	{"quicksort", quicksort_prepare, quicksort, NULL},
	{"hash-table", hash_prepare, hash_table, NULL},
	{NULL, NULL, NULL, NULL},
};
