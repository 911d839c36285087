/** Prints src/plan/seccomp/default.gen.ts: the default profile for the usual capabilities, as JSON and as a filter. */
import { usualCapabilities } from "../src/bundle/values.ts";
import { compileSeccomp } from "../src/plan/seccomp/compile.ts";
import { makeProfile } from "../src/plan/seccomp/profile.ts";

console.log("// Made by scripts/build-seccomp; not in git.");
console.log("/** The default profile of each machine for the usual capabilities: as JSON, and compiled, in base64. */");
console.log("export const usual = {");
for (const machine of ["x64", "arm64"] as const) {
  const profile = makeProfile(machine, usualCapabilities);
  console.log(`  ${machine}: {`);
  console.log(`    profile: ${JSON.stringify(JSON.stringify(profile))},`);
  console.log(`    filter: "${compileSeccomp(profile, machine).toBase64()}",`);
  console.log("  },");
}
console.log("} as const;");
