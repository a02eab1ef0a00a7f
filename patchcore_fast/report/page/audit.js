"use strict";
// Keep or drop, a counter, and the list as a file or to copy. No library, no network.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const cards = [...document.querySelectorAll(".suspect")];
  const decided = new Array(cards.length).fill("");
  let current = 0;

  const dropped = () => data.names.filter((_, i) => decided[i] === "drop");
  const text = () => data.head + dropped().map((name) => name + "\n").join("");

  function update() {
    cards.forEach((card, i) => {
      card.classList.toggle("drop", decided[i] === "drop");
      card.classList.toggle("keep", decided[i] === "keep");
      for (const what of ["keep", "drop"])
        card.querySelector(".to-" + what).setAttribute("aria-pressed", String(decided[i] === what));
    });
    byId("count").textContent = `${decided.filter(Boolean).length} of ${cards.length} decided, ${dropped().length} to drop`;
    byId("text").value = text();
    byId("copied").textContent = "";
  }

  function decide(i, what) {
    decided[i] = what;
    current = i;
    update();
  }

  cards.forEach((card, i) => {
    card.addEventListener("focusin", () => { current = i; });
    for (const what of ["keep", "drop"])
      card.querySelector(".to-" + what).addEventListener("click", () => decide(i, decided[i] === what ? "" : what));
  });

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.repeat || ["TEXTAREA", "INPUT"].includes(event.target.tagName)) return;
    const what = { k: "keep", K: "keep", ArrowRight: "keep", d: "drop", D: "drop", ArrowLeft: "drop" }[event.key];
    if (!what || !cards.length) return;
    event.preventDefault();
    decide(current, what);
    current = Math.min(current + 1, cards.length - 1);
    cards[current].focus();
  });

  byId("opacity").addEventListener("input", (event) => {
    document.documentElement.style.setProperty("--heat", event.target.value / 100);
  });

  for (const button of document.querySelectorAll(".save")) button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text()], { type: "text/plain" }));
    link.download = data.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  byId("copy").addEventListener("click", () => {
    byId("text").select();  // so that it can be copied by hand where the browser forbids a page from a disk to
    const said = () => { byId("copied").textContent = "Copied."; };
    const other = () => { byId("copied").textContent = document.execCommand("copy") ? "Copied." : "Selected: copy it with the keyboard."; };
    if (navigator.clipboard) navigator.clipboard.writeText(byId("text").value).then(said, other);
    else other();
  });
  update();
})();
