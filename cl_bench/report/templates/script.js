"use strict";
(() => {
  const root = document.documentElement;
  const tip = document.getElementById("tip");

  // Theme: as the system has it, light or dark; remembered where the browser allows it.
  const button = document.getElementById("theme");
  const themes = ["", "light", "dark"];
  const names = { "": "as the system", light: "light", dark: "dark" };
  const choose = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    button.textContent = `Theme: ${names[theme]}`;
  };
  let theme = "";
  try { theme = localStorage.getItem("cl-bench-theme") || ""; } catch (error) { /* a file may have no storage */ }
  choose(themes.includes(theme) ? theme : "");
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme || "") + 1) % themes.length];
    choose(next);
    try { localStorage.setItem("cl-bench-theme", next); } catch (error) { /* likewise */ }
  });

  // Names of points: by mouse, by touch and by keyboard. A chart is one stop of Tab; arrows walk in it.
  let shown = null;
  const show = (point) => {
    shown = point;
    tip.textContent = point.getAttribute("aria-label");
    tip.hidden = false;
    const box = point.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2), root.clientWidth - own.width - 8);
    const above = box.top - own.height - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
  };
  const hide = () => { tip.hidden = true; shown = null; };
  for (const svg of document.querySelectorAll("svg")) {
    const points = [...svg.querySelectorAll(".pt")];
    points.forEach((point, k) => {
      point.querySelector("title")?.remove(); // the browser would show it too
      point.setAttribute("tabindex", k ? "-1" : "0");
      point.addEventListener("mouseenter", () => show(point));
      point.addEventListener("mouseleave", hide);
      point.addEventListener("click", () => show(point));
      point.addEventListener("focus", () => show(point));
      point.addEventListener("blur", hide);
      point.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (event.key === "Escape") hide();
        if (!step) return;
        event.preventDefault();
        const next = points[(k + step + points.length) % points.length];
        point.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    });
  }
  addEventListener("scroll", () => {
    if (shown && shown === document.activeElement) show(shown); // to walk to a point may scroll the page
    else hide();
  }, { passive: true });

  // Tables: a button in each head of a column sorts by it, once up, once down.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return typeof a === typeof b ? a.localeCompare(b, "en", { numeric: true }) : typeof a === "number" ? -1 : 1;
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const sort = document.createElement("button");
      sort.type = "button";
      sort.textContent = head.textContent;
      head.textContent = "";
      head.append(sort);
      sort.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => compare(valueOf(a, column), valueOf(b, column)));
        body.append(...(up ? rows : rows.reverse()));
      });
    });
  }
})();
