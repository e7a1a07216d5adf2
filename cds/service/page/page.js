// The page at "/": choose a patient and a service, send the call, see the cards and what they
// rest on. It calls the same endpoints as any client, and keeps nothing.

import { CallError, block, button, byId, call, copyButton, el, errorNode, fill, pretty, said, uuid,
  webAddress } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { HOOKS, RecordError, contextOf, fillPrefetch, inBrief, nameOf, patientOf, readResources }
  from "./record.js";

const PROVENANCE = "org.cds-twitch.provenance";
const TRACE = "org.cds-twitch.trace"; // asked for in the request, given in the response
const NO_ALL_CLEAR = "No finding does not mean that nothing is wrong.";

const known = { config: {}, services: [], patients: [], drafts: [] };
let calls = 0; // the number of the last call: an answer to an earlier one is not shown

// ---------------------------------------------------------------- start

async function start() {
  byId("form").addEventListener("submit", send);
  byId("example").addEventListener("change", chooseExample);
  byId("record").addEventListener("input", changed);
  byId("service").addEventListener("change", changed);
  byId("draft").addEventListener("change", () => (chooseDraft(), outdated()));
  byId("draft-text").addEventListener("input", outdated);
  for (const radio of document.querySelectorAll("[name=user]")) {
    radio.addEventListener("change", outdated);
  }
  const [config, patients, drafts] = await Promise.all(
    ["page.json", "demo/patients", "drafts.json"].map((address) => call(address)),
  ).catch((error) => {
    fill(byId("fault"), errorNode(error));
    return [];
  });
  if (!config) return;
  known.config = config.json;
  known.patients = patients.json.patients;
  known.drafts = drafts.json.drafts;
  showMode();
  showExamples();
  await loadServices();
  byId("example").value = known.patients[0]?.name ?? "";
  await chooseExample();
}

function showMode() {
  const { auth, demo } = known.config;
  const mode = byId("mode");
  if (demo) {
    mode.textContent = "This service runs for demonstration on this machine only, without encryption. ";
  }
  if (auth === "required") {
    mode.textContent += "This service wants a token (JWT) with every call. Without one this page can show what it "
      + "knows, but cannot call it.";
    byId("token-part").hidden = false;
  }
  mode.hidden = !mode.textContent;
}

function showExamples() {
  const groups = new Map();
  for (const patient of known.patients) {
    const group = patient.group || "Patients";
    if (!groups.has(group)) groups.set(group, el("optgroup", { label: group }));
    groups.get(group).append(el("option", { value: patient.name }, patient.label));
  }
  byId("example").append(...groups.values());
}

async function loadServices(token = "") {
  const list = byId("service-list");
  try {
    const { json } = await call("cds-services", { token });
    if (!Array.isArray(json.services)) throw new CallError("The answer has no list of services.");
    known.services = json.services;
  } catch (error) {
    const field = el("textarea", { id: "list-token", rows: 2, spellcheck: "false", autocomplete: "off" });
    fill(list, errorNode(error), ...(error.status === 401 ? [
      el("p", {}, "The list of services is not open here. Its token's ", el("code", {}, "aud"), " is ",
        said(endpoint("cds-services"), "code"), "."),
      el("label", { for: "list-token" }, "Token (JWT) for the list of services"),
      field,
      button("Ask again", async () => {
        await loadServices(field.value.trim());
        changed();
      }),
    ] : []));
    return;
  }
  fill(list, ...known.services.map(serviceNode));
  if (!known.services.length) fill(list, el("p", {}, "This service offers nothing."));
  fill(byId("service"), ...known.services.map((service, number) => el(
    "option",
    { value: number },
    `${service.hook}: ${service.title ?? service.id}`,
  )));
}

function serviceNode(service) {
  const templates = Object.entries(service.prefetch ?? {});
  return el(
    "details",
    { class: "service" },
    el("summary", {}, said(service.title ?? service.id, "strong"), " ", said(service.hook, "code")),
    el(
      "dl",
      {},
      el("dt", {}, "Id"), el("dd", {}, said(service.id, "code")),
      el("dt", {}, "Address"),
      el("dd", {}, said(endpoint(`cds-services/${service.id}`), "code"),
        copyButton(`the address of ${service.id}`, () => endpoint(`cds-services/${service.id}`))),
      el("dt", {}, "Description"), el("dd", {}, said(service.description)),
      service.usageRequirements ? [
        el("dt", {}, "Usage requirements"), el("dd", {}, said(service.usageRequirements)),
      ] : [],
      templates.length > 0 && el("dt", {}, "Prefetch"),
      templates.map(([key, template]) => el(
        "dd",
        { class: "template" },
        el("p", {}, said(key, "code"), copyButton(`the template ${key} of ${service.id}`, () => template)),
        template.length < 300 ? said(template, "pre") : el("details", {},
          el("summary", {}, `${template.length} characters`), said(template, "pre")),
      )),
    ),
  );
}

/** The address as clients know it: what the `aud` of a token has to be. */
function endpoint(path) {
  const base = known.config.public_url ?? new URL(".", location.href).href;
  return `${base.replace(/\/$/, "")}/${path}`;
}

// ---------------------------------------------------------------- the form

async function chooseExample() {
  const name = byId("example").value;
  const patient = known.patients.find((one) => one.name === name);
  byId("record-fold").open = !patient;
  if (!patient) {
    byId("record").value = "";
    byId("about").textContent = "Paste a FHIR R4 Bundle, a resource, a list of resources, or NDJSON.";
    changed();
    return;
  }
  byId("about").textContent = `${patient.title}. Its dates are moved, so that it is as recent today as it was meant `
    + `to be. Highest tier that the whole record should give: ${patient.tier ?? "none"}.`;
  byId("record").value = "";
  try {
    const { json } = await call(`demo/patients/${encodeURIComponent(name)}`);
    if (byId("example").value !== name) return; // another one was chosen meanwhile
    byId("record").value = pretty(json);
  } catch (error) {
    fill(byId("fault"), errorNode(error));
  }
  changed();
}

function chosenService() {
  return known.services[Number(byId("service").value)];
}

/** Bring the form in line with record and service. */
function changed() {
  outdated();
  const service = chosenService();
  const wants = HOOKS[service?.hook]?.drafts;
  if (byId("draft-part").dataset.wants !== (wants ?? "")) {
    byId("draft-part").dataset.wants = wants ?? "";
    byId("draft-part").hidden = !wants;
    byId("draft-legend").textContent = wants === "conditions" ? "New problem" : "Draft order";
    const fitting = known.drafts.filter((draft) => draft.contexts.includes(wants));
    fill(byId("draft"), ...fitting.map((draft) => el("option", { value: draft.id }, draft.title)),
      el("option", { value: "" }, "Paste one of your own"),
    );
    chooseDraft();
  }
  if (service) {
    byId("token-hint").textContent = "A token is good for one address and one call. For the call its aud is "
      + `${endpoint(`cds-services/${service.id}`)}, for feedback ${endpoint(`cds-services/${service.id}/feedback`)}.`;
  }
  showPrefetch();
}

function chooseDraft() {
  const draft = known.drafts.find((one) => one.id === byId("draft").value);
  byId("draft-fold").open = !draft;
  byId("draft-text").value = draft ? pretty(draft.resource) : "";
}

function showPrefetch() {
  const place = byId("prefetch");
  const left = new Set([...place.querySelectorAll("input:not(:checked)")].map((box) => box.name));
  let filled;
  try {
    if (!chosenService()) throw new RecordError("There is no service to call.");
    filled = prefetchOf(chosenService(), readResources(byId("record").value, "Record"));
  } catch (error) {
    if (!(error instanceof RecordError)) throw error;
    fill(place, el("p", { class: "hint" }, said(error.message)));
    return;
  }
  const boxes = Object.entries(filled.values).map(([key, value]) => {
    const box = el("input", { type: "checkbox", name: key, checked: !left.has(key) });
    box.addEventListener("change", outdated);
    return el("li", {}, el("label", {}, box, " ", said(key, "code"), " ", amount(value)));
  });
  const { unasked, limits } = filled;
  fill(place, el("ul", { class: "boxes" }, boxes),
    unasked.length > 0 && el("p", { class: "hint" }, `Not sent, because no template asks for it: `,
      said(unasked.map(nameOf).join(", ")), "."),
    limits.length > 0 && el("p", { class: "hint" },
      `This page does not apply these parameters of the templates: ${limits.join(", ")}.`),
  );
}

function prefetchOf(service, resources) {
  return fillPrefetch(service?.prefetch, resources, patientOf(resources));
}

function amount(value) {
  if (value === null) return "nothing on record (null)";
  if (value.resourceType !== "Bundle") return `one ${value.resourceType}`;
  const extra = value.entry.length - value.total;
  return `${value.total} ${value.total === 1 ? "resource" : "resources"}`
    + (extra ? `, and ${extra} that they refer to` : "");
}

/** An answer belongs to what was sent: after a change it must not be read as that of the new. */
function outdated() {
  fill(byId("fault"));
  const cards = byId("cards");
  if (!cards.childElementCount || cards.querySelector(".outdated")) return;
  cards.prepend(el("p", { class: "outdated", role: "status" }, el("strong", {}, "The form has changed. "),
    "The answer below is that to the earlier call. Send again for a new one."));
}

// ---------------------------------------------------------------- the call

function buildRequest() {
  const service = chosenService();
  if (!service) throw new RecordError("There is no service to call.");
  const resources = readResources(byId("record").value, "Record");
  const patient = patientOf(resources);
  const drafts = HOOKS[service.hook]?.drafts ? readResources(byId("draft-text").value, "Draft") : [];
  const user = document.querySelector("[name=user]:checked").value;
  const { values } = prefetchOf(service, resources);
  const left = new Set([...document.querySelectorAll("#prefetch input:not(:checked)")].map((b) => b.name));
  return {
    service,
    patient,
    user,
    body: {
      hook: service.hook,
      hookInstance: uuid(),
      context: contextOf(service.hook, { user, patient, resources, drafts }),
      prefetch: Object.fromEntries(Object.entries(values).filter(([key]) => !left.has(key))),
      extension: { [TRACE]: true },
    },
  };
}

async function send(event) {
  event.preventDefault();
  fill(byId("fault"));
  let request;
  try {
    request = buildRequest();
  } catch (error) {
    if (!(error instanceof RecordError)) throw error;
    fill(byId("fault"), el("p", { class: "error" }, said(error.message)));
    return;
  }
  const number = ++calls;
  const token = byId("token").value.trim();
  byId("send").disabled = true;
  fill(byId("cards"));
  byId("state").textContent = "Waiting for the answer …";
  const at = new Date();
  let result;
  try {
    result = await call(`cds-services/${encodeURIComponent(request.service.id)}`, {
      method: "POST",
      body: JSON.stringify(request.body),
      token,
    });
    if (!Array.isArray(result.json.cards)) {
      throw new CallError("The answer has no list of cards.", result);
    }
  } catch (error) {
    if (!(error instanceof CallError)) throw error;
    result = { error, milliseconds: error.milliseconds, text: error.text };
  } finally {
    byId("send").disabled = false;
  }
  if (number === calls) showAnswer(request, result, at);
}

// ---------------------------------------------------------------- the answer

function showAnswer(request, result, at) {
  const { service, patient, user } = request;
  const who = inBriefName(patient);
  const asked = `${service.hook} for ${who}, user: ${user === "patient" ? "the patient" : "a clinician"}, `
    + `${at.toLocaleTimeString("en", { hour12: false })}, ${result.milliseconds} ms`;
  const raw = el(
    "section",
    { class: "raw", "aria-label": "Request and response" },
    block("Request as sent", pretty(request.body)),
    result.text ? block("Response as received", shownJson(result.text)) : null,
  );
  const place = byId("cards");
  if (result.error) {
    byId("state").textContent = `The call failed: ${asked}.`;
    fill(place, errorNode(result.error, { hook: true }), raw);
  } else {
    const { cards } = result.json;
    const trace = result.json.extension?.[TRACE];
    const many = cards.length === 1 ? "1 card" : `${cards.length} cards`;
    byId("state").textContent = `${cards.length ? many : "No cards"}: ${asked}.`;
    const sent = resourcesOf(request.body);
    fill(place, ...(cards.length ? cards.map((card) => cardNode(card, { service, user, sent, trace })) : [noCards()]),
      wholeTrace(trace, sent, cards.length === 0),
      raw,
    );
  }
  byId("answer-head").focus();
}

function inBriefName(patient) {
  const name = inBrief({ name: patient.name, resourceType: "Patient" });
  return name ? `${name} (${nameOf(patient)})` : nameOf(patient);
}

function shownJson(text) {
  try {
    return pretty(JSON.parse(text));
  } catch {
    return text;
  }
}

function noCards() {
  return el(
    "div",
    { class: "empty" },
    el("h3", {}, "No cards"),
    el("p", {}, el("strong", {}, NO_ALL_CLEAR), " The service had nothing to say about what it was sent. What was "
      + "not sent, is too old, or is not covered by its rules was not judged."),
  );
}

/** Return every resource of a request by "Type/id". */
function resourcesOf(value, found = new Map()) {
  if (Array.isArray(value)) value.forEach((item) => resourcesOf(item, found));
  else if (value && typeof value === "object") {
    if (typeof value.resourceType === "string" && typeof value.id === "string") found.set(nameOf(value), value);
    Object.values(value).forEach((item) => resourcesOf(item, found));
  }
  return found;
}

const INDICATORS = {
  critical: ["Critical", "M8.3 2h7.4L22 8.3v7.4L15.7 22H8.3L2 15.7V8.3z"],
  warning: ["Warning", "M12 2.5 23 21.5H1z"],
  info: ["Information", "M12 1.5a10.5 10.5 0 1 1 0 21 10.5 10.5 0 0 1 0-21z"],
};

function icon(indicator) {
  const make = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const svg = make("svg", { viewBox: "0 0 24 24", width: "22", height: "22", "aria-hidden": "true" });
  const mark = indicator === "info" ? "M12 10.5v7M12 6.2v.3" : "M12 8.5v5.5M12 17.4v.3";
  svg.append(
    make("path", { d: INDICATORS[indicator][1], class: "shape" }),
    make("path", { d: mark, class: "mark" }),
  );
  return svg;
}

function cardNode(card, { service, user, sent, trace }) {
  const indicator = Object.hasOwn(INDICATORS, card.indicator) ? card.indicator : "warning";
  const state = el("p", { class: "feedback-state", role: "status" });
  const id = `card-${uuid()}`;
  const feedback = { card, service, state, parts: [] };
  const links = (card.links ?? []).map(linkNode);
  const reacts = user === "clinician" && card.uuid;
  const overridable = (card.overrideReasons ?? []).length > 0 || (card.suggestions ?? []).length > 0;
  return el(
    "article",
    { class: `card ${indicator}`, "aria-labelledby": id },
    el("p", { class: "indicator" }, icon(indicator), INDICATORS[indicator][0],
      indicator !== card.indicator && [" (sent as ", said(card.indicator ?? "nothing"), ")"]),
    el("h3", { id }, said(card.summary ?? "(no summary)")),
    el("div", { class: "detail" }, renderMarkdown(card.detail ?? "")),
    el("p", { class: "source" }, "Source: ", sourceNode(card.source)),
    links.length > 0 && el("ul", { class: "links", "aria-label": "Links" }, links),
    (card.suggestions ?? []).length > 0 && el(
      "div",
      { class: "suggestions" },
      el("h4", {}, card.selectionBehavior === "at-most-one" ? "Suggestions (at most one)" : "Suggestions"),
      card.suggestions.map((suggestion) => suggestionNode(suggestion, feedback, reacts)),
    ),
    reacts && overridable && overrideNode(feedback),
    state,
    traceNode(card, trace, sent),
  );
}

function sourceNode(source) {
  const address = webAddress(source?.url);
  const label = said(source?.label ?? "not said");
  const node = address ? el("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, label) : label;
  const topic = source?.topic?.display ?? source?.topic?.code;
  return topic ? el("span", {}, node, " (topic: ", said(topic), ")") : node;
}

function linkNode(link) {
  const address = link.type === "absolute" ? webAddress(link.url) : null;
  const label = said(link.label ?? "Link");
  return el("li", {}, address
    ? el("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, label)
    : [label, " (", said(link.type ?? "no type"), ", not opened here: ", said(link.url ?? ""), ")"]);
}

function suggestionNode(suggestion, feedback, reacts) {
  const actions = suggestion.actions ?? [];
  const accept = reacts && suggestion.uuid ? button("Accept", async () => {
    const once = feedback.card.selectionBehavior === "at-most-one";
    const others = once ? feedback.parts : [accept];
    await react(feedback, others, `Accepted: ${suggestion.label}`, {
      outcome: "accepted",
      acceptedSuggestions: [{ id: suggestion.uuid }],
    });
  }, { "aria-label": `Accept: ${suggestion.label}` }) : null;
  if (accept) feedback.parts.push(accept);
  return el(
    "div",
    { class: "suggestion" },
    el("p", {}, said(suggestion.label ?? "Suggestion"),
      suggestion.isRecommended === true && el("strong", {}, " (recommended)")),
    accept,
    actions.length > 0 && el("details", {},
      el("summary", {}, `${actions.length} ${actions.length === 1 ? "action" : "actions"}`),
      el("ul", {}, actions.map((action) => el(
        "li",
        {},
        el("strong", {}, said(action.type ?? "action")), " ", said(action.description ?? ""),
        action.resource && block(`The ${action.resource.resourceType ?? "resource"}`, pretty(action.resource)),
        action.resourceId && [" ", said(action.resourceId, "code")],
      )))),
  );
}

function overrideNode(feedback) {
  const id = uuid();
  const reasons = feedback.card.overrideReasons ?? [];
  const select = el("select", { id: `reason-${id}` }, el("option", { value: "" }, "No reason given"),
    reasons.map((reason, number) => el("option", { value: number }, said(reason.display ?? reason.code))));
  const comment = el("textarea", { id: `comment-${id}`, rows: 2, maxlength: 1000 });
  const go = button("Override", async () => {
    const reason = reasons[Number(select.value || -1)];
    const userComment = comment.value.trim();
    const overrideReason = { ...(reason && { reason }), ...(userComment && { userComment }) };
    await react(feedback, [go, ...feedback.parts], `Overridden: ${reason?.display ?? "no reason given"}`, {
      outcome: "overridden",
      ...(Object.keys(overrideReason).length && { overrideReason }),
    });
  });
  feedback.parts.push(go);
  return el(
    "details",
    { class: "override" },
    el("summary", {}, "Override this card"),
    reasons.length > 0 && [el("label", { for: `reason-${id}` }, "Reason"), select],
    el("label", { for: `comment-${id}` }, "Comment (no names, no identifiers)"),
    comment,
    go,
  );
}

/** Send real feedback of a card, and say at the card what became of it. */
async function react({ card, service, state }, buttons, words, item) {
  buttons.forEach((one) => one.toggleAttribute("disabled", true));
  fill(state, "Sending …");
  const body = { feedback: [{ card: card.uuid, ...item, outcomeTimestamp: new Date().toISOString() }] };
  try {
    await feedbackCall(service, body);
    fill(state, el("strong", {}, said(words)), ". The service has recorded it"
      + (item.outcome === "accepted" ? "; this page orders nothing." : "."));
  } catch (error) {
    if (!(error instanceof CallError)) throw error;
    fill(state, el("strong", {}, "Not recorded. "), error.status ? `Error ${error.status}: ` : "",
      error.message);
    buttons.forEach((one) => one.toggleAttribute("disabled", false));
  }
}

async function feedbackCall(service, body) {
  const token = byId("feedback-token").value.trim();
  const path = `cds-services/${encodeURIComponent(service.id)}/feedback`;
  try {
    await call(path, { method: "POST", body: JSON.stringify(body), token });
  } catch (error) {
    // Feedback may be answered without a body (CDS Hooks 2.0, Feedback).
    if (!(error instanceof CallError) || error.status === null || error.status >= 300) throw error;
  }
}

// ---------------------------------------------------------------- from the card to the resource

function traceNode(card, trace, sent) {
  const made = card.extension?.[PROVENANCE];
  if (!made) return null;
  const rules = made.rules ?? [];
  const names = new Set(rules.map((rule) => rule.finding));
  const findings = (trace?.findings ?? []).filter((finding) => names.has(finding.id));
  const named = new Set();
  const parts = findings.map((finding) => findingNode(finding, trace, sent, named));
  const rest = (made.resources ?? []).filter((name) => !named.has(name));
  return el(
    "details",
    { class: "trace" },
    el("summary", {}, "What this card rests on"),
    parts,
    rest.length > 0 && [
      el("h4", {}, findings.length ? "Other resources" : "Resources"),
      el("ul", { class: "resources" }, rest.map((name) => el("li", {}, resourceNode(name, sent)))),
    ],
    el("h4", {}, "Rules"),
    el("ul", {}, rules.map((rule) => el("li", {}, said(rule.id, "code"), " ",
      said(`${rule.group ?? ""} ${rule.version ?? ""}, ${rule.review ?? "review not said"}`)))),
    el("p", { class: "hint" }, "Judged as of ", said(made.as_of ?? "?"), ", rules ", said(made.digest ?? "?", "code")),
  );
}

function findingNode(finding, trace, sent, named) {
  const caveats = finding.caveats ?? [];
  return el(
    "div",
    { class: "finding" },
    el("h4", {}, said(finding.title), `, ${finding.tier}`),
    becauseNode(finding.because, trace, sent, named, new Set([finding.id])),
    caveats.map((caveat) => [
      el("p", {}, el("strong", {}, "Caution: "), said(caveat.title)),
      becauseNode(caveat.because, trace, sent, named, new Set([finding.id])),
    ]),
  );
}

/** Return the list of what something rests on; a finding among it is followed, but only once. */
function becauseNode(entries, trace, sent, named, above) {
  return el("ul", { class: "because" }, (entries ?? []).map((entry) => {
    if (entry.kind === "finding") {
      const below = [...(trace.steps ?? []), ...(trace.findings ?? []), ...(trace.suppressed ?? [])]
        .find((one) => one.id === entry.id);
      const follow = below && !above.has(entry.id);
      return el("li", {}, said(below?.title ?? `the step ${entry.id}`),
        follow ? becauseNode(below.because, trace, sent, named, new Set([...above, entry.id])) : null);
    }
    if (entry.resource) named.add(entry.resource);
    return el("li", {}, said(factWords(entry)), entry.resource ? resourceNode(entry.resource, sent) : null);
  }));
}

function factWords(entry) {
  const concept = (entry.concept ?? "").replaceAll("-", " ");
  const value = entry.value === undefined ? "" : `: ${entry.value} ${entry.unit ?? ""}`.trimEnd();
  const more = [
    entry.aspect && entry.aspect.replaceAll("/", " "),
    entry.sent && `sent as ${entry.sent}`,
    entry.range && `laboratory range ${entry.range}`,
    entry.effective,
    (entry.doubts ?? []).length && `doubts: ${entry.doubts.join(", ")}`,
  ].filter(Boolean);
  return `${entry.kind}, ${concept}${value}${more.length ? ` (${more.join("; ")})` : ""}`;
}

function resourceNode(name, sent) {
  const resource = sent.get(name);
  if (!resource) {
    return el("p", { class: "hint" }, said(name, "code"), ": not in the request, so the service read it elsewhere");
  }
  const brief = inBrief(resource);
  const pre = said(pretty(resource), "pre");
  return el("details", {}, el("summary", {}, said(name, "code"), brief && [" ", said(brief)]), pre);
}

// What the codes of `not_evaluated` mean, in a few words (rulesets/cards.yaml).
const REASONS = {
  missing: "not on record",
  "not-sent": "neither sent nor readable, so nothing is concluded from its absence",
  stale: "too old",
  future: "dated in the future",
  date: "without a usable date",
  unit: "unit missing, unknown or not fitting",
  implausible: "outside what is possible",
  comparator: "reported only as below or above a number",
  status: "the status does not allow its use",
  "unknown-code": "the code is not known",
  reference: "points to a record that was not sent",
  population: "limits for adults do not apply",
  conflict: "recorded both as present and as absent",
};

function wholeTrace(trace, sent, open) {
  if (!trace) {
    return el("p", { class: "hint" }, "The service did not send what it could not judge.");
  }
  const undecided = trace.not_evaluated ?? [];
  const count = new Set(undecided.map((entry) => entry.rule)).size;
  const reasons = new Map();
  // What is merely missing comes last, because it is most (as on the cards).
  for (const entry of [...undecided].sort((a, b) => (a.reason === "missing") - (b.reason === "missing"))) {
    if (!reasons.has(entry.reason)) reasons.set(entry.reason, new Map());
    const needs = reasons.get(entry.reason);
    if (!needs.has(entry.needs)) needs.set(entry.needs, []);
    needs.get(entry.needs).push(entry);
  }
  const problems = trace.problems ?? [];
  const unavailable = trace.unavailable ?? [];
  const unused = [[trace.other_patients, "of another person, or of nobody known"],
    [trace.unreadable, "not readable"]].filter(([number]) => number > 0);
  return el(
    "section",
    { class: "whole", "aria-label": "What was not judged" },
    unavailable.length + unused.length > 0 && el("div", { class: "degraded" },
      el("p", {}, el("strong", {}, "Judged without some of the data:")),
      el("ul", {},
        unavailable.map((entry) => el("li", {}, said(entry.key, "code"), ": ",
          said(String(entry.reason).replaceAll("-", " ")))),
        unused.map(([number, why]) => el("li", {}, `${number} of the resources sent: ${why}`)))),
    el(
      "details",
      { open: open && count > 0 },
      el("summary", {}, count ? `Not judged: ${count} ${count === 1 ? "rule" : "rules"}, and why`
        : "Not judged: the service names no rule"),
      el("p", { class: "hint" }, "By what they lack; the rules stand in parentheses. A rule is named where something "
        + "on record comes near to it. A test or sign that is not on record is not a normal one."),
      [...reasons].map(([reason, needs]) => [
        el("h4", {}, said(REASONS[reason] ?? reason)),
        el("ul", {}, [...needs].map(([need, entries]) => el(
          "li",
          {},
          said(String(need ?? "?").replaceAll("-", " ")),
          " ", el("span", { class: "hint" }, "(", said(entries.map((entry) => entry.rule).join(", ")), ")"),
          [...new Set(entries.map((entry) => entry.resource).filter(Boolean))]
            .map((name) => resourceNode(name, sent)),
        ))),
      ]),
    ),
    el(
      "details",
      { open: problems.length > 0 },
      el("summary", {}, problems.length ? `Problems of the record: ${problems.length}` : "Problems of the record: none"),
      el("ul", {}, problems.map((problem) => el(
        "li",
        {},
        el("strong", {}, said(problem.severity ?? "")), " ", said(problem.code ?? ""), ": ", said(problem.message ?? ""),
        problem.resource && resourceNode(problem.resource, sent),
      ))),
    ),
  );
}

start();
