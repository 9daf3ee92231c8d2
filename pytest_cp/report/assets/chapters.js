(function () {
  "use strict";
  var text = document.getElementById("filter-text");
  if (!text) { return; }
  var outcome = document.getElementById("filter-outcome");
  var count = document.getElementById("filter-count");
  var all = function (selector, inside) {
    return Array.prototype.slice.call((inside || document).querySelectorAll(selector));
  };
  var chapters = all("details.chapter").map(function (chapter) {
    return {
      element: chapter,
      name: chapter.dataset.name.toLowerCase(),
      row: document.querySelector('tr[data-chapter="' + chapter.id + '"]'),
      checks: all("tr[data-check]", chapter).map(function (row) {
        var card = document.getElementById(row.dataset.check);
        return { row: row, card: card, outcome: row.dataset.outcome, text: (row.textContent + " " + card.textContent).toLowerCase() };
      })
    };
  });
  var rows = all("#check-table tbody tr");
  var target = "";

  function words() {
    return text.value.toLowerCase().split(/\s+/).filter(Boolean);
  }

  function remember() {
    var parts = [];
    if (text.value.trim()) { parts.push("q=" + encodeURIComponent(text.value.trim())); }
    if (outcome.value) { parts.push("outcome=" + encodeURIComponent(outcome.value)); }
    var hash = target + (parts.length ? "?" + parts.join("&") : "");
    history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
  }

  function filter() {
    var wanted = words(), filtering = wanted.length > 0 || outcome.value !== "";
    var shown = 0, total = 0, fitting = {};
    chapters.forEach(function (chapter) {
      var found = 0;
      chapter.checks.forEach(function (check) {
        var known = chapter.name + " " + check.text;
        var fits = (!outcome.value || check.outcome === outcome.value) &&
          wanted.every(function (word) { return known.indexOf(word) >= 0; });
        check.row.hidden = check.card.hidden = !fits;
        fitting[check.card.id] = fits;
        found += fits ? 1 : 0;
      });
      total += chapter.checks.length;
      shown += found;
      chapter.element.hidden = filtering && found === 0;
      if (chapter.row) { chapter.row.classList.toggle("left-out", filtering && found === 0); }
    });
    rows.forEach(function (row) { row.hidden = fitting[row.dataset.check] === false; });
    count.textContent = shown + " of " + total + " checks";
  }

  function open(element) {
    for (var one = element; one; one = one.parentElement) {
      if (one.tagName === "DETAILS") { one.open = true; }
    }
  }

  function visit() {
    var hash = location.hash.slice(1), cut = hash.indexOf("?");
    target = cut < 0 ? hash : hash.slice(0, cut);
    var asked = cut < 0 ? null : new URLSearchParams(hash.slice(cut + 1));
    if (asked) {
      text.value = asked.get("q") || "";
      outcome.value = asked.get("outcome") || "";
      if (outcome.selectedIndex < 0) { outcome.value = ""; }
    }
    filter();
    var element = target && document.getElementById(target);
    if (element) {
      element.hidden = false;
      if (element.closest("details.chapter")) { element.closest("details.chapter").hidden = false; }
      open(element);
      element.scrollIntoView();
      if (element.tagName === "DETAILS") { element.querySelector("summary").focus({ preventScroll: true }); }
    }
    if (!asked) { remember(); }
  }

  text.addEventListener("input", function () { filter(); remember(); });
  outcome.addEventListener("change", function () { filter(); remember(); });
  text.form.addEventListener("submit", function (event) { event.preventDefault(); });
  window.addEventListener("hashchange", visit);

  function setAll(state) {
    all("details.chapter, details.chapter details").forEach(function (one) { one.open = state; });
  }
  document.getElementById("expand-all").addEventListener("click", function () { setAll(true); });
  document.getElementById("collapse-all").addEventListener("click", function () { setAll(false); });

  var closed = [];
  window.addEventListener("beforeprint", function () {
    closed = all("details.chapter:not([open]), details.check[data-outcome]:not([open])").filter(function (one) {
      return one.dataset.outcome !== "pass";
    });
    closed.forEach(function (one) { one.open = true; });
  });
  window.addEventListener("afterprint", function () {
    closed.forEach(function (one) { one.open = false; });
    closed = [];
  });
  visit();
}());
