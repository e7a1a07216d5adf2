"""The pages as served: files, headers, example patients, and who may read the feedback."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

import cds.service.pages
from cds import Screener, load_rulesets
from cds.service.pages import POLICY, page_routes
from cds.service.settings import Settings
from cds.service.store import StoreDown
from cds.shipped import shipped

FOLDER = Path(cds.service.pages.__file__).with_name("page")
SINCE = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class Rule:
    """Has the members of a row of the store's summary."""

    rule: str = "hypokalemia-severe"
    shown: int = 3
    accepted: int = 1
    overridden: int = 1
    reasons: dict[str, int] = field(default_factory=lambda: {"already-managed": 1})
    unmatched: int = 0


class Summary:
    """Has the one method of the store that the page needs."""

    down = False

    def __init__(self) -> None:
        self.asked: list[datetime | None] = []

    async def summary(self, since: datetime | None = None) -> Sequence[Rule]:
        self.asked.append(since)
        if self.down:
            raise StoreDown("closed")
        return [Rule()]


class Client:
    """Asks the pages, without a network."""

    def __init__(
        self, settings: Settings, store: Summary | None = None, base_path: str = ""
    ) -> None:
        self.app = Starlette(routes=page_routes(settings, store or Summary(), base_path=base_path))

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(one())

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.ask("GET", path, headers)


@pytest.fixture
def demo() -> Client:
    return Client(Settings(insecure_demo=True))


def production(operator_token_file: Path | None = None) -> Settings:
    return Settings(
        behind_proxy=True,
        trusted_proxies=("10.0.0.7",),
        public_url="https://cds.example.org",
        operator_token_file=operator_token_file,
    )


class Addresses(HTMLParser):
    """Gathers what a page loads or links to, and everything inline."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        for name, value in attrs:
            if name in ("src", "href", "action", "poster", "data"):
                self.found.append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


@pytest.mark.parametrize(
    ("path", "title"), [("/", "CDS Hooks"), ("/feedback", "Feedback per rule")]
)
def test_a_page_needs_nothing_but_this_service_and_holds_nothing_inline(
    demo: Client, path: str, title: str
) -> None:
    answer = demo.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert title in answer.text
    parser = Addresses()
    parser.feed(answer.text)
    assert parser.inline == []
    assert parser.found
    for address in parser.found:
        # Relative, so that the page works under any base path.
        assert not re.match(r"[a-z]+:|/", address, re.I), address
        if not address.startswith("#") and address not in ("cds-services", "./"):
            assert demo.get(f"/{address}").status_code == 200, address


def test_every_file_of_the_folder_is_served_and_loads_only_files_of_the_folder(
    demo: Client,
) -> None:
    files = {path.name for path in FOLDER.iterdir()}
    assert {"index.html", "page.js", "page.css", "feedback.html", "feedback.js"} <= files
    for name in files - {"index.html", "feedback.html"}:
        answer = demo.get(f"/{name}")
        assert answer.status_code == 200, name
        assert answer.content == (FOLDER / name).read_bytes()
        for imported in re.findall(r'(?:from|import)\s*\(?"([^"]+)"', answer.text):
            assert imported.removeprefix("./") in files, (name, imported)
        assert "@import" not in answer.text
        assert "url(" not in answer.text


def test_no_script_knows_how_to_make_markup_of_text() -> None:
    for path in FOLDER.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
            "localStorage",
            "sessionStorage",
            "cookie",
        ):
            assert word not in text, (path.name, word)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/page.js",
        "/page.css",
        "/page.json",
        "/demo/patients",
        "/demo/patients/no-such",
        "/feedback",
        "/feedback.json",
    ],
)
def test_everything_is_served_with_the_policy(demo: Client, path: str) -> None:
    headers = demo.get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] in ("no-store", "no-cache")


def test_the_policy_allows_this_service_and_nothing_else() -> None:
    policy = dict(part.strip().split(" ", 1) for part in POLICY.split(";"))
    assert policy["default-src"] == "'none'"
    for name, value in policy.items():
        assert value in ("'none'", "'self'") or name == "require-trusted-types-for"


def test_a_file_that_has_not_changed_is_not_sent_again(demo: Client) -> None:
    tag = demo.get("/page.js").headers["etag"]
    again = demo.get("/page.js", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    assert demo.get("/page.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_only_get_and_head_are_answered(demo: Client) -> None:
    assert demo.ask("HEAD", "/").status_code == 200
    assert demo.ask("HEAD", "/").content == b""
    assert demo.ask("POST", "/").status_code == 405
    assert demo.ask("POST", "/feedback.json").status_code == 405


def test_it_works_under_a_base_path() -> None:
    settings = Settings(insecure_demo=True, base_path="/cds")
    client = Client(settings, base_path="/cds")
    assert client.get("/cds/").status_code == 200
    assert client.get("/cds/page.js").status_code == 200
    assert client.get("/cds/demo/patients").status_code == 200
    assert client.get("/").status_code == 404


# ---------------------------------------------------------------- example patients


def test_every_shipped_patient_is_offered_with_a_title_and_what_its_sheet_expects(
    demo: Client,
) -> None:
    patients = demo.get("/demo/patients").json()["patients"]
    shipped_names = {path.stem for path in shipped("fhir_examples").glob("*.json")}
    assert {patient["name"] for patient in patients} == shipped_names
    assert len(patients) == len(shipped_names)
    for patient in patients:
        assert patient["title"]
        assert patient["group"]
        assert patient["tier"] in (None, "emergency", "urgent", "soon", "routine", "info")
    rosa = next(p for p in patients if p["name"] == "potassium-2-4-with-palpitations")
    assert rosa["label"] == "Potassium 2.4 with palpitations"
    assert rosa["group"] == "Low potassium"
    assert rosa["title"].startswith("An emergency on a thiazide")
    assert rosa["tier"] == "emergency"


@pytest.mark.parametrize("name", ["no-such", "README", "..%2FREADME", "%2e%2e/README.md"])
def test_what_is_no_example_is_not_found(demo: Client, name: str) -> None:
    assert demo.get(f"/demo/patients/{name}").status_code == 404


def test_the_dates_of_an_example_are_moved_and_nothing_else(demo: Client) -> None:
    moved: Any = demo.get("/demo/patients/potassium-2-4-with-palpitations").json()
    days = timedelta(days=(datetime.now(UTC) - SINCE).days)
    by_id = {entry["resource"]["id"]: entry["resource"] for entry in moved["entry"]}
    potassium = by_id["potassium"]
    taken = datetime.fromisoformat("2026-10-31T08:20:00Z") + days
    assert datetime.fromisoformat(potassium["effectiveDateTime"]) == taken
    assert potassium["valueQuantity"]["value"] == 2.4
    assert potassium["identifier"][0]["value"] == "R26-301144-1"
    birth = datetime.fromisoformat("1968-03-14") + days
    assert by_id["example-rosa"]["birthDate"] == birth.date().isoformat()


@pytest.mark.parametrize(
    ("value", "moved"),
    [
        ("2026-12-30", "2027-01-02"),
        ("2024-02-28", "2024-03-02"),
        ("2026-10-31T23:20:00.5+02:00", "2026-11-03T23:20:00.5+02:00"),
        ("2026-10", "2026-10"),
        ("2026", "2026"),
        ("5487", "5487"),
        ("R26-301144-1", "R26-301144-1"),
        (2026, 2026),
        (None, None),
        ({"a": ["2026-01-01", {"b": "2026-01-31"}]}, {"a": ["2026-01-04", {"b": "2026-02-03"}]}),
    ],
)
def test_a_date_moves_by_days_and_all_else_stays(value: Any, moved: Any) -> None:
    assert cds.service.pages._moved(value, timedelta(days=3)) == moved


@pytest.mark.parametrize("hours", [0, 23.9])
def test_a_moved_example_gives_the_tier_of_its_sheet_at_any_time_of_the_day(
    demo: Client, hours: float
) -> None:
    screener = Screener(load_rulesets())
    days = timedelta(days=(datetime.now(UTC) - SINCE).days)
    now = SINCE + days + timedelta(hours=hours)
    other = {}
    for patient in demo.get("/demo/patients").json()["patients"]:
        record = demo.get(f"/demo/patients/{patient['name']}").json()
        tier = screener.screen(record, as_of=now).tier
        if (None if tier is None else tier.name) != patient["tier"]:
            other[patient["name"]] = tier
    assert other == {}


def test_every_code_of_a_draft_is_known_to_the_rules(demo: Client) -> None:
    terminology = load_rulesets().terminology
    drafts = demo.get("/drafts.json").json()["drafts"]
    contexts = {context for draft in drafts for context in draft["contexts"]}
    assert contexts == {"draftOrders", "medications", "conditions"}
    for draft in drafts:
        resource = draft["resource"]
        assert resource["id"] == draft["id"]
        (coding,) = (resource.get("code") or resource["medicationCodeableConcept"])["coding"]
        key = terminology.canonical_system(coding["system"]), coding["code"]
        assert terminology.lab_code(*key) or terminology.concepts_of(*key), draft["id"]


# ---------------------------------------------------------------- who may see what


def test_the_page_says_whether_calls_need_a_token_and_nothing_of_clients() -> None:
    client = Client(production())
    config = client.get("/page.json").json()
    assert client.get("/demo/patients").status_code == 200
    assert config.pop("version")
    assert config == {"auth": "required", "demo": False, "public_url": "https://cds.example.org"}


def test_the_demonstration_shows_feedback_without_a_token(demo: Client) -> None:
    rule = demo.get("/feedback.json").json()["rules"][0]
    assert rule == {
        "rule": "hypokalemia-severe",
        "shown": 3,
        "accepted": 1,
        "overridden": 1,
        "reasons": {"already-managed": 1},
        "unmatched": 0,
    }


def test_feedback_wants_the_operators_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("correct-horse-battery\n", encoding="utf-8")
    client = Client(production(file))
    assert client.get("/feedback.json").status_code == 401
    assert client.get("/feedback.json").content == b""
    assert client.get("/feedback").status_code == 200  # the page itself holds no numbers
    for value, status in {
        "Bearer wrong": 401,
        "Bearer ": 401,
        "Basic correct-horse-battery": 401,
        "Bearer correct-horse-battery": 200,
    }.items():
        answer = client.get("/feedback.json", {"Authorization": value})
        assert answer.status_code == status, value


def test_without_an_operators_token_nobody_sees_feedback() -> None:
    for value in ("Bearer ", "Bearer", "", "Bearer None"):
        answer = Client(production()).get("/feedback.json", {"Authorization": value})
        assert (answer.status_code, answer.content) == (401, b"")


def test_a_database_that_is_down_is_no_empty_summary() -> None:
    store = Summary()
    store.down = True
    answer = Client(Settings(insecure_demo=True), store).get("/feedback.json")
    assert answer.status_code == 503
    assert answer.json()["resourceType"] == "OperationOutcome"


def test_feedback_can_be_asked_for_since_a_day() -> None:
    store = Summary()
    client = Client(Settings(insecure_demo=True), store)
    assert client.get("/feedback.json?since=2026-11-01").status_code == 200
    assert client.get("/feedback.json").status_code == 200
    refused = client.get("/feedback.json?since=yesterday")
    assert store.asked == [SINCE, None]
    assert refused.status_code == 400
    assert refused.json()["resourceType"] == "OperationOutcome"
    assert "yesterday" not in refused.text
