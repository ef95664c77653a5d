// Scores from labels: docs/algorithm.md, eq. 11.
import { checkWhole, described, shown } from "./checks.js";
import { PROBABILITY_OF_LABELS, UNKNOWN_LABEL } from "./parameters.js";

export function unaryFromLabels(labels, classes, probability = PROBABILITY_OF_LABELS) {
  if (!(ArrayBuffer.isView(labels) && labels.length >= 0 && Number.isInteger(labels[0] ?? 0))) {
    throw new TypeError(`labels are ${described(labels)}; expected a typed array of integers`);
  }
  checkWhole(classes, "classes", 1);
  if (!(typeof probability === "number" && probability > 0 && probability < 1))
    throw new RangeError(`probability=${shown(probability)} must be a number above 0 and below 1`);
  const points = labels.length;
  const isUnknown = (label) => label < 0 || (label === UNKNOWN_LABEL && classes <= UNKNOWN_LABEL);
  const right = Math.log(probability);
  const wrong = Math.log((1 - probability) / Math.max(classes - 1, 1));
  const unary = new Float32Array(classes * points).fill(-Math.log(classes));
  for (let i = 0; i < points; ++i) {
    if (isUnknown(labels[i])) continue;
    if (labels[i] >= classes || !Number.isInteger(labels[i])) {
      throw new RangeError(
        `labels[${i}] is ${labels[i]}, but ${classes} classes have labels 0 to ${classes - 1}; ` +
          `negative labels and ${UNKNOWN_LABEL} are unknown`,
      );
    }
    for (let c = 0; c < classes; ++c) unary[c * points + i] = c === labels[i] ? right : wrong;
  }
  return unary;
}
