"""What durable_rules does, measured, and that no patient notices.

Every test about a danger has two halves: `library(...)` runs the bare library in a process of
its own and shows what it does today; the engine is then shown to be immune. Where the first
half fails, the library has changed: read the care list of `cds/engine/durable.py` again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cds.engine import make_engine
from cds.errors import EngineError
from cds.model import Fact
from cds.program import AllOf, AnyOf, CompiledRule
from engine_programs import fact, leaf, program, rule

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="durable_rules cannot be imported on CPython 3.13 and later",
)

# Two ordinary texts with one FNV-1a hash of 32 bits.
ALIKE, LIKE = "b587e446-8775", "cbfed49f-250d"

PRELUDE = """
import json, locale, sys
import durable_rules_engine as c
from durable.engine import Host, MessageNotHandledException, MessageObservedException, Ruleset

fired = []

class QuietHost(Host):
    def _run(self):
        pass

def low(bound=3.0):
    return {"all": [{"m": {"$and": [{"kind": "lab"}, {"$lt": {"value": bound}}]}}],
            "run": lambda c: fired.append("low")}

def rules(**definition):
    return Ruleset("facts", QuietHost(), definition)

def show(ruleset, *facts):
    try:
        ruleset.do_actions(ruleset.assert_facts([{"sid": "s", **f} for f in facts]),
                           lambda error, state: None)
    except (MessageNotHandledException, MessageObservedException) as error:
        print(type(error).__name__)
    print(fired)

def compile(*conditions):
    every = {str(n): {"all": [{f"m{i}": t} for i, t in enumerate(c)]}
             for n, c in enumerate(conditions)}
    return c.create_ruleset("facts", json.dumps(every))

def count(handle, *facts):
    code, session = c.assert_facts(handle, json.dumps(facts))
    number, firing = 0, c.start_action_for_state(handle, session)
    while firing:
        number, firing = number + 1, c.complete_and_start_action(handle, session)
    print(code, number)
"""


def python(code: str, timeout: float = 60, **environment: str) -> tuple[int | None, str]:
    """Run code in a new process; return its exit code (None: it never ended) and output."""
    try:
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return run.returncode, run.stdout + (run.stderr.splitlines() or [""])[-1]


def library(code: str, timeout: float = 60, **environment: str) -> tuple[int | None, str]:
    """Run code with the bare library at hand."""
    return python(PRELUDE + code, timeout, **environment)


def fired(*rules: CompiledRule, facts: list[Fact]) -> list[str]:
    return [f.rule for f in make_engine("durable", program(*rules)).run(facts)]


# ---------------------------------------------------------------- facts that get lost


def test_unmatched_facts_silence_nothing_wherever_they_stand() -> None:
    assert library('show(rules(low=low()), {"kind": "lab", "value": 2}, {"kind": "x"})') == (
        0,
        "MessageNotHandledException\n[]\n",
    )
    engine = make_engine(
        "durable",
        program(
            rule("a", leaf("lab/a", [("low", "lt", 3)])),
            rule("both", AllOf((leaf("lab/a"), leaf("lab/b", [("low", "lt", 3)])))),
        ),
    )
    hits = [fact("lab/a", low=2), fact("lab/b", low=2)]
    miss = [fact("lab/c", low=2), fact("lab/d")]  # no rule knows them
    for facts in ([*miss, *hits], [hits[0], *miss, hits[1]], [*hits, *miss]):
        assert [f.rule for f in engine.run(facts)] == ["a", "both"]
    assert engine.run(miss) == []
    # Known to rules, but no test of theirs passes.
    close = fact("lab/b", low=3)
    for facts in ([close, hits[0]], [hits[0], close]):
        assert [f.rule for f in engine.run(facts)] == ["a"]
    assert engine.run([close]) == []


def test_a_repeated_fact_is_an_error_and_not_the_end_of_all_alerts() -> None:
    assert library('show(rules(low=low()), *[{"kind": "lab", "value": 2}] * 2)') == (
        0,
        "MessageObservedException\n[]\n",
    )
    # Worse: an unmatched fact behind it hides that one was refused (code 1 is not 2).
    hidden = 'count(compile([{"k": 1}]), {"id": "a", "k": 1}, {"id": "a", "k": 1}, {"k": 2})'
    assert library(hidden) == (0, "1 1\n")
    with pytest.raises(EngineError, match="key of another fact"):
        fired(rule("r", leaf("lab/a")), facts=[fact("lab/a"), fact("lab/a")])
    # The same content under two keys is two facts.
    same = [fact("lab/a", low=2), fact("lab/b", low=2)]
    assert fired(rule("r", AllOf((leaf("lab/a"), leaf("lab/b")))), facts=same) == ["r"]


def test_a_fact_with_many_props_takes_no_other_fact_with_it() -> None:
    wide = 'dict({"id": "b", "k": 1}, **{f"p{n}": n for n in range(300)})'
    code = f'count(compile([{{"k": 1}}]), {{"id": "a", "k": 1}}, {wide}, {{"id": "c", "k": 1}})'
    assert library(code) == (0, "0 1\n"), "two of three lost, and the code says that all is well"
    facts = [
        fact("lab/a"),
        fact("lab/b", **{f"p{n}": n for n in range(300)}),
        fact("lab/c"),
    ]
    seen = leaf("lab/b", [("p299", "ge", 299)])
    assert fired(rule("r", AllOf((leaf("lab/a"), seen, leaf("lab/c")))), facts=facts) == ["r"]
    every = leaf("lab/b", [(f"p{n}", "ge", n) for n in range(251)])
    with pytest.raises(EngineError, match="at most 250 different props"):
        make_engine("durable", program(rule("r", every)))


def test_one_message_cannot_fill_two_places_so_tests_of_a_fact_are_merged() -> None:
    code = 'count(compile([{"$gt": {"v": 1}}, {"$lt": {"v": 9}}]), {"id": "a", "v": 5})'
    assert library(code) == (0, "0 0\n")
    two = AllOf((leaf("lab/a", [("low", "gt", 1)]), leaf("lab/a", [("low", "lt", 9)])))
    assert fired(rule("r", two), facts=[fact("lab/a", low=5)]) == ["r"]


# ---------------------------------------------------------------- failures that get lost


def test_an_exception_while_rules_fire_reaches_the_caller_and_harms_no_later_patient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = """
def boom(c):
    raise ValueError("boom")
ruleset = rules(boom={"all": [{"m": {"$ex": {"kind": 1}}}], "run": boom})
told = []
ruleset.do_actions(ruleset.assert_facts([{"sid": "s", "kind": "lab"}]),
                   lambda error, state: told.append((error, state["exception"][:22])))
print(told)
"""
    assert library(code) == (0, "[(None, 'exception caught boom,')]\n")

    rules = [rule("a", leaf("lab/a")), rule("b", leaf("lab/b")), rule("c", leaf("finding/a"))]
    engine = make_engine("durable", program(*rules))
    from cds.engine import durable

    for broken, raised, seen in (
        ("complete_and_start_action", durable.library.error, EngineError),
        ("complete_and_start_action", KeyboardInterrupt, KeyboardInterrupt),
        ("start_action_for_state", MemoryError, EngineError),
        ("assert_facts", durable.library.error, EngineError),
        ("retract_facts", durable.library.error, EngineError),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(durable.library, broken, _raiser(raised))
            with pytest.raises(seen):
                engine.run([fact("lab/a"), fact("lab/b")])
        assert engine.run([]) == []
        assert [f.rule for f in engine.run([fact("lab/b")])] == ["b"]


def test_a_library_that_answers_out_of_order_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("durable", program(rule("a", leaf("lab/a", [("low", "lt", 3)]))))
    from cds.engine import durable

    for function, answer, message in (
        ("assert_facts", (2, 1), "refused the facts"),
        ("get_facts", '[{"id":"i1"}]', "did not forget"),
        ("retract_facts", (1, 1), "did not forget"),
        ("start_action_for_state", ("{}", '{"0":{}}'), "which does not hold"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(durable.library, function, lambda *args, answer=answer: answer)
            patched.setattr(durable.library, "complete_and_start_action", lambda *args: None)
            with pytest.raises(EngineError, match=message):
                engine.run([fact("lab/a", low=5)])
        assert engine.run([fact("lab/a", low=5)]) == []
        assert engine.run([fact("lab/a", low=2)])
    with monkeypatch.context() as patched:
        patched.setattr(durable.library, "create_ruleset", _raiser(durable.library.error))
        with pytest.raises(EngineError, match="refused the rules"):
            make_engine("durable", program())


def _raiser(error: type[BaseException]) -> object:
    def function(*args: object) -> None:
        raise error("on purpose")

    return function


# ---------------------------------------------------------------- numbers


def test_a_number_written_with_an_exponent_cannot_reach_the_library() -> None:
    exit_code, output = library('show(rules(low=low()), {"kind": "lab", "value": 0.00001})')
    assert (exit_code, "low" in output) != (0, True)
    with pytest.raises(EngineError, match="no whole number"):
        fired(rule("r", leaf("lab/a", [("low", "lt", 3)])), facts=[_sent("lab/a", 0.00001)])
    huge = 10**15
    assert fired(rule("r", leaf("lab/a", [("low", "ge", huge)])), facts=[_sent("lab/a", huge)])


def test_a_text_is_not_taken_for_a_number() -> None:
    assert library('show(rules(low=low()), {"kind": "lab", "value": "2.0"})') == (0, "['low']\n")
    for text in ("2", "2.0", "", "low"):
        with pytest.raises(EngineError, match="no whole number"):
            fired(rule("r", leaf("lab/a", [("low", "lt", 3)])), facts=[_sent("lab/a", text)])


def _sent(key: str, value: object) -> Fact:
    return Fact(key, "lab", "x", {"low": value})  # type: ignore[dict-item]  # on purpose


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which the locale de_DE.UTF-8 exists."""
    compiler, folder = shutil.which("localedef"), tmp_path_factory.mktemp("locale")
    source = Path("/usr/share/i18n/locales/de_DE")
    if compiler is None or not source.is_file():
        pytest.skip("no localedef, or no source of de_DE, to make a locale with decimal comma")
    made = subprocess.run(
        [compiler, "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")], check=False
    )
    if not (folder / "de_DE.UTF-8").exists():
        pytest.skip(f"localedef could not make de_DE.UTF-8 (exit {made.returncode})")
    return {"LOCPATH": str(folder)}


GERMAN = 'locale.setlocale(locale.LC_ALL, "de_DE.UTF-8"); '


def test_a_decimal_comma_changes_no_comparison(german: dict[str, str]) -> None:
    below, ask = "ruleset = rules(low=low(3.5)); ", 'show(ruleset, {"kind": "lab", "value": 3.9})'
    assert library(below + ask) == (0, "MessageNotHandledException\n[]\n")
    assert library(below + GERMAN + ask, **german) == (0, "['low']\n"), "3.9 was read as 3"
    code = f"""
import locale
{GERMAN}
assert locale.localeconv()["decimal_point"] == ","
from cds.engine import make_engine
from cds.program import grid_code
from decimal import Decimal
from engine_programs import fact, leaf, program, rule
engine = make_engine("verify", program(
    rule("r", leaf("lab/a", [("low", "lt", grid_code(Decimal("3.5")))]))))
print([len(engine.run([fact("lab/a", low=grid_code(Decimal(v)))]))
       for v in ("3.9", "3.5", "3.49999999", "3.4999", "-3.9")])
"""
    assert python(code, **german) == (0, "[0, 0, 1, 1, 1]\n")


# ---------------------------------------------------------------- names that are mixed up


def test_patients_are_never_joined() -> None:
    code = f"""
ruleset = rules(
    both={{"all": [{{"a": {{"kind": "lab"}}}}, {{"b": {{"kind": "med"}}}}],
          "run": lambda c: fired.append((c.a["sid"], c.b["sid"]))}},
    sink={{"all": [{{"m": {{"$ex": {{"kind": 1}}}}}}], "run": lambda c: None}})
for sid, kind in (("{ALIKE}", "lab"), ("{LIKE}", "med")):
    ruleset.do_actions(ruleset.assert_facts([{{"sid": sid, "kind": kind}}]), lambda e, s: None)
print(fired)
"""
    assert library(code) == (0, f"[('{ALIKE}', '{LIKE}')]\n"), "two patients became one"
    both = rule("both", AllOf((leaf("lab/a"), leaf("medication/b"))))
    engine = make_engine("durable", program(both))
    assert engine.run([fact("lab/a", ALIKE)]) == []
    assert engine.run([fact("medication/b", LIKE)]) == []
    assert len(engine.run([fact("medication/b", LIKE), fact("lab/a", ALIKE)])) == 1
    assert engine.run([fact("lab/a", ALIKE)]) == []


def test_facts_and_props_with_names_of_one_hash_stay_apart() -> None:
    code = f'count(compile([{{"k": 1}}]), {{"id": "{ALIKE}", "k": 1}}, {{"id": "{LIKE}", "k": 1}})'
    assert library(code) == (0, "2 1\n")
    two = rule("two", AllOf((leaf(ALIKE), leaf(LIKE))))
    first = rule("first", leaf(ALIKE, [(ALIKE, "lt", 5)]))
    assert fired(two, first, facts=[fact(ALIKE, **{LIKE: 1}), fact(LIKE)]) == ["two"]
    assert fired(two, first, facts=[fact(ALIKE, **{ALIKE: 1, LIKE: 9})]) == ["first"]


def test_the_names_given_to_the_library_differ_in_its_own_hash() -> None:
    from cds.engine.durable import _fnv1a, _Names

    assert _fnv1a(ALIKE) == _fnv1a(LIKE), "this is the hash that the library uses"
    names = _Names()
    given = [names.new("ik"[n % 2]) for n in range(50_000)]
    assert len({_fnv1a(name) for name in (*given, "id", "sid", "sid-0", "$s")}) == 50_004
    names._taken.add(_fnv1a("k50000"))
    assert names.new("k") == "k50001", "a name whose hash is taken is passed over"


# ---------------------------------------------------------------- tables that run over


def test_the_number_of_patients_has_no_end() -> None:
    code = (
        'show(rules(low=low()), *[{"sid": str(n), "kind": "lab", "value": 2} for n in range(1025)])'
    )
    assert library(code)[1].endswith("MemoryError")
    engine = make_engine("durable", program(rule("r", leaf("lab/a", [("low", "lt", 9)]))))
    assert sum(len(engine.run([fact("lab/a", low=n % 10)])) for n in range(3_000)) == 2_700


@pytest.mark.parametrize("length", [3, 4, 5, 16, 17, 40])
def test_a_conjunction_may_have_any_length(length: int) -> None:
    if length == 17:  # more than 16 messages: refused when they are there, not before
        code = 'count(compile([{"k": n} for n in range(17)]), *[{"k": n} for n in range(17)])'
        assert library(code)[1].endswith("error code: 304")
    keys = [f"lab/{n}" for n in range(length)]
    engine = make_engine("verify", program(rule("r", AllOf(tuple(leaf(k) for k in keys)))))
    for missing in (None, *keys):
        got = engine.run([fact(key) for key in keys if key != missing])
        assert len(got) == (missing is None), missing


def test_no_clause_joins_more_messages_than_the_library_can_retract_safely() -> None:
    from cds.engine.durable import _PLACES, _Network

    long = AllOf(tuple(leaf(f"lab/{n}") for n in range(40)))
    nested = AllOf((AnyOf((long, AllOf((leaf("lab/x"), long)))), long, leaf("lab/y")))
    clauses = _Network(program(rule("r", nested, AnyOf((long,))), rule("s", long))).outcomes
    assert _PLACES == 3
    assert max(len(clause) for clause in clauses) == 3


@pytest.mark.parametrize("uses", [255, 256, 257, 600])
def test_any_number_of_rules_may_ask_for_the_same_thing(uses: int) -> None:
    if uses == 256:  # the library forgets the end mark of its list and runs into the next one
        code = 'count(compile(*[[{"k": 1}]] * 256, [{"k": 2}]), {"id": "a", "k": 1})'
        assert library(code) == (0, "0 257\n"), "the rule for 2 fires where the fact says 1"
    adult = leaf("patient/age", [("years", "ge", 18)])
    rules = [rule(f"r{n}", AllOf((adult, leaf(f"lab/{n}")))) for n in range(uses)]
    rules.insert(1, rule("next", leaf("lab/next")))
    engine = make_engine("durable", program(*rules))
    labs = [fact(f"lab/{n}") for n in range(uses)]
    of_age = fact("patient/age", years=18)
    assert len(engine.run([*labs, of_age])) == uses
    assert engine.run([*labs, fact("patient/age", years=17)]) == []
    assert engine.run([of_age]) == []
    assert [f.rule for f in engine.run([of_age, labs[-1]])] == [f"r{uses - 1}"]


def test_any_number_of_different_facts_may_be_asked_for() -> None:
    hang = 'count(compile(*([{"key": n}] for n in range(512))), {"id": "a", "key": 511})'
    assert library(hang, timeout=3) == (None, ""), "it looks for the end of a full table for ever"
    rules = [rule(f"r{n}", leaf(f"lab/{n}")) for n in range(1_500)]
    engine = make_engine("durable", program(*rules))
    for n in (0, 31, 32, 511, 512, 1_499):
        assert [f.rule for f in engine.run([fact(f"lab/{n}")])] == [f"r{n}"]
    assert len(engine.run([fact(f"lab/{n}") for n in range(1_500)])) == 1_500


def test_more_thresholds_than_the_library_can_follow_are_refused_before_the_first_patient() -> None:
    code = 'count(compile(*([{"$gt": {"v": n}}] for n in range(65))), {"id": "a", "v": 99})'
    assert library(code)[1].endswith("error code: 303"), "known only when that patient comes"

    def engine(ways: int) -> list[str]:
        rules = [rule(f"r{n}", leaf("lab/a", [("low", "gt", n)])) for n in range(ways)]
        return fired(*rules, facts=[fact("lab/a", low=99)])

    assert len(engine(64)) == 64
    with pytest.raises(EngineError, match="'lab/a' in more different ways"):
        engine(65)
    # Not how many rules there are matters, but how they branch.
    deep = [
        rule(f"r{n}", leaf("lab/a", [("age", "le", n % 8), ("low", "gt", n)])) for n in range(300)
    ]
    assert len(fired(*deep, facts=[fact("lab/a", low=299, age=0)])) == 299


def test_more_conjunctions_than_the_library_takes_are_refused() -> None:
    pairs = [(x, y) for x in range(64) for y in range(64)]

    def rules(count: int) -> Iterator[CompiledRule]:
        for n, (x, y) in enumerate(pairs[:count]):
            yield rule(f"r{n}", AllOf((leaf(f"lab/x{x}"), leaf(f"lab/y{y}"))))

    assert fired(*rules(4_095), facts=[fact("lab/x0"), fact("lab/y1")]) == ["r1"]
    with pytest.raises(EngineError, match="4096 different conjunctions"):
        make_engine("durable", program(*rules(4_096)))


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 3.5, True])
def test_a_threshold_that_is_no_exact_whole_number_is_refused_with_its_rule(value: int) -> None:
    wrong, right = leaf("lab/a", [("low", "lt", value)]), leaf("lab/b")
    for rules in (program(rule("r", wrong)), program(rule("r", right, AnyOf((right, wrong))))):
        with pytest.raises(EngineError, match="rule 'r': 'lab/a' is compared with"):
            make_engine("durable", rules)


def test_a_conjunction_of_nothing_is_refused() -> None:
    with pytest.raises(EngineError, match="without criteria"):
        make_engine("durable", program(rule("r", AllOf(()))))


# ---------------------------------------------------------------- the process


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is of glibc")
def test_engines_come_and_go_without_ending_the_process() -> None:
    pending = """
ruleset = rules(low=low())
ruleset.assert_facts([{"sid": "s", "kind": "lab", "value": 2}])
ruleset.delete_state("s")
"""
    assert library(pending, MALLOC_PERTURB_="165")[0] not in (0, 1)
    code = """
import gc
from cds.engine import make_engine
from engine_programs import fact, leaf, program, rule
rules = program(rule("r", leaf("lab/a", [("low", "lt", 3)])))
for facts in ([], [[]], [[fact("lab/a", low=5)]], [[fact("lab/a", low=2)]] * 2):
    for n in range(20):
        engine = make_engine("durable", rules)
        for patient in facts:
            engine.run(patient)
        del engine
        gc.collect()
kept = make_engine("durable", rules)
print(len(kept.run([fact("lab/a", low=2)])))
"""
    for perturb in ("0", "165"):
        assert python(code, MALLOC_PERTURB_=perturb) == (0, "1\n")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory in use")
def test_an_engine_that_is_no_longer_used_gives_its_memory_back() -> None:
    code = """
from cds.engine import make_engine
from engine_programs import fact, leaf, program, rule
rules = program(*(rule(f"r{n}", leaf(f"lab/{n}", [("low", "lt", 3)])) for n in range(20)))

def engines(count):
    for n in range(count):
        assert make_engine("durable", rules).run([fact("lab/7", low=2)])
    return int(open("/proc/self/statm").read().split()[1])  # pages

before = engines(50)
print(engines(200) - before < 256)
"""
    assert python(code) == (0, "True\n")


def test_a_batch_without_messages_never_reaches_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cds.engine import durable

    # It would leave the number of its session to chance.
    engine = make_engine("durable", program(rule("r", leaf("lab/a"))))
    original, batches = durable.library.assert_facts, []

    def watched(handle: int, messages: str) -> tuple[int, int]:
        batches.append(messages)
        return original(handle, messages)

    monkeypatch.setattr(durable.library, "assert_facts", watched)
    assert engine.run([]) == []
    assert engine.run([fact("lab/unheard-of")]) == []
    assert batches == []
    assert [f.rule for f in engine.run([fact("lab/a")])] == ["r"]
    assert len(batches) == 1, "no rule asks for the finding"


def test_threads_wait_for_one_another_before_they_enter_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cds.engine import durable

    engine = make_engine("durable", program(rule("r", leaf("lab/a"))))
    original, inside, most = durable.library.assert_facts, [], []

    def slow(handle: int, messages: str) -> tuple[int, int]:
        inside.append(handle)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return original(handle, messages)

    monkeypatch.setattr(durable.library, "assert_facts", slow)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(engine.run, [[fact("lab/a")]] * 12))
    assert [len(firings) for firings in results] == [1] * 12
    assert max(most) == 1


def test_no_threads_are_started() -> None:
    code = """
import threading
from cds.engine import make_engine
from engine_programs import fact, leaf, program, rule
make_engine("durable", program(rule("r", leaf("lab/a")))).run([fact("lab/a")])
print(threading.active_count())
"""
    assert python(code) == (0, "1\n")


def test_only_the_engine_itself_imports_durable_rules() -> None:
    import cds

    home = Path(cds.__file__).parent
    users = [
        path.relative_to(home).as_posix()
        for path in sorted(home.rglob("*.py"))
        if any(
            line.split()[:1] in (["import"], ["from"]) and "durable" in line.split()[1]
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        )
    ]
    # The package imports our own module of that name, where it is asked for.
    assert users == ["engine/__init__.py", "engine/durable.py"]
