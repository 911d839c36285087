/** What stands between containers and the host, besides their namespaces; docs/security.md */
import type { HostFacts } from "../plan/facts.ts";

export function isolationOf({ ids }: Pick<HostFacts, "ids">): string {
  if (ids === undefined) return "root";
  const size = Math.min(...[ids.uids, ids.gids].map((rows) => rows.reduce((sum, row) => sum + row.size, 0)));
  return `user namespace of ${size === 1 ? "one id" : `${size} ids`}`;
}
