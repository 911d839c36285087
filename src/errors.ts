/** One table of coded errors: what a code means and how the program ends for it. */

/** Exit codes: 125 ocibox failed, 126 the command cannot be invoked, 127 not found (docs/exit-codes). */
const codes = {
  USAGE: 125,
  NAME_INVALID: 125,
  NOT_FOUND: 125,
  DENIED: 125,
  REGISTRY: 125,
  NETWORK: 125,
  DIGEST_MISMATCH: 125,
  INVALID: 125,
  PLATFORM: 125,
  STORE: 125,
  IN_USE: 125,
  UNSUPPORTED: 125,
  PERMISSION: 125,
  HOST: 125,
  INTERRUPTED: 130,
  COMMAND_NOT_INVOKABLE: 126,
  COMMAND_NOT_FOUND: 127,
} as const;

export type ErrorCode = keyof typeof codes;

/**
 * An error that is told to the user: one line that says what was being done, to what (quoted), and why; `hint` is what
 * to do next. Thrown, never logged where it is thrown; main.ts prints it.
 */
export class OciboxError extends Error {
  override readonly name = "OciboxError";
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
  }

  get exitCode(): number {
    return codes[this.code];
  }
}

/** The reason in an unknown thrown value, for the end of a sentence. */
export function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
