/* The image of a plan, as ffi/encode.ts writes it. All is little-endian; every offset is in bytes.
 *
 *   header | step records (step_count of them) | data (data_size bytes, the last one 0) | relocations (u32 each)
 *
 * Text and structures live in data and are named by their offset in it; text ends with a NUL. A relocation is the
 * (8-byte aligned) offset in data of a u64 that holds an offset in data and becomes an address. Steps name each other
 * by index, results by slot number. Nothing outside the three areas can be reached by what init itself reads or writes.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long u64;
typedef long i64;

#define PLAN_MAGIC 0x5042434fu /* "OCBP" */
#define PLAN_VERSION 1u
#define PLAN_MOST_STEPS 16384u
#define PLAN_MOST_SLOTS 4096u
#define PLAN_MOST_BYTES (64u << 20)
#define NONE 0xffffffffu

struct header {
  u32 magic, version, size, step_count, data_off, data_size, reloc_off, reloc_count, slot_count;
  u32 fault_step, fault_errno; /* this step fails with this errno instead of being done; NONE for no step */
  u32 fault_last; /* of the steps up to this one, the first that is come to */
};

enum arg_kind { ARG_NUMBER, ARG_SLOT, ARG_LOW, ARG_HIGH, ARG_ADDRESS, ARG_SLOT_ADDRESS, ARG_ENVIRONMENT,
                ARG_KINDS };

struct arg {
  u8 kind;
  u8 show;   /* how it is written out: enum show, or SHOW_FLAGS + the number of a flag table */
  u8 layout; /* SHOW_STRUCT: the number of its layout */
  u8 zero;
  u32 length; /* SHOW_BYTES: how many */
  u64 value;  /* the number, the slot, or the offset in data */
};

enum show { SHOW_INT, SHOW_DIRFD, SHOW_MODE, SHOW_HEX, SHOW_DEV, SHOW_SIG, SHOW_TEXT, SHOW_BYTES, SHOW_OUT, SHOW_STRV,
            SHOW_STRUCT, SHOW_FLAGS };

enum op { OP_CALL, OP_JUMP, OP_BRANCH, OP_SET, OP_STORE, OP_LOAD, OP_FORMAT, OP_ON_FAILURE, OP_REPORT_TO, OP_AWAIT,
          OP_FAIL, OP_TAKE_SIGNALS, OP_GIVE_SIGNALS, OP_SUPERVISE, OP_REMOVE, OP_EXIT, OP_LOG_TO,
          OP_PLAIN_LINES, OP_ENSURE, OP_FORGET_ENVIRONMENT, OPS };

enum compare { EQUAL, NOT_EQUAL, LESS, GREATER, COMPARES };

#define STEP_CARRY_ON 1   /* a failure is a warning */
#define STEP_COMMAND 2    /* a failure is the command's: 126, 127 */
#define STEP_MORE 4       /* OP_FORMAT: append; OP_SUPERVISE: copy stdin; OP_AWAIT: a byte must come;
                             OP_ENSURE: a file */
#define MOST_ARGS 6
#define MOST_ERRNOS 8

struct step {
  u8 op, flags, argc, errno_count;
  u32 nr;      /* OP_CALL: the call's number; OP_STORE: bytes (1, 2, 4, 8); OP_BRANCH: enum compare;
                  OP_FORMAT: bytes in the buffer */
  u32 result;  /* slot that is set, or NONE */
  u32 target;  /* step to go to, or NONE */
  u32 at;      /* OP_CALL: the call's name; OP_REMOVE, OP_LOG_TO, OP_ENSURE: text; OP_STORE, OP_LOAD, OP_FORMAT: place in data */
  u32 field;   /* text: what asked for it */
  u32 says;    /* text, or NONE */
  u32 retries;
  i64 value;   /* OP_BRANCH, OP_SET: the number; OP_FAIL: the errno, where no argument is its
                  negative */
  u16 errnos[MOST_ERRNOS];
  struct arg args[MOST_ARGS];
};

_Static_assert(sizeof(struct header) == 48, "header");
_Static_assert(sizeof(struct arg) == 16, "arg");
_Static_assert(sizeof(struct step) == 152, "step");
