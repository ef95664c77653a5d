// Couplings between classes, E = M W (docs/algorithm.md, eq. 6), with as few axes as hold them: the fewer, the faster.

const axesOf = (value) => (Array.isArray(value) ? (Array.isArray(value[0]) ? 2 : 1) : 0);
const entry = (value, row, column) =>
  axesOf(value) === 2 ? value[row][column] : row === column ? (axesOf(value) === 1 ? value[row] : value) : 0;

/** {axes, numbers}; a compatibility of null is the Potts model. */
export function coupling(compatibility, weight, classes) {
  const M = compatibility ?? -1;
  const rows = Array.from({ length: classes }, (_, row) =>
    Array.from({ length: classes }, (_, column) => product(M, weight, row, column, classes)),
  );
  const diagonal = rows.map((numbers, row) => numbers[row]);
  if (rows.some((numbers, row) => numbers.some((number, column) => row !== column && number !== 0))) {
    return { axes: 2, numbers: Float32Array.from(rows.flat()) };
  }
  if (diagonal.some((number) => number !== diagonal[0])) return { axes: 1, numbers: Float32Array.from(diagonal) };
  return { axes: 0, numbers: Float32Array.of(diagonal[0]) };
}

function product(M, W, row, column, classes) {
  if (axesOf(M) < 2) return entry(M, row, row) * entry(W, row, column);
  if (axesOf(W) < 2) return entry(M, row, column) * entry(W, column, column);
  let sum = 0;
  for (let k = 0; k < classes; ++k) sum += entry(M, row, k) * entry(W, k, column);
  return sum;
}

/** values[c] of classes × points, for a coupling or a weight applied to them. */
export function coupled(matrix, values, classes, c, points) {
  const sum = new Float32Array(points);
  for (let other = 0; other < classes; ++other) {
    const factor = entry(matrix, c, other);
    if (factor === 0) continue;
    for (let i = 0; i < points; ++i) sum[i] += factor * values[other * points + i];
  }
  return sum;
}
