// The list of classes: colour, name, fraction of the pixels, and a box that shows or hides each.

export function element(tag, text = "", className = "") {
  const created = document.createElement(tag);
  created.textContent = text;
  created.className = className;
  return created;
}

export function swatch(colour) {
  const created = element("span", "", "swatch");
  created.style.background = `rgb(${colour})`;
  return created;
}

function percentage(fraction) {
  if (fraction === 0) return "0 %";
  return fraction >= 0.001 ? `${(100 * fraction).toFixed(1)} %` : "< 0.1 %";
}

export class Legend {
  /** @param list the ul element */
  constructor(list) {
    this.list = list;
    this.reset();
  }

  /** Forget all classes. */
  reset() {
    this.rows = new Map();
    this.list.replaceChildren();
  }

  /** List these classes; those listed before stay where they are, so that a video does not move them. */
  update(classes) {
    for (const row of this.rows.values()) row.set(0);
    for (const one of classes) {
      if (!this.rows.has(one.index)) this.add(one);
      this.rows.get(one.index).set(one.share);
    }
  }

  add({ index, name, colour }) {
    const box = document.createElement("input");
    box.type = "checkbox";
    // A background is what is left over: it starts without colour, as in the files that `predict` writes.
    box.checked = !(index === 0 && name === "background");
    const [share, bar, filled] = [element("span", "", "share"), element("span", "", "bar"), element("span")];
    filled.style.background = `rgb(${colour})`;
    bar.append(filled);
    const label = document.createElement("label");
    label.append(box, swatch(colour), element("span", name), share, bar);
    const item = document.createElement("li");
    item.append(label);
    this.list.append(item);
    const set = (fraction) => {
      share.textContent = percentage(fraction);
      filled.style.width = `${100 * fraction}%`;
    };
    this.rows.set(index, { box, set });
  }

  /** Indices of the classes without colour. */
  get hidden() {
    return new Set([...this.rows].filter(([, { box }]) => !box.checked).map(([index]) => index));
  }

  showAll(checked) {
    for (const { box } of this.rows.values()) box.checked = checked;
  }
}
