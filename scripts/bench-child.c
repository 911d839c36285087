/*
 * Runs a command and prints what it took: wall, user and system time in microseconds, and the peak of its resident memory
 * (its own or its largest child's) in KiB. A program of C, because a child's peak counts from its parent's memory on.
 * usage: bench-child COMMAND [ARGUMENT...]. Ends as the command does.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

int main(int argc, char **argv) {
  int nothing = open("/dev/null", O_RDWR | O_CLOEXEC), status;
  if (argc < 2 || dup2(nothing, 0) < 0) return 2;
  long start = now();
  pid_t child = vfork();
  if (child == 0) {
    dup2(nothing, 1);
    execvp(argv[1], argv + 1);
    _exit(99);
  }
  struct rusage used;
  if (wait4(child, &status, 0, &used) != child) return 2;
  printf("%ld %ld %ld %ld\n", now() - start, used.ru_utime.tv_sec * 1000000L + used.ru_utime.tv_usec,
         used.ru_stime.tv_sec * 1000000L + used.ru_stime.tv_usec, used.ru_maxrss);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
