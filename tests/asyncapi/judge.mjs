// Judges documents by the official parser: node judge.mjs FOLDER-OF-PACKAGES FILE…
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [folder, ...files] = process.argv.slice(2);
const { Parser } = createRequire(`${folder}/`)("@asyncapi/parser");
let wrong = 0;
for (const file of files) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
  const serious = diagnostics.filter(({ severity, code }) => severity < 2 && code !== "asyncapi-latest-version");
  for (const found of serious) console.log(file, found.code, found.path.join("."), found.message);
  if (document === undefined || serious.length) wrong = 1;
}
process.exit(wrong);
