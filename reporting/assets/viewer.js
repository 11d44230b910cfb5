"use strict";
// The images of a page: synchronised views, spectrum, maps, place on the ground.
// Pixel values come as text from lemamba/reporting/pixels.py; nothing is loaded from elsewhere.
(() => {
  const MISSING = -32768;
  const original = [...$("scores").tBodies[0].rows];

  // ---- reading pixel values --------------------------------------------------------------------------------------
  const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  async function inflate(text) {
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // The inverse of pixels.py: pack.
  async function unpack(packed, reference) {
    const [C, H, W] = packed.shape, size = H * W, bytes = await inflate(packed.data);
    const data = new Int16Array(C * size);
    for (let i = 0; i < data.length; i++) {
      const folded = bytes[i] | (bytes[i + data.length] << 8);
      data[i] = (folded >>> 1) ^ -(folded & 1);
    }
    for (let c = 0; c < C; c++) {
      const first = c * size;
      const gain = packed.modes[c];
      if (gain < 0) {
        for (let i = first; i < first + size; i++) data[i] += reference.data[i];
        continue;
      }
      const rest = gain ? (i) => data[i] - ((gain * data[i - size]) >> 4) : (i) => data[i];
      for (let y = 0, i = first; y < H; y++) {
        for (let x = 0; x < W; x++, i++) {
          const left = x ? rest(i - 1) : 0, above = y ? rest(i - W) : 0, corner = x && y ? rest(i - W - 1) : 0;
          const small = Math.min(left, above), large = Math.max(left, above);
          data[i] += (corner >= large ? small : corner <= small ? large : left + above - corner) + (gain ? (gain * data[i - size]) >> 4 : 0);
        }
      }
    }
    return { ...packed, C, H, W, data, value: (c, i) => data[c * size + i] === MISSING ? NaN : packed.low + packed.step * data[c * size + i] };
  }

  async function load(index) {
    const about = JSON.parse($(`sample-${index}`).textContent);
    const base = about.reference ? await unpack(about.images[about.reference]) : null;
    const images = {}, fused = {}, maps = {};
    for (const [role, packed] of Object.entries(about.images)) images[role] = role === about.reference ? base : await unpack(packed, base);
    for (const [method, packed] of Object.entries(about.fused)) fused[method] = await unpack(packed, base);
    for (const [method, ones] of Object.entries(about.maps)) {
      maps[method] = {};
      for (const [name, packed] of Object.entries(ones)) maps[method][name] = await unpack(packed);
    }
    return { ...about, images, fused, maps, base: base || Object.values(fused)[0], limits: {} };
  }

  // ---- state -----------------------------------------------------------------------------------------------------
  const state = { index: 0, sample: null, x: 0, y: 0, zoom: 1, pixel: null, map: null };
  const colours = bytesOf(page.colours);
  let panels = []; // {name, canvas, picture, block}
  let requested = 0;

  const digits = (step) => Math.max(0, Math.min(6, Math.ceil(-Math.log10(step))));
  const bandName = (c) => state.sample.wavelengths ? `${c + 1} (${+state.sample.wavelengths[c].toFixed(1)} nm)` : `${c + 1}`;
  const current = () => state.sample.base;
  const extent = () => ({ H: state.sample.size[0], W: state.sample.size[1] }); // pixels of the image; positions count these
  const at = (image, x, y) => Math.floor(y / state.sample.factor) * image.W + Math.floor(x / state.sample.factor);
  const nameOf = (method) => Object.keys(state.sample.fused).length > 1 ? method : "sr";

  // ---- pictures --------------------------------------------------------------------------------------------------
  // Low and high end of a band, in steps: percentiles of the image's values.
  function limitsOf(image, band, stretch) {
    if (stretch === "peak") return [-image.low / image.step, (state.sample.peak - image.low) / image.step];
    const key = `${band} ${stretch}`;
    image.limits ||= {};
    if (image.limits[key]) return image.limits[key];
    const counts = new Uint32Array(65536), size = image.H * image.W;
    let known = 0;
    for (let i = band * size; i < (band + 1) * size; i++) if (image.data[i] !== MISSING) { counts[image.data[i] + 32768]++; known++; }
    const quantile = (share) => {
      let left = share * (known - 1);
      for (let v = 0; v < 65536; v++) { left -= counts[v]; if (left < 0) return v - 32768; }
      return 0;
    };
    const p = Number(stretch) / 100;
    return (image.limits[key] = [quantile(p), quantile(1 - p)]);
  }

  function picture(width, height, paint) {
    const canvas = make("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    paint(image.data);
    context.putImageData(image, 0, 0);
    return canvas;
  }

  function coloured(image, bands, reference) {
    const stretch = $("stretch").value, size = image.H * image.W;
    const parts = bands.map((band) => [band * size, ...limitsOf(reference, band, stretch)]);
    return picture(image.W, image.H, (out) => {
      for (let i = 0; i < size; i++) {
        let known = true;
        for (let k = 0; k < 3; k++) {
          const [first, low, high] = parts[k], value = image.data[first + i];
          known &&= value !== MISSING;
          out[4 * i + k] = 255 * (value - low) / Math.max(high - low, 1); // the array rounds and clips
        }
        out[4 * i + 3] = known ? 255 : 0;
      }
    });
  }

  function mapped(map, name) {
    const [low, high] = state.sample.scales[name], reverse = page.maps[name].direction > 0;
    return picture(map.W, map.H, (out) => {
      for (let i = 0; i < map.H * map.W; i++) {
        const value = map.value(0, i);
        const part = Math.min(1, Math.max(0, (value - low) / (high - low)));
        const k = 3 * Math.round(255 * (reverse ? 1 - part : part)) || 0;
        out.set([colours[k], colours[k + 1], colours[k + 2], Number.isNaN(value) ? 0 : 255], 4 * i);
      }
    });
  }

  // All panels: inputs, then the result and the map of each method.
  function pictures() {
    const { images, fused, maps, rgb } = state.sample, found = [];
    const bands = ["red", "green", "blue"].map((id) => Number($(id).value));
    const stored = $("stretch").value === "1" && bands.every((band, k) => band === rgb[k]), tiles = state.sample.tiles || {};
    const add = (name, key, canvas, block = state.sample.factor) => {
      const own = tiles[key], fixed = key === "pan" && $("stretch").value === "1";
      found.push({ name, key, picture: canvas, block, tiles: own && (stored || fixed) ? own : null });
    };
    if (images.lms) add("lms: MS, interpolated", "lms", coloured(images.lms, bands, current()));
    if (images.pan) add(images.pan.C < 3 ? "pan" : "guide", "pan", coloured(images.pan, images.pan.C < 3 ? [0, 0, 0] : [0, 1, 2], images.pan));
    if (images.gt) add("gt: ground truth", "gt", coloured(images.gt, bands, current()));
    const name = $("map").value;
    for (const method of Object.keys(fused)) {
      const label = nameOf(method);
      add(label === "sr" ? "sr: fused" : label, `sr ${method}`, coloured(fused[method], bands, current()));
      const map = maps[method]?.[name];
      if (map) add(label === "sr" ? page.maps[name].label : `${label}: ${page.maps[name].name}`, `map ${method}`, mapped(map, name), map.block);
    }
    return found;
  }

  // Left and top of the visible part and its size, in pixels of the image.
  function visible() {
    const { W, H } = extent(), w = W / state.zoom, h = H / state.zoom;
    return { left: state.x - w / 2, top: state.y - h / 2, w, h };
  }

  // Averaged only when pixels are smaller than the screen's.
  function drawPicture(context, panel, width) {
    const { left, top, w } = visible(), k = width / w, block = panel.block * k;
    const tiles = panel.tiles && block > 1 ? visibleTiles(panel.tiles, k) : [];
    if (!tiles.length || tiles.some(({ bitmap }) => !bitmap)) {
      const between = panel.key === "lms" && state.sample.factor > 1; // interpolated anyway
      context.imageSmoothingEnabled = between || Boolean(panel.tiles) || block / devicePixelRatio < 1;
      context.drawImage(panel.picture, -left * k, -top * k, panel.picture.width * block, panel.picture.height * block);
    }
    drawTiles(context, tiles, k);
  }

  // ---- pyramid of a large image ----------------------------------------------------------------------------------
  const SIDE = 256, KEPT = 300; // pixels of a tile; decoded tiles: 75 MiB
  let pending = 0;
  const decoded = new Map(); // text -> bitmap, or null while it is being decoded; the longest unused first

  function bitmapOf(text) {
    const found = decoded.get(text);
    decoded.delete(text);
    decoded.set(text, found || null);
    if (found === undefined) {
      pending++;
      createImageBitmap(new Blob([bytesOf(text)], { type: "image/webp" })).then((bitmap) => {
        pending--;
        if (!decoded.has(text)) return bitmap.close();
        decoded.set(text, bitmap);
        draw();
      });
      for (const [old, bitmap] of decoded) {
        if (decoded.size <= KEPT) break;
        bitmap?.close();
        decoded.delete(old);
      }
    }
    return found;
  }

  // The visible tiles of the coarsest level that is as fine as the screen; "bitmap" of those not yet decoded is null.
  function visibleTiles({ first, levels }, k) {
    const level = Math.min(Math.max(Math.floor(-Math.log2(k)), first), first + levels.length - 1), scale = 2 ** level, side = SIDE * scale;
    const { left, top, w, h } = visible(), { W, H } = extent(), across = Math.ceil(Math.ceil(W / scale) / SIDE), found = [];
    for (let row = Math.floor(top / side); row * side < Math.min(top + h, H); row++) {
      for (let column = Math.floor(left / side); column * side < Math.min(left + w, W); column++) {
        found.push({ x: column * side, y: row * side, scale, bitmap: bitmapOf(levels[level - first][row * across + column]) });
      }
    }
    return found;
  }

  function drawTiles(context, tiles, k) {
    const { left, top } = visible();
    for (const { x, y, scale, bitmap } of tiles) {
      if (!bitmap) continue;
      context.imageSmoothingEnabled = scale > 1 || k / devicePixelRatio < 1;
      const [x0, y0] = [Math.round((x - left) * k), Math.round((y - top) * k)]; // whole: no seams
      const [x1, y1] = [Math.round((x + bitmap.width * scale - left) * k), Math.round((y + bitmap.height * scale - top) * k)];
      context.clearRect(x0, y0, x1 - x0, y1 - y0);
      context.drawImage(bitmap, x0, y0, x1 - x0, y1 - y0);
    }
  }

  function drawMark(context, width) {
    if (!state.pixel) return;
    const { left, top, w } = visible(), k = width / w, side = Math.max(k, 9 * devicePixelRatio);
    const x = (state.pixel.x + 0.5 - left) * k - side / 2, y = (state.pixel.y + 0.5 - top) * k - side / 2;
    for (const [grow, colour] of [[2, "#000"], [0, "#fff"]]) {
      context.lineWidth = 1.5 * devicePixelRatio;
      context.strokeStyle = colour;
      context.strokeRect(x - grow, y - grow, side + 2 * grow, side + 2 * grow);
    }
  }

  function sized(canvas) {
    const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio)), height = Math.round(width * extent().H / extent().W);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    return [context, width, height];
  }

  function drawCompare() {
    const [context, width, height] = sized($("compare"));
    const middle = width * Number($("divider").value) / 100;
    const [left, right] = ["left", "right"].map((id) => panels.find((panel) => panel.key === $(id).value));
    for (const [panel, first, last] of [[left, 0, middle], [right, middle, width]]) {
      if (!panel || last <= first) continue;
      context.save();
      context.beginPath();
      context.rect(first, 0, last - first, height);
      context.clip();
      drawPicture(context, panel, width);
      context.restore();
    }
    drawMark(context, width);
    drawMap();
    for (const [thick, colour] of [[4, "#000"], [2, "#fff"]]) {
      context.fillStyle = colour;
      context.fillRect(middle - thick * devicePixelRatio / 2, 0, thick * devicePixelRatio, height);
    }
  }

  // Images on the screen are drawn in the next frame, the others when nothing has moved for a while.
  const onScreen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) onScreen[isIntersecting ? "add" : "delete"](target);
  }, { rootMargin: "200px" });
  let waiting = false, later = 0;

  const stale = new Set(); // canvases

  function drawStale(wanted) {
    const compare = $("compare");
    for (const panel of panels) {
      if (!stale.has(panel.canvas) || !wanted(panel.canvas)) continue;
      stale.delete(panel.canvas);
      const [context, width] = sized(panel.canvas);
      drawPicture(context, panel, width);
      drawMark(context, width);
    }
    if (stale.has(compare) && wanted(compare)) {
      stale.delete(compare);
      drawCompare();
    }
    document.body.dataset.tiles = pending; // still to come
  }

  function draw() {
    if (waiting || !state.sample) return;
    waiting = true;
    clearTimeout(later);
    document.body.dataset.drawn = "no";
    requestAnimationFrame(() => {
      waiting = false;
      for (const canvas of [$("compare"), ...panels.map((panel) => panel.canvas)]) stale.add(canvas);
      drawStale((canvas) => onScreen.has(canvas));
      later = setTimeout(() => {
        drawStale(() => true);
        document.body.dataset.drawn = "yes";
      }, 120);
    });
  }

  function clamp() {
    const { W, H } = extent();
    state.zoom = Math.min(Math.max(1, state.zoom), Math.max(8, Math.max(W, H) / 8));
    const w = W / state.zoom / 2, h = H / state.zoom / 2;
    state.x = Math.min(Math.max(state.x, w), W - w);
    state.y = Math.min(Math.max(state.y, h), H - h);
    document.body.classList.toggle("zoomed", state.zoom > 1);
  }

  // Zoom and keep the point (x, y) of the image where it is.
  function zoom(by, x = state.x, y = state.y) {
    const before = state.zoom;
    state.zoom *= by;
    clamp();
    const ratio = before / state.zoom;
    state.x = x + (state.x - x) * ratio;
    state.y = y + (state.y - y) * ratio;
    clamp();
    draw();
  }

  function whole() {
    [state.zoom, state.x, state.y] = [1, extent().W / 2, extent().H / 2];
    clamp();
    draw();
  }

  function rebuild() {
    const fresh = pictures(), same = fresh.length === panels.length && fresh.every((panel, i) => panel.key === panels[i].key);
    if (!same) {
      for (const { canvas } of panels) {
        watch.unobserve(canvas);
        onScreen.delete(canvas);
        stale.delete(canvas);
      }
      $("panels").replaceChildren();
    }
    panels = fresh.map((panel, i) => {
      if (same) return { ...panels[i], ...panel };
      const canvas = make("canvas", undefined, { role: "img" }), figure = make("figure"), caption = make("figcaption");
      figure.append(canvas, caption);
      $("panels").append(figure);
      follow(canvas);
      watch.observe(canvas);
      return { ...panel, canvas, caption };
    });
    for (const panel of panels) {
      panel.caption.textContent = panel.name;
      panel.canvas.setAttribute("aria-label", panel.name);
    }
    for (const canvas of [$("compare"), ...panels.map((panel) => panel.canvas)]) { // nothing moves when it is drawn
      canvas.style.aspectRatio = `${extent().W} / ${extent().H}`;
    }
    fillCompare();
    drawBar();
    draw();
  }

  function options(select, entries, chosen) {
    select.replaceChildren(...entries.map(([value, text]) => make("option", text, { value })));
    if (entries.some(([value]) => String(value) === String(chosen))) select.value = chosen;
  }

  function fillCompare() {
    const entries = panels.map((panel) => [panel.key, panel.name]), fused = panels.find((panel) => panel.key.startsWith("sr "))?.key;
    const [left, right] = ["left", "right"].map((id) => $(id).value);
    options($("left"), entries, entries.some(([key]) => key === left) ? left : entries[0][0]);
    options($("right"), entries, entries.some(([key]) => key === right) ? right : fused);
  }

  function drawBar() {
    const name = $("map").value, scale = state.sample.scales[name];
    $("scale").hidden = !scale;
    $("map-label").hidden = !scale;
    if (!scale) return;
    const { direction, unit, label } = page.maps[name], [low, high] = scale, bar = $("bar"), context = bar.getContext("2d");
    bar.width = 256;
    for (let i = 0; i < 256; i++) {
      const k = 3 * (direction > 0 ? 255 - i : i);
      context.fillStyle = `rgb(${colours[k]} ${colours[k + 1]} ${colours[k + 2]})`;
      context.fillRect(i, 0, 1, 14);
    }
    const text = (value) => `${+value.toPrecision(3)}${unit}`;
    const more = direction > 0 ? ["≤ ", ""] : ["", "≥ "];
    $("low").textContent = more[0] + text(low);
    $("middle").textContent = `${label}; bright = worse`;
    $("high").textContent = more[1] + text(high);
    bar.setAttribute("aria-label", `Colour bar of ${label}, from ${text(low)} to ${text(high)}`);
  }

  // What the page has of a large image.
  function largeText() {
    const { factor, tiles = {}, rgb } = state.sample, finest = Math.min(...Object.values(tiles).map((one) => one.first));
    const values = ` Values are means of ${factor} × ${factor} pixels.`;
    if (!Object.keys(tiles).length) return `${values} Pictures finer than that did not fit into this file.`;
    const left = finest ? `, averaged over ${2 ** finest} × ${2 ** finest} pixels to fit into this file` : "";
    return `${values} Bands ${rgb.map((band) => band + 1).join(", ")} at 1–99 % are shown in full detail${left} (WebP, lossy); other bands and stretches as means.`;
  }

  // ---- place on the ground ---------------------------------------------------------------------------------------
  const normal = (x, y, z) => { const r = Math.hypot(x, y, z); return [x / r, y / r, z / r]; };

  // Unit vector of the direction of a position, between the nodes of the grid.
  function direction(x, y) {
    const { grid } = state.sample.place, { W, H } = extent(), n = grid.length - 1;
    const [u, v] = [x / W * n, y / H * n], i = Math.min(Math.max(Math.floor(v), 0), n - 1), j = Math.min(Math.max(Math.floor(u), 0), n - 1);
    const [s, t] = [u - j, v - i], mix = (k) => (1 - t) * ((1 - s) * grid[i][j][k] + s * grid[i][j + 1][k]) + t * ((1 - s) * grid[i + 1][j][k] + s * grid[i + 1][j + 1][k]);
    return normal(mix(0), mix(1), mix(2));
  }

  function mapCoordinates(x, y) {
    const [a, b, c, d, e, f] = state.sample.place.transform;
    return [a * x + b * y + c, d * x + e * y + f];
  }

  function placeText(x, y) {
    const { transform: [a, b], unit, grid, geographic, crs, name } = state.sample.place, [east, north] = mapCoordinates(x, y);
    const places = Math.min(9, Math.max(0, 1 - Math.floor(Math.log10(Math.hypot(a, b))))), parts = [];
    if (!(geographic && grid && crs === "EPSG:4326")) {
      const [first, second] = geographic ? ["lon", "lat"] : crs || name && unit ? ["E", "N"] : ["x", "y"];
      parts.push(`${first} ${east.toFixed(places)}${unit && ` ${unit}`}, ${second} ${north.toFixed(places)}${unit && ` ${unit}`}`);
    }
    if (grid) {
      const [X, Y, Z] = direction(x, y), degrees = 180 / Math.PI;
      const latitude = Math.asin(Z) * degrees, longitude = Math.atan2(Y, X) * degrees;
      parts.push(`${Math.abs(latitude).toFixed(6)}° ${latitude < 0 ? "S" : "N"}, ${Math.abs(longitude).toFixed(6)}° ${longitude < 0 ? "W" : "E"}`);
    }
    return parts.join(" · ");
  }

  function fillPlace() {
    const { place } = state.sample;
    if (!place) return;
    const { crs, name, grid, error } = place, accuracy = error > 0.1 ? `, interpolated to ${+error.toPrecision(1)} m` : "";
    $("system").textContent = `${[name, crs && `(${crs})`].filter(Boolean).join(" ")}${grid ? `; latitude and longitude: WGS 84${accuracy}` : ""}`;
    hover(-1, -1);
  }

  function hover(x, y) {
    if (!state.sample?.place) return;
    const { W, H } = extent(), inside = x >= 0 && y >= 0 && x < W && y < H;
    $("pointer").textContent = inside ? placeText(x, y) : "–";
  }

  // Metres of a pixel's width in the middle of what is visible; 0 if that is not known.
  function pixelMetres() {
    const { transform: [a, , , d], metres, grid } = state.sample.place;
    if (metres) return Math.hypot(a, d) * metres;
    if (!grid) return 0;
    const one = direction(state.x - 0.5, state.y), other = direction(state.x + 0.5, state.y);
    return 6371000 * Math.hypot(...one.map((value, k) => value - other[k]));
  }

  const nice = (largest) => { const p = 10 ** Math.floor(Math.log10(largest)); return [5, 2, 1].find((m) => m * p <= largest) * p; };

  // Scale bar, north and marks of coordinates on the comparison.
  function drawMap() {
    const { place } = state.sample, shown = Boolean(place);
    for (const id of ["scalebar", "north", "marks", "where"]) $(id).toggleAttribute("hidden", !shown);
    if (!shown) return;
    const { w, h } = visible(), metres = pixelMetres(), k = $("compare").clientWidth / w;
    $("scalebar").hidden = !metres;
    if (metres) {
      const length = nice(0.3 * w * metres);
      $("scalebar").style.width = `${length / metres * k}px`;
      $("scalebar").textContent = length >= 1000 ? `${length / 1000} km` : `${+length.toPrecision(3)} m`;
    }
    const [a, b, , d, e] = place.transform, size = a * e - b * d, north = [-b / size, a / size]; // of a step north, in columns and rows
    $("north").style.transform = `rotate(${(Math.atan2(north[0], -north[1]) * 180 / Math.PI).toFixed(2)}deg)`;
    drawMarks(k, w, h);
  }

  // Round coordinates along the lower and the left side; none where rows do not run east.
  function drawMarks(k, w, h) {
    const [a, b, , d, e] = state.sample.place.transform, marks = $("marks"), items = [];
    const svg = (name, attributes, text = "") => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      node.textContent = text;
      items.push(node);
    };
    const { left, top } = visible(), [x0, y0] = mapCoordinates(left, top), [x1, y1] = mapCoordinates(left + w, top + h);
    const label = (value, step) => value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
    if (!b && !d) {
      const step = nice(Math.abs(x1 - x0) / 2.5), rise = nice(Math.abs(y1 - y0) / 2.5);
      for (let m = Math.ceil(Math.min(x0, x1) / step); m * step <= Math.max(x0, x1); m++) {
        const x = (m * step - x0) / a * k;
        svg("path", { d: `M${x} ${h * k}v-8` });
        svg("text", { x, y: h * k - 11, "text-anchor": x < 40 ? "start" : x > w * k - 40 ? "end" : "middle" }, label(m * step, step));
      }
      for (let m = Math.ceil(Math.min(y0, y1) / rise); m * rise <= Math.max(y0, y1); m++) {
        const y = (m * rise - y0) / e * k;
        if (y < 14 || y > h * k - 40) continue; // the corner belongs to the other side
        svg("path", { d: `M0 ${y}h8` });
        svg("text", { x: 11, y: y + 4 }, label(m * rise, rise));
      }
    }
    marks.setAttribute("viewBox", `0 0 ${w * k} ${h * k}`);
    marks.replaceChildren(...items);
  }

  // ---- spectrum --------------------------------------------------------------------------------------------------
  let plot = null;

  // Lines of the spectrum: gt (or lms) first.
  function lines() {
    const { images, fused } = state.sample, found = [];
    if (images.gt) found.push({ label: "gt", image: images.gt, stroke: ink("--ink"), width: 3, dash: [] });
    if (images.lms) found.push({ label: "lms", image: images.lms, stroke: ink("--dim"), width: 1.5, dash: [4, 4] });
    Object.entries(fused).forEach(([method, image], i) => {
      found.push({ label: nameOf(method), image, width: 2, ...lineStyle(i) });
    });
    return found;
  }

  const valuesAt = (image) => Array.from({ length: image.C }, (_, c) => image.value(c, at(image, state.pixel.x, state.pixel.y)));

  function drawSpectrum() {
    const shown = lines(), C = current().C, nm = state.sample.wavelengths;
    const order = Array.from({ length: C }, (_, c) => c);
    if (nm) order.sort((a, b) => nm[a] - nm[b]);
    const columns = shown.map((line) => valuesAt(line.image));
    const data = [order.map((c) => nm ? nm[c] : c + 1), ...columns.map((v) => order.map((c) => Number.isNaN(v[c]) ? null : v[c]))];
    plot?.destroy();
    const axis = axisStyle();
    plot = new uPlot({
      width: Math.max(200, $("spectrum").clientWidth), height: 300, legend: { show: false }, cursor: { drag: { x: false, y: false } },
      scales: { x: { time: false, range: (_, low, high) => low === high ? [low - 1, high + 1] : [low - 0.02 * (high - low), high + 0.02 * (high - low)] } },
      axes: [
        { ...axis, label: nm ? "wavelength in nm" : "band", ...(nm ? {} : { incrs: [1, 2, 5, 10, 20, 50, 100] }) },
        { ...axis, label: "value", size: 64 },
      ],
      series: [{}, ...shown.map(({ label, stroke, width, dash }) => ({ label, stroke, width, dash, points: { show: C <= 40, size: 6, fill: stroke } }))],
    }, data, $("spectrum"));
    fillLegend($("legend"), shown);
    fillValues(shown, columns);
  }

  function fillTable(target, heads, rows) {
    const head = make("thead"), line = make("tr"), inner = make("tbody");
    line.append(...heads.map((text) => make("th", text, { scope: "col" })));
    head.append(line);
    inner.append(...rows.map(([first, ...cells]) => {
      const row = make("tr");
      row.append(make("th", first, { scope: "row" }), ...cells.map((text) => make("td", text)));
      return row;
    }));
    target.replaceChildren(head, inner);
  }

  function fillValues(shown, columns) {
    const text = (value, image) => Number.isNaN(value) ? "–" : value.toFixed(digits(image.step));
    fillTable($("values"), ["band", ...shown.map((line) => line.label)], columns[0].map((_, c) => [bandName(c), ...shown.map((line, k) => text(columns[k][c], line.image))]));
    const { x, y } = state.pixel, k = state.sample.factor, parts = [`Row ${y}, column ${x} (counted from 0)`];
    if (state.sample.place) parts.push(placeText(x + 0.5, y + 0.5));
    if (k > 1) parts.push(`values are means of ${k} × ${k} pixels`);
    const several = Object.keys(state.sample.maps).length > 1, name = $("map").value;
    for (const [method, maps] of Object.entries(state.sample.maps)) {
      for (const [key, map] of Object.entries(maps)) {
        if (several && key !== name) continue;
        const value = map.value(0, Math.floor(y / map.block) * map.W + Math.floor(x / map.block));
        parts.push(`${page.maps[key].name}${several ? ` of ${method}` : ""} ${Number.isNaN(value) ? "undefined" : value.toFixed(digits(map.step)) + page.maps[key].unit}`);
      }
    }
    $("pixel").textContent = parts.join(" · ");
  }

  function mark(x, y) {
    const { W, H } = extent();
    state.pixel = { x: Math.min(Math.max(0, Math.floor(x)), W - 1), y: Math.min(Math.max(0, Math.floor(y)), H - 1) };
    drawSpectrum();
    draw();
  }

  // ---- bands -----------------------------------------------------------------------------------------------------
  function fillBands() {
    const rows = state.sample.bands[$("method").value];
    $("per-band").hidden = !rows;
    if (!rows) return;
    const text = (value) => value === null ? "–" : String(+value.toPrecision(5));
    fillTable($("bands"), ["band", ...page.columns], rows.map((row, c) => [bandName(c), ...row.map(text)]));
  }

  // ---- pointer and keys ------------------------------------------------------------------------------------------
  function follow(canvas) {
    const pointers = new Map();
    let moved = 0, dividing = false;
    const position = (event) => {
      const box = canvas.getBoundingClientRect(), { left, top, w, h } = visible();
      return [left + (event.clientX - box.left) / box.width * w, top + (event.clientY - box.top) / box.height * h, box];
    };
    canvas.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, event);
      canvas.setPointerCapture(event.pointerId);
      if (pointers.size > 1) return;
      moved = 0;
      const box = canvas.getBoundingClientRect();
      dividing = canvas.id === "compare" && Math.abs((event.clientX - box.left) / box.width * 100 - Number($("divider").value)) / 100 * box.width < 14;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return hover(...position(event));
      const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
      moved += Math.abs(dx) + Math.abs(dy);
      const other = [...pointers.values()].find((one) => one.pointerId !== event.pointerId);
      const [x, y, box] = position(event);
      if (other) {
        const length = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
        zoom(length(event) / Math.max(length(before), 1), x, y);
      } else if (dividing) {
        $("divider").value = (event.clientX - box.left) / box.width * 100;
      } else if (moved > 4) {
        const { w, h } = visible();
        state.x -= dx / box.width * w;
        state.y -= dy / box.height * h;
        clamp();
      }
      pointers.set(event.pointerId, event);
      draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (pointers.size === 1 && moved <= 4 && !dividing) mark(...position(event));
      pointers.delete(event.pointerId);
    });
    canvas.addEventListener("pointerleave", () => hover());
    canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("dblclick", (event) => zoom(2, ...position(event)));
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 300), ...position(event));
    }, { passive: false });
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 10 : 1, { x, y } = state.pixel;
    const actions = {
      "+": () => zoom(1.5, x, y), "=": () => zoom(1.5, x, y), "-": () => zoom(1 / 1.5, x, y), "0": whole,
      ArrowLeft: () => mark(x - far, y), ArrowRight: () => mark(x + far, y), ArrowUp: () => mark(x, y - far), ArrowDown: () => mark(x, y + far),
      n: () => show(state.index + 1), p: () => show(state.index - 1),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  // ---- samples ---------------------------------------------------------------------------------------------------
  function fillControls(first) {
    const sample = state.sample, bands = Array.from({ length: current().C }, (_, c) => [c, bandName(c)]);
    ["red", "green", "blue"].forEach((id, k) => {
      const kept = $(id).value;
      options($(id), bands, first || !(kept < bands.length) ? sample.rgb[k] : kept);
    });
    options($("map"), Object.keys(sample.scales).map((name) => [name, page.maps[name].label]), $("map").value);
    options($("method"), Object.keys(sample.fused).map((name) => [name, name]), $("method").value);
    $("choose-method").hidden = Object.keys(sample.fused).length < 2;
    $("stretch").querySelector("[value=peak]").hidden = sample.peak === null;
    const step = current().step, shrunk = sample.factor > 1 ? largeText() : "";
    $("precision").textContent = (step === 1 ? "Values are exact." : `Values are rounded to ${+step.toPrecision(2)}; scores and maps come from the full values.`) + shrunk;
  }

  async function show(index) {
    if (index < 0 || index >= page.count) return;
    const request = ++requested, sample = await load(index);
    if (request !== requested) return; // another was asked for meanwhile
    const before = state.sample && state.sample.size.join();
    [state.index, state.sample] = [index, sample];
    $("sample").value = index;
    $("shown").textContent = `sample ${sample.name}`;
    [$("previous").disabled, $("next").disabled] = [index === 0, index === page.count - 1];
    for (const row of original) row.classList.toggle("here", row.cells[0].textContent === sample.name);
    fillControls(before === null);
    fillPlace();
    const { H, W } = extent();
    if (before !== [H, W].join()) {
      state.pixel = { x: W >> 1, y: H >> 1 };
      whole();
    }
    rebuild();
    fillBands();
    drawSpectrum();
    document.body.dataset.ready = index;
  }

  function start() {
    const names = Array.from({ length: page.count }, (_, i) => JSON.parse(`"${/"name":"((?:[^"\\]|\\.)*)"/.exec($(`sample-${i}`).textContent)[1]}"`));
    options($("sample"), names.map((name, i) => [i, name]));
    for (const row of original) {
      const index = names.indexOf(row.cells[0].textContent);
      if (index < 0) continue;
      const button = make("button", row.cells[0].textContent, { type: "button", class: "open", title: "show its images" });
      row.cells[0].replaceChildren(button);
      button.addEventListener("click", () => show(index));
    }
    for (const node of [$("sample").parentElement, $("previous").parentElement]) node.hidden = page.count < 2;
    $("sample").addEventListener("change", () => show(Number($("sample").value)));
    $("previous").addEventListener("click", () => show(state.index - 1));
    $("next").addEventListener("click", () => show(state.index + 1));
    for (const id of ["red", "green", "blue", "stretch"]) $(id).addEventListener("change", rebuild);
    $("map").addEventListener("change", () => { rebuild(); drawSpectrum(); });
    for (const id of ["left", "right"]) $(id).addEventListener("change", draw);
    $("divider").addEventListener("input", draw);
    $("method").addEventListener("change", fillBands);
    $("in").addEventListener("click", () => zoom(1.5, state.pixel.x, state.pixel.y));
    $("out").addEventListener("click", () => zoom(1 / 1.5, state.pixel.x, state.pixel.y));
    $("fit").addEventListener("click", whole);
    for (const id of ["panels", "stage"]) $(id).addEventListener("keydown", keys);
    follow($("compare"));
    watch.observe($("compare"));
    new ResizeObserver(() => { draw(); if (plot && state.sample) plot.setSize({ width: Math.max(200, $("spectrum").clientWidth), height: 300 }); }).observe($("panels"));
    onColours(() => { if (state.sample) drawSpectrum(); });
    show(0);
  }
  start();
})();
