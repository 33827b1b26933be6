// Builds the desktop's page into OUTDIR (default: where the sandbox's desktop serves it from), with a hash of its content
// in every name, and a gzipped copy beside each file. `node build.mjs [--sizes] [OUTDIR]`.
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const sizes = process.argv.includes("--sizes");
const out = process.argv.slice(2).find((each) => !each.startsWith("--")) ?? join(here, "../src/choir/sandbox/static");

const { metafile, outputFiles } = await build({
  absWorkingDir: here,
  entryPoints: { desktop: "src/main.tsx", style: "src/style.css" },
  outdir: out,
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "none",
  jsx: "automatic",
  jsxImportSource: "preact",
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  metafile: true,
  write: false,
});

const outputs = Object.entries(metafile.outputs);
const built = (entry) => basename(outputs.find(([, { entryPoint }]) => entryPoint === entry)[0]);
const mark = await readFile(join(here, "src/mark.svg"));
const page = (await readFile(join(here, "src/desktop.html"), "utf8"))
  .replace("SCRIPT", built("src/main.tsx"))
  .replace("STYLE", built("src/style.css"));

await mkdir(out, { recursive: true });
const kept = new Set(["desktop.html", "mark.svg"]);
for (const { path, contents } of outputFiles) {
  const name = basename(path);
  await writeFile(join(out, name), contents);
  await writeFile(join(out, `${name}.gz`), gzipSync(contents, { level: 9 }));
  kept.add(name).add(`${name}.gz`);
  if (sizes) console.log(`${name}  ${contents.length} bytes, ${gzipSync(contents, { level: 9 }).length} gzipped`);
}
await writeFile(join(out, "mark.svg"), mark);
await writeFile(join(out, "desktop.html.new"), page);
await copyFile(join(out, "desktop.html.new"), join(out, "desktop.html")); // last: it names the others
for (const name of await readdir(out)) if (!kept.has(name)) await rm(join(out, name));
