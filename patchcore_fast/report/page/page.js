"use strict";
// The gallery, its viewer and the threshold. No library, no network: everything is in this page.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const state = { threshold: data.threshold, shown: [], current: 0, open: -1 };
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;  // never as HTML: names of files are anybody's
    return node;
  };
  const called = (score) => score > state.threshold ? "anomalous" : "normal";
  // The verdict, or what is wrong with it by the label.
  const verdict = (label, score) => {
    if (label === 1 && called(score) === "normal") return "missed";
    if (label === 0 && called(score) === "anomalous") return "false alarm";
    return called(score);
  };
  const isWrong = (what) => what === "missed" || what === "false alarm";
  const style = (what) => "v-" + (what === "false alarm" ? "alarm" : what);
  const typeOf = (image) => image.label === 0 ? "normal" : image.defect_type || "unknown";
  const digits = (x) => Number(x.toPrecision(4)).toString();

  function layers(stage, image) {
    stage.replaceChildren();
    for (const part of ["photo", "heat", "mask"]) {
      if (!image[part]) continue;
      const picture = make("img", part);
      picture.src = image[part];
      picture.alt = "";
      picture.decoding = "async";
      stage.append(picture);
    }
  }

  // Cards are made once; sorting and filtering move and hide them.
  const cards = byId("cards");
  data.images.forEach((image, i) => {
    const item = make("li"), button = make("button"), stage = make("span", "stage"), cap = make("span", "cap");
    button.type = "button";
    button.tabIndex = -1;
    button.setAttribute("aria-haspopup", "dialog");
    layers(stage, image);
    const line = make("span", "s");
    image.says = make("span");
    line.append(make("span", "", digits(image.score)), image.says);
    cap.append(make("span", "n", image.name), line);
    button.append(stage, cap);
    button.addEventListener("click", () => openViewer(state.shown.indexOf(i)));
    button.addEventListener("focus", () => { rove(state.shown.indexOf(i)); });
    item.append(button);
    Object.assign(image, { item, button });
    cards.append(item);
  });

  const type = byId("type");
  for (const name of [...new Set(data.images.map(typeOf))].sort()) {
    const option = make("option", "", name);
    option.value = "=" + name;  // apart from the empty value of "all", whatever the folder is called
    type.append(option);
  }

  const orders = {
    high: (a, b) => b.score - a.score,
    low: (a, b) => a.score - b.score,
    wrong: (a, b) => isWrong(b.what) - isWrong(a.what) || b.score - a.score,
    near: (a, b) => Math.abs(a.score - state.threshold) - Math.abs(b.score - state.threshold),
    name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
  };

  function update() {
    const wanted = byId("text").value.trim().toLowerCase(), what = byId("verdict").value;
    for (const image of data.images) {
      image.what = verdict(image.label, image.score);
      image.says.textContent = image.what;
      image.says.className = style(image.what);
      image.button.setAttribute("aria-label", `${image.name}, score ${digits(image.score)}, ${image.what}`);
      image.item.hidden = !((!type.value || type.value === "=" + typeOf(image))
        && (!what || what === image.what || what === called(image.score))
        && image.name.toLowerCase().includes(wanted));
    }
    const order = data.images.map((_, i) => i).sort((a, b) => orders[byId("sort").value](data.images[a], data.images[b]) || a - b);
    const focused = document.activeElement;
    cards.append(...order.map((i) => data.images[i].item));
    if (focused && cards.contains(focused)) focused.focus();
    state.shown = order.filter((i) => !data.images[i].item.hidden);
    rove(Math.min(state.current, state.shown.length - 1));
    byId("count").textContent = `${state.shown.length} of ${data.images.length} images.`;
  }

  // One card is in the tab order, arrow keys go from there: a gallery is one stop, not four hundred.
  function rove(position) {
    for (const image of data.images) image.button.tabIndex = -1;
    state.current = Math.max(position, 0);
    if (state.shown.length) data.images[state.shown[state.current]].button.tabIndex = 0;
  }

  function columns() {
    const tops = state.shown.map((i) => data.images[i].item.offsetTop);
    const next = tops.findIndex((top) => top !== tops[0]);
    return next < 0 ? tops.length : next;
  }

  cards.addEventListener("keydown", (event) => {
    const last = state.shown.length - 1, wide = columns(), at = state.current;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + wide, ArrowUp: at - wide, Home: 0, End: last }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (to >= 0 && to <= last) data.images[state.shown[to]].button.focus();
  });

  for (const id of ["sort", "type", "verdict"]) byId(id).addEventListener("change", update);
  byId("text").addEventListener("input", update);

  // Sliders and boxes of gallery and viewer are one setting each.
  for (const slider of document.querySelectorAll(".opacity")) slider.addEventListener("input", () => {
    document.documentElement.style.setProperty("--heat", slider.value / 100);
    for (const other of document.querySelectorAll(".opacity")) other.value = slider.value;
  });
  const showMasks = (on) => {
    document.body.classList.toggle("no-mask", !on);
    for (const box of document.querySelectorAll(".show-mask")) box.checked = on;
  };
  for (const box of document.querySelectorAll(".show-mask")) box.addEventListener("change", () => showMasks(box.checked));

  const viewer = byId("viewer");
  function openViewer(position) {
    if (position < 0 || position >= state.shown.length) return;
    state.open = position;
    const image = data.images[state.shown[position]];
    layers(byId("v-stage"), image);
    if (image.photo) byId("v-stage").firstChild.alt = `${image.name}, ${typeOf(image)}`;
    else byId("v-stage").append(make("span", "none", "The pictures of this image could not be drawn."));
    byId("v-name").textContent = image.path || image.name;
    byId("v-text").textContent = `Score ${digits(image.score)}, threshold ${digits(state.threshold)}: ${image.what}. `
      + (image.mask ? "The ground truth is outlined in cyan. " : "") + `${position + 1} of ${state.shown.length}.`;
    byId("v-before").disabled = position === 0;
    byId("v-after").disabled = position === state.shown.length - 1;
    if (!viewer.open) viewer.showModal();
  }
  byId("v-before").addEventListener("click", () => openViewer(state.open - 1));
  byId("v-after").addEventListener("click", () => openViewer(state.open + 1));
  byId("v-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => {
    if (state.shown[state.open] !== undefined) data.images[state.shown[state.open]].button.focus();
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.target.type === "range" || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowRight") openViewer(state.open + 1);
    else if (event.key === "ArrowLeft") openViewer(state.open - 1);
    else if (event.key === "m" || event.key === "M") showMasks(document.body.classList.contains("no-mask"));
    else return;
    event.preventDefault();
  });

  // The threshold: its line, the four counts, and the verdicts of the gallery.
  const slider = byId("threshold"), plot = byId("histogram"), line = byId("threshold-line");
  const low = Number(plot ? plot.dataset.low : Math.min(...data.scores)), high = Number(plot ? plot.dataset.high : Math.max(...data.scores));
  slider.min = low;
  slider.max = high;
  function setThreshold(value) {
    state.threshold = value;
    byId("threshold-value").textContent = digits(value);
    // All digits: the verdict of an image whose score is the threshold itself would turn on rounding.
    byId("threshold-command").textContent = `patchcore-fast threshold BANK ${value}`;
    slider.setAttribute("aria-valuetext", digits(value));
    if (line) {
      const x = Number(plot.dataset.left) + (value - low) / (high - low) * (plot.dataset.right - plot.dataset.left);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
    const n = { tp: 0, fn: 0, fp: 0, tn: 0 };
    data.scores.forEach((score, i) => {
      if (data.labels[i] >= 0) n[score > value ? (data.labels[i] ? "tp" : "fp") : (data.labels[i] ? "fn" : "tn")] += 1;
    });
    for (const key of Object.keys(n)) byId("n-" + key).textContent = n[key];
    const share = (part, whole) => whole ? (100 * part / whole).toFixed(1) + " %" : "–";
    byId("rates").textContent = `Recall ${share(n.tp, n.tp + n.fn)}, precision ${share(n.tp, n.tp + n.fp)}, `
      + `false alarms ${share(n.fp, n.fp + n.tn)} of normal images.`;
    update();
  }
  slider.addEventListener("input", () => setThreshold(Number(slider.value)));
  slider.addEventListener("keydown", (event) => {
    // step="any" keeps the bank's exact threshold but gives arrow keys steps of 1: these are hundredths of the range.
    const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (!way) return;
    event.preventDefault();
    slider.value = Number(slider.value) + way * (high - low) / 100;
    setThreshold(Number(slider.value));
  });
  const reset = () => { slider.value = data.threshold; setThreshold(data.threshold); };
  byId("threshold-reset").addEventListener("click", reset);
  byId("threshold-copy").addEventListener("click", () => {
    const range = document.createRange();
    range.selectNodeContents(byId("threshold-command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);  // so that it can be copied by hand where the browser forbids a page from a disk to
    if (navigator.clipboard) navigator.clipboard.writeText(byId("threshold-command").textContent).catch(() => {});
  });

  // A click on a heading sorts a table, a second one the other way round; rows without a number stay last.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending" || (column === 0 && head.getAttribute("aria-sort") === "none");
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows].sort((a, b) => {
        if (column === 0) return (up ? 1 : -1) * a.cells[0].textContent.localeCompare(b.cells[0].textContent, "en", { numeric: true });
        const x = Number(key(a)), y = Number(key(b));
        if ((x < -1e299) !== (y < -1e299)) return x < -1e299 ? 1 : -1;
        return (up ? 1 : -1) * (x - y);
      });
      body.append(...rows);
    }));
  }
  reset();
})();
