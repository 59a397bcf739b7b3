// Submits to rings without an SQ array on every CPU while another thread makes and closes a ring with one, at which the kernel
// patches io_submit_sqes. toggle SECONDS [hold]: "hold" keeps such a ring open all the time, so that nothing is patched.
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef IORING_SETUP_NO_SQARRAY
#define IORING_SETUP_NO_SQARRAY (1U << 16) // Linux 6.6
#endif

static int ring(struct io_uring_params *params) {
  int fd = syscall(SYS_io_uring_setup, 8, params);
  if (fd < 0) perror("io_uring_setup"), exit(1);
  return fd;
}

static atomic_ulong submitted;

static void *submit(void *unused) {
  struct io_uring_params params = {.flags = IORING_SETUP_NO_SQARRAY};
  int fd = ring(&params);
  size_t size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
  char *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
  struct io_uring_sqe *sqes = mmap(NULL, 8 * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
  _Atomic uint32_t *tail = (void *)(shared + params.sq_off.tail), *seen = (void *)(shared + params.cq_off.head);
  memset(sqes, 0, 8 * sizeof(*sqes)); // all IORING_OP_NOP
  for (;;) {
    atomic_fetch_add(tail, 1);
    syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    atomic_fetch_add(seen, 1);
    atomic_fetch_add(&submitted, 1);
  }
  return unused;
}

int main(int argc, char **argv) {
  struct io_uring_params params = {0};
  time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 60);
  unsigned long toggles = 0;
  pthread_t thread;
  if (argc > 2 && !strcmp(argv[2], "hold")) ring(&params);
  for (int i = 0; i < 2; i++) pthread_create(&thread, NULL, submit, NULL);
  while (time(NULL) < end) {
    memset(&params, 0, sizeof(params));
    int fd = ring(&params);
    usleep(2000);
    close(fd);
    usleep(2000);
    toggles++;
  }
  printf("%lu rings made and closed, %lu submissions\n", toggles, atomic_load(&submitted));
  return 0;
}
