(function () {
  "use strict";
  var table = document.getElementById("check-table");
  if (!table) { return; }
  var body = table.tBodies[0];
  var rows = Array.prototype.slice.call(body.rows);
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);

  function cellAt(row, column) {
    var position = 0;
    for (var index = 0; index < row.cells.length; index += 1) {
      if (column < position + row.cells[index].colSpan) { return row.cells[index]; }
      position += row.cells[index].colSpan;
    }
    return row.cells[row.cells.length - 1];
  }

  function keyOf(row, column, numeric) {
    var cell = cellAt(row, column);
    var value = cell.dataset.value !== undefined ? cell.dataset.value : cell.textContent.trim();
    if (!numeric) { return value.toLowerCase(); }
    if (value === "inf") { return Infinity; }
    if (value === "-inf") { return -Infinity; }
    var number = parseFloat(value);
    return isNaN(number) ? null : number;
  }

  function compare(first, second) {
    if (first === second) { return 0; }
    if (first === null) { return 1; }
    if (second === null) { return -1; }
    if (typeof first === "string") { return first.localeCompare(second, undefined, { numeric: true }); }
    return first < second ? -1 : 1;
  }

  heads.forEach(function (head, column) {
    var button = head.querySelector("button");
    button.addEventListener("click", function () {
      var descending = head.getAttribute("aria-sort") === "ascending";
      var numeric = button.dataset.kind === "number";
      heads.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      rows.slice().sort(function (first, second) {
        var a = keyOf(first, column, numeric), b = keyOf(second, column, numeric);
        if (a === null || b === null) { return compare(a, b); }
        return descending ? compare(b, a) : compare(a, b);
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
}());
