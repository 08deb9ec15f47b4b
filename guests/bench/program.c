/* A whole program as a row: started again for every repetition, its output summed. */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *root, *directory = "/";
static char **program;

/* Not even the program's errors may get between the lines of standard output. */
static _Noreturn void become(int output)
{
	static char *const environment[] = {"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C", "HOME=/root", NULL};
	int nothing;
	if (root && chroot(root))
		give_up("could not change the root");
	if (chdir(directory))
		give_up("could not change the directory");
	nothing = open("/dev/null", O_RDWR);
	if (nothing >= 0)
		dup2(nothing, 0);
	else
		close(0);
	if (dup2(output, 1) < 0)
		give_up("could not give the program its output");
	execve(program[0], program, environment);
	give_up(program[0]);
}

static uint64_t run_program(void)
{
	static unsigned char buffer[65536];
	int ends[2], status;
	uint64_t sum = 0;
	ssize_t count;
	if (pipe2(ends, O_CLOEXEC))
		give_up("could not make a pipe");
	pid_t child = fork();
	if (child < 0)
		give_up("could not fork");
	if (child == 0)
		become(ends[1]);
	close(ends[1]);
	while ((count = read(ends[0], buffer, sizeof buffer)) > 0)
		for (ssize_t i = 0; i < count; i++)
			sum = (sum ^ buffer[i]) * 0x100000001b3u;
	close(ends[0]);
	if (waitpid(child, &status, 0) != child)
		give_up("a child was lost");
	if (status) {
		fprintf(stderr, "bench: %s ended with status %#x\n", program[0], (unsigned)status);
		exit(1);
	}
	return sum;
}

int exec_command(int argc, char **argv)
{
	double seconds = 0.5;
	unsigned least = 3;
	int option;
	while ((option = getopt(argc, argv, "+s:n:r:d:")) != -1) {
		switch (option) {
		case 's':
			seconds = atof(optarg);
			break;
		case 'n':
			least = (unsigned)atoi(optarg);
			break;
		case 'r':
			root = optarg;
			break;
		case 'd':
			directory = optarg;
			break;
		default:
			return 2;
		}
	}
	if (argc - optind < 2) {
		fprintf(stderr, "usage: bench exec [-s SECONDS] [-n LEAST] [-r ROOT] [-d DIRECTORY] NAME PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	program = argv + optind + 1;
	if (least > 1)
		run_program(); /* warms the file cache */
	return measure(argv[optind], run_program, seconds, least);
}
