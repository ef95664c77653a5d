// Draws scribbles on a photo, each in the colour of its class. `props.sheet` is {photo, width, height, classes: [{label, name,
// colour}]}; `props.value` has the strokes, in pixels of that photo, and every change of them is an input.
const ERASER = 255;
const MOST_POINTS = 2000;
let strokes = [];
let stroke = null;
let picture = null;

const find = (selector) => element.querySelector(selector);
const shown = () => props.sheet && props.sheet.photo;

function start() {
  strokes = [];
  stroke = null;
  if (!shown()) return;
  const canvas = find("canvas"), select = find("select");
  canvas.width = props.sheet.width;
  canvas.height = props.sheet.height;
  select.replaceChildren(...props.sheet.classes.map(({ label, name }) => new Option(name, label)), new Option("eraser", ERASER));
  mark();
  picture = new Image();
  picture.onload = draw;
  picture.src = props.sheet.photo;
}

function colourOf(label) {
  const found = props.sheet.classes.find((each) => each.label === label);
  return found ? found.colour : "white";
}

function mark() {
  find(".brush").style.background = colourOf(Number(find("select").value));
}

// Strokes lie on a sheet of their own, so that the eraser takes them away and not the photo.
function draw() {
  const canvas = find("canvas"), sheet = document.createElement("canvas");
  sheet.width = canvas.width;
  sheet.height = canvas.height;
  const pen = sheet.getContext("2d");
  pen.lineCap = pen.lineJoin = "round";
  for (const { label, width, points } of strokes) {
    pen.globalCompositeOperation = label === ERASER ? "destination-out" : "source-over";
    pen.strokeStyle = colourOf(label);
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(...points[0]);
    for (const point of points) pen.lineTo(...point);
    pen.stroke();
  }
  const page = canvas.getContext("2d");
  page.drawImage(picture, 0, 0, canvas.width, canvas.height);
  page.drawImage(sheet, 0, 0);
}

function hand() {
  props.value = [...strokes];
  trigger("input");
}

function place(event) {
  const box = find("canvas").getBoundingClientRect();
  const across = find("canvas").width / box.width, down = find("canvas").height / box.height;
  return [(event.clientX - box.left) * across, (event.clientY - box.top) * down].map((each) => Math.round(10 * each) / 10);
}

element.addEventListener("pointerdown", (event) => {
  if (event.target !== find("canvas") || !shown()) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  stroke = { label: Number(find("select").value), width: Number(find("input[type=range]").value), points: [place(event)] };
  strokes.push(stroke);
  draw();
});
element.addEventListener("pointermove", (event) => {
  if (!stroke || stroke.points.length >= MOST_POINTS) return;
  stroke.points.push(place(event));
  draw();
});
for (const end of ["pointerup", "pointercancel"]) {
  element.addEventListener(end, () => {
    if (stroke) hand();
    stroke = null;
  });
}
element.addEventListener("change", (event) => { if (event.target === find("select")) mark(); });
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (!button || !shown() || !strokes.length) return;
  if (button.dataset.act === "undo") strokes.pop();
  else strokes = [];
  draw();
  hand();
});
watch("value sheet".split(" "), start);  // Gradio takes every name in quotes for an event
start();
