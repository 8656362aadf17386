// Which points lie in a polygon, which point is nearest, how values fall into bins.

// Even-odd rule; the polygon is [[x, y], ...], closed by itself.
function inside(polygon, x, y) {
  let within = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [ax, ay] = polygon[i];
    const [bx, by] = polygon[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

// Marks of the points in the polygon, 1 or 0; a box around the polygon sorts out most of the others.
function enclosed(polygon, xs, ys) {
  const mask = new Uint8Array(xs.length);
  const px = polygon.map((p) => p[0]);
  const py = polygon.map((p) => p[1]);
  const left = Math.min(...px), right = Math.max(...px), low = Math.min(...py), high = Math.max(...py);
  for (let p = 0; p < xs.length; p++) {
    const x = xs[p], y = ys[p];
    if (x === NOWHERE || y === NOWHERE || x < left || x > right || y < low || y > high) continue;
    if (inside(polygon, x, y)) mask[p] = 1;
  }
  return mask;
}

// How many codes fall into each of `size` equal bins, of all and of the chosen ones.
function histogram(codes, size, chosen) {
  const all = new Uint32Array(size);
  const some = new Uint32Array(size);
  for (let p = 0; p < codes.length; p++) {
    if (codes[p] === NOWHERE) continue;
    const bin = Math.min(size - 1, Math.floor((codes[p] / (NOWHERE - 1)) * size));
    all[bin]++;
    if (chosen[p]) some[bin]++;
  }
  return { all, some };
}

// Glyphs that share a spot step aside along a spiral; offsets in px, in the order of `spots` ([x, y] in px).
function spread(spots, cell = 8) {
  const taken = new Map();
  return spots.map(([x, y]) => {
    const key = `${Math.round(x / cell)},${Math.round(y / cell)}`;
    const k = taken.get(key) ?? 0;
    taken.set(key, k + 1);
    if (k === 0) return [0, 0];
    const angle = 2.399963 * k, radius = Math.min(4.5 * Math.sqrt(k), 16);
    return [Math.round(radius * Math.cos(angle)), Math.round(radius * Math.sin(angle))];
  });
}
