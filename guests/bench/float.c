/* Floating point: scalar double, matrix products with SSE2 and with AVX2 and FMA, x87, the C library's functions. */
#include "bench.h"

#include <immintrin.h>
#include <math.h>

/* --- Scalar double: bodies that attract each other, without the C library --- */

#define BODIES 6
struct body {
	double place[3], speed[3], mass;
};

static uint64_t scalar_double(void)
{
	struct body bodies[BODIES];
	uint64_t seed = 17;
	for (int i = 0; i < BODIES; i++) {
		for (int axis = 0; axis < 3; axis++) {
			bodies[i].place[axis] = (double)(next_random(&seed) % 2000) / 100.0 - 10.0;
			bodies[i].speed[axis] = (double)(next_random(&seed) % 2000) / 1000.0 - 1.0;
		}
		bodies[i].mass = 0.5 + i;
	}
	for (int step = 0; step < 100000; step++) {
		for (int i = 0; i < BODIES; i++)
			for (int j = i + 1; j < BODIES; j++) {
				double apart[3], square = 0.05;
				for (int axis = 0; axis < 3; axis++) {
					apart[axis] = bodies[i].place[axis] - bodies[j].place[axis];
					square += apart[axis] * apart[axis];
				}
				double pull = 0.0001 / (square * __builtin_sqrt(square));
				for (int axis = 0; axis < 3; axis++) {
					bodies[i].speed[axis] -= apart[axis] * pull * bodies[j].mass;
					bodies[j].speed[axis] += apart[axis] * pull * bodies[i].mass;
				}
			}
		for (int i = 0; i < BODIES; i++)
			for (int axis = 0; axis < 3; axis++)
				bodies[i].place[axis] += 0.0001 * bodies[i].speed[axis];
	}
	return mix_bytes(0, bodies, sizeof bodies);
}

/* --- Matrix products: single precision, with the instructions named --- */

#define SIDE 128
static float *left, *right, *product;

static void matrix_prepare(void)
{
	uint64_t seed = 19;
	left = memory(SIDE * SIDE * sizeof *left);
	right = memory(SIDE * SIDE * sizeof *right);
	product = memory(SIDE * SIDE * sizeof *product);
	for (int i = 0; i < SIDE * SIDE; i++) {
		left[i] = (float)(next_random(&seed) % 1000) / 500.0f - 1.0f;
		right[i] = (float)(next_random(&seed) % 1000) / 500.0f - 1.0f;
	}
}

static NOINLINE void product_sse2(void)
{
	for (int i = 0; i < SIDE; i++)
		for (int j = 0; j < SIDE; j += 16) {
			__m128 sum[4] = {_mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps()};
			for (int k = 0; k < SIDE; k++) {
				__m128 factor = _mm_set1_ps(left[i * SIDE + k]);
				for (int part = 0; part < 4; part++) {
					__m128 row = _mm_loadu_ps(right + k * SIDE + j + 4 * part);
					sum[part] = _mm_add_ps(sum[part], _mm_mul_ps(factor, row));
				}
			}
			for (int part = 0; part < 4; part++)
				_mm_storeu_ps(product + i * SIDE + j + 4 * part, sum[part]);
		}
}

static uint64_t matrix_sse2(void)
{
	for (int turn = 0; turn < 50; turn++) {
		BARRIER();
		product_sse2();
	}
	return mix_bytes(0, product, SIDE * SIDE * sizeof *product);
}

__attribute__((target("avx2,fma"))) static NOINLINE void product_avx2(void)
{
	for (int i = 0; i < SIDE; i++)
		for (int j = 0; j < SIDE; j += 32) {
			__m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
					 _mm256_setzero_ps()};
			for (int k = 0; k < SIDE; k++) {
				__m256 factor = _mm256_set1_ps(left[i * SIDE + k]);
				for (int part = 0; part < 4; part++) {
					__m256 row = _mm256_loadu_ps(right + k * SIDE + j + 8 * part);
					sum[part] = _mm256_fmadd_ps(factor, row, sum[part]);
				}
			}
			for (int part = 0; part < 4; part++)
				_mm256_storeu_ps(product + i * SIDE + j + 8 * part, sum[part]);
		}
}

static uint64_t matrix_avx2(void)
{
	for (int turn = 0; turn < 4; turn++) {
		BARRIER();
		product_avx2();
	}
	return mix_bytes(0, product, SIDE * SIDE * sizeof *product);
}

static const char *without_avx2(void)
{
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return NULL;
	return "this processor has no AVX2 with FMA";
}

/* --- x87: long double; no transcendental instruction, since not every emulator rounds those alike --- */

static uint64_t x87(void)
{
	long double sum = 0.0L, x = 0.25L;
	for (int i = 1; i <= 500000; i++) {
		x = 3.75L * x * (1.0L - x);
		sum += __builtin_sqrtl(x + (long double)i) / (x + 1.5L) - sum * 0.001L;
	}
	uint64_t fraction;
	uint16_t exponent;
	__builtin_memcpy(&fraction, &sum, 8);
	__builtin_memcpy(&exponent, (char *)&sum + 8, 2);
	return mix(fraction, exponent);
}

/* --- The C library's functions on doubles --- */

static uint64_t library(void)
{
	double sum = 0.0;
	for (int i = 1; i <= 150000; i++) {
		double x = (double)i * 0.0007;
		sum += sin(x) * exp(-x * 0.01) + log(x + 1.0) - pow(x, 0.3) + atan(x);
	}
	return mix_bytes(0, &sum, sizeof sum);
}

const struct row float_rows[] = {
	{"scalar-double", NULL, scalar_double, NULL},
	{"matrix-sse2", matrix_prepare, matrix_sse2, NULL},
	{"matrix-avx2-fma", matrix_prepare, matrix_avx2, without_avx2},
	{"x87", NULL, x87, NULL},
	{"libm", NULL, library, NULL},
	{NULL, NULL, NULL, NULL},
};
