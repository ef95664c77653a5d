// Drawing with the mouse, a pen or a finger: a map with the class of each pixel, 255 where nothing was drawn.
export const NOTHING = 255;

/** tool(): {label, radius} to draw with, or null. changed(): comes after each part of a stroke. */
export function listen(canvas, map, tool, changed) {
  let last = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return [x * canvas.width, y * canvas.height];
  };
  canvas.onpointerdown = (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    draw(map(), canvas, last, last, tool());
    changed();
  };
  canvas.onpointermove = (event) => {
    if (last === null || !event.isPrimary) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) {
      const next = place(each);
      draw(map(), canvas, last, next, tool());
      last = next;
    }
    changed();
  };
  canvas.onpointerup = canvas.onpointercancel = () => (last = null);
}

function draw(map, { width, height }, [x0, y0], [x1, y1], { label, radius }) {
  const steps = Math.ceil(Math.hypot(x1 - x0, y1 - y0)) + 1;
  for (let step = 0; step <= steps; ++step) {
    const [x, y] = [x0 + ((x1 - x0) * step) / steps, y0 + ((y1 - y0) * step) / steps];
    for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(height - 1, y + radius); ++row) {
      for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(width - 1, x + radius); ++column) {
        if ((column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2 <= radius ** 2) map[row * width + column] = label;
      }
    }
  }
}
