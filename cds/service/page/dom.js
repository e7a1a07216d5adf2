// What both pages share: building nodes, copying, showing errors. Text only ever becomes
// textContent, so nothing that a record or an answer holds can become markup.

/** Return a new element. Strings among the children become text; what is no node is left out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, String(value));
    }
  }
  node.append(...kept(children));
  return node;
}

/** Put these children into a node in place of what it has; those left out as in `el`. */
export function fill(node, ...children) {
  node.replaceChildren(...kept(children));
}

function kept(children) {
  return children.flat(Infinity).filter((child) => typeof child === "string" || child instanceof Node);
}

/** Return the text of somebody else, kept from turning the direction of ours. */
export function said(text, tag = "bdi") {
  const node = el(tag);
  node.textContent = String(text);
  return node;
}

export function button(label, action, attributes = {}) {
  const node = el("button", { type: "button", ...attributes }, label);
  node.addEventListener("click", action);
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Return a web address, or null for anything else that a link could do. */
export function webAddress(text) {
  try {
    const url = new URL(text);
    return ["https:", "http:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

export function pretty(value) {
  return JSON.stringify(value, null, 2);
}

/** Return a button that copies what `text()` gives; `shown` is selected where that is forbidden. */
export function copyButton(what, text, shown = null) {
  const done = el("span", { role: "status", class: "copied" });
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text());
      done.textContent = "Copied";
    } catch {
      if (shown) getSelection().selectAllChildren(shown);
      done.textContent = shown ? "Selected: copy with the keyboard" : "Copying is not allowed here";
    }
    setTimeout(() => {
      done.textContent = "";
    }, 4000);
  }, { "aria-label": `Copy ${what}`, class: "small" });
  return el("span", { class: "copy" }, copy, done);
}

/** Return a folded block of text with a button to copy it. */
export function block(title, text, { open = false } = {}) {
  const pre = said(text, "pre");
  const name = title.charAt(0).toLowerCase() + title.slice(1);
  return el("details", { open }, el("summary", {}, title), copyButton(name, () => text, pre), pre);
}

/** A random UUID (RFC 4122, version 4); crypto.randomUUID is there only over https. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

const MEANING = {
  400: "The service did not understand the request.",
  401: "The service wants a valid token (JWT), and says no more on purpose. A token is good for "
    + "one address and for one call.",
  404: "There is no such service.",
  412: "Data that the service needs were not sent, and it could not read them itself.",
  413: "The request is too large.",
  415: "The service did not take the media type of the request.",
  429: "Too many requests.",
  500: "The service failed while it judged the record.",
  503: "The service cannot answer at the moment.",
};

/** What went wrong with a call; never to be taken for an answer without cards. */
export class CallError extends Error {
  constructor(title, { status = null, outcome = null, text = "", milliseconds = 0 } = {}) {
    super(title);
    Object.assign(this, { status, outcome, text, milliseconds });
  }
}

/** Return {json, text, status, milliseconds} of a call, or throw a CallError. */
export async function call(address, { method = "GET", body = null, token = "" } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== null) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = `Bearer ${token}`;
  const started = performance.now();
  const passed = () => Math.round(performance.now() - started);
  let response;
  let text;
  try {
    response = await fetch(address, {
      method,
      headers,
      body,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.timeout(30000),
    });
    text = await response.text();
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new CallError(late ? "No answer within 30 seconds" : "No answer: the network failed", {
      milliseconds: passed(),
    });
  }
  let json = null;
  try {
    json = JSON.parse(text);
  } catch {
    // Said below: an answer that is not JSON.
  }
  const milliseconds = passed();
  if (!response.ok) {
    const wait = response.headers.get("Retry-After");
    const meaning = MEANING[response.status] ?? "The service refused the call.";
    throw new CallError(`${meaning}${wait ? ` Try again in ${wait} seconds.` : ""}`, {
      status: response.status,
      outcome: json?.resourceType === "OperationOutcome" ? json : null,
      text,
      milliseconds,
    });
  }
  if (json === null || typeof json !== "object") {
    throw new CallError("The answer is not JSON.", { status: response.status, text, milliseconds });
  }
  return { json, text, status: response.status, milliseconds };
}

/** Return the node that shows a CallError, with the issues of an OperationOutcome.
 *
 * `hook` is true where cards were asked for: then it says that there is no judgment.
 */
export function errorNode(error, { hook = false } = {}) {
  const head = error.status ? `Error ${error.status}` : "Error";
  const issues = Array.isArray(error.outcome?.issue) ? error.outcome.issue : [];
  return el(
    "div",
    { class: "error" },
    el("h3", {}, head),
    el("p", {}, error.message),
    issues.length > 0 && el("ul", {}, issues.map((issue) => el(
      "li",
      {},
      el("strong", {}, said(issue?.severity ?? "error"), " (", said(issue?.code ?? "?"), "): "),
      said([issue?.details?.text, issue?.diagnostics].filter(Boolean).join("; ") || "no more is said"),
    ))),
    hook && el("p", {}, el("strong", {}, "Nothing was judged. "), "This is not an answer without cards."),
  );
}
