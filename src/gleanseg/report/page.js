"use strict";
const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
for (const button of document.querySelectorAll(".sortable thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const rows = button.closest("table").querySelector("tbody.rows");
    const numeric = head.classList.contains("num");
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sorted = [...rows.rows].map((row) => [value(row, head.cellIndex), row]);
    sorted.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = numeric ? a - b : a.localeCompare(b, undefined, { numeric: true });
      return down ? -order : order;
    });
    rows.append(...sorted.map(([, row]) => row));
  });
}
const pictures = document.getElementById("pictures");
for (const box of document.querySelectorAll("[data-shows]")) {
  box.addEventListener("change", () => pictures.classList.toggle("hide-" + box.dataset.shows, !box.checked));
}
const dialog = document.querySelector("dialog");
for (const panel of document.querySelectorAll(".panel")) {
  const enlarge = () => {
    const copy = panel.cloneNode(true);
    const [width, height] = panel.style.aspectRatio.split("/").map(parseFloat);
    const scale = Math.min(innerWidth * 0.9 / width, innerHeight * 0.78 / height);
    copy.style.cssText = `flex:none;width:${width * scale}px;height:${height * scale}px`;
    dialog.className = pictures.className;
    dialog.querySelector(".stage-area").replaceChildren(copy);
    dialog.querySelector("p").textContent = panel.querySelector("svg").getAttribute("aria-label");
    dialog.showModal();
  };
  panel.addEventListener("click", enlarge);
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Enter") enlarge();
  });
}
dialog.addEventListener("click", () => dialog.close());
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
