// The page to ask in: lights up one answer in the text, follows the rows, and changes between reading and editing.
// Elements are found by the attributes that view.py writes. Gradio replaces them, so they are looked up each time.
(() => {
  const find = (selector) => document.querySelector(selector);
  let chosen = null; // the answer that is lit up
  let seen = { run: null, panel: null };
  let focusText = false; // once the text has been cleared
  let showWindows = false;

  function mode(name) {
    document.body.dataset.qaMode = name;
  }

  function light(answer, move) {
    chosen = answer;
    document.querySelectorAll("#qa-reading mark").forEach((mark) => {
      mark.classList.toggle("qa-on", mark.dataset.answer === answer);
    });
    document.querySelectorAll("#qa-panel .qa-chip").forEach((chip) => {
      chip.setAttribute("aria-pressed", String(chip.dataset.answer === answer));
    });
    const mark = answer === "" ? null : document.getElementById(`qa-answer-${answer}`);
    const pages = find("#qa-reading .qa-pages");
    if (mark && move && pages) {
      const box = mark.getBoundingClientRect(), frame = pages.getBoundingClientRect();
      if (pages.scrollHeight > pages.clientHeight + 1) {
        pages.scrollTop += box.top - frame.top - pages.clientHeight / 3;
      }
      if (move === "user") mark.scrollIntoView({ block: "nearest" });
    }
  }

  function windows() {
    const details = find("#qa-panel details");
    if (details) details.open = showWindows; // a new panel comes closed
    find("#qa-reading")?.classList.toggle("qa-edges", showWindows);
    seen.panel = find("#qa-panel .qa-answers")?.outerHTML ?? null; // an opened map is no new panel
  }

  function sync() {
    const run = find("#qa-reading [data-run]");
    const panel = find("#qa-panel .qa-answers");
    if (!run && !panel) return;
    const id = run ? run.dataset.run : null;
    const best = panel ? panel.dataset.best : "";
    if (id !== seen.run) {
      mode(run && run.childElementCount ? "read" : "edit");
      light(best, "answer");
      if (focusText) find("#qa-text textarea")?.focus();
      focusText = false;
    } else if (panel && panel.outerHTML !== seen.panel) {
      light(best, false);
    }
    seen = { run: id, panel: panel ? panel.outerHTML : null };
    windows();
  }

  function onClick(event) {
    const chip = event.target.closest("#qa-panel .qa-chip, #qa-reading mark");
    if (event.target.closest("#qa-new")) focusText = true;
    if (event.target.closest("#qa-panel summary")) {
      event.preventDefault();
      showWindows = !showWindows;
      windows();
    }
    if (event.target.closest("#qa-edit")) {
      mode("edit");
      find("#qa-text textarea")?.focus();
    }
    if (chip) {
      light(chip.dataset.answer, chip.tagName === "MARK" ? false : "user");
      seen.panel = find("#qa-panel .qa-answers").outerHTML;
    }
  }

  function onKey(event) {
    const typing = event.target.closest("input, textarea, [contenteditable]");
    const chip = event.target.closest("#qa-panel .qa-chip");
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (chip && step) {
      const chips = [...document.querySelectorAll("#qa-panel .qa-chip")];
      const next = chips[chips.indexOf(chip) + step];
      if (next) {
        event.preventDefault();
        next.focus();
        next.click();
      }
    } else if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      find("#qa-question input, #qa-question textarea")?.select();
    }
  }

  document.addEventListener("click", onClick);
  document.addEventListener("keydown", onKey);
  mode("edit");
  new MutationObserver(sync).observe(document.documentElement, { childList: true, subtree: true });

})();
