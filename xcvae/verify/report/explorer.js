(() => {
  "use strict";
  const root = document.getElementById("explorer");
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const part = (name, inside = root) => inside.querySelector(`[data-part=${name}]`);
  const map = (name) => root.querySelector(`[data-map=${name}]`);
  const SECONDS = 0.4, HEIGHT = 460;
  const cache = new Map();
  const panes = { a: { member: 0, spread: 0 }, b: { member: 0, spread: 0 } };
  let set, sample = 0, timer = 0;

  const image = (content) => {
    if (!cache.has(content)) {
      const one = new Image();
      one.src = "data:image/png;base64," + content;
      cache.set(content, one.decode().then(() => one));
    }
    return cache.get(content);
  };

  // Draw one map of a picture; a later choice may have been made while it was decoded.
  const paint = async (name, content, row, shape, ratio, stats, title) => {
    const figure = map(name), canvas = figure.querySelector("canvas");
    const units = data.units.replaceAll(" ", "\u00a0");
    const text = stats ? `mean ${stats[0]}, max\u00a0${stats[1]}\u00a0${units}` : "no data";
    const wanted = figure.dataset.wanted = `${set.title}/${sample}/${row}`;
    figure.querySelector("figcaption").textContent = title;
    part("stats", figure).textContent = text;
    canvas.setAttribute("aria-label", `${title}, ${set.samples[sample].label}: ${text}`);
    const [height, width] = shape, source = await image(content);
    if (figure.dataset.wanted !== wanted) return;
    canvas.width = width;
    canvas.height = height;
    canvas.style.aspectRatio = ratio;  // of the area: cells need not be square
    canvas.style.width = `min(100%, ${HEIGHT * ratio}px)`;
    canvas.getContext("2d").drawImage(source, 0, row * height, width, height, 0, 0, width, height);
    figure.dataset.shown = wanted;
  };

  const show = () => {
    const one = set.samples[sample];
    map("coarse").hidden = !one.coarse;
    if (one.coarse) {
      const stats = one.stats[one.stats.length - 1];
      paint("coarse", one.coarse, 0, set.coarseShape, set.coarseRatio, stats, "Condition");
    }
    paint("observed", one.picture, 0, set.shape, set.ratio, one.stats[0], "Observed");
    for (const [name, pane] of Object.entries(panes)) {
      const row = 1 + pane.spread * set.members.length + pane.member;
      const spread = set.spreads[pane.spread];
      const known = set.spreads.length < 2 ? "" : `, spread\u00a0${spread}`;
      const title = `Member ${set.members[pane.member]}${known}`;
      paint(name, one.picture, row, set.shape, set.ratio, one.stats[row], title);
      const slider = part("spread", map(name));
      slider.querySelector("output").textContent = spread;
      slider.querySelector("input").setAttribute("aria-valuetext", `spread ${spread}`);
    }
    part("sample").value = sample;
    const time = part("time").querySelector("input");
    part("time").querySelector("output").textContent = one.label;
    time.value = sample;
    time.setAttribute("aria-valuetext", one.label);
  };

  const choose = (number) => {
    sample = number;
    show();
  };

  const play = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(() => choose((sample + 1) % set.samples.length), 1000 * SECONDS) : 0;
    part("play").textContent = on ? "Pause" : "Play";
  };

  const options = (select, names) => select.replaceChildren(...names.map((name, i) => new Option(name, i)));

  const controls = (name, pane) => {
    const figure = map(name), members = part("members", figure), spread = part("spread", figure);
    members.replaceChildren(members.querySelector("legend"), ...set.members.map((number, i) => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, { type: "radio", autocomplete: "off", name: `member-${name}`, value: i, checked: i === pane.member });
      input.addEventListener("change", () => { pane.member = i; show(); });
      label.append(input, String(number));
      return label;
    }));
    spread.hidden = set.spreads.length < 2;
    const input = spread.querySelector("input");
    input.max = set.spreads.length - 1;
    input.value = pane.spread;
  };

  const open = (number) => {
    play(false);
    const before = set && set.samples[sample].label;
    set = data.sets[number];
    const last = set.spreads.length - 1, same = set.samples.findIndex((one) => one.label === before);
    sample = same < 0 ? set.start : same;
    panes.a = { member: 0, spread: last >> 1 };
    panes.b = { member: last || set.members.length < 2 ? 0 : 1, spread: last };
    options(part("sample"), set.samples.map((one) => one.label));
    part("about").textContent = set.about;
    part("sample").parentElement.hidden = set.sequence;
    part("time").hidden = part("play").hidden = !set.sequence;
    part("time").querySelector("input").max = set.samples.length - 1;
    if (set.sequence) set.samples.forEach((one) => image(one.picture));
    for (const name of ["a", "b"]) controls(name, panes[name]);
    show();
  };

  options(part("set"), data.sets.map((one) => one.title));
  part("set").parentElement.hidden = data.sets.length < 2;
  part("set").addEventListener("change", (event) => open(+event.target.value));
  part("sample").addEventListener("change", (event) => choose(+event.target.value));
  part("time").addEventListener("input", (event) => { play(false); choose(+event.target.value); });
  part("play").addEventListener("click", () => play(!timer));
  for (const name of ["a", "b"]) {
    part("spread", map(name)).addEventListener("input", (event) => {
      panes[name].spread = +event.target.value;
      show();
    });
  }
  root.hidden = false;
  open(0);
})();
