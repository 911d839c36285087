/*
 * Times whole processes, in turns: round after round each command once, in another order each time and with a pause
 * between them, so that whatever else the machine does (and what a command leaves running) falls on all of them. usage: bench-timer ROUNDS [@MOUNT-NAMESPACE] COMMAND... [:: [@MOUNT-NAMESPACE] COMMAND...]...
 * Prints a line a command: median, lowest and highest tenth, in microseconds. Fails where a command fails.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 16, WARM = 3, PAUSE = 40000 };

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
  char **commands[MOST];
  int spaces[MOST], count = 0, rounds = argc > 2 ? atoi(argv[1]) : 0;
  if (rounds < 1) return 2;
  commands[count++] = argv + 2;
  for (int at = 2; at < argc; at++) {
    if (strcmp(argv[at], "::") != 0) continue;
    argv[at] = NULL;
    if (count == MOST) return 2;
    commands[count++] = argv + at + 1;
  }
  for (int at = 0; at < count; at++) {
    spaces[at] = -1;
    if (commands[at][0] == NULL || commands[at][0][0] != '@') continue;
    spaces[at] = open(commands[at][0] + 1, O_RDONLY | O_CLOEXEC);
    if (spaces[at] < 0) return 2;
    commands[at]++;
  }
  double *times = calloc((size_t)rounds * count, sizeof *times);
  int order[MOST];
  for (int at = 0; at < count; at++) order[at] = at;
  srand(1);
  int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  dup2(nothing, 0);
  for (int round = -WARM; round < rounds; round++) {
    for (int at = 0; at < count; at++) {
      int other = at + rand() % (count - at), swap = order[at];
      order[at] = order[other];
      order[other] = swap;
    }
    for (int place = 0; place < count; place++) {
      int at = order[place], status;
      usleep(PAUSE);
      double start = now();
      pid_t child = vfork();
      if (child == 0) {
        dup2(nothing, 1);
        if (spaces[at] >= 0 && setns(spaces[at], CLONE_NEWNS) != 0) _exit(98);
        execvp(commands[at][0], commands[at]);
        _exit(99);
      }
      waitpid(child, &status, 0);
      if (round >= 0) times[at * rounds + round] = now() - start;
      if (status != 0) {
        fprintf(stderr, "%s ended with the status %#x\n", commands[at][0], status);
        return 1;
      }
    }
  }
  for (int at = 0; at < count; at++) {
    double *own = times + (size_t)at * rounds;
    qsort(own, rounds, sizeof *own, compare);
    printf("%.1f %.1f %.1f\n", own[rounds / 2], own[rounds / 10], own[rounds * 9 / 10]);
  }
  return 0;
}
