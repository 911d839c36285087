/**
 * The house's one rule: imports point one way (docs/architecture.md). Prints each import that does not, and fails.
 * Also: nothing but cli may load what is slow to start, and nothing prints but cli and main.
 */
import { Glob } from "bun";

const middle = ["registry", "store", "layer", "rootfs", "bundle", "runtime", "network", "container"];
const leaves = ["plan", "spec", "reference", "errors"];

/** What each room may import beside itself. Rooms of the middle row know each other only where it says so. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  ffi: [],
  errors: ["ffi"],
  spec: ["errors"],
  reference: ["spec", "errors"],
  plan: ["spec", "errors", "ffi"],
  registry: [...leaves, "ffi"],
  layer: [...leaves, "ffi"],
  rootfs: ["layer", ...leaves, "ffi"],
  bundle: [...leaves, "ffi"],
  runtime: [...leaves, "ffi"],
  network: [...leaves, "ffi"],
  store: ["registry", "layer", ...leaves, "ffi"],
  container: ["store", "rootfs", "bundle", "runtime", "network", "layer", ...leaves, "ffi"],
  cli: [...middle, ...leaves, "ffi"],
  main: ["cli", ...leaves, "ffi"],
};

/** What `ocibox run` loads before the container runs: modules of Node's cost milliseconds there (docs/performance.md). */
const startPath = ["src/main.ts", "src/cli/call-run.ts"];

function roomOf(path: string): string {
  const [top = "", room = ""] = path.split("/");
  return top === "src" ? room.replace(/\.ts$/, "") : top;
}

function resolve(from: string, specifier: string): string {
  const parts = from.split("/").slice(0, -1);
  for (const part of specifier.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== ".") parts.push(part);
  }
  return parts.join("/");
}

const wrong: string[] = [];
const transpiler = new Bun.Transpiler({ loader: "ts" });
/** Each file's static imports that are there at run time, for the walk below. */
const loads = new Map<string, string[]>();

for (const path of [...new Glob("{src,ffi}/**/*.ts").scanSync(".")].sort()) {
  const text = await Bun.file(path).text();
  const room = roomOf(path);
  const imports = transpiler.scanImports(text);
  loads.set(
    path,
    imports.filter((each) => each.kind === "import-statement").map((each) => each.path),
  );
  // Types too: the transpiler's own list leaves them out.
  const specifiers = new Set(imports.map((each) => each.path));
  for (const found of text.matchAll(/^(?:import|export)\b[^;]*?\bfrom "([^"]+)"/gms)) specifiers.add(found[1] ?? "");
  for (const specifier of specifiers) {
    if (!specifier.startsWith(".")) continue;
    const target = roomOf(resolve(path, specifier));
    if (target !== room && !(allowed[room] ?? []).includes(target))
      wrong.push(`${path} (${room}) imports ${specifier} (${target})`);
  }
  const prints = /\bconsole\.\w+\(|\bprocess\.std(?:out|err|in)\b/.test(text);
  if (prints && room !== "cli" && room !== "main" && !path.startsWith("ffi/init/"))
    wrong.push(`${path} prints; only cli may`);
}

const seen = new Set<string>();
const queue = [...startPath];
for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
  if (seen.has(path)) continue;
  seen.add(path);
  for (const specifier of loads.get(path) ?? []) {
    if (specifier.startsWith(".")) queue.push(resolve(path, specifier));
    else if (specifier !== "bun:ffi") wrong.push(`${path} loads ${specifier} on the way to a container`);
  }
}
for (const line of wrong) console.error(`boundaries: ${line}`);
process.exitCode = wrong.length === 0 ? 0 : 1;
