/** Every step of a plan failing in turn, in several places side by side. */

const block = 16;

/**
 * The steps that somebody comes to where nothing fails, block by block, each lane its own; the rest is what follows upon a
 * failure. Nothing is asked of a step whose block nobody comes to.
 * @param probe makes something with the first step that is come to of some ("16-31") failing: whether one was
 * @param each is called for each step of a block that somebody comes to; it says whether to go on
 */
export async function faultsInLane(
  steps: number,
  { lane, lanes }: { readonly lane: number; readonly lanes: number },
  probe: (range: string) => Promise<boolean>,
  each: (step: number) => Promise<boolean>,
): Promise<void> {
  for (let first = lane * block; first < steps; first += lanes * block) {
    const last = Math.min(first + block, steps) - 1;
    if (!(await probe(`${first}-${last}`))) continue;
    for (let step = first; step <= last; step++) if (!(await each(step))) return;
  }
}
