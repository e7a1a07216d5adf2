// The page of feedback: how often the cards of each rule were shown, and what became of them.

import { CallError, byId, call, el, errorNode, said } from "./dom.js";

async function start() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    show();
  });
  try {
    const { json } = await call("page.json");
    byId("token-part").hidden = json.demo;
    if (json.demo) await show();
    else byId("state").textContent = "The operator token is wanted for the numbers.";
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  if (!(error instanceof CallError)) throw error;
  byId("state").textContent = "The numbers could not be had.";
  const said401 = error.status === 401 ? new CallError("The operator token is wrong or missing.", error) : error;
  byId("rows").replaceChildren(errorNode(said401));
}

async function show() {
  byId("state").textContent = "Asking …";
  const since = byId("since").value;
  const address = `feedback.json${since ? `?since=${encodeURIComponent(since)}` : ""}`;
  try {
    const { json } = await call(address, { token: byId("token").value.trim() });
    showRules(json.rules, since);
  } catch (error) {
    fail(error);
  }
}

function showRules(rules, since) {
  const span = since ? ` since ${since}` : "";
  if (!rules.length) {
    byId("state").textContent = `No card was shown${span}, and no feedback has come.`;
    byId("rows").replaceChildren();
    return;
  }
  byId("state").textContent = `${rules.length} ${rules.length === 1 ? "rule" : "rules"}${span}.`;
  const heads = ["Rule", "Shown", "Accepted", "Overridden", "Reasons for overriding", "Unmatched"];
  byId("rows").replaceChildren(el(
    "table",
    {},
    el("caption", {}, "Unmatched: feedback of a card that this service has no record of."),
    el("thead", {}, el("tr", {}, heads.map((head, number) => el(
      "th",
      { scope: "col", class: [1, 2, 3, 5].includes(number) ? "number" : null },
      head,
    )))),
    el("tbody", {}, rules.map((rule) => el(
      "tr",
      {},
      el("th", { scope: "row" }, said(rule.rule ?? "(no known card)")),
      ["shown", "accepted", "overridden"].map((name, number) => el(
        "td",
        { class: "number", "data-head": heads[number + 1] },
        String(rule[name] ?? 0),
      )),
      el("td", { "data-head": heads[4] }, reasonsNode(rule.reasons)),
      el("td", { class: "number", "data-head": heads[5] }, String(rule.unmatched ?? 0)),
    ))),
  ));
}

function reasonsNode(reasons) {
  if (!reasons?.length) return "none";
  return el("ul", {}, reasons.map((reason) => el("li", {},
    said(reason.display || reason.code || "no reason given"), `: ${reason.count}`)));
}

start();
