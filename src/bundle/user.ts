/**
 * USER of an image and --user: who the process is, by the image's own passwd and group files. Numbers are taken
 * literally: a passwd line cannot turn one number into another (CVE-2016-3697, CVE-2024-40635).
 */
import { OciboxError } from "../errors.ts";

export interface Account {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: number[];
  readonly home: string;
}

interface PasswdLine {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

interface GroupLine {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** The largest id: 2^32 − 1 means "no change" to the kernel, and is none. */
const largest = 0xffff_fffe;

/** A decimal number without sign, space or leading zeros; undefined for any other text. */
function number(text: string): number | undefined {
  if (!/^(?:0|[1-9][0-9]{0,9})$/.test(text)) return undefined;
  const value = Number(text);
  return value <= largest ? value : undefined;
}

const decoder = new TextDecoder();

function lines(bytes: Uint8Array | undefined): string[] {
  return bytes === undefined ? [] : decoder.decode(bytes).split("\n");
}

function passwdLines(bytes: Uint8Array | undefined): PasswdLine[] {
  const found: PasswdLine[] = [];
  for (const line of lines(bytes)) {
    const [name = "", , uid = "", gid = "", , home = ""] = line.split(":");
    const uidNumber = number(uid);
    const gidNumber = number(gid);
    if (name === "" || name.startsWith("#") || uidNumber === undefined || gidNumber === undefined) continue;
    found.push({ name, uid: uidNumber, gid: gidNumber, home });
  }
  return found;
}

function groupLines(bytes: Uint8Array | undefined): GroupLine[] {
  const found: GroupLine[] = [];
  for (const line of lines(bytes)) {
    const [name = "", , gid = "", members = ""] = line.split(":");
    const gidNumber = number(gid);
    if (name === "" || name.startsWith("#") || gidNumber === undefined) continue;
    found.push({ name, gid: gidNumber, members: members.split(",").filter((each) => each !== "") });
  }
  return found;
}

function refuse(user: string, why: string): never {
  throw new OciboxError("INVALID", `cannot run as the user ${JSON.stringify(user)}: ${why}`);
}

function looksNumeric(text: string): boolean {
  return /^[-+]?[0-9]+$/.test(text);
}

/** --group-add, by number or by the image's own name. @throws OciboxError INVALID */
export function lookUpGroup(name: string, group: Uint8Array | undefined): number {
  const found = number(name) ?? groupLines(group).find((each) => each.name === name)?.gid;
  if (found !== undefined && !(found < 0)) return found;
  throw new OciboxError("INVALID", `--group-add is ${JSON.stringify(name)}: the image's /etc/group has no such group`);
}

/**
 * @param user "", "name", "uid", "name:group", "uid:gid"
 * @throws OciboxError INVALID for a name that the files do not have and for what is neither a name nor an id
 */
export function lookUpUser(user: string, passwd: Uint8Array | undefined, group: Uint8Array | undefined): Account {
  const [who = "", ofGroup, ...more] = (user === "" ? "0" : user).split(":");
  if (more.length > 0 || who === "" || ofGroup === "" || /[\s\0/]/.test(user))
    refuse(user, "it is not USER, UID, USER:GROUP or UID:GID");
  const accounts = passwdLines(passwd);
  const uid = number(who);
  if (uid === undefined && looksNumeric(who)) refuse(user, `"${who}" is not a user id from 0 to ${largest}`);
  const account =
    uid === undefined ? accounts.find((each) => each.name === who) : accounts.find((each) => each.uid === uid);
  if (uid === undefined && account === undefined) refuse(user, `the image's /etc/passwd has no "${who}"`);
  const groups = groupLines(group);
  let gid = account?.gid ?? 0;
  if (ofGroup !== undefined) {
    const given = number(ofGroup);
    if (given === undefined && looksNumeric(ofGroup))
      refuse(user, `"${ofGroup}" is not a group id from 0 to ${largest}`);
    const named = given ?? groups.find((each) => each.name === ofGroup)?.gid;
    if (named === undefined) refuse(user, `the image's /etc/group has no "${ofGroup}"`);
    gid = named;
  }
  // As docker does: the groups that name the user as a member, unless a group was asked for.
  const additionalGids =
    ofGroup === undefined && account !== undefined
      ? groups.filter((each) => each.members.includes(account.name)).map((each) => each.gid)
      : [];
  const home = account?.home ?? "";
  return {
    uid: uid ?? (account as PasswdLine).uid,
    gid,
    additionalGids: [...new Set(additionalGids)].filter((each) => each !== gid),
    home: home.startsWith("/") ? home : "/",
  };
}
