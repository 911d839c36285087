/** Who this process runs as. */

/** geteuid(2), as Bun asks for it: each call of our own takes part in what is compiled at a start. */
export function effectiveUid(): number {
  return (process.geteuid as () => number)();
}
