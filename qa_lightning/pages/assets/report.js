"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const questions = data.questions, kinds = data.kinds, models = data.models;
  const GOLD = 1, ANSWER = 2, OTHER = 4, FIRST_CANDIDATE = 8, GAP = -1, PRINTED = 25;
  const byId = (name) => document.getElementById(name);
  const list = byId("list"), detail = byId("detail"), search = byId("search"), sort = byId("sort");
  const narrow = matchMedia("(max-width: 60rem)");
  let filter = "wrong", shown = [], rows = [], current = -1;

  // Text is only ever set as text: no markup of the data becomes markup of the page.
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const svg = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const percent = (share) => (100 * share).toFixed(1) + "%";
  const count = (number) => number.toLocaleString("en");
  const answer = (text) => (text === "" ? "(no answer)" : text);

  const filters = {
    wrong: (one) => one.k !== 0,
    doubt: (one) => one.d > 0,
    won: (one) => one.w === 1,
    lost: (one) => one.w === -1,
  };
  kinds.forEach(([name], number) => { filters[name] = (one) => one.k === number; });
  const orders = {
    sure: (a, b) => b.p - a.p || a.n - b.n,
    unsure: (a, b) => a.p - b.p || a.n - b.n,
    f1: (a, b) => a.f - b.f || b.p - a.p || a.n - b.n,
    data: (a, b) => a.n - b.n,
    long: (a, b) => b.l - a.l || a.n - b.n,
    doubt: (a, b) => b.d - a.d || b.p - a.p || a.n - b.n,
  };
  const searched = new Map(); // question -> its texts, made when they are first searched
  const texts = (one) => {
    if (!searched.has(one)) {
      const parts = [one.q, one.i, one.t, one.a, one.r ? one.r.a : "", ...one.g.map((gold) => gold[0]), one.c.map((piece) => piece[0]).join("")];
      searched.set(one, parts.join("\n").toLowerCase());
    }
    return searched.get(one);
  };

  const row = (one, place) => {
    const item = make("li"), button = make("button", "row");
    button.type = "button";
    button.append(make("span", "question", one.q));
    const line = make("span", "line");
    line.append(make("span", "", answer(one.a)), make("span", "", kinds[one.k][1] + " · " + percent(one.p)));
    button.append(line);
    button.addEventListener("click", () => select(place, !narrow.matches || current !== place));
    item.append(button);
    return item;
  };

  const show = () => {
    const wanted = search.value.trim().toLowerCase();
    shown = questions.filter((one) => filters[filter](one) && (!wanted || texts(one).includes(wanted)));
    shown.sort(orders[sort.value]);
    rows = shown.map(row);
    current = -1;
    list.replaceChildren(...rows);
    if (!rows.length) list.append(make("li", "none", "No question fits."));
    byId("count").textContent = count(shown.length) + (shown.length === 1 ? " question" : " questions") + " listed";
    list.scrollTop = 0;
    if (narrow.matches || !rows.length) {
      place(detail);
      detail.hidden = true;
    } else {
      select(0, true);
    }
  };

  const place = (element, item) => {
    // Beside the list where there is room for two columns, else below the chosen question.
    if (narrow.matches && item) item.append(element);
    else document.querySelector(".browse").append(element);
  };

  const select = (number, open) => {
    if (rows[current]) rows[current].firstChild.removeAttribute("aria-current");
    current = number;
    const item = rows[number];
    detail.hidden = !open;
    if (!open) {
      current = -1;
      return;
    }
    item.firstChild.setAttribute("aria-current", "true");
    detail.replaceChildren(...described(shown[number]));
    place(detail, item);
    detail.scrollTop = 0;
    const top = item.offsetTop - list.offsetTop, bottom = top + item.offsetHeight;
    if (!narrow.matches) {
      if (top < list.scrollTop) list.scrollTop = top;
      else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    }
  };

  const move = (step) => {
    if (!rows.length) return;
    const next = Math.min(Math.max(current + step, 0), rows.length - 1);
    select(next, true);
    rows[next].firstChild.focus({ preventScroll: !narrow.matches });
  };

  const classes = (marks) => [[GOLD, "gold"], [ANSWER, "answer"], [OTHER, "other"]].filter(([mark]) => marks & mark).map(([, name]) => name).join(" ");

  const context = (one) => {
    const text = make("p", "context");
    text.dir = "auto";
    for (const [part, marks] of one.c) {
      if (marks === GAP) text.append(make("span", "gap", part));
      else if (marks === 0) text.append(document.createTextNode(part));
      else {
        const piece = make("mark", classes(marks), part);
        piece.dataset.marks = marks;
        text.append(piece);
      }
    }
    return text;
  };

  const line = (name, ...values) => [make("dt", "", name), ...values];
  const value = (text, mark, ...more) => {
    const element = make("dd"), marked = make(mark ? "mark" : "span", mark || "", text);
    marked.dir = "auto";
    element.append(marked, ...more);
    return element;
  };
  const given = (own, mark) => {
    const scores = " F1 " + (100 * own.f).toFixed(0) + ", score " + percent(own.p) + (own.o === null ? "" : ", null odds " + own.o.toFixed(2));
    const tag = make("span", own.k === 0 ? "tag good" : "tag bad", kinds[own.k][1]);
    tag.title = kinds[own.k][2];
    return [value(answer(own.a), own.a === "" ? "" : mark, " ", tag, make("span", "facts", scores))];
  };

  const candidates = (one, text) => {
    const items = make("ol", "nbest");
    one.b.forEach(([candidate, probability], rank) => {
      const item = make("li"), button = make("button"), bar = svg("svg", { viewBox: "0 0 64 10", "aria-hidden": "true", preserveAspectRatio: "none" });
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      bar.append(svg("rect", { class: "bar-back", width: 64, height: 10, rx: 2 }), svg("rect", { class: "bar", width: Math.max(64 * probability, 0.5), height: 10, rx: 2 }));
      const name = make("span", "", answer(candidate));
      name.dir = "auto";
      button.append(make("span", "", percent(probability)), bar, name);
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        for (const other of items.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
        for (const piece of text.querySelectorAll("mark")) piece.classList.toggle("pointed", on && (piece.dataset.marks & (FIRST_CANDIDATE << rank)) !== 0);
        button.setAttribute("aria-pressed", String(on));
      });
      item.append(button);
      items.append(item);
    });
    return items;
  };

  const described = (one) => {
    const heading = make("h3", "", one.q), facts = [one.t, one.i, count(one.l) + " characters"].filter(Boolean).join(" · ");
    heading.dir = "auto";
    const answers = make("dl", "answers"), text = context(one);
    const golds = one.g.map(([gold, annotators]) => value(gold, "gold", annotators > 1 ? make("span", "facts", " ×" + annotators) : ""));
    if (one.m) golds.push(value("and " + one.m + " more", ""));
    answers.append(...line("gold", ...(golds.length ? golds : [value("(no answer)", "")])));
    answers.append(...line(one.r ? models[0] : "prediction", ...given(one, "answer")));
    if (one.r) answers.append(...line(models[1], ...given(one.r, "other")));
    const parts = [heading, make("p", "facts", facts), answers];
    if (one.d > 0) parts.push(make("p", "small", "The gold answer looks wrong: the model is sure and close, and the annotators disagree among themselves."));
    parts.push(text, make("h3", "small", "best candidates"), candidates(one, text));
    return parts;
  };

  for (const button of document.querySelectorAll("[data-filter]")) {
    button.addEventListener("click", () => {
      filter = button.dataset.filter;
      for (const other of document.querySelectorAll("[data-filter]")) other.setAttribute("aria-pressed", String(other === button));
      show();
    });
  }
  search.addEventListener("input", show);
  sort.addEventListener("change", show);
  narrow.addEventListener("change", () => {  // the question that is open stays open, in its new place
    if (rows.length && (current >= 0 || !narrow.matches)) select(Math.max(current, 0), true);
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      search.focus();
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && (!typing || event.target === search)) {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Escape" && event.target === search) {
      search.value = "";
      show();
    }
  });

  const slider = (name, points, say) => {
    const input = byId(name);
    if (!input || !points.length) return;
    const update = () => {
      const point = points[Number(input.value)], [x, y] = point.slice(-2);
      for (const end of ["x1", "x2"]) byId(name + "-line").setAttribute(end, x);
      byId(name + "-dot").setAttribute("cx", x);
      byId(name + "-dot").setAttribute("cy", y);
      byId(name + "-says").replaceChildren(...say(point));
      input.setAttribute("aria-valuetext", byId(name + "-says").textContent);
    };
    if (input.dataset.now !== undefined) {
      const now = Number(input.dataset.now);
      const gap = (point) => Math.abs(point[0] - now);
      input.value = points.reduce((best, point, number) => (gap(point) < gap(points[best]) ? number : best), 0);
    }
    input.addEventListener("input", update);
    update();
  };
  const strong = (text) => make("b", "", text);
  const byKind = (has, none) => has === null || none === null ? "" : "F1 with an answer " + has.toFixed(1) + ", without one " + none.toFixed(1) + "; ";
  slider("coverage", data.curve, ([sure, answered, right]) => ["answers ", strong(percent(answered)), ", of which ", strong(percent(right)), " right", make("span", "facts", " (score at least " + sure.toFixed(2) + ")")]);
  slider("threshold", data.thresholds || [], ([at, silent, exact, f1, has, none]) => ["threshold " + at.toFixed(2) + ": ", strong("F1 " + f1.toFixed(1)), ", EM " + exact.toFixed(1), make("span", "facts", " (" + byKind(has, none) + "“no answer” to " + percent(silent) + ")")]);

  addEventListener("beforeprint", () => {
    byId("printed").replaceChildren(...shown.slice(0, PRINTED).map((one) => {
      const article = make("article");
      article.append(...described(one));
      return article;
    }));
  });
  show();
})();
