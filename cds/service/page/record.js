// From a pasted record to a request of CDS Hooks 2.0, as an EHR would make it.

/** What the context of each hook holds besides userId and patientId (CDS Hooks 2.0, hooks). */
export const HOOKS = {
  "patient-view": {},
  "order-select": { drafts: "draftOrders", selections: true },
  "order-sign": { drafts: "draftOrders" },
  "encounter-start": { encounter: true },
  "encounter-discharge": { encounter: true },
  "problem-list-item-create": { drafts: "conditions" },
  "medication-refill": { drafts: "medications" },
};

/** A record or draft that cannot be sent; the message says what to do. */
export class RecordError extends Error {}

/** Return the resources in a JSON text: a Bundle, a resource, a list of them, or NDJSON. */
export function readResources(text, what) {
  if (!text.trim()) throw new RecordError(`${what}: nothing to send. Choose or paste one.`);
  let values;
  try {
    values = [JSON.parse(text)];
  } catch (error) {
    try {
      values = text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
    } catch {
      throw new RecordError(`${what}: this is not JSON (${error.message}).`);
    }
  }
  const found = [];
  const take = (value, fullUrl) => {
    if (Array.isArray(value)) value.forEach((item) => take(item, null));
    else if (value?.resourceType === "Bundle") {
      for (const entry of value.entry ?? []) {
        if (entry?.resource) take(entry.resource, entry.fullUrl);
      }
    } else if (typeof value?.resourceType === "string") found.push({ resource: value, fullUrl });
    else throw new RecordError(`${what}: a part is no FHIR resource (it has no resourceType).`);
  };
  values.forEach((value) => take(value, null));
  if (!found.length) throw new RecordError(`${what}: there is no resource in it.`);
  return stored(found);
}

/** Return the resources with ids, as a server has them after it has stored a transaction. */
function stored(found) {
  const named = new Map();
  const resources = found.map(({ resource, fullUrl }, number) => {
    const copy = structuredClone(resource);
    if (typeof copy.id !== "string" || !copy.id) {
      const urn = /^urn:uuid:([A-Za-z0-9.-]+)$/.exec(fullUrl ?? "");
      copy.id = urn ? urn[1] : `unnamed-${number + 1}`;
    }
    if (typeof fullUrl === "string" && fullUrl.startsWith("urn:")) named.set(fullUrl, copy);
    return copy;
  });
  if (named.size) {
    for (const reference of resources.flatMap((resource) => [...references(resource)])) {
      const target = named.get(reference.reference);
      if (target) reference.reference = nameOf(target);
    }
  }
  return resources;
}

export function nameOf(resource) {
  return `${resource.resourceType}/${resource.id}`;
}

/** Return every object in a resource that has a `reference`. */
function* references(value) {
  if (Array.isArray(value)) for (const item of value) yield* references(item);
  else if (value && typeof value === "object") {
    if (typeof value.reference === "string") yield value;
    for (const member of Object.values(value)) yield* references(member);
  }
}

/** Return "Type/id" of a reference, whatever server stands before it. */
function pointsTo(reference) {
  return /(?:^|\/)([A-Z][A-Za-z]+\/[A-Za-z0-9.-]{1,64})(?:\/_history\/[^/]+)?$/.exec(reference)?.[1];
}

/** Return the one patient of a record. */
export function patientOf(resources) {
  const names = [...new Set(resources.filter((r) => r.resourceType === "Patient").map(nameOf))];
  if (names.length === 0) throw new RecordError("Record: it holds no Patient.");
  if (names.length > 1) {
    throw new RecordError(`Record: it holds ${names.length} patients (${names.join(", ")}). `
      + "A call is about one; paste the record of one.");
  }
  return resources.find((resource) => nameOf(resource) === names[0]);
}

/** Return what the prefetch templates of a service ask of a record.
 *
 * By key: the value that an EHR would send (a resource, a searchset, null where nothing fits),
 * and in `unasked` the resources that no template asks for, in `limits` the parameters that
 * stand in a template and are not applied here (dates, counts, order).
 */
export function fillPrefetch(templates, resources, patient) {
  const values = {};
  const asked = new Set();
  const limits = new Set();
  const taken = (resource) => {
    asked.add(resource);
    return resource;
  };
  for (const [key, template] of Object.entries(templates ?? {})) {
    const query = template.replaceAll("{{context.patientId}}", patient.id);
    const mark = query.indexOf("?");
    const type = mark < 0 ? query : query.slice(0, mark);
    if (mark < 0) {
      const one = resources.find((resource) => nameOf(resource) === type);
      values[key] = one ? taken(one) : null;
      continue;
    }
    const tests = [];
    for (const [name, value] of new URLSearchParams(query.slice(mark))) {
      const test = testOf(name, value, patient);
      if (test) tests.push(test);
      else limits.add(name);
    }
    const matches = resources.filter(
      (resource) => resource.resourceType === type && tests.every((test) => test(resource)),
    );
    matches.forEach(taken);
    values[key] = matches.length ? searchset(matches, included(matches, resources, taken)) : null;
  }
  return { values, unasked: resources.filter((r) => !asked.has(r)), limits: [...limits] };
}

/** Return what a search parameter asks of a resource, or null for one that is not applied. */
function testOf(name, value, patient) {
  if (name === "patient" || name === "subject") {
    return (resource) => {
      const reference = (resource.subject ?? resource.patient)?.reference;
      return typeof reference === "string" && pointsTo(reference) === nameOf(patient);
    };
  }
  const member = {
    code: (r) => r.code ?? r.medicationCodeableConcept,
    category: (r) => r.category,
    status: (r) => r.status,
    intent: (r) => r.intent,
    "clinical-status": (r) => r.clinicalStatus,
  }[name];
  if (!member) return null;
  const wanted = value.split(",");
  return (resource) => wanted.some((token) => hasToken(member(resource), token));
}

function hasToken(value, token) {
  if (Array.isArray(value)) return value.some((item) => hasToken(item, token));
  if (typeof value === "string") return value === token.slice(token.indexOf("|") + 1);
  // "code", "system|code", "|code" (no system) or "system|" (any code of it): FHIR R4, token.
  const [system, code] = token.includes("|") ? token.split("|") : [null, token];
  return (value?.coding ?? []).some(
    (coding) => (code === "" || coding?.code === code)
      && (system === null || (coding?.system ?? "") === system),
  );
}

/** Return what the matches refer to and what no template could ask for (a Medication, say). */
function included(matches, resources, taken) {
  const named = new Map(resources.map((resource) => [nameOf(resource), resource]));
  for (const resource of resources) if (resource.url) named.set(resource.url, resource);
  const result = new Set();
  const queue = [...matches];
  while (queue.length) {
    const one = queue.pop();
    const names = [...references(one)].map((r) => pointsTo(r.reference));
    if (typeof one.questionnaire === "string") names.push(one.questionnaire.split("|")[0]);
    for (const target of names.map((name) => named.get(name))) {
      if (!target || target.resourceType === "Patient" || result.has(target)) continue;
      if (matches.includes(target)) continue;
      result.add(taken(target));
      queue.push(target);
    }
  }
  return [...result];
}

function searchset(matches, extra) {
  const entry = (resource, mode) => ({ resource, search: { mode } });
  return {
    resourceType: "Bundle",
    type: "searchset",
    total: matches.length,
    entry: [
      ...matches.map((resource) => entry(resource, "match")),
      ...extra.map((resource) => entry(resource, "include")),
    ],
  };
}

/** Return the context of a hook. */
export function contextOf(hook, { user, patient, resources, drafts }) {
  const wants = HOOKS[hook];
  if (!wants) throw new RecordError(`This page does not know the hook ${hook}.`);
  const userId = user === "patient" ? nameOf(patient) : "Practitioner/example";
  const context = { userId, patientId: patient.id };
  const encounter = resources.find((resource) => resource.resourceType === "Encounter");
  if (encounter || wants.encounter) context.encounterId = encounter?.id ?? "example-encounter";
  if (wants.drafts) {
    const own = drafts.map((draft) => ({ ...draft, subject: { reference: nameOf(patient) } }));
    context[wants.drafts] = {
      resourceType: "Bundle",
      type: "collection",
      entry: own.map((resource) => ({ resource })),
    };
    if (wants.selections) context.selections = own.map(nameOf);
  }
  return context;
}

/** Return a line that says what a resource is: its name, value, status and date. */
export function inBrief(resource) {
  const concept = resource.code ?? resource.medicationCodeableConcept ?? resource.vaccineCode;
  const coding = concept?.coding?.[0];
  const quantity = resource.valueQuantity;
  const value = quantity
    ? `${quantity.comparator ?? ""}${quantity.value ?? "?"} ${quantity.unit ?? quantity.code ?? ""}`
    : resource.valueString ?? resource.valueCodeableConcept?.text
      ?? resource.valueCodeableConcept?.coding?.[0]?.display ?? resource.valueBoolean
      ?? resource.valueInteger;
  const name = resource.name?.[0];
  const parts = [
    concept?.text ?? coding?.display ?? coding?.code
      ?? (name ? [...(name.given ?? []), name.family].filter(Boolean).join(" ") : null),
    value === undefined ? null : String(value).trim(),
    resource.effectiveDateTime ?? resource.effectivePeriod?.start ?? resource.onsetDateTime
      ?? resource.authoredOn ?? resource.authored ?? resource.recordedDate ?? resource.birthDate,
    resource.status ?? resource.clinicalStatus?.coding?.[0]?.code,
  ];
  return parts.filter((part) => typeof part === "string" && part).join(", ");
}
