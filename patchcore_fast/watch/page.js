"use strict";
// Asks for /state every two seconds and shows it. No library, no network but this machine's answer.
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;  // never as HTML: names of files are anybody's
    return node;
  };
  const digits = (x) => Number(x.toPrecision(4)).toString();
  const seconds = (x) => x < 1 ? `${Math.round(1000 * x)} ms` : `${digits(x)} s`;
  const cards = byId("cards"), viewer = byId("viewer"), shown = new Map();

  function layers(stage, image) {
    stage.replaceChildren();
    const photo = make("img", "photo");
    photo.alt = `Photograph of ${image.name}`;
    photo.src = `/photo/${image.index}`;
    photo.addEventListener("error", () => stage.replaceChildren(make("span", "", image.error || "The file is not there any more.")));
    if (image.error) stage.append(make("span", "", "cannot be read"));
    else stage.append(photo);
    stage.classList.toggle("broken", Boolean(image.error));
    if (!image.heat) return;
    const heat = make("img", "heat");
    heat.alt = "";
    heat.src = `/heat/${image.index}`;
    stage.append(heat);
  }

  function card(image) {
    const item = make("li"), button = make("button"), stage = make("span", "stage"), cap = make("span", "cap");
    const what = image.verdict || "scored", line = make("span", "s"), score = image.score === null ? "" : digits(image.score);
    button.type = "button";
    button.setAttribute("aria-haspopup", "dialog");
    button.setAttribute("aria-label", `${image.name}, ${score ? `score ${score}, ` : ""}${what}`);
    layers(stage, image);
    line.append(make("span", "", score || image.time), make("span", `v-${what}`, what));
    cap.append(make("span", "n", image.name), line);
    button.append(stage, cap);
    button.addEventListener("click", () => {
      byId("v-name").textContent = image.name;
      byId("v-text").textContent = image.error || `Image ${image.index}, ${image.time}: score ${score}, ${what}.`;
      layers(byId("v-stage"), image);
      viewer.showModal();
    });
    item.append(button);
    item.what = what;
    return item;
  }

  function filter() {
    const wanted = byId("verdict").value;
    let count = 0;
    for (const item of cards.children) {
      item.hidden = Boolean(wanted) && item.what !== wanted;
      count += !item.hidden;
    }
    byId("count").textContent = `${count} of the last ${cards.children.length} images, the newest first.`;
  }

  function chips(state) {
    const { counts, latency } = state, list = [];
    const chip = (value, name, kind) => {
      const item = make("li", kind);
      item.append(make("b", "", value), ` ${name}`);
      list.push(item);
    };
    chip(counts.images.toLocaleString("en"), "images");
    chip(counts.normal.toLocaleString("en"), "normal");
    chip(counts.anomalous.toLocaleString("en"), "anomalous", counts.anomalous ? "alarm" : "");
    if (counts.unreadable) chip(counts.unreadable.toLocaleString("en"), "unreadable", "alarm");
    if (state.threshold !== null) chip(digits(state.threshold), "threshold");
    if (latency.p50 !== undefined) {
      chip(seconds(latency.p50), "latency, median");
      chip(seconds(latency.p99), "latency, p99");
    }
    byId("chips").replaceChildren(...list);
  }

  function show(state) {
    chips(state);
    byId("running").textContent = `Running for ${state.hours < 1 ? `${Math.round(60 * state.hours)} min` : `${state.hours.toFixed(1)} h`}.`;
    byId("running").classList.remove("lost");
    byId("drift-text").textContent = state.drift;
    byId("drift").classList.toggle("drifted", state.drifted);
    byId("no-scores").hidden = Boolean(state.chart);
    if (state.chart) {
      // Drawn by the program, of numbers alone; as a document it could run nothing either.
      const drawn = new DOMParser().parseFromString(state.chart.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"'), "image/svg+xml");
      byId("chart").replaceChildren(document.importNode(drawn.documentElement, true));
    }
    const now = new Set(state.images.map((image) => image.index));
    for (const [index, item] of shown) if (!now.has(index)) { item.remove(); shown.delete(index); }
    for (const image of [...state.images].reverse()) {
      if (shown.has(image.index)) continue;
      const item = card(image);
      shown.set(image.index, item);
      cards.prepend(item);
    }
    filter();
  }

  async function ask() {
    try {
      const answer = await fetch(innerWidth < 700 ? "/state" : "/state?wide");
      if (!answer.ok) throw new Error(answer.statusText);
      show(await answer.json());
    } catch {
      byId("running").textContent = "No answer: the program has ended, or this page has lost it. What is below is old.";
      byId("running").classList.add("lost");
    }
    setTimeout(ask, document.hidden ? 10000 : 2000);
  }

  byId("verdict").addEventListener("change", filter);
  byId("opacity").addEventListener("input", () => document.documentElement.style.setProperty("--heat", byId("opacity").value / 100));
  byId("v-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  ask();
})();
