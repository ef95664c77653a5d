// The engine in a worker: messages {id, method, values} in, {id, result} or {id, error} out. The first one loads it.
import { Engine } from "./engine.js";

let engine;

onmessage = async ({ data: { id, method, values } }) => {
  try {
    const result =
      method === "load" ? ((engine = await Engine.load(...values)), undefined) : await engine.call(method, ...values);
    postMessage({ id, result }, buffersOf(result));
  } catch (error) {
    postMessage({ id, error: { name: error?.name, message: String(error?.message ?? error) } });
  }
};

// Of arrays in objects within each other: they move to the page without a copy.
function buffersOf(result) {
  if (ArrayBuffer.isView(result)) return [result.buffer];
  return result !== null && typeof result === "object" ? Object.values(result).flatMap(buffersOf) : [];
}
