/** docker's commands of two words: `image ls` is `images`, `container rm` is `rm`. */
import { OciboxError } from "../errors.ts";
import { nearest } from "./options.ts";

const groups: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  image: {
    ls: ["images"],
    list: ["images"],
    rm: ["rmi"],
    remove: ["rmi"],
    inspect: ["inspect", "--type", "image"],
    pull: ["pull"],
    push: ["push"],
    prune: ["prune"],
    tag: ["tag"],
    history: ["history"],
    save: ["save"],
    load: ["load"],
    import: ["import"],
  },
  manifest: { push: ["push", "--all-platforms"], add: ["manifest create", "--amend"], rm: ["rmi"] },
  volume: { list: ["volume ls"], remove: ["volume rm"] },
  system: { prune: ["prune"], info: ["info"], check: ["check"] },
  container: {
    ls: ["ps"],
    list: ["ps"],
    ps: ["ps"],
    run: ["run"],
    rm: ["rm"],
    remove: ["rm"],
    inspect: ["inspect", "--type", "container"],
    port: ["port"],
    top: ["top"],
    stats: ["stats"],
    pause: ["pause"],
    unpause: ["unpause"],
    rename: ["rename"],
    cp: ["cp"],
    export: ["export"],
    diff: ["diff"],
  },
};

/**
 * The words that a command of two words stands for; undefined where the first is no group's.
 * @param commands the names of commands, those of two words included
 * @throws OciboxError USAGE for a word that the group does not have
 */
export function expandGroup(words: readonly string[], commands: readonly string[]): readonly string[] | undefined {
  const [first = "", second = "", ...rest] = words;
  if (commands.includes(`${first} ${second}`)) return [`${first} ${second}`, ...rest];
  const aliases = Object.hasOwn(groups, first) ? groups[first] : undefined;
  const own = commands.filter((each) => each.startsWith(`${first} `)).map((each) => each.slice(first.length + 1));
  if (aliases === undefined && own.length === 0) return undefined;
  const alias = aliases !== undefined && Object.hasOwn(aliases, second) ? aliases[second] : undefined;
  if (alias !== undefined) return [...alias, ...rest];
  const among = [...new Set([...Object.keys(aliases ?? {}), ...own])].sort();
  const near = second === "" ? undefined : nearest(second, among);
  const what = second === "" ? `ocibox ${first} wants a command` : `ocibox ${first} has no command "${second}"`;
  throw new OciboxError("USAGE", what, {
    hint: near === undefined ? `there are ${among.join(", ")}` : `did you mean "ocibox ${first} ${near}"?`,
  });
}
