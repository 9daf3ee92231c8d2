// What the theme makes when a page is shown, for keyboards and screen readers: a keyboard reaches what has a tab index.
(function () {
  "use strict";
  function mark() {
    document.querySelectorAll(
      ".md-typeset__scrollwrap, .md-typeset pre > code, .md-typeset math[display=block]"
    ).forEach(function (frame) {
      if (frame.scrollWidth > frame.clientWidth) {
        frame.setAttribute("tabindex", "0");
      } else {
        frame.removeAttribute("tabindex");
      }
    });
    // the copy button stands in a navigation of its own, of which each page would have many of one name
    document.querySelectorAll(".md-code__nav").forEach(function (frame) { frame.setAttribute("role", "none"); });
  }
  window.addEventListener("load", function () { mark(); setTimeout(mark, 200); });
  window.addEventListener("resize", mark);
}());
