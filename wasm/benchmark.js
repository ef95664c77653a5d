// How long the npm package takes under Node.js, on one thread: node wasm/benchmark.js, after make wasm.
import { readFile } from "node:fs/promises";
import { createCrf, DEFAULT_PRESET, PRESETS } from "../build/wasm/crfrnn/index.js";
import { readCase, readCases } from "./tests/cases.js";

const RUNS = 15;
const folder = new URL("../build/wasm/expected/", import.meta.url);
const read = async (name) => Uint8Array.from(await readFile(new URL(name, folder))).buffer;
const crf = await createCrf();
for (const each of (await readCases(read)).filter(({ name }) => /^(two|21)-classes/.test(name))) {
  const { image, scores } = await readCase(read, each);
  const times = [];
  for (let run = 0; run < RUNS; ++run) {
    const start = process.cpuUsage();
    const { milliseconds } = await crf.refine(scores, image, each.parameters);
    const { user, system } = process.cpuUsage(start);
    times.push({
      processor: (user + system) / 1000,
      ...milliseconds,
      clock: milliseconds.kernels + milliseconds.meanField,
    });
  }
  const least = (key) => Math.min(...times.map((time) => time[key])).toFixed(0);
  console.log(
    `${each.name}, ${each.width}×${each.height}, ${PRESETS[DEFAULT_PRESET].iterations} iterations: ${least("clock")} ms ` +
      `(kernels ${least("kernels")}, mean field ${least("meanField")}), of a processor ${least("processor")} ms; fastest of ${RUNS}`,
  );
}
crf.close();
