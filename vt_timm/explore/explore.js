/* Shows what a visitor chooses, at once: all maps are on the page, and nothing is asked of the server. gradio runs this
   once, as a function of `element` (which holds stage.html) and `watch`. */

const LISTED = 4; // so many tokens are named for a place
const DOES = {tokenizer: "it takes most from", projector: "it is used most"};
const CLAIM = {tokenizer: "Looking here", projector: "Used here"};
const ASK = '<span class="click">Point at or click</span><span class="tap">Tap</span>';

const find = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];

let chosen = {}; // kind, module, token, place, map and classes (whether they show), hidden (classes that do not)
let over = {}; // the place or the token that the mouse is over

function begin() {
  const stage = find(".stage");
  if (!stage) return;
  const classes = Boolean(find(".class"));
  chosen = {kind: stage.dataset.kind, module: stage.dataset.module, map: !classes, classes, hidden: new Set()};
  chosen.token = Number(tokens()?.dataset.first ?? 0);
  over = {};
  show();
  for (const one of document.querySelectorAll("#samples button")) one.setAttribute("aria-pressed", one.dataset.sample === stage.dataset.sample);
  stage.dataset.shown = ""; // from here on it answers to a visitor
}

const sets = () => all(`.set[data-kind="${chosen.kind}"]`);
const tokens = () => sets().find((set) => set.dataset.module === chosen.module);

function gridOf({dataset: {rows, columns, values}}, Kind) {
  const bytes = Uint8Array.from(atob(values), (one) => one.charCodeAt(0));
  return {rows: Number(rows), columns: Number(columns), values: new Kind(bytes.buffer)};
}

function classAt([x, y]) {
  const {rows, columns, values} = (find("#legend").grid ??= gridOf(find("#legend"), Uint8Array));
  return values[Math.min(Math.floor(y * rows), rows - 1) * columns + Math.min(Math.floor(x * columns), columns - 1)];
}

/* A token's weight, bilinear between the middles of the map's cells. */
function weightAt({rows, columns, values}, [x, y], token) {
  const beside = (at, cells) => {
    const middle = Math.min(Math.max(at * cells - 0.5, 0), cells - 1), before = Math.floor(middle);
    return [[before, 1 - middle + before], [Math.min(before + 1, cells - 1), middle - before]];
  };
  let weight = 0;
  for (const [row, near] of beside(y, rows))
    for (const [column, nearby] of beside(x, columns)) weight += near * nearby * values[(token * rows + row) * columns + column];
  return weight;
}

function claimsAt(place) {
  const set = tokens(), grid = (set.grid ??= gridOf(set, Float32Array));
  const weights = [...set.children].map((_, token) => weightAt(grid, place, token));
  const all = weights.reduce((sum, weight) => sum + weight);
  const shares = weights.map((weight, token) => ({token, share: weight / all}));
  return shares.sort((one, other) => other.share - one.share).slice(0, LISTED);
}

function show() {
  const set = tokens(), place = over.place ?? chosen.place, legend = find("#legend");
  const claims = set && place ? claimsAt(place) : [];
  const map = set && (chosen.map || over.token !== undefined);
  const token = over.token ?? (over.place && map ? claims[0].token : chosen.token);
  const here = legend && place ? legend.querySelector(`[data-class="${classAt(place)}"]`) : null;

  for (const one of all(".set")) one.hidden = one !== set;
  for (const [index, button] of [...(set?.children ?? [])].entries()) {
    const claim = claims.find((one) => one.token === index);
    button.setAttribute("aria-pressed", Boolean(map) && index === token);
    button.classList.toggle("claims", Boolean(claim));
    button.querySelector(".number").textContent = index + 1 + (claim ? ` · ${percent(claim.share)}` : "");
  }
  const layer = find(".layers .map");
  layer.hidden = !map;
  if (map) layer.src = set.children[token].querySelector("img").src;
  const classes = chosen.classes && over.token === undefined;
  find(".photo").classList.toggle("grey", classes); // so that a colour looks the same on every cloth
  for (const one of all(".layers .class")) one.hidden = !classes || chosen.hidden.has(one.dataset.class);
  for (const one of all("#legend button")) {
    one.setAttribute("aria-pressed", chosen.classes && !chosen.hidden.has(one.dataset.class));
    one.classList.toggle("here", one === here);
  }
  const ring = find(".place");
  ring.hidden = !chosen.place;
  if (chosen.place) [ring.style.left, ring.style.top] = chosen.place.map((at) => `${100 * at}%`);

  find("#caption").innerHTML = map
    ? `<b>Token ${token + 1}</b>: red is where ${DOES[chosen.kind]}.`
    : classes ? "The colours are what the model sees."
      : set ? "The photo as the model sees it." : "This model answers without showing tokens.";
  if (set) {
    const listed = claims.map(({token, share}) => `<button data-token="${token}" aria-label="token ${token + 1}">${token + 1} · ${percent(share)}</button>`);
    find("#claims span").innerHTML = place
      ? `${CLAIM[chosen.kind]}${here ? " (<em></em>)" : ""}: ${listed.join(" ")}`
      : `${ASK} a place in the photo to see which tokens look at it`;
    if (here && place) find("#claims em").textContent = here.dataset.name;
  }
  for (const name of ["map", "classes"]) {
    const box = find(`#${name} input`);
    if (box) box.checked = chosen[name];
  }
  for (const one of all("#kind input")) one.checked = one.value === chosen.kind;
  for (const one of all("#module input")) {
    one.checked = one.value === chosen.module;
    one.parentElement.hidden = !sets().some((set) => set.dataset.module === one.value);
  }
  if (set) find("#module").hidden = sets().length < 2;
}

const percent = (share) => `${Math.round(100 * share)} %`;

function placeOf(event) {
  const frame = find(".layers").getBoundingClientRect();
  const place = [(event.clientX - frame.x) / frame.width, (event.clientY - frame.y) / frame.height];
  return place.every((at) => at >= 0 && at <= 1) ? place : undefined;
}

/* The map comes in place of the classes: over their colours it is hard to read. */
function choose(token) {
  Object.assign(chosen, {token, map: true, classes: false});
}

function save() {
  const photo = find(".photo"), canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const width = (canvas.width = photo.naturalWidth), height = photo.naturalHeight, line = Math.round(width / 36);
  const said = [find("#answer b").innerText, find("#caption").innerText, find(".stage").dataset.model, find("#credit")?.innerText];
  canvas.height = height + 2 * line;
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, canvas.height);
  for (const layer of all(".layers img:not([hidden])")) {
    pen.filter = layer.matches(".grey") ? "grayscale(1)" : "none";
    pen.drawImage(layer, 0, 0, width, height);
  }
  if (chosen.place) {
    pen.arc(chosen.place[0] * width, chosen.place[1] * height, line / 2, 0, 2 * Math.PI);
    for (const [colour, thick] of [["black", 6], ["white", 3]]) Object.assign(pen, {strokeStyle: colour, lineWidth: thick}), pen.stroke();
  }
  Object.assign(pen, {fillStyle: "black", font: `${0.8 * line}px system-ui, sans-serif`});
  pen.fillText(said.filter(Boolean).join("  ·  "), line / 2, height + 1.3 * line, width - line);
  Object.assign(document.createElement("a"), {href: canvas.toDataURL("image/png"), download: "visual-tokens.png"}).click();
}

element.addEventListener("click", (event) => {
  const token = event.target.closest("[data-token]"), label = event.target.closest("[data-class]");
  const place = event.target.closest(".layers") && placeOf(event);
  over = {};
  if (event.target.closest("#save")) save();
  else if (token) choose(Number(token.dataset.token));
  else if (place) {
    chosen.place = place;
    if (tokens()) choose(claimsAt(place)[0].token);
    if (event.pointerType === "touch") find("#view").scrollIntoView({block: "nearest"}); // with what it says
  } else if (label && label.closest("#legend")) {
    const name = label.dataset.class;
    if (!chosen.classes) Object.assign(chosen, {classes: true, map: false});
    else if (!chosen.hidden.delete(name)) chosen.hidden.add(name);
  } else return;
  show();
});

element.addEventListener("change", ({target}) => {
  const name = target.name || target.parentElement.id;
  chosen[name] = target.type === "checkbox" ? target.checked : target.value;
  if (sets().length && !tokens()) chosen.module = sets().at(-1).dataset.module; // the last module of a classifier has no projector
  if (tokens()) chosen.token = Math.min(chosen.token, tokens().children.length - 1);
  show();
});

for (const name of ["pointermove", "pointerout"]) {
  element.addEventListener(name, (event) => {
    if (event.pointerType === "touch") return;
    const token = event.target.closest("#tokens [data-token]");
    const place = event.target.closest(".layers") && placeOf(event);
    const now = name === "pointerout" ? {} : token ? {token: Number(token.dataset.token)} : place ? {place} : {};
    if (now.token === over.token && String(now.place) === String(over.place)) return;
    over = now;
    show();
  });
}

watch("value", begin);
begin();
