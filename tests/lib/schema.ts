/** The OCI runtime specification's own JSON schemas (tests/fixtures/runtime-spec, as published with version 1.3). */
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import Ajv from "ajv-draft-04";

const folder = resolve("tests/fixtures/runtime-spec");
const ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true });
for (const name of readdirSync(folder)) {
  if (name.endsWith(".json")) ajv.addSchema(JSON.parse(readFileSync(join(folder, name), "utf8")), name);
}

/** What a document breaks of a schema, a line each: "/process/cwd must be string"; none where it is valid. */
export function violations(
  schema: "config-schema.json" | "state-schema.json" | "features-schema.json",
  value: unknown,
) {
  const validate = ajv.getSchema(schema);
  if (validate === undefined) throw new Error(`there is no schema ${schema}`);
  void validate(value);
  return (validate.errors ?? []).map((error) => `${error.instancePath} ${error.message}`);
}
