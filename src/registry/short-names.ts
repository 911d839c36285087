/**
 * What names without a registry stand for on this machine: [aliases] and unqualified-search-registries of
 * containers-registries.conf(5), and the aliases that podman writes down. Nobody is ever asked.
 */
import { effectiveUid, inUserNamespace } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";
import { bareName, dockerHub, isShortName, parseReference, type Reference } from "../reference/reference.ts";
import { registriesFiles } from "./config.ts";
import { type Environment, isTable, readToml, type Table } from "./files.ts";

/** What the files say together; later ones override. */
interface ShortNames {
  readonly aliases: ReadonlyMap<string, { readonly name: string; readonly file: string }>;
  readonly search: readonly string[];
  /** The file that has the search list. */
  readonly file: string;
  /** Several registries in the list are too many. */
  readonly enforcing: boolean;
}

/** Where podman keeps what its user has chosen: it overrides what is configured. */
function recordedFile(env: Environment): string | undefined {
  if (env.OCIBOX_REGISTRIES_CONF) return undefined;
  const folder =
    effectiveUid() === 0 && !inUserNamespace()
      ? "/var/cache"
      : (env.XDG_CACHE_HOME ?? (env.HOME && `${env.HOME}/.cache`));
  return folder ? `${folder}/containers/short-name-aliases.conf` : undefined;
}

function stringsAt(toml: Table, key: string, file: string): readonly string[] | undefined {
  const value = toml[key];
  if (value === undefined) return undefined;
  if (Array.isArray(value) && value.every((each): each is string => typeof each === "string")) return value;
  throw new OciboxError(
    "INVALID",
    `"${file}" has ${JSON.stringify(value)} as ${key}, which is not an array of strings`,
  );
}

function readShortNames(env: Environment): ShortNames {
  const aliases = new Map<string, { name: string; file: string }>();
  let search: readonly string[] = [];
  let from = "";
  let mode: unknown = "";
  const recorded = recordedFile(env);
  for (const file of [...registriesFiles(env), ...(recorded === undefined ? [] : [recorded])]) {
    const toml = readToml(file);
    if (toml === undefined) continue;
    for (const [short, name] of isTable(toml.aliases) ? Object.entries(toml.aliases) : []) {
      if (typeof name !== "string")
        throw new OciboxError("INVALID", `"${file}" has an alias "${short}" that is no name`);
      aliases.set(short, { name, file });
    }
    const list = stringsAt(toml, "unqualified-search-registries", file);
    if (list !== undefined) [search, from] = [list, file];
    mode = toml["short-name-mode"] ?? mode;
  }
  return { aliases, search, file: from, enforcing: mode === "enforcing" };
}

/** A name of a registry's with the tag and the digest that were asked for. */
function named(name: string, { tag, digest }: Reference, file: string): Reference {
  const refuse = (why: string): never => {
    throw new OciboxError("INVALID", `"${file}" cannot be used: ${JSON.stringify(name)} ${why}`);
  };
  if (isShortName(name) || bareName(name) !== name) refuse("is not a registry and a repository, without a tag");
  const { registry, repository } = parseReference(name);
  return {
    registry,
    repository,
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
  };
}

/**
 * What a name stands for, the likeliest first. An alias is the only one. Without an alias it is Docker Hub's, unless
 * search registries are configured and Docker Hub is none of them: then it is theirs, in their order.
 * @throws OciboxError NAME_INVALID; INVALID for a configuration that cannot be used, and where it wants a choice made
 */
export function longNames(word: string, env: Environment): readonly [Reference, ...Reference[]] {
  const usual = parseReference(word);
  if (!isShortName(word)) return [usual];
  const bare = bareName(word);
  const { aliases, search, file, enforcing } = readShortNames(env);
  const alias = aliases.get(bare);
  // An empty one takes an earlier one back.
  if (alias !== undefined && alias.name !== "") return [named(alias.name, usual, alias.file)];
  const hosts = [...new Set(search)];
  if (hosts.includes(dockerHub)) return [usual];
  const [first, ...others] = hosts.map((host) => named(`${host}/${bare}`, usual, file));
  if (first === undefined) return [usual];
  if (others.length === 0 || !enforcing) return [first, ...others];
  throw new OciboxError(
    "INVALID",
    `${JSON.stringify(word)} may be of ${hosts.join(" or ")}: "${file}" allows no guess`,
    {
      hint: `write the registry too, ${hosts[0]}/${word}; or give the name an alias there`,
    },
  );
}
