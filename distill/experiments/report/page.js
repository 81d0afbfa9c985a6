"use strict";
const FIRST = 8; // rows that are shown before "show all"
for (const box of document.querySelectorAll(".examples")) {
  const filters = [...box.querySelectorAll("select")];
  const rows = [...box.querySelectorAll("article")];
  const none = box.querySelector(".none"), output = box.querySelector("output"), more = box.querySelector("button");
  let all = false;
  // A choice that no row has is of no use.
  for (const filter of filters) {
    const values = new Set(rows.map(row => row.dataset[filter.dataset.filter]));
    for (const option of filter.options) option.disabled = option.value !== "" && !values.has(option.value);
  }
  const apply = () => {
    let count = 0;
    for (const row of rows) {
      const fits = filters.every(filter => filter.value === "" || row.dataset[filter.dataset.filter] === filter.value);
      count += fits ? 1 : 0;
      row.hidden = !fits || (!all && count > FIRST);
    }
    none.hidden = count > 0;
    more.hidden = all || count <= FIRST;
    more.textContent = `show all ${count} rows`;
    output.textContent = count === rows.length ? `${count} rows` : `${count} of ${rows.length} rows`;
  };
  for (const filter of filters) filter.addEventListener("change", apply);
  more.addEventListener("click", () => { all = true; apply(); });
  apply();
}
document.body.dataset.ready = "1";
