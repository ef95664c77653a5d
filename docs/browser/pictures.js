// From numbers to pixels of a canvas.
const UNKNOWN = 255;
const TINT = 0.55;
const HEAT = [
  [0, 0, 4],
  [81, 18, 124],
  [183, 55, 121],
  [252, 137, 97],
  [252, 253, 191],
]; // dark to bright
const BALANCE = [
  [33, 102, 172],
  [247, 247, 247],
  [178, 24, 43],
]; // below and above 0

/** The likeliest class of each pixel; UNKNOWN where all are equally likely. */
export function likeliest(scores, points) {
  const labels = new Uint8Array(points);
  const most = scores.slice(0, points);
  const least = scores.slice(0, points);
  for (let c = 1; c < scores.length / points; ++c) {
    for (let i = 0; i < points; ++i) {
      const score = scores[c * points + i];
      if (score > most[i]) {
        most[i] = score;
        labels[i] = c;
      }
      if (score < least[i]) least[i] = score;
    }
  }
  for (let i = 0; i < points; ++i) if (most[i] === least[i]) labels[i] = UNKNOWN;
  return labels;
}

export function changedShare(labels, others) {
  return labels.reduce((count, label, i) => count + (label !== others[i]), 0) / labels.length;
}

/** The photo, tinted in the colours of labels, with a white line between two of them. */
export function drawLabels(canvas, image, labels, classes) {
  paint(canvas, image, (data) => {
    for (let i = 0; i < labels.length; ++i) {
      if (labels[i] === UNKNOWN) continue;
      const { colour } = classes[labels[i]];
      for (let k = 0; k < 3; ++k) data[4 * i + k] += TINT * (colour[k] - data[4 * i + k]);
    }
    const { width } = image;
    for (let i = 0; i < labels.length; ++i) {
      const isBorder =
        (i % width < width - 1 && labels[i] !== labels[i + 1]) ||
        (i + width < labels.length && labels[i] !== labels[i + width]);
      if (isBorder) data.fill(255, 4 * i, 4 * i + 3);
    }
  });
}

export function drawPhoto(canvas, image) {
  paint(canvas, image, () => {});
}

/** Numbers from low to high in colours; where low < 0 < high, white is 0. */
export function drawNumbers(canvas, { width, height }, numbers, low, high) {
  const stops = low < 0 && high > 0 ? BALANCE : HEAT;
  paint(canvas, new ImageData(width, height), (data) => {
    for (let i = 0; i < numbers.length; ++i) {
      const place = Math.min(Math.max((numbers[i] - low) / (high - low || 1), 0), 1) * (stops.length - 1);
      const stop = Math.min(Math.floor(place), stops.length - 2);
      for (let k = 0; k < 3; ++k)
        data[4 * i + k] = stops[stop][k] + (place - stop) * (stops[stop + 1][k] - stops[stop][k]);
      data[4 * i + 3] = 255;
    }
  });
}

/** Strokes over what is drawn. */
export function drawStrokes(canvas, strokes, classes) {
  const context = canvas.getContext("2d");
  const picture = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < strokes.length; ++i) {
    if (strokes[i] !== UNKNOWN) picture.data.set(classes[strokes[i]].colour, 4 * i);
  }
  context.putImageData(picture, 0, 0);
}

function paint(canvas, image, change) {
  const picture = new ImageData(image.data.slice(), image.width, image.height);
  change(picture.data);
  if (canvas.width !== image.width || canvas.height !== image.height)
    Object.assign(canvas, { width: image.width, height: image.height });
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(picture, 0, 0);
}
