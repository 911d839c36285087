/*
 * The plan's image, as encode.ts writes it and init.c reads it. Little-endian, one flat piece of memory; every
 * "offset" counts from its beginning. The last byte of the image is 0, so that any text in it ends inside it.
 *
 *   header | steps | slots (64 bits each) | text, structures, memory | relocations
 *
 * A relocation adds the image's address to the 64-bit word at `at`, which then points to `target`: pointers inside
 * structures and vectors. Nothing outside the image can be pointed at.
 */
#include <stdint.h>

#define PLAN_MAGIC 0x5049434fu /* "OCIP" */
#define PLAN_VERSION 1u
#define NONE 0xffffffffu

struct header {
	uint32_t magic, version, size;
	uint32_t nsteps, steps;
	uint32_t nslots, slots;
	uint32_t nrelocs, relocs;
	int32_t fault_step, fault_errno; /* tests: the step that is made to fail, or -1 */
	uint32_t prefix; /* text before an error: "ocibox: cannot start the container: " */
	uint32_t spare[4];
};

struct reloc { uint32_t at, target; };
struct part { uint32_t kind, value; }; /* of a format: PART_TEXT and an offset, or an argument kind and a slot */
#define PART_TEXT 255u

enum op {
	OP_CALL = 1, OP_JUMP, OP_BRANCH, OP_SET, OP_STORE, OP_LOAD, OP_FORMAT, OP_ON_FAILURE, OP_REPORT_TO, OP_AWAIT,
	OP_FAIL, OP_TAKE_SIGNALS, OP_GIVE_SIGNALS, OP_SUPERVISE, OP_REMOVE, OP_EXIT, OP_LAST = OP_EXIT
};

/* How an argument is had ... */
enum kind { K_IMMEDIATE, K_SLOT, K_SLOT_LOW, K_SLOT_HIGH, K_ADDRESS, K_SLOT_ADDRESS, K_LAST = K_SLOT_ADDRESS };
/* ... and how it is shown: `text` holds words made beforehand for flags and structures. */
enum show { S_DECIMAL, S_OCTAL, S_HEX, S_STRING, S_WORDS, S_DIRFD, S_OUT, S_LAST = S_OUT };

enum blame { BLAME_OCIBOX, BLAME_COMMAND };
#define FLAG_CARRY_ON 1u

#define MAX_TOLERATED 6

struct step {
	uint8_t op, nargs, flags, blame;
	uint32_t nr; /* system call; BRANCH: compare; STORE: bytes */
	uint32_t name, field, says; /* text, or NONE */
	uint32_t result; /* slot, or NONE */
	uint32_t jump; /* step, or NONE */
	uint16_t retries, ntolerated;
	uint16_t tolerated[MAX_TOLERATED];
	uint8_t kind[6], show[6];
	uint32_t text[6];
	uint64_t arg[6];
};
_Static_assert(sizeof(struct header) == 64, "header");
_Static_assert(sizeof(struct step) == 128, "step");

enum compare { C_EQUAL, C_UNEQUAL, C_LESS, C_GREATER, C_LAST = C_GREATER };
