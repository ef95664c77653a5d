// The page docs/browser.md: what the reader does, and what is computed and drawn for it.
import { drawLabels, drawNumbers, drawPhoto, drawStrokes, changedShare, likeliest } from "./pictures.js";
import { openExample, openFile, readExamples } from "./photos.js";
import { listen, NOTHING } from "./strokes.js";

const SLIDERS = [
  // name, words, least, most, step
  ["theta_alpha", "θ<sub>α</sub>, pixels", 1, 200, 1],
  ["theta_beta", "θ<sub>β</sub>, levels", 1, 80, 1],
  ["theta_gamma", "θ<sub>γ</sub>, pixels", 0.5, 15, 0.5],
  ["bilateral_weight", "Bilateral weight", 0, 20, 0.5],
  ["spatial_weight", "Spatial weight", 0, 20, 0.5],
  ["iterations", "Iterations", 0, 30, 1],
];
const VIEWS = { refined: "With the CRF", scores: "Without", probability: "Probability", photo: "Photo" };
const SURE = 0.99; // how probable it is that a stroke is right
const HINT = "Draw on the photo: some strokes on the background, some on the object.";
const FIRST_CLASSES = ["background", "object"];
const MOST_CLASSES = 8; // of one's own
const $ = (name) => document.getElementById(`crf-${name}`);

let crfrnn, crf, examples;
let photo = null; // in the native core
let state = null; // {name, image, scores, classes, strokes, before, after} of the photo
let [view, label, erases, wanted, works, opened] = ["refined", 1, false, false, false, 0];

start();

async function start() {
  say("");
  try {
    crfrnn = await import("./crfrnn/index.js");
  } catch {
    return say(
      "This copy of the pages was built without the WebAssembly module: run make wasm and then make docs.",
      true,
    );
  }
  try {
    [crf, examples] = await Promise.all([crfrnn.createCrf(), readExamples()]);
  } catch (error) {
    return say(`The CRF could not be started in this browser: ${error.message}`, true);
  }
  prepareControls();
  await open(openExample(examples.photos[0]));
}

function prepareControls() {
  for (const example of examples.photos) {
    const picture = element("img", { src: new URL(`${example.name}.png`, import.meta.url), alt: "" });
    const button = element(
      "button",
      { type: "button", className: "crf-button", onclick: () => open(openExample(example)) },
      picture,
      example.title,
    );
    $("photos").append(button);
  }
  $("file").onchange = () => {
    const file = $("file").files[0];
    $("file").value = ""; // the same file may be chosen again
    if (file) open(openFile(file));
  };
  const root = document.getElementById("crf");
  root.ondragover = (event) => (event.preventDefault(), root.classList.add("crf-drop"));
  root.ondragleave = () => root.classList.remove("crf-drop");
  root.ondrop = (event) => {
    event.preventDefault();
    root.classList.remove("crf-drop");
    const file = event.dataTransfer.files[0];
    if (file) open(openFile(file));
    else say("That was no file: drop a photo from the disk.", true);
  };
  for (const [name, words] of Object.entries(VIEWS))
    $("views").append(choice(words, name === view, () => ((view = name), draw())));
  for (const [name, words, min, max, step] of SLIDERS) {
    const input = element("input", { type: "range", id: `crf-${name}`, min, max, step });
    input.oninput = () => (($("preset").value = ""), showSettings(), update());
    $("settings").append(
      element("label", { className: "crf-setting" }, element("span", { innerHTML: words }), input, element("output")),
    );
  }
  $("preset").append(
    element("option", { value: "", hidden: true }, "own"),
    ...Object.keys(crfrnn.PRESETS).map((name) => element("option", {}, name)),
  );
  $("preset").onchange = () => (takePreset(), update());
  $("preset").value = crfrnn.DEFAULT_PRESET;
  takePreset();
  $("erase").onclick = () => erase(!erases);
  $("clear").onclick = () => (state.strokes.fill(NOTHING), update());
  $("steps").ontoggle = update;
  $("iteration").oninput = () => (showSettings(), update());
  $("class").onchange = update;
  listen(
    $("canvas"),
    () => state.strokes,
    () => ({ label: erases ? NOTHING : label, radius: Number($("brush").value) }),
    () => (draw(), update()),
  );
}

function takePreset() {
  for (const [name] of SLIDERS) $(name).value = crfrnn.PRESETS[$("preset").value][name];
  showSettings();
}

function showSettings() {
  for (const [name] of SLIDERS) $(name).nextElementSibling.value = $(name).value;
  $("iteration").max = Math.max(1, $("iterations").value);
  $("iteration").nextElementSibling.value = $("iteration").value;
}

/** What the sliders say; all else, such as the normalisation, is that of the preset that was chosen last. */
let base = {};
function parameters() {
  if ($("preset").value) base = crfrnn.PRESETS[$("preset").value];
  return { ...base, ...Object.fromEntries(SLIDERS.map(([name]) => [name, Number($(name).value)])) };
}

/** Shows a photo; of several that are on their way, the one that was chosen last. */
async function open(opening) {
  const order = ++opened;
  busy(true);
  try {
    const given = await opening;
    const next = await crf.photo(given.image);
    if (order !== opened) return await next.free();
    show(given, next);
  } catch (error) {
    if (order === opened) say(error.message, true);
    return busy(works);
  }
  $("app").hidden = false;
  await update();
}

function show(given, next) {
  const points = given.image.width * given.image.height;
  const before = given.scores && likeliest(given.scores, points);
  photo?.free();
  photo = next;
  state = {
    ...given,
    classes: coloured(given.classes ?? FIRST_CLASSES, before),
    strokes: new Uint8Array(points).fill(NOTHING),
    before,
    after: null,
  };
  label = before ? mostOf(before) : 1;
  erase(false);
  $("class").replaceChildren();
  $("classes").replaceChildren();
  showClasses();
  draw();
  say("");
}

/** Classes with colours, the first of which go to those that occur. */
function coloured(names, labels) {
  const occurring = labels ? names.map((_, index) => index).filter((index) => labels.includes(index)) : [];
  const order = [...new Set([...occurring, ...names.keys()])];
  return names.map((name, index) => ({
    name,
    colour: examples.colours[order.indexOf(index) % examples.colours.length],
  }));
}

/** The class that occurs most, besides the background. */
function mostOf(labels) {
  const counts = new Map();
  for (const each of labels) if (each > 0 && each !== NOTHING) counts.set(each, (counts.get(each) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1])[0]?.[0] ?? 1;
}

/** The classes that occur, and those of one's own. */
function showClasses() {
  const { classes, scores, before, after } = state;
  const seen = new Set([0, label, ...state.strokes, ...(after ?? []), ...(before ?? [])]);
  const shown = classes.map((each, index) => ({ ...each, index })).filter(({ index }) => !scores || seen.has(index));
  const chips = shown.map(({ name, colour, index }) => {
    const swatch = element("span", { className: "crf-swatch", style: `background: rgb(${colour})` });
    return choice(name, index === label && !erases, () => ((label = index), erase(false), draw()), swatch);
  });
  if (!scores && classes.length < MOST_CLASSES) {
    const add = () => {
      label = classes.length;
      state.classes = coloured([...classes.map(({ name }) => name), `object ${label}`], null);
      erase(false);
      showClasses();
      update();
    };
    chips.push(element("button", { type: "button", className: "crf-button", id: "crf-add", onclick: add }, "+ class"));
  }
  if (
    chips.map((chip) => chip.textContent).join() !== [...$("classes").children].map((chip) => chip.textContent).join()
  ) {
    $("classes").replaceChildren(...chips);
    const chosen = $("class").value || String(label);
    $("class").replaceChildren(...shown.map(({ name, index }) => element("option", { value: index }, name)));
    $("class").value = shown.some(({ index }) => String(index) === chosen) ? chosen : String(label);
  }
}

function erase(on) {
  erases = on;
  $("erase").setAttribute("aria-pressed", String(on));
}

/** Logits of the network and of strokes: classes × pixels; null if nothing is known. */
function scoresNow() {
  const { scores, strokes, classes } = state;
  if (!scores && strokes.every((each) => each === NOTHING)) return null;
  const drawn = crfrnn.unaryFromLabels(strokes, classes.length, SURE);
  if (!scores) return drawn;
  const all = scores.slice();
  const points = strokes.length;
  for (let i = 0; i < points; ++i) {
    if (strokes[i] !== NOTHING) for (let c = 0; c < classes.length; ++c) all[c * points + i] = drawn[c * points + i];
  }
  return all;
}

/** Works out what is to be seen now; of calls that come while it works, the last one counts. */
async function update() {
  wanted = true;
  if (works) return;
  works = true;
  while (wanted) {
    wanted = false;
    try {
      await refine();
    } catch (error) {
      say(error.message, true);
    }
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
  works = false;
  busy(false);
}

function busy(is) {
  $("app").setAttribute("aria-busy", is);
}

async function refine() {
  busy(true);
  const [of, scores] = [state, scoresNow()];
  const points = of.strokes.length;
  if (scores === null) {
    Object.assign(of, { before: null, after: null, probabilities: null });
    $("times").textContent = "";
    say(HINT);
  } else {
    const start = performance.now();
    const { values, iterations, vertices, milliseconds } = await photo.refine(scores, parameters());
    const total = performance.now() - start;
    if (of !== state) return;
    Object.assign(of, { before: likeliest(scores, points), after: likeliest(values, points), probabilities: values });
    const { width, height } = of.image;
    const changed = of.scores
      ? `; the CRF changed ${(100 * changedShare(of.before, of.after)).toFixed(1)} % of the pixels`
      : "";
    $("times").textContent =
      `${Math.round(total)} ms for ${width}×${height} pixels and ${of.classes.length} classes: kernels ${Math.round(milliseconds.kernels)} ms ` +
      `(${vertices} vertices), ${iterations} iterations ${Math.round(milliseconds.meanField)} ms, ` +
      `${crf.threads} ${crf.threads === 1 ? "thread" : "threads"}${changed}`;
    if ($("message").textContent === HINT) say("");
  }
  showClasses();
  draw();
  await updateSteps(scores);
}

const PICTURES = {
  before: "What pixels send: the probability so far",
  splat: "1. Splat to the lattice",
  blur: "2. Blur of the lattice",
  bilateral: "3. Slice: the bilateral message",
  spatial: "and the spatial message",
  weighted: "4. Weighting: the sum of messages by weight",
  coupled: "5. Compatibility: what the class loses",
  logits: "Scores less what the class loses",
  after: "6. Normalisation: the probability then",
};

async function updateSteps(scores = scoresNow()) {
  if (!$("steps").open || scores === null) return $("pictures").replaceChildren();
  const of = state;
  const start = performance.now();
  const { messages, ...steps } = await photo.iteration(
    scores,
    { ...parameters(), iterations: Number($("iteration").value) - 1 },
    Number($("class").value),
  );
  if (of !== state) return;
  const numbers = { ...steps, ...messages };
  const figures = Object.entries(PICTURES)
    .filter(([name]) => numbers[name])
    .map(([name, words]) => {
      const canvas = element("canvas");
      const [low, high] = ["weighted", "coupled", "logits"].includes(name) ? extent(numbers[name]) : [0, 1];
      drawNumbers(canvas, of.image, numbers[name], low, high);
      return element(
        "figure",
        { id: `crf-step-${name}` },
        canvas,
        element("figcaption", {}, `${words}, ${shown(low)} to ${shown(high)}`),
      );
    });
  $("pictures").replaceChildren(
    ...figures,
    element("p", { className: "crf-times" }, `${Math.round(performance.now() - start)} ms`),
  );
}

/** Smallest and largest number; of numbers on both sides of 0, as far to either side. */
function extent(numbers) {
  let [low, high] = [Infinity, -Infinity];
  for (const number of numbers) [low, high] = [Math.min(low, number), Math.max(high, number)];
  return low < 0 && high > 0 ? [-Math.max(-low, high), Math.max(-low, high)] : [low, high];
}

const shown = (number) => (Number.isInteger(number) ? String(number) : number.toFixed(1));

function draw() {
  const { image, classes, strokes, before, after, probabilities } = state;
  const points = strokes.length;
  const canvas = $("canvas");
  if (view === "probability" && probabilities) {
    drawNumbers(canvas, image, probabilities.subarray(label * points, (label + 1) * points), 0, 1);
  } else if (view === "refined" && after) {
    drawLabels(canvas, image, after, classes);
  } else if (view === "scores" && before) {
    drawLabels(canvas, image, before, classes);
  } else {
    drawPhoto(canvas, image);
  }
  drawStrokes(canvas, strokes, classes);
}

function say(text, isError = false) {
  $("message").textContent = text;
  $("message").classList.toggle("crf-error", isError);
}

/** One button of several, of which one is chosen. */
function choice(words, isChosen, choose, ...before) {
  const button = element("button", { type: "button", role: "radio", className: "crf-button" }, ...before, words);
  button.setAttribute("aria-checked", isChosen);
  button.onclick = () => {
    for (const other of button.parentElement.children) other.setAttribute("aria-checked", other === button);
    choose();
  };
  return button;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
