"""The pages in a real browser: what is sent, what is shown, and what nobody must be shut out of.

They call the real service; faults and hostile answers are put in its place on the way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hook_records import Demo
from markdown_it import MarkdownIt

from cds import Screener
from cds.service.requests import parse_hook
from cds.shipped import shipped

pytestmark = pytest.mark.slow
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (extra 'dev')"
)
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="axe-playwright-python is not installed (extra 'dev')",
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK, PHONE = (1280, 900), (360, 740)
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
JSON = {"Content-Type": "application/json"}
PROVENANCE = "org.cds-twitch.provenance"
TRACE = "org.cds-twitch.trace"


@dataclass
class Opened:
    """A tab, everything that it complained about, and every request that it made."""

    tab: Any
    base: str
    complaints: list[str] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)

    def start(self, path: str = "") -> None:
        """Open the page anew, and wait until it can be used."""
        self.tab.goto(self.base + path)
        if not path:
            self.tab.wait_for_selector("#prefetch input")

    def send(self) -> None:
        self.tab.click("#send")
        self.tab.wait_for_selector("#cards > *")

    def choose(self, **values: str) -> None:
        """Choose in the form by the ids of its lists; an example is there when it returns."""
        for name, value in values.items():
            self.tab.select_option(f"#{name}", value)
        if values.get("example"):
            playwright.expect(self.tab.locator("#record")).not_to_have_value("")

    def service(self, hook: str) -> None:
        label = self.tab.locator("#service option", has_text=f"{hook}: ").inner_text()
        self.tab.select_option("#service", label=label)

    def text(self, selector: str) -> str:
        return str(self.tab.locator(selector).first.inner_text())

    def sent(self, path: str) -> Any:
        """The body of the last call to a path that ends so."""
        found = [r for r in self.requests if r.method == "POST" and r.url.endswith(path)]
        return json.loads(found[-1].post_data)

    def answer(self, pattern: str, status: int, body: str = "", **headers: str) -> None:
        """Answer calls to an address in place of the service."""
        self.tab.route(
            pattern, lambda route: route.fulfill(status=status, body=body, headers=headers or JSON)
        )

    def cards(self, *cards: dict[str, Any], **more: Any) -> None:
        self.answer("**/cds-services/*", 200, json.dumps({"cards": list(cards), **more}))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(server: Demo) -> str:
    return f"{server.url}/"


@pytest.fixture
def open_tab(browser: Any, address: str) -> Iterator[Callable[..., Opened]]:
    """Opens tabs, each with a new, empty profile."""
    contexts = []

    def make(size: tuple[int, int] = DESK, **options: Any) -> Opened:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        opened = Opened(context.new_page(), address)
        opened.tab.set_default_timeout(15_000)
        opened.tab.on("console", lambda message: opened.complaints.append(message.text))
        opened.tab.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.tab.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
        opened.tab.on("request", lambda request: opened.requests.append(request))
        return opened

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_tab: Callable[..., Opened]) -> Opened:
    opened = open_tab()
    opened.start()
    return opened


def card(**members: Any) -> dict[str, Any]:
    return {
        "uuid": "11111111-1111-4111-8111-111111111111",
        "summary": "A summary",
        "indicator": "warning",
        "source": {"label": "A source"},
        **members,
    }


# ---------------------------------------------------------------- what is offered and sent


def test_it_starts_without_a_complaint_and_asks_only_this_service(page: Opened) -> None:
    page.tab.wait_for_load_state("networkidle")
    assert page.complaints == []
    assert [r.url for r in page.requests if not r.url.startswith(page.base)] == []
    assert page.tab.locator("details.service").count() == 7
    assert page.tab.locator("#example option").count() == 1 + len(
        list(shipped("fhir_examples").glob("*.json"))
    )
    assert "No finding does not mean that nothing is wrong" in page.text(".notice")


def test_a_service_shows_its_id_and_its_templates_to_copy(open_tab: Callable[..., Opened]) -> None:
    page = open_tab(permissions=["clipboard-read", "clipboard-write"])
    page.start()
    services = page.tab.evaluate("fetch('cds-services').then(r => r.json())")["services"]
    first = page.tab.locator("details.service").first
    first.locator("summary").first.click()
    shown = first.inner_text()
    for name in ("id", "hook", "description", "usageRequirements"):
        assert services[0][name] in shown, name
    templates = first.locator(".template")
    assert templates.count() == len(services[0]["prefetch"])
    for number, (key, template) in enumerate(services[0]["prefetch"].items()):
        assert templates.nth(number).locator("pre").text_content() == template
        templates.nth(number).get_by_role("button", name="Copy").click()
        page.tab.get_by_text("Copied").nth(number).wait_for()
        assert page.tab.evaluate("navigator.clipboard.readText()") == template, key


@pytest.mark.parametrize("user", ["clinician", "patient"])
def test_every_service_can_be_called_with_a_sound_request(page: Opened, user: str) -> None:
    page.tab.check(f"[name=user][value={user}]")
    services = page.tab.evaluate("fetch('cds-services').then(r => r.json())")["services"]
    assert len(services) == 7
    for service in services:
        page.service(service["hook"])
        page.send()
        assert page.tab.locator("article.card").count() > 0, service["id"]
        body = page.sent(f"cds-services/{service['id']}")
        request = parse_hook(body, service["hook"])
        assert request.warnings == ()
        assert request.context.patientId == "example-rosa"
        who = "Patient/example-rosa" if user == "patient" else "Practitioner/example"
        assert request.context.userId == who
        assert list(request.prefetch) == list(service["prefetch"])
        assert request.prefetch["patient"]["id"] == "example-rosa"
        for draft in request.context.unrecorded:
            assert draft["subject"] == {"reference": "Patient/example-rosa"}
        assert bool(request.context.unrecorded) == (request.context.BUNDLE is not None)


def test_every_example_gives_the_tier_of_its_sheet_through_the_page(
    page: Opened, screener: Screener
) -> None:
    patients = page.tab.evaluate("fetch('demo/patients').then(r => r.json())")["patients"]
    indicators = {"emergency": "critical", "urgent": "warning", "soon": "warning"}
    wrong = {}
    for patient in patients:
        page.choose(example=patient["name"])
        page.send()
        first = page.tab.locator("article.card").first
        got = first.get_attribute("class").split()[1] if first.count() else None
        expected = patient["tier"] and indicators.get(patient["tier"], "info")
        if got != expected:
            wrong[patient["name"]] = (expected, got)
    assert wrong == {}


def test_what_is_not_checked_is_not_sent(page: Opened) -> None:
    page.tab.uncheck("#prefetch input[name=laboratory]")
    page.send()
    assert "laboratory" not in page.sent("patient-view")["prefetch"]
    assert page.sent("patient-view")["prefetch"]["signs"] is None  # nothing on record: null


def test_what_no_template_asks_for_is_said(page: Opened) -> None:
    page.choose(example="")
    patient = {"resourceType": "Patient", "id": "p"}
    other = {"resourceType": "Immunization", "id": "i", "patient": {"reference": "Patient/p"}}
    foreign = {
        "resourceType": "MedicationStatement",
        "id": "m",
        "subject": {"reference": "Patient/q"},
    }
    own = {**foreign, "id": "own", "subject": {"reference": "https://ehr.example/fhir/Patient/p"}}
    page.tab.fill("#record", "\n".join(map(json.dumps, [patient, other, foreign, own])))
    assert "Immunization/i, MedicationStatement/m" in page.text("#prefetch")
    page.send()
    (entry,) = page.sent("patient-view")["prefetch"]["medicationStatements"]["entry"]
    assert entry["resource"] == own


def test_a_transaction_is_sent_as_a_server_would_have_stored_it(page: Opened) -> None:
    page.choose(example="low-potassium-low-magnesium-low-calcium")
    page.send()
    body = page.sent("patient-view")
    assert "urn:uuid" not in json.dumps(body["prefetch"])
    patient = f"Patient/{body['context']['patientId']}"
    for entry in body["prefetch"]["laboratory"]["entry"]:
        assert entry["resource"]["subject"]["reference"] == patient


def test_what_a_match_refers_to_goes_with_it(page: Opened) -> None:
    page.choose(example="potassium-2-5-asymptomatic")
    page.send()
    sets = page.sent("patient-view")["prefetch"]
    modes = {
        entry["resource"]["resourceType"]: entry["search"]["mode"]
        for entry in sets["medicationStatements"]["entry"]
    }
    assert modes == {"MedicationStatement": "match", "Medication": "include"}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("", "nothing to send"),
        ("{", "this is not JSON"),
        ("[1]", "no FHIR resource"),
        ('{"resourceType": "Bundle"}', "no resource in it"),
        ('{"resourceType": "Observation", "id": "o"}', "holds no Patient"),
        (
            '[{"resourceType": "Patient", "id": "a"}, {"resourceType": "Patient", "id": "b"}]',
            "holds 2 patients (Patient/a, Patient/b)",
        ),
    ],
)
def test_a_record_that_cannot_be_sent_is_said_and_not_sent(
    page: Opened, record: str, said: str
) -> None:
    page.choose(example="")
    page.tab.fill("#record", record)
    page.tab.click("#send")
    page.tab.wait_for_selector("#fault .error")
    assert said in page.text("#fault")
    assert [r.url for r in page.requests if r.method == "POST"] == []
    assert page.complaints == []


# ---------------------------------------------------------------- cards


def test_a_card_shows_what_was_answered(page: Opened) -> None:
    with page.tab.expect_response("**/twitching-patient-view") as got:
        page.send()
    answered = got.value.json()["cards"]
    shown = page.tab.locator("article.card")
    assert shown.count() == len(answered)
    words = {"critical": "Critical", "warning": "Warning", "info": "Information"}
    for number, one in enumerate(answered):
        node = shown.nth(number)
        assert node.locator("h3").inner_text() == one["summary"]
        assert node.locator(".indicator").inner_text().strip() == words[one["indicator"]]
        assert node.locator(".indicator svg").count() == 1
        assert one["source"]["label"] in node.locator(".source").inner_text()
        assert node.locator(".links a").count() == len(one.get("links", []))
        labels = [s["label"] for s in one.get("suggestions", [])]
        assert node.locator(".suggestion > p").all_inner_texts() == labels
        actions = [a for s in one.get("suggestions", []) for a in s["actions"]]
        assert node.locator(".suggestion > details > ul > li").count() == len(actions)
        reasons = [r["display"] for r in one.get("overrideReasons", [])]
        if reasons:
            options = node.locator("select option").all_text_contents()
            assert options == ["No reason given", *reasons]
    assert page.text("#state").startswith(f"{len(answered)} cards: patient-view for Rosa Example")
    assert page.text("#state").endswith(" ms.")
    assert page.complaints == []


def test_request_and_response_are_shown_as_they_were(page: Opened) -> None:
    with page.tab.expect_response("**/twitching-patient-view") as got:
        page.send()
    open_all(page)
    for word in ("undefined", "[object", "NaN"):  # what a slip of the script would show
        assert word not in page.text("body")
    raw = page.tab.locator(".raw pre").all_text_contents()
    assert [json.loads(text) for text in raw] == [page.sent("patient-view"), got.value.json()]


def test_a_patient_gets_plain_words_and_is_asked_for_no_feedback(page: Opened) -> None:
    page.tab.check("[name=user][value=patient]")
    page.send()
    assert page.tab.locator("article.card").count() > 0
    assert page.tab.locator(".suggestion, .override").count() == 0
    assert "user: the patient" in page.text("#state")


DOM_TEXT = """async texts => {
    const { renderMarkdown } = await import(new URL("markdown.js", location.href));
    const blocks = node => [...node.childNodes].flatMap(
        one => one.tagName === "UL" ? [...one.children].map(li => ["li", ...inner(li)])
            : [["p", ...inner(one)]]);
    const inner = node => [...node.childNodes].map(
        one => one.nodeType === 3 ? one.data : [one.tagName.toLowerCase(), one.textContent]);
    return texts.map(text => blocks(renderMarkdown(text)));
}"""


def blocks_of(text: str) -> list[Any]:
    """Return what an independent reader of CommonMark makes of a text, in the shape above."""
    blocks: list[Any] = []
    inside: list[str] = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.nesting == 1:
            inside.append(token.tag)
        elif token.nesting == -1:
            inside.pop()
        if token.type != "inline":
            assert token.tag in ("p", "ul", "li"), token
            continue
        block: list[Any] = ["li" if "li" in inside else "p"]
        strong: list[str] | None = None
        for child in token.children or ():
            content = " " if child.type == "softbreak" else child.content
            if child.type == "strong_open":
                strong = []
            elif child.type == "strong_close":
                block.append(["strong", "".join(strong or ())])
                strong = None
            elif strong is not None:
                strong.append(content)
            elif child.type == "code_inline":
                block.append(["code", content])
            elif len(block) > 1 and isinstance(block[-1], str):
                block[-1] += content
            elif content:
                block.append(content)
        blocks.append(block)
    return blocks


def test_every_detail_reads_as_a_markdown_library_reads_it(
    page: Opened, screener: Screener
) -> None:
    details = {
        one["detail"]
        for path in shipped("fhir_examples").glob("*.json")
        for audience in ("clinician", "patient")
        for one in screener.screen(path, "2026-11-01T00:00:00Z").cards(audience)  # type: ignore[arg-type]
    }
    texts = sorted(details)
    assert len(texts) > 100
    shown = page.tab.evaluate(DOM_TEXT, texts)
    for text, blocks in zip(texts, shown, strict=True):
        assert blocks == blocks_of(text), text


@pytest.mark.parametrize(
    "text",
    [
        r"\*\*not strong\*\* \`not code\` \<b\>",
        "a ``code with ` inside`` b",
        "`` `tick` ``",
        "`never closed **strong**",
        "**never closed `code`",
        "**strong with `code **` in it** after",
        "** spaces ** and ****",
        "&lt;b&gt; &amp; &quot;quoted&quot;",
        "- one\n  goes on\n- two\n\nafter",
        "- one\n\n- two",
        "a\nb\n- c\nlazy",
        "`a\nb`",
        "tab\tand trailing  ",
        "\\",
        "",
    ],
)
def test_single_marks_read_as_a_markdown_library_reads_them(page: Opened, text: str) -> None:
    (blocks,) = page.tab.evaluate(DOM_TEXT, [text])
    assert blocks == blocks_of(text)


def test_nothing_hostile_in_an_answer_becomes_markup_or_is_run(page: Opened) -> None:
    address = "javascript:alert(3)"
    evil = card(
        summary=HOSTILE,
        indicator=HOSTILE,
        detail=f"{HOSTILE}\n\n- {HOSTILE}\n\n**{HOSTILE}** `{HOSTILE}` [link]({address})\n"
        f"![i](https://evil.example/i.png) <{address}> &#60;b&#62;",
        source={"label": HOSTILE, "url": address, "icon": "https://evil.example/icon.png"},
        links=[
            {"label": HOSTILE, "url": address, "type": "absolute"},
            {
                "label": "data",
                "url": "data:text/html,<script>alert(4)</script>",
                "type": "absolute",
            },
            {"label": "smart", "url": "https://evil.example/launch", "type": "smart"},
        ],
        suggestions=[
            {
                "label": HOSTILE,
                "uuid": HOSTILE,
                "actions": [
                    {
                        "type": HOSTILE,
                        "description": HOSTILE,
                        "resource": {"resourceType": HOSTILE, "text": {"div": HOSTILE}},
                    }
                ],
            }
        ],
        overrideReasons=[{"code": HOSTILE, "system": HOSTILE, "display": HOSTILE}],
        extension={
            PROVENANCE: {
                "rules": [{"id": HOSTILE, "finding": "f", "group": HOSTILE}],
                "resources": [HOSTILE],
                "digest": HOSTILE,
                "as_of": HOSTILE,
            }
        },
    )
    finding = {"id": "f", "title": HOSTILE, "tier": HOSTILE, "because": [
        {"kind": HOSTILE, "concept": HOSTILE, "sent": HOSTILE, "resource": HOSTILE},
        {"kind": "finding", "id": "f"},
    ]}  # fmt: skip
    page.cards(
        evil,
        extension={
            TRACE: {
                "findings": [finding],
                "not_evaluated": [{"rule": HOSTILE, "reason": HOSTILE, "needs": HOSTILE}],
                "problems": [{"severity": HOSTILE, "code": HOSTILE, "message": HOSTILE}],
                "unavailable": [{"key": HOSTILE, "reason": HOSTILE}],
            }
        },
    )
    page.tab.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    page.send()
    page.tab.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    page.tab.wait_for_timeout(200)
    answer = page.tab.locator("#cards")
    assert answer.locator("img, script, iframe, object, a, b, [onerror], [style]").count() == 0
    assert page.text("article.card h3") == HOSTILE
    assert answer.inner_text().count(HOSTILE) > 20
    assert "link](javascript:alert(3))" in page.text(".detail")
    assert page.complaints == []
    assert [r.url for r in page.requests if not r.url.startswith(page.base)] == []


# ---------------------------------------------------------------- feedback


def test_accepting_a_suggestion_sends_feedback(page: Opened) -> None:
    with page.tab.expect_response("**/twitching-patient-view") as got:
        page.send()
    first = got.value.json()["cards"][0]
    node = page.tab.locator("article.card").first
    with page.tab.expect_response("**/feedback") as feedback:
        node.get_by_role("button", name=f"Accept: {first['suggestions'][0]['label']}").click()
    assert feedback.value.status == 200
    (item,) = page.sent("twitching-patient-view/feedback")["feedback"]
    stamp = item.pop("outcomeTimestamp")
    assert stamp.endswith("Z")
    assert item == {
        "card": first["uuid"],
        "outcome": "accepted",
        "acceptedSuggestions": [{"id": first["suggestions"][0]["uuid"]}],
    }
    node.get_by_text("The service has recorded it").wait_for()
    assert first["suggestions"][0]["label"] in node.locator(".feedback-state").inner_text()
    buttons = node.locator(".suggestion > button")
    assert buttons.nth(0).is_disabled()
    assert buttons.nth(1).is_enabled()  # selectionBehavior "any"


def test_overriding_sends_the_reason_and_the_comment(page: Opened) -> None:
    with page.tab.expect_response("**/twitching-patient-view") as got:
        page.send()
    first = got.value.json()["cards"][0]
    reason = first["overrideReasons"][1]
    node = page.tab.locator("article.card").first
    node.get_by_text("Override this card").click()
    node.get_by_label("Reason").select_option(label=reason["display"])
    node.get_by_label("Comment").fill(" seen by the ward ")
    with page.tab.expect_response("**/feedback") as feedback:
        node.get_by_role("button", name="Override", exact=True).click()
    assert feedback.value.status == 200
    (item,) = page.sent("feedback")["feedback"]
    assert item["card"] == first["uuid"]
    assert item["outcome"] == "overridden"
    assert item["overrideReason"] == {"reason": reason, "userComment": "seen by the ward"}
    node.get_by_text("The service has recorded it").wait_for()
    assert reason["display"] in node.locator(".feedback-state").inner_text()
    assert node.locator("button:enabled", has_text="Accept").count() == 0


def test_an_override_without_reason_or_comment_sends_neither(page: Opened) -> None:
    page.send()
    node = page.tab.locator("article.card").first
    node.get_by_text("Override this card").click()
    with page.tab.expect_response("**/feedback"):
        node.get_by_role("button", name="Override", exact=True).click()
    (item,) = page.sent("feedback")["feedback"]
    assert set(item) == {"card", "outcome", "outcomeTimestamp"}


def test_feedback_that_was_not_taken_is_said_and_can_be_sent_again(page: Opened) -> None:
    page.send()
    page.answer("**/feedback", 503)
    node = page.tab.locator("article.card").first
    accept = node.locator(".suggestion > button").first
    accept.click()
    node.get_by_text("Not recorded.").wait_for()
    assert "Error 503" in node.locator(".feedback-state").inner_text()
    assert accept.is_enabled()
    page.tab.unroute("**/feedback")
    accept.click()
    node.get_by_text("The service has recorded it").wait_for()


# ---------------------------------------------------------------- from the card to the resource


def test_a_card_leads_to_the_resources_that_it_rests_on(page: Opened) -> None:
    with page.tab.expect_response("**/twitching-patient-view") as got:
        page.send()
    sent = json.dumps(page.sent("patient-view"))
    for number, one in enumerate(got.value.json()["cards"]):
        made = one.get("extension", {}).get(PROVENANCE)
        if made is None:
            continue
        trace = page.tab.locator("article.card").nth(number).locator(".trace")
        assert not trace.locator("h4").first.is_visible()  # opened on demand
        trace.locator("summary").first.click()
        shown = trace.inner_text()
        for rule in made.get("rules", []):
            assert rule["id"] in shown
        for name in made.get("resources", []):
            resource = trace.locator("details", has_text=name).first
            resource.locator("summary").click()
            content = json.loads(resource.locator("pre").inner_text())
            assert f"{content['resourceType']}/{content['id']}" == name
            assert json.dumps(content) in sent


def test_values_stand_with_the_finding_that_rests_on_them(page: Opened) -> None:
    page.send()
    trace = page.tab.locator("article.card").first.locator(".trace")
    trace.locator("summary").first.click()
    assert (
        "potassium: 2.4 mmol/L (sent as 2.4 mmol/L" in trace.locator(".because").first.inner_text()
    )


def test_what_was_not_judged_is_said_with_its_reason(page: Opened) -> None:
    page.choose(example="potassium-in-unknown-unit")
    page.send()
    whole = page.tab.locator(".whole")
    whole.get_by_text("Not judged:").click()
    assert "unit missing, unknown or not fitting" in whole.inner_text()
    assert "potassium" in whole.inner_text()


def test_every_reason_of_the_rules_has_words(page: Opened, screener: Screener) -> None:
    script = page.tab.evaluate("fetch('page.js').then(r => r.text())")
    words = script[script.index("const REASONS") : script.index("function wholeTrace")]
    for reason in screener.rulesets.texts.not_evaluated:
        assert f"{reason}: " in words or f'"{reason}": ' in words, reason


def test_problems_of_the_record_are_shown(page: Opened) -> None:
    page.cards(
        extension={
            TRACE: {
                "findings": [],
                "not_evaluated": [{"rule": "r", "reason": "stale", "needs": "potassium"}],
                "problems": [
                    {"severity": "warning", "code": "unit", "message": "unit unknown",
                     "resource": "Observation/potassium"}
                ],
                "unavailable": [{"key": "laboratory", "reason": "not-sent"}],
            }
        }
    )  # fmt: skip
    page.send()
    shown = page.text(".whole")
    assert "Problems of the record: 1" in shown
    assert "unit unknown" in shown
    assert "Judged without some of the data" in shown
    assert "too old" in shown  # open, because there is no card
    assert page.tab.locator(".whole details summary", has_text="Observation/potassium").count() == 1


# ---------------------------------------------------------------- no cards, and no answer


def test_no_cards_is_no_all_clear(page: Opened) -> None:
    page.cards()
    page.send()
    shown = page.text("#cards")
    assert "No cards" in shown
    assert "No finding does not mean that nothing is wrong" in shown
    assert page.text("#state").startswith("No cards: patient-view for Rosa Example")


def outcome(text: str) -> str:
    issue = {"severity": "error", "code": "required", "details": {"text": text}}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]})


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, outcome("context.patientId: is required"), ["Error 400", "context.patientId"]),
        (401, "", ["Error 401", "token"]),
        (404, outcome("no such service"), ["Error 404", "no such service"]),
        (412, outcome(f"prefetch.patient {HOSTILE}"), ["Error 412", "prefetch.patient", HOSTILE]),
        (500, outcome("a rule failed"), ["Error 500", "a rule failed"]),
        (503, "<html>busy</html>", ["Error 503"]),
        (200, "<html>no JSON</html>", ["The answer is not JSON"]),
        (200, "{}", ["no list of cards"]),
        (200, '{"cards": null}', ["no list of cards"]),
        (200, "[]", ["no list of cards"]),
    ],
)
def test_a_failure_is_shown_as_one_and_never_as_no_cards(
    page: Opened, status: int, body: str, said: list[str]
) -> None:
    page.answer("**/cds-services/*", status, body)
    page.send()
    shown = page.text("#cards")
    for words in said:
        assert words in shown
    assert "Nothing was judged" in shown
    assert "undefined" not in shown
    assert page.text("#state").startswith("The call failed")
    assert page.tab.locator(".empty, article.card, #cards img").count() == 0
    assert page.tab.locator("#send").is_enabled()


def test_a_dead_network_is_said(page: Opened) -> None:
    page.tab.route("**/cds-services/*", lambda route: route.abort("connectionrefused"))
    page.send()
    assert "No answer: the network failed" in page.text("#cards")
    assert page.tab.locator(".empty").count() == 0


def test_a_missing_patient_is_a_412_of_the_real_service(page: Opened) -> None:
    page.tab.uncheck("#prefetch input[name=patient]")
    page.send()
    assert "Error 412" in page.text("#cards")


def test_an_answer_is_marked_when_the_form_has_changed(page: Opened) -> None:
    page.send()
    assert page.tab.locator(".outdated").count() == 0
    page.choose(example="benign-eyelid-twitch")
    assert "answer below is that to the earlier call" in page.text(".outdated")
    page.send()
    assert page.tab.locator(".outdated").count() == 0
    page.tab.check("[name=user][value=patient]")
    assert page.tab.locator(".outdated").count() == 1


# ---------------------------------------------------------------- tokens


def with_auth(opened: Opened) -> None:
    config = {
        "auth": "required",
        "demo": False,
        "public_url": "https://cds.example.org/x",
        "version": "1",
    }
    opened.answer("**/page.json", 200, json.dumps(config))


def test_with_authentication_it_explains_and_sends_the_pasted_token(
    open_tab: Callable[..., Opened],
) -> None:
    page = open_tab()
    with_auth(page)
    page.start()
    assert "cannot call it" in page.text("#mode")
    assert "https://cds.example.org/x/cds-services/twitching-patient-view" in page.text(
        "#token-hint"
    )
    page.send()
    tokens = [r.headers.get("authorization") for r in page.requests if r.method == "POST"]
    page.tab.fill("#token", " aaa.bbb.ccc ")
    page.send()
    tokens = [r.headers.get("authorization") for r in page.requests if r.method == "POST"]
    assert tokens == [None, "Bearer aaa.bbb.ccc"]


def test_where_discovery_is_closed_a_token_opens_it(open_tab: Callable[..., Opened]) -> None:
    page = open_tab()
    with_auth(page)

    def discovery(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer good":
            route.continue_()
        else:
            route.fulfill(status=401)

    page.tab.route("**/cds-services", discovery)
    page.tab.goto(page.base)
    page.tab.wait_for_selector("#list-token")
    assert "https://cds.example.org/x/cds-services" in page.text("#service-list")
    assert page.tab.locator("details.service").count() == 0
    page.tab.fill("#list-token", "good")
    page.tab.get_by_role("button", name="Ask again").click()
    page.tab.wait_for_selector("details.service")
    page.tab.wait_for_selector("#prefetch input")


# ---------------------------------------------------------------- for everybody


def no_wider_than_the_page(page: Opened) -> None:
    width, room = page.tab.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width <= room
    beyond = page.tab.evaluate(
        """room => [...document.querySelectorAll("body *")]
            .filter(e => !e.closest(".skip, thead") && e.getBoundingClientRect().right > room + 1)
            .map(e => e.outerHTML.slice(0, 120))""",
        room,
    )
    assert beyond == []


def open_all(page: Opened) -> None:
    page.tab.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")


def check(page: Opened) -> None:
    no_wider_than_the_page(page)
    results = axe.Axe().run(page.tab)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_nobody_is_shut_out_and_nothing_is_too_wide(
    open_tab: Callable[..., Opened], size: tuple[int, int], scheme: str
) -> None:
    page = open_tab(size, color_scheme=scheme)
    page.start()
    check(page)
    page.service("order-sign")
    page.send()
    open_all(page)
    page.tab.locator("article.card .suggestion > button").first.click()
    page.tab.get_by_text("The service has recorded it").wait_for()
    page.choose(example="")
    check(page)
    page.choose(example="potassium-in-unknown-unit")
    page.answer("**/cds-services/*", 412, outcome("x" * 300))
    page.send()
    open_all(page)
    check(page)
    page.cards()
    page.send()
    check(page)


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_of_feedback_shows_each_rule_and_shuts_nobody_out(
    open_tab: Callable[..., Opened], size: tuple[int, int]
) -> None:
    page = open_tab(size)
    reasons = [{"system": "s", "code": "c", "display": HOSTILE, "count": 2}]
    rules = [
        {"rule": "a-rule", "shown": 12, "accepted": 4, "overridden": 3, "reasons": reasons},
        {"rule": None, "unmatched": 2},
    ]
    page.answer("**/feedback.json*", 200, json.dumps({"rules": rules}))
    page.start("feedback")
    page.tab.wait_for_selector("table")
    shown = page.text("table")
    for words in ("a-rule", "12", f"{HOSTILE}: 2", "(no known card)"):
        assert words in shown
    page.tab.fill("#since", "2026-11-01")
    page.tab.get_by_role("button", name="Show").click()
    page.tab.get_by_text("since 2026-11-01").wait_for()
    assert page.requests[-1].url.endswith("feedback.json?since=2026-11-01")
    check(page)
    assert page.complaints == []


def test_feedback_that_was_given_stands_on_the_page_of_feedback(page: Opened) -> None:
    page.send()
    node = page.tab.locator("article.card").first
    node.get_by_text("Override this card").click()
    node.get_by_role("button", name="Override", exact=True).click()
    node.get_by_text("The service has recorded it").wait_for()
    page.start("feedback")
    page.tab.wait_for_selector("table")
    row = page.tab.locator(
        "tr", has=page.tab.get_by_role("rowheader", name="hypokalemia-severe", exact=True)
    )
    assert int(row.locator("[data-head=Overridden]").inner_text()) >= 1


def test_the_page_of_feedback_asks_for_the_operators_token(
    open_tab: Callable[..., Opened],
) -> None:
    page = open_tab()
    with_auth(page)
    page.tab.route("**/feedback.json", lambda route: route.fulfill(status=401))
    page.start("feedback")
    page.tab.fill("#token", "wrong")
    page.tab.get_by_role("button", name="Show").click()
    page.tab.get_by_text("The operator token is wrong or missing").wait_for()
    assert page.requests[-1].headers["authorization"] == "Bearer wrong"


def test_it_can_be_used_with_the_keyboard_alone(page: Opened) -> None:
    focused = "document.activeElement.id || document.activeElement.className"
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate(focused) == "skip"
    page.tab.keyboard.press("Enter")
    for _ in range(30):
        page.tab.keyboard.press("Tab")
        if page.tab.evaluate(focused) == "send":
            break
    assert page.tab.evaluate(focused) == "send"
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector("article.card")
    assert page.tab.evaluate(focused) == "answer-head"
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate("document.activeElement.closest('article.card') !== null")


def test_without_its_script_it_says_what_is_missing(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(address)
    assert "needs JavaScript" in tab.locator("noscript").inner_text()
    context.close()
