// Types of OpenAPI documents, all in one process: node generate.mjs NAME...  makes NAME.d.ts of NAME.json.
import { readFile, writeFile } from "node:fs/promises";
import openapiTS, { astToString } from "openapi-typescript";

for (const name of process.argv.slice(2)) {
  const document = JSON.parse(await readFile(`${name}.json`, "utf8"));
  await writeFile(`${name}.d.ts`, astToString(await openapiTS(document)));
}
