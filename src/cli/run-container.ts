/** The flags of `ocibox run`, made into what the container is to be. */
import { readText } from "../../ffi/files.ts";
import type { NetworkMode, RunOptions } from "../bundle/command.ts";
import { parseVolume, type Volume } from "../bundle/values.ts";
import type { RunRequest } from "../container/furnish.ts";
import { kindOfContainer, runContainer } from "../container/run.ts";
import { tidy } from "../container/tidy.ts";
import { OciboxError, reason } from "../errors.ts";
import { isTransport } from "../reference/reference.ts";
import { hostFacts } from "../runtime/host.ts";
import { type ImageChoice, openStore, type StoredImage } from "../store/store.ts";
import { placed } from "./bind-source.ts";
import { environment } from "./environment.ts";
import type { Places } from "./globals.ts";
import { imageWord, storeWord } from "./image-word.ts";
import { checkName, labelLines, labelsOf } from "./labels.ts";
import type { LockedWord } from "./locked.ts";
import { networkFor } from "./network-for.ts";
import type { Given } from "./options.ts";
import { print, say } from "./output.ts";
import { checkTerminal, explainerIf, faultOf } from "./plan-options.ts";
import { isReady } from "./ready.ts";
import { moreOptions } from "./run-more-options.ts";

/** An image, and the name to go by. */
interface Found {
  readonly image: ImageChoice;
  readonly imageName: string;
}

/** What is written down: the name as it was typed, or what a short one has been taken for. */
function writtenName(typed: string, meant: string): string {
  return meant === imageWord(typed) ? typed : meant;
}

/** The image from the store, or pulled, as --pull says. */
async function imageFor(
  { imageName, store, storeLock, platform: platformText, options, facts }: RunRequest,
  given: Given,
  places: Places,
  locked: LockedWord | undefined,
): Promise<Found> {
  if (isTransport(imageName)) {
    const { importByWord } = await import("./load-image.ts");
    const image = await importByWord(imageName, store, { platform: platformText, quiet: given.flag("quiet") });
    return { image: choiceOf(image), imageName };
  }
  const when = given.text("pull");
  const offline = given.flag("offline");
  const wish = {
    platform: platformText,
    authFile: given.text("authfile"),
    tlsVerify: given.flag("tls-verify"),
    quiet: given.flag("quiet"),
  };
  const afterPull = async (pulled: readonly StoredImage[]): Promise<void> => {
    if (places.storeMax === undefined) return;
    const { keepWithin } = await import("./store-max.ts");
    await keepWithin(places, pulled, wish.quiet, storeLock);
  };
  if (locked !== undefined) {
    const { ensureLocked } = await import("./locked.ts");
    const forbids = offline ? "--offline" : when === "never" ? "--pull=never" : undefined;
    const { image, pulled } = await ensureLocked(locked, places, { ...wish, forbids, always: when === "always" });
    if (pulled.length > 0) await afterPull(pulled);
    return { image, imageName };
  }
  const stored = async (): Promise<Found | undefined> => {
    const platform =
      platformText === undefined ? undefined : (await import("../spec/platform.ts")).parsePlatform(platformText);
    const meant = await storeWord(store, imageName);
    const image = store.lookUp(meant, platform);
    if (image === undefined || !(await isReady(store, image.load(), wish.quiet))) return undefined;
    return { image, imageName: writtenName(imageName, meant) };
  };
  if (offline || when === "missing" || when === "never") {
    const found = await stored();
    if (found !== undefined) return found;
    if (offline) throw (await import("./locked.ts")).notHere(imageName, "--offline");
    if (when === "never")
      throw new OciboxError(
        "NOT_FOUND",
        `the image "${imageName}" is not in the store, and --pull=never forbids fetching it`,
        { hint: `fetch it with: ocibox pull ${imageName}` },
      );
  }
  // What is wrong with the options is better said before a pull than after it.
  const { checkOptions } = await import("../bundle/bundle.ts");
  checkOptions(options, facts);
  const { pullByName } = await import("./pull-image.ts");
  try {
    const image = await pullByName(imageName, places, wish);
    await afterPull([image]);
    const meant = await storeWord(store, imageName);
    return { image: choiceOf(image), imageName: writtenName(imageName, meant) };
  } catch (error) {
    const found = when === "newer" && isOutOfReach(error) ? await stored() : undefined;
    if (found === undefined) throw error;
    if (!wish.quiet) say(`ocibox: ${reason(error)}; the image in the store is taken`);
    return found;
  }
}

function choiceOf(image: StoredImage): ImageChoice {
  return { digest: image.manifestDescriptor.digest, load: () => image };
}

/** That a registry does not give an image, whatever the reason; not that something is wrong here. */
function isOutOfReach(error: unknown): boolean {
  return error instanceof OciboxError && ["NETWORK", "REGISTRY", "NOT_FOUND", "DENIED"].includes(error.code);
}

/** What the lock file has for the image. */
async function lockedWord(given: Given): Promise<LockedWord | undefined> {
  const { checkLockFlags, lockedWords } = await import("./locked.ts");
  checkLockFlags(given);
  const word = given.words[0] as string;
  if (isTransport(word))
    throw new OciboxError("USAGE", `"${word}" is no image of a registry's, and cannot be locked`, {
      hint: "leave --locked out",
    });
  return (await lockedWords([word], given.text("lock-file")))[0];
}

function volumes(given: Given, root: string): Volume[] {
  const found: Volume[] = [];
  for (const text of given.all("volume")) found.push(placed(parseVolume(text, process.cwd()), root));
  return found;
}

/** --security-opt seccomp=FILE is read here: what comes after is pure. */
function securityOption(option: string): string {
  const file = /^seccomp=(?!unconfined$)(.*)$/s.exec(option)?.[1];
  if (file === undefined || file.startsWith("{")) return option;
  const text = readText(file, 4 << 20);
  if (text === undefined) throw new OciboxError("USAGE", `cannot read the seccomp profile "${file}": no such file`);
  return `seccomp=${text}`;
}

function securityOptions(given: Given): string[] {
  const found: string[] = [];
  for (const option of given.all("security-opt")) found.push(securityOption(option));
  return found;
}

function runOptions(given: Given, network: NetworkMode, root: string): RunOptions {
  return {
    command: given.words.slice(1),
    entrypoint: given.text("entrypoint"),
    env: environment(given.all("env-file"), given.all("env")),
    workdir: given.text("workdir"),
    user: given.text("user"),
    hostname: given.text("hostname"),
    tty: given.flag("tty"),
    readOnly: given.flag("read-only"),
    volumes: volumes(given, root),
    tmpfs: given.all("tmpfs"),
    capAdd: given.all("cap-add"),
    capDrop: given.all("cap-drop"),
    securityOpt: securityOptions(given),
    strict: given.text("security") === "strict",
    memory: given.text("memory"),
    cpus: given.text("cpus"),
    pidsLimit: given.text("pids-limit"),
    ulimits: given.all("ulimit"),
    network,
    more: {},
  };
}

/** Whether one of the rarer flags was given. */
function hasMore(given: Given): boolean {
  for (const name in moreOptions) if (given.text(name) !== undefined) return true;
  return false;
}

/** Those of files, and over them those of the command line. */
function allLabels(given: Given): string[] {
  return [...labelLines(given.all("label-file")), ...given.all("label")];
}

/** @throws OciboxError USAGE where it is no signal */
async function checkStopSignal(text: string): Promise<void> {
  (await import("../runtime/state.ts")).parseSignal(text);
}

function secondsOf(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new OciboxError("USAGE", `--stop-timeout is "${text}", which is no number of seconds`);
}

/**
 * Runs, and does not return: the process becomes the container's supervisor. Returns only for --explain.
 * @param only the container is made, and not run
 */
export async function runCommand(given: Given, places: Places, only = false): Promise<number> {
  const path = given.text("report");
  if (only && path !== undefined) throw new OciboxError("USAGE", "--report is for run: nothing is run here");
  if (path === undefined || given.flag("explain")) return runAsked(given, places, only);
  const { withReport } = await import("../container/report.ts");
  const { reported } = await import("./run-more.ts");
  return withReport(reported(path), given.words[0] ?? "", () => runAsked(given, places, only));
}

async function runAsked(given: Given, places: Places, only: boolean): Promise<number> {
  const interactive = given.flag("interactive");
  const detach = given.flag("detach");
  if (!detach && !only) checkTerminal(interactive, given.flag("tty"));
  const name = given.text("name");
  if (name !== undefined) checkName(name, "--name");
  const when = given.text("pull");
  const asks = when === "always" || when === "newer";
  if (given.flag("offline") && asks) throw new OciboxError("USAGE", `--offline and --pull=${when} cannot both be had`);
  const counts = given.flag("locked") || given.text("lock-file") !== undefined;
  const locked = counts ? await lockedWord(given) : undefined;
  const stopSignal = given.text("stop-signal");
  if (stopSignal !== undefined) await checkStopSignal(stopSignal);
  const stopTimeout = given.text("stop-timeout");
  const facts = hostFacts();
  const explain = given.flag("explain");
  const { network, connect } = await networkFor(given, facts, places, explain);
  const plain = runOptions(given, network, places.root);
  const options = hasMore(given)
    ? (await import("./run-more.ts")).withMore(given, plain, places.root, detach || only)
    : plain;
  const store = openStore(places.root, places.storeOptions);
  tidy(places.root, places.state);
  using storeLock = store.lockShared();
  const request: RunRequest = {
    imageName: locked?.word ?? (given.words[0] as string),
    platform: given.text("platform"),
    store,
    storeLock,
    ...places,
    options,
    facts,
    init: given.flag("init"),
    name,
    autoRemove: given.flag("rm"),
    idFile: given.text("cidfile"),
    stopSignal,
    stopTimeout: stopTimeout === undefined ? undefined : secondsOf(stopTimeout),
    labels: labelsOf(given.text("label-file") === undefined ? given.all("label") : allLabels(given)),
    interactive,
    detach,
    made: only ? print : undefined,
    explain: explain ? await explainerIf(true) : undefined,
    fault: faultOf(given.text("inject")),
    connect,
  };
  const { name: kind, kept } = kindOfContainer(request);
  // Awaited here: a promise that is only returned outlives the lock.
  if (kept !== undefined && !asks) return await runContainer(request, kept, kind);
  const { image, imageName } = await imageFor(request, given, places, locked);
  // A pull has changed the index, and with it the name.
  const settled = { ...request, imageName };
  return await runContainer(settled, image, kindOfContainer(settled).name);
}
