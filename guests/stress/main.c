// Programs that an engine gets wrong easily, each with one right result: `stress NAME...` runs those of these names and
// says `NAME ok`, or what was wrong and ends with status 1. `stress list` names them. On a processor all of them are ok.
#include "stress.h"
#include <sys/wait.h>
#include <time.h>

static const struct {
	const char *name;
	void (*run)(void);
} programs[] = {
	{"patch_here", patch_here},
	{"patch_itself", patch_itself},
	{"patch_alias", patch_alias},
	{"patch_thread", patch_thread},
	{"patch_remap", patch_remap},
	{"patch_fork", patch_fork},
	{"patch_protect", patch_protect},
	{"patch_pipe", patch_pipe},
	{"patch_disk", patch_disk},
	{"debug_steps", debug_steps},
	{"debug_watch", debug_watch},
	{"debug_breakpoints", debug_breakpoints},
	{"signals_timer", signals_timer},
	{"signals_faults", signals_faults},
	{"signals_perf", signals_perf},
	{"state_processes", state_processes},
	{"state_threads", state_threads},
	{"memory_shootdown", memory_shootdown},
	{"memory_protect", memory_protect},
	{"memory_ping_pong", memory_ping_pong},
	{"memory_fork_bomb", memory_fork_bomb},
	{"memory_eat", memory_eat},
};

void reap(int pid, const char *what) {
	int status;
	MUST(waitpid(pid, &status, 0));
	if (status != 0)
		FAIL("%s: a child ended with %s %d", what, WIFSIGNALED(status) ? "signal" : "status",
		     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

double seconds(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++) {
		int found = 0;
		for (size_t p = 0; p < sizeof programs / sizeof *programs; p++) {
			if (!strcmp(argv[i], "list"))
				puts(programs[p].name), found = 1;
			if (strcmp(argv[i], programs[p].name))
				continue;
			found = 1;
			double began = seconds();
			printf("%s ", argv[i]);
			fflush(stdout);
			programs[p].run();
			printf("ok\n");
			fprintf(stderr, "%s took %.2f s\n", argv[i], seconds() - began);
		}
		if (!found)
			FAIL("there is no %s", argv[i]);
	}
	return 0;
}
