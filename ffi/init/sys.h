/* System calls without a C library. With INIT_FUZZ they are stubs (tests/fuzz). */
#pragma once
#include "init.h"

#ifdef INIT_FUZZ
i64 sys6(i64 nr, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f);
__attribute__((noreturn)) void leave(int code);
#else
static inline i64 sys6(i64 nr, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f) {
#if defined(__x86_64__)
  i64 result;
  register i64 r10 __asm__("r10") = d;
  register i64 r8 __asm__("r8") = e;
  register i64 r9 __asm__("r9") = f;
  __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register i64 x8 __asm__("x8") = nr;
  register i64 x0 __asm__("x0") = a;
  register i64 x1 __asm__("x1") = b;
  register i64 x2 __asm__("x2") = c;
  register i64 x3 __asm__("x3") = d;
  register i64 x4 __asm__("x4") = e;
  register i64 x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#else
#error "this machine is not known"
#endif
}
#endif

#define A(x) ((i64)(x))
static inline i64 sys_1(i64 nr, i64 a) { return sys6(nr, a, 0, 0, 0, 0, 0); }
static inline i64 sys_2(i64 nr, i64 a, i64 b) { return sys6(nr, a, b, 0, 0, 0, 0); }
static inline i64 sys_3(i64 nr, i64 a, i64 b, i64 c) { return sys6(nr, a, b, c, 0, 0, 0); }
static inline i64 sys_4(i64 nr, i64 a, i64 b, i64 c, i64 d) { return sys6(nr, a, b, c, d, 0, 0); }
static inline i64 sys_5(i64 nr, i64 a, i64 b, i64 c, i64 d, i64 e) { return sys6(nr, a, b, c, d, e, 0); }
