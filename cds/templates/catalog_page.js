// The search. The page is whole without it.
"use strict";
const box = document.getElementById("page.search");
const input = document.getElementById("page.search-words");
const count = document.getElementById("page.search-count");
const rules = Array.from(document.querySelectorAll("article.rule"), (element) => ({
  element,
  text: element.textContent.toLowerCase().replace(/\s+/g, " "),
  links: document.querySelectorAll(`nav li[data-rule="${element.id}"]`),
}));
const parts = document.querySelectorAll("section.family, section.group");

function filter() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const { element, text, links } of rules) {
    const hit = words.every((word) => text.includes(word));
    element.hidden = !hit;
    links.forEach((link) => { link.hidden = !hit; });
    shown += hit;
  }
  for (const part of parts) {
    const empty = !part.querySelector("article.rule:not([hidden])");
    part.hidden = empty;
    document.querySelectorAll(`nav li[data-part="${part.id}"]`).forEach((item) => {
      item.hidden = empty;
    });
  }
  document.body.classList.toggle("searching", words.length > 0);
  count.textContent = words.length
    ? `${shown} of ${rules.length} rules have all these words.`
    : "";
}

// A link to a rule that the search has hidden ends the search.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.closest("[hidden]")) {
    input.value = "";
    filter();
    target.scrollIntoView();
  }
}

box.hidden = false;
input.addEventListener("input", filter);
window.addEventListener("hashchange", reveal);
filter();
