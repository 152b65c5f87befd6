"use strict";

// A number's provenance in a dialog; without this script the link leads to the same rows at the end of the page.
(() => {
  const dialog = document.getElementById("dialog");
  const title = document.getElementById("dialog-title");
  const content = document.getElementById("dialog-body");

  const show = (id) => {
    const article = document.getElementById(`from-${id}`).cloneNode(true);
    article.removeAttribute("id");
    const names = new Set([...article.querySelectorAll("a[href^='#spec-']")].map((link) => link.hash.slice(1)));
    const specs = [...names].map((name) => {
      const details = document.createElement("details");
      const summary = document.createElement("summary");
      summary.textContent = `Spec ${name.slice("spec-".length)}`;
      const spec = document.getElementById(name).cloneNode(true);
      spec.id = `shown-${name}`;
      details.append(summary, spec);
      details.open = names.size <= 2;
      return details;
    });
    for (const link of article.querySelectorAll("a[href^='#spec-']")) {
      const details = specs.find((one) => one.querySelector("pre").id === `shown-${link.hash.slice(1)}`);
      link.addEventListener("click", (event) => {
        event.preventDefault();
        details.open = true;
        details.scrollIntoView();
      });
    }
    title.textContent = id;
    content.replaceChildren(article, ...specs);
    dialog.showModal();
    dialog.scrollTop = 0;
  };

  for (const link of document.querySelectorAll("a.ours")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      show(link.hash.slice("#from-".length));
    });
  }
  document.getElementById("dialog-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
})();

// The lookups.
(() => {
  const source = document.getElementById("lookup-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const pixels = data.height * data.width;
  const packedBytes = Math.ceil(pixels / 8);
  const decode = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const [xs, memory, reconstructions, samples] = ["x", "memory", "reconstruction", "samples"].map((name) => decode(data[name]));

  const bits = (bytes, index) => (i) => 255 * ((bytes[index * packedBytes + (i >> 3)] >> (7 - (i & 7))) & 1);
  const greys = (bytes, index) => (i) => bytes[index * pixels + i];

  const draw = (canvas, ink, label) => {
    canvas.width = data.width;
    canvas.height = data.height;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    const context = canvas.getContext("2d");
    const image = context.createImageData(data.width, data.height);
    for (let i = 0; i < pixels; i++) {
      image.data.fill(255 - ink(i), 4 * i, 4 * i + 3);
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  };
  const element = (name, className, ...children) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children);
    return made;
  };
  const drawn = (ink, label) => draw(document.createElement("canvas"), ink, label);
  const percent = (value) => `${(100 * value).toFixed(value >= 0.0995 ? 0 : 1)} %`;
  const byId = (id) => document.getElementById(id);

  const choose = (t) => {
    const target = data.targets[t];
    [...byId("targets").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === t)));
    draw(byId("target"), bits(xs, t), `target ${t + 1}`);
    draw(byId("reconstruction"), greys(reconstructions, t), `reconstruction of target ${t + 1}`);
    byId("samples").replaceChildren(
      ...Array.from({ length: data.samplesEach }, (_, s) => drawn(greys(samples, t * data.samplesEach + s), `sample ${s + 1}`)),
    );
    byId("top").replaceChildren(
      ...target.top.map((entry, rank) => {
        const own = target.classes[entry] === target.class;
        const words = `q = ${percent(target.q[entry])}`;
        const image = drawn(bits(memory, t * data.entries + entry), `entry ${rank + 1}, ${own ? "own class" : "other class"}, ${words}`);
        return element("figure", own ? "own" : "", image, element("figcaption", "", percent(target.q[entry])));
      }),
    );
    const highest = Math.max(...target.q, ...target.p);
    const groups = new Map();
    target.classes.forEach((name, entry) => groups.set(name, [...(groups.get(name) ?? []), entry]));
    byId("memory").replaceChildren(
      ...[...groups].map(([name, entries], number) => {
        const mass = entries.reduce((sum, entry) => sum + target.q[entry], 0);
        const own = name === target.class;
        const heading = element("p", "", element("span", "", own ? "the target's class" : `class ${number + 1}`), element("span", "", percent(mass)));
        const cells = entries.map((entry) => {
          const q = element("div", "q");
          q.style.height = `${(100 * target.q[entry]) / highest}%`;
          const p = element("div", "p");
          p.style.bottom = `${(100 * target.p[entry]) / highest}%`;
          const words = `q = ${percent(target.q[entry])}, p = ${percent(target.p[entry])}`;
          const image = drawn(bits(memory, t * data.entries + entry), words);
          const cell = element("div", entry === target.top[0] ? "entry first" : "entry", element("div", "space", q, p), image);
          cell.title = words;
          return cell;
        });
        return element("div", own ? "class own" : "class", heading, element("div", "entries", ...cells));
      }),
    );
  };

  byId("targets").append(
    ...data.targets.map((_, t) => {
      const button = element("button", "", drawn(bits(xs, t), ""));
      button.type = "button";
      button.setAttribute("aria-label", `target ${t + 1}`);
      button.addEventListener("click", () => choose(t));
      return button;
    }),
  );
  byId("lookup-tool").hidden = false;
  choose(0);
})();
