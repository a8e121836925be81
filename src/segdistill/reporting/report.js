// Values under the pointer, sorting and filtering of pictures, and the viewer; without it the page is whole.
"use strict";
(() => {
  const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Values of a chart: `data-hover` holds the box of its axes and its points, in units of the SVG.
  function nearest(series, along, x, y) {
    const far = (point) => (along === "x" ? Math.abs(point[0] - x) : Math.hypot(point[0] - x, point[1] - y));
    return series.points.reduce((best, point) => (far(point) < far(best) ? point : best));
  }

  function describe(hover, x, y) {
    const series = hover.series.filter((one) => one.points.length);
    if (!series.length) return [];
    const found = series.map((one) => ({ one, point: nearest(one, hover.along, x, y) }));
    const [closest] = [...found].sort((a, b) => Math.abs(a.point[0] - x) - Math.abs(b.point[0] - x));
    // Beside the closest value those of the same place, and no value of another step.
    return found.filter((each) => each.point[2] === closest.point[2]);
  }

  function makeTip(chart, found, svg) {
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const [x, y, heading] = found[0].point;
    const tip = make("div", "tip");
    tip.append(make("b", "", heading));
    for (const { one, point } of found) {
      const line = make("div", "");
      if (one.tint !== null && found.length > 1) {
        const chip = make("span", "chip");
        chip.style.background = `var(--series-${one.tint})`;
        line.append(chip, make("span", "", `${one.name}: ${point[3]}`));
      } else {
        line.append(make("span", "", point[3]));
      }
      const dot = make("span", "dot");
      dot.style.left = `${point[0] * scale}px`;
      dot.style.top = `${point[1] * scale}px`;
      if (one.tint !== null) dot.style.borderColor = `var(--series-${one.tint})`;
      tip.append(line);
      chart.append(dot);
    }
    chart.append(tip);
    const left = x * scale, room = chart.clientWidth;
    tip.style.left = `${Math.max(0, left > room / 2 ? left - tip.offsetWidth - 10 : left + 10)}px`;
    tip.style.top = `${Math.max(0, y * scale - tip.offsetHeight - 10)}px`;
    return { left, scale };
  }

  function prepareChart(chart) {
    const hover = JSON.parse(chart.dataset.hover), svg = chart.querySelector("svg");
    const clear = () => all(".tip, .mark, .dot", chart).forEach((part) => part.remove());
    function show(x, y) {
      clear();
      const found = describe(hover, x, y);
      if (!found.length) return;
      const { left, scale } = makeTip(chart, found, svg);
      if (hover.along !== "x") return;
      const mark = make("span", "mark");
      Object.assign(mark.style, {
        left: `${left}px`, top: `${hover.box[1] * scale}px`, height: `${(hover.box[3] - hover.box[1]) * scale}px`,
      });
      chart.append(mark);
    }
    function move(event) {
      const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      const [left, top, right, bottom] = hover.box;
      if (x < left - 8 || x > right + 8 || y < top - 8 || y > bottom + 8) clear();
      else show(x, y);
    }
    const points = hover.series.flatMap((one) => one.points).sort((a, b) => (hover.along === "x" ? a[0] - b[0] : 0))
      .filter((point, i, list) => hover.along !== "x" || !i || point[0] !== list[i - 1][0]); // one per step, for all runs
    let place = -1;
    chart.tabIndex = 0;
    chart.addEventListener("pointermove", move);
    chart.addEventListener("pointerdown", move);
    chart.addEventListener("pointerleave", clear);
    chart.addEventListener("blur", clear);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") clear();
      if (!step || !points.length) return;
      event.preventDefault();
      place = Math.min(points.length - 1, Math.max(0, place + step));
      show(points[place][0], points[place][1]);
    });
  }

  // Pictures in the order, and within the scores and classes, that are asked for.
  function prepareControls(controls, list) {
    const field = (name) => controls.querySelector(`[name=${name}]`);
    const cards = all(".example", list), output = controls.querySelector("output");
    const scoresOf = (card) => JSON.parse(card.dataset.scores);
    function arrange() {
      const names = field("run") ? [...field("run").options].map((option) => option.value) : Object.keys(scoresOf(cards[0]));
      const run = field("run") ? field("run").value : names[0];
      const score = (card) => scoresOf(card)[run] ?? NaN;
      const order = field("sort").value;
      const change = (card) => score(card) - (scoresOf(card)[names[0]] ?? NaN);
      const compare = {
        id: (a, b) => a.dataset.id.localeCompare(b.dataset.id),
        change: (a, b) => change(a) - change(b) || 0,
      }[order] ?? ((a, b) => Number(order) * (score(a) - score(b)) || 0);
      list.append(...[...cards].sort(compare));
      const [least, most] = ["least", "most"].map((name) => field(name).valueAsNumber);
      const wanted = field("class").value;
      for (const card of cards) {
        const percent = 100 * score(card);
        const fits = !(percent < least) && !(percent > most);
        card.hidden = !fits || (wanted !== "" && !JSON.parse(card.dataset.classes).includes(wanted));
      }
      output.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} images`;
    }
    controls.addEventListener("input", arrange);
    field("sort").addEventListener("change", () => {
      if (field("sort").value === "change" && field("run")) field("run").selectedIndex ||= 1;
      arrange();
    });
    arrange();
  }

  // The viewer: two of an image's pictures, with a line between them that can be moved.
  function prepareViewer(viewer, list) {
    const part = (name) => viewer.querySelector(`[name=${name}]`);
    const stage = viewer.querySelector(".stage");
    const [photo, left, right, line] = [".photo", ".left", ".right", ".divider"].map((name) => stage.querySelector(name));
    let card = null;
    const shown = () => all(".example", list).filter((each) => !each.hidden);
    const pictures = () => all("img[data-tile]", card);

    function draw() {
      const [first] = pictures(), blend = part("blend").checked;
      for (const [side, image] of [["left", left], ["right", right]]) {
        const picture = pictures()[part(side).selectedIndex];
        image.src = picture.src;
        image.alt = picture.alt;
        image.classList.toggle("smooth", picture === first);
        image.style.opacity = blend && picture !== first ? 0.6 : 1;
      }
      photo.src = first.src;
      photo.hidden = !blend;
      const percent = part("split").valueAsNumber;
      left.style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
      right.style.clipPath = `inset(0 0 0 ${percent}%)`;
      line.style.left = `${percent}%`;
    }
    function fit() {
      const [first] = pictures();
      const height = Math.max(160, Math.min(0.62 * innerHeight, innerHeight - 260));
      const width = Math.min(viewer.clientWidth - 34, (height * first.naturalWidth) / first.naturalHeight);
      stage.style.width = `${width}px`;
      stage.style.height = `${(width * first.naturalHeight) / first.naturalWidth}px`;
    }
    function load(next) {
      card = next;
      viewer.querySelector("b").textContent = card.querySelector("h3").textContent;
      const titles = pictures().map((picture) => picture.dataset.tile);
      for (const side of ["left", "right"]) {
        const select = part(side), before = select.selectedIndex;
        select.replaceChildren(...titles.map((title) => make("option", "", title)));
        select.selectedIndex = before < 0 ? 0 : before;
      }
      const cards = shown(), place = cards.indexOf(card);
      part("previous").disabled = place <= 0;
      part("next").disabled = place < 0 || place + 1 >= cards.length;
      fit();
      draw();
    }
    function step(by) {
      const cards = shown(), next = cards[cards.indexOf(card) + by];
      if (next) load(next);
    }
    function open(next, title) {
      if (!viewer.open) viewer.showModal();
      load(next);
      const place = pictures().findIndex((picture) => picture.dataset.tile === title);
      part("left").selectedIndex = 0;
      // A click on the photograph compares it with the truth; one on a mask compares that with the photograph.
      part("right").selectedIndex = place > 0 ? place : Math.min(1, pictures().length - 1);
      part("split").value = place > 0 ? 15 : 85;
      draw();
      part("split").focus();
    }
    function drag(event) {
      if (event.type === "pointermove" && event.buttons !== 1) return;
      const box = stage.getBoundingClientRect();
      part("split").value = Math.round((100 * (event.clientX - box.left)) / box.width);
      draw();
    }
    part("close").addEventListener("click", () => viewer.close());
    part("previous").addEventListener("click", () => step(-1));
    part("next").addEventListener("click", () => step(1));
    viewer.addEventListener("input", draw);
    viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
    stage.addEventListener("pointerdown", drag);
    stage.addEventListener("pointermove", drag);
    addEventListener("resize", () => viewer.open && (fit(), draw()));
    return open;
  }

  function prepareExamples(list) {
    const cards = all(".example", list);
    const open = prepareViewer(document.querySelector(".viewer"), list);
    for (const picture of all("img[data-tile]")) {
      const card = picture.dataset.example ? cards[Number(picture.dataset.example)] : picture.closest(".example");
      const enlarge = () => open(card, picture.dataset.tile);
      picture.tabIndex = 0;
      picture.setAttribute("role", "button");
      picture.setAttribute("aria-haspopup", "dialog");
      picture.addEventListener("click", enlarge);
      picture.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        enlarge();
      });
    }
    all(".scripted").forEach((part) => (part.hidden = false));
    prepareControls(document.querySelector(".controls"), list);
  }

  // What does not fit beside: a line that says so, for not everybody sees the shadow.
  function hintAtMore(scroll) {
    if (!scroll.nextElementSibling?.matches(".more")) scroll.after(make("p", "more"));
    const hint = scroll.nextElementSibling;
    hint.textContent = "There is more to the right: scroll sideways.";
    hint.hidden = scroll.scrollWidth <= scroll.clientWidth + 1;
  }

  all("[data-hover]").forEach(prepareChart);
  all(".examples").forEach(prepareExamples);
  const hint = () => all(".scroll").forEach(hintAtMore);
  addEventListener("resize", hint);
  hint();
})();
