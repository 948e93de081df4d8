// Parses the document named first and prints what the parser finds wrong with it, a line each; exit code 1 if anything is.
// Run where @asyncapi/parser is installed; errors and warnings count, advice (a newer version exists) does not.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [file, modules] = process.argv.slice(2);
const { Parser } = createRequire(join(modules, "package.json"))("@asyncapi/parser");
const WARNING = 1;

const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
const problems = diagnostics.filter((found) => found.severity <= WARNING);
for (const { range, code, path, message } of problems) {
  console.log(`${file}:${range.start.line + 1}: ${code}: ${path.join(".")}: ${message}`);
}
process.exit(document === undefined || problems.length > 0 ? 1 : 0);
