/** Who this process runs as. */

/** geteuid(2), as Bun asks for it, which is quicker than a call of our own. */
export function effectiveUid(): number {
  return (process.geteuid as () => number)();
}
