import { OciboxError } from "../errors.ts";
import { dockerHub, familiarName, parseReference } from "../reference/reference.ts";
import { type FoundRepository, listTags, type SearchOptions, searchRegistry } from "../registry/search.ts";
import { formatOption, printListing } from "./format.ts";
import type { Globals } from "./globals.ts";
import { interruptible } from "./interruptible.ts";
import type { Command, Given } from "./options.ts";
import { pullOptions } from "./pull.ts";

const { authfile, "tls-verify": tlsVerify } = pullOptions;
/** docker's. */
const usualLimit = 25;
const mostWanted = 10_000;

/** "quay.io/fedora" is a registry and a term; "fedora" is one for Docker Hub; "localhost:5000/" is all of a registry. */
function split(word: string): { registry: string; term: string } {
  const slash = word.indexOf("/");
  const first = slash < 0 ? "" : word.slice(0, slash);
  if (!/[.:]|^localhost$/.test(first)) return { registry: dockerHub, term: word };
  return { registry: parseReference(`${first}/search`).registry, term: word.slice(slash + 1) };
}

function limitOf(given: Given, usual: number): number {
  const text = given.text("limit");
  if (text === undefined) return usual;
  const limit = /^[0-9]{1,6}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= mostWanted) return limit;
  throw new OciboxError("USAGE", `--limit is "${text}", not a number from 1 to ${mostWanted}`);
}

type Test = (each: FoundRepository) => boolean;

function filterOf(word: string): Test {
  const official = /^is-official=(true|false|1|0)$/.exec(word)?.[1];
  if (official !== undefined) return (each) => each.official === (official === "true" || official === "1");
  const stars = /^stars=([0-9]{1,9})$/.exec(word)?.[1];
  if (stars !== undefined) return (each) => each.stars >= Number(stars);
  throw new OciboxError("USAGE", `--filter is "${word}", which is none of is-official=true|false, stars=NUMBER`);
}

function shortened(text: string, whole: boolean): string {
  return whole || text.length <= 45 ? text : `${text.slice(0, 44)}…`;
}

/** As it is pulled by. */
function nameOf(registry: string, { name }: FoundRepository): string {
  return familiarName({ registry, repository: name });
}

async function showRepositories(word: string, given: Given, options: SearchOptions): Promise<void> {
  const { registry, term } = split(word);
  if (registry === dockerHub && !/[A-Za-z0-9]/.test(term))
    throw new OciboxError("USAGE", "ocibox search wants something to look for");
  const tests = given.all("filter").map(filterOf);
  const found = await searchRegistry(registry, term, options);
  const rows = found
    .filter((each) => tests.every((test) => test(each)))
    .map((each) => ({
      Name: nameOf(registry, each),
      Description: shortened(each.description, given.flag("no-trunc")),
      StarCount: each.stars,
      IsOfficial: each.official ? "[OK]" : "",
      IsAutomated: "",
    }));
  const columns = [
    ["NAME", "Name"],
    ["DESCRIPTION", "Description"],
    ["STARS", "StarCount"],
    ["OFFICIAL", "IsOfficial"],
  ] as const;
  printListing({ rows, columns }, given.text("format"));
}

async function showTags(word: string, given: Given, options: SearchOptions): Promise<void> {
  const reference = parseReference(word);
  const name = familiarName(reference);
  const rows = (await listTags(reference, options)).map((Tag) => ({ Name: name, Tag }));
  const columns = [
    ["NAME", "Name"],
    ["TAG", "Tag"],
  ] as const;
  printListing({ rows, columns }, given.text("format"));
}

export function command(_: Globals): Command {
  return {
    def: {
      meta: { name: "search", description: "Look for repositories in a registry, where it offers that" },
      args: {
        limit: { type: "string", valueHint: "NUMBER", description: `Most that are shown (${usualLimit})` },
        filter: {
          type: "string",
          alias: "f",
          repeat: true,
          valueHint: "KEY=VALUE",
          description: "is-official=true|false, stars=NUMBER",
        },
        "list-tags": { type: "boolean", description: "The tags of a repository, all of them without --limit" },
        "no-trunc": { type: "boolean", description: "Whole descriptions" },
        format: formatOption,
        authfile,
        "tls-verify": tlsVerify,
        TERM: { type: "positional", description: "Part of a name; HOST/TERM for another registry than Docker Hub" },
      },
    },
    words: [1, 1],
    async run(given) {
      const [word = ""] = given.words;
      const tags = given.flag("list-tags");
      const limit = limitOf(given, tags ? Number.POSITIVE_INFINITY : usualLimit);
      await interruptible(`the search for "${word}"`, async (signal) => {
        const options = { limit, signal, authfile: given.text("authfile"), insecure: !given.flag("tls-verify") };
        await (tags ? showTags : showRepositories)(word, given, options);
      });
      return 0;
    },
  };
}
