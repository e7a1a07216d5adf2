"""What every engine must do with a program, and what `make_engine` gives."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from cds.engine import MAX_NUMBER, Engine, make_engine
from cds.errors import EngineError, UsageError
from cds.model import Fact, Firing
from cds.program import AllOf, AnyOf, CompiledRule, Node
from engine_programs import fact, leaf, program, rule

HAS_DURABLE = sys.version_info < (3, 13)
needs_durable = pytest.mark.skipif(
    not HAS_DURABLE, reason="durable_rules cannot be imported on CPython 3.13 and later"
)

Make = Callable[..., Engine]


@pytest.fixture(params=[pytest.param("durable", marks=needs_durable), "reference"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes an engine for rules; every test runs once for each engine."""
    return lambda *rules: make_engine(request.param, program(*rules))


def fired(engine: Engine, *facts: Fact) -> list[str]:
    return [f.rule for f in engine.run(facts)]


A, B, C, D, E = (leaf(f"lab/{name}") for name in "abcde")


def found(finding: str) -> Node:
    return leaf(f"finding/{finding}")


def facts(names: str) -> list[Fact]:
    return [fact(f"lab/{name}") for name in names]


# ---------------------------------------------------------------- criteria


@pytest.mark.parametrize(
    ("op", "holding"), [("lt", {9}), ("le", {9, 10}), ("gt", {11}), ("ge", {10, 11})]
)
def test_a_threshold_is_inclusive_exactly_where_its_word_says_so(
    make: Make, op: str, holding: set[int]
) -> None:
    engine = make(rule("r", leaf("lab/a", [("low", op, 10)])))
    assert {v for v in (9, 10, 11) if fired(engine, fact("lab/a", low=v))} == holding


@pytest.mark.parametrize("bound", [0, 1, -1, 2**31, 2**32, -(2**32), 2 * 10**12, MAX_NUMBER - 1])
def test_neighboring_whole_numbers_are_never_confused(make: Make, bound: int) -> None:
    engine = make(
        rule("below", leaf("lab/a", [("low", "lt", bound)])),
        rule("above", leaf("lab/a", [("low", "gt", bound)])),
    )
    assert fired(engine, fact("lab/a", low=bound - 1)) == ["below"]
    assert fired(engine, fact("lab/a", low=bound)) == []
    assert fired(engine, fact("lab/a", low=bound + 1)) == ["above"]


def test_the_largest_and_smallest_numbers_are_compared_exactly(make: Make) -> None:
    engine = make(
        rule("largest", leaf("lab/a", [("low", "ge", MAX_NUMBER)])),
        rule("smallest", leaf("lab/a", [("low", "le", -MAX_NUMBER)])),
    )
    assert fired(engine, fact("lab/a", low=MAX_NUMBER)) == ["largest"]
    assert fired(engine, fact("lab/a", low=MAX_NUMBER - 1)) == []
    assert fired(engine, fact("lab/a", low=-MAX_NUMBER)) == ["smallest"]


def test_every_test_of_an_alternative_must_pass_and_one_alternative_is_enough(make: Make) -> None:
    both = [("low", "lt", 10), ("age", "le", 7)]
    engine = make(rule("r", leaf("lab/a", both, [("flag", "ge", 2)])))
    assert fired(engine, fact("lab/a", low=9, age=7))
    assert not fired(engine, fact("lab/a", low=9, age=8))
    assert not fired(engine, fact("lab/a", low=10, age=7))
    assert fired(engine, fact("lab/a", low=10, age=8, flag=2))


@pytest.mark.parametrize("op", ["lt", "le", "gt", "ge"])
def test_a_missing_fact_or_prop_satisfies_nothing(make: Make, op: str) -> None:
    engine = make(rule("r", leaf("lab/a", [("low", op, 0)])))
    assert not fired(engine)
    assert not fired(engine, fact("lab/a"))
    assert not fired(engine, fact("lab/a", high=0))
    assert not fired(engine, fact("lab/b", low=-1), fact("lab/c", low=1))


def test_one_fact_can_satisfy_several_criteria_of_a_rule(make: Make) -> None:
    above, below = leaf("lab/a", [("low", "gt", 1)]), leaf("lab/a", [("low", "lt", 9)])
    engine = make(rule("r", AllOf((above, below, leaf("lab/a")))))
    assert fired(engine, fact("lab/a", low=5))
    assert not fired(engine, fact("lab/a", low=1))
    assert not fired(engine, fact("lab/a", low=9))


def test_all_and_any_nest(make: Make) -> None:
    engine = make(rule("r", AllOf((A, AnyOf((B, AllOf((C, AnyOf((D, E))))))))))
    holding = {"ab", "acd", "ace", "abc", "acde"}
    for names in ("a", "b", "ac", "cd", "bcde", "ad", *holding):
        assert bool(fired(engine, *facts(names))) == (names in holding), names


# ---------------------------------------------------------------- chaining


def test_findings_trigger_further_rules_in_any_order_of_the_file(make: Make) -> None:
    engine = make(
        rule("third", AllOf((found("second"), B))), rule("second", found("first")), rule("first", A)
    )
    assert fired(engine, *facts("ab")) == ["third", "second", "first"]
    assert fired(engine, *facts("a")) == ["second", "first"]
    assert fired(engine, *facts("b")) == []


def test_rules_in_a_circle_do_not_support_one_another_out_of_nothing(make: Make) -> None:
    engine = make(
        rule("x", AnyOf((found("y"), A))), rule("y", AnyOf((found("x"), B))), rule("z", found("y"))
    )
    assert fired(engine) == []
    assert fired(engine, *facts("a")) == ["x", "y", "z"]
    assert fired(engine, *facts("b")) == ["x", "y", "z"]


def test_two_rules_of_one_finding_both_fire_and_trigger_once(make: Make) -> None:
    engine = make(
        rule("one", A, finding="f"), rule("two", B, finding="f"), rule("after", found("f"))
    )
    assert fired(engine, *facts("ab")) == ["one", "two", "after"]
    assert fired(engine, *facts("b")) == ["two", "after"]


def test_a_fact_of_unless_keeps_a_rule_and_all_that_builds_on_it_silent(make: Make) -> None:
    engine = make(rule("r", A, AnyOf((B,))), rule("after", found("r")))
    assert fired(engine, *facts("a")) == ["r", "after"]
    assert fired(engine, *facts("ab")) == []


def test_a_finding_behind_unless_is_awaited_however_long_its_chain(make: Make) -> None:
    engine = make(
        rule("last", A, AnyOf((found("end"),)), stratum=1),
        rule("end", found("middle")),
        rule("middle", AnyOf((found("start"), D))),
        rule("start", B),
        rule("beyond", C, AnyOf((found("last"),)), stratum=2),
    )
    assert fired(engine, *facts("ac")) == ["last"]
    assert fired(engine, *facts("abc")) == ["end", "middle", "start", "beyond"]


def test_a_compound_unless_is_settled_before_its_rule_has_consequences(make: Make) -> None:
    compound = AllOf((AnyOf((B, C)), AnyOf((D, AllOf((E, AnyOf((B, D))))))))
    engine = make(rule("r", A, AnyOf((compound,))), rule("after", found("r")))
    assert fired(engine, *facts("a")) == ["r", "after"]
    assert fired(engine, *facts("acd")) == []
    assert fired(engine, *facts("ace")) == ["r", "after"]
    assert fired(engine, *facts("abe")) == []


def test_a_finding_that_another_rule_still_makes_survives_a_blocked_rule(make: Make) -> None:
    engine = make(
        rule("blocked", A, AnyOf((B,)), finding="f"),
        rule("free", C, finding="f"),
        rule("after", found("f")),
    )
    assert fired(engine, *facts("abc")) == ["free", "after"]


def test_a_rule_that_only_stands_in_for_others_is_not_run(make: Make) -> None:
    engine = make(rule("stand-in", AllOf(()), stands_in=True), rule("r", A))
    assert fired(engine, *facts("a")) == ["r"]


# ---------------------------------------------------------------- what a firing says


def test_because_names_all_alternatives_that_hold_but_no_part_of_one_that_does_not(
    make: Make,
) -> None:
    tree = AllOf((AnyOf((B, AllOf((C, D)), leaf("lab/x"))), A, found("f")))
    engine = make(rule("r", tree, AnyOf((E,))), rule("f", AnyOf((A, B))))
    assert engine.run(facts("bca")) == [
        Firing("r", ("finding/f", "lab/a", "lab/b")),
        Firing("f", ("lab/a", "lab/b")),
    ]


def test_a_criterion_that_does_not_hold_is_no_reason(make: Make) -> None:
    engine = make(rule("r", AnyOf((leaf("lab/a", [("low", "lt", 3)]), B))))
    assert engine.run([fact("lab/a", low=5), fact("lab/b")]) == [Firing("r", ("lab/b",))]


def test_firings_stand_in_the_order_of_the_program(make: Make) -> None:
    rules = [rule(f"r{n}", AnyOf((A, found("r3")))) for n in (5, 3, 9, 1)]
    assert fired(make(*rules), *facts("a")) == ["r5", "r3", "r9", "r1"]


def test_no_facts_and_no_rules_are_no_findings(make: Make) -> None:
    assert make().run([fact("lab/a", low=1)]) == []
    assert make(rule("r", A)).run([]) == []


# ---------------------------------------------------------------- what is refused


def test_two_facts_with_one_key_are_refused_even_if_no_rule_asks_for_them(make: Make) -> None:
    engine = make(rule("r", A))
    for key in ("lab/a", "condition/secret"):
        twice = [fact(key, "Observation/1", low=1), fact(key, "Observation/2", low=1)]
        with pytest.raises(EngineError, match="Observation/2") as error:
            engine.run(twice)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("value", [True, 3.0, "3", None, MAX_NUMBER + 1, -MAX_NUMBER - 1])
def test_what_is_no_whole_number_is_refused_and_not_repeated(make: Make, value: object) -> None:
    engine = make(rule("r", leaf("lab/a", [("low", "lt", 10)])))
    wrong = Fact("lab/a", "lab", "a", {"low": value})  # type: ignore[dict-item]  # on purpose
    with pytest.raises(EngineError, match="'low' is no whole number") as error:
        engine.run([wrong])
    assert repr(value) not in str(error.value)
    assert fired(engine, fact("lab/a", low=1)) == ["r"], "the engine goes on with the next patient"


def test_a_fact_cannot_pass_itself_off_as_a_finding(make: Make) -> None:
    with pytest.raises(EngineError, match="claims to be a finding"):
        make(rule("r", found("f")), rule("f", A)).run([fact("finding/f")])


# ---------------------------------------------------------------- choosing an engine


@pytest.mark.parametrize(
    ("implementation", "version", "name"),
    [
        ("cpython", (3, 11, 0), "durable"),
        ("cpython", (3, 12, 9), "durable"),
        ("cpython", (3, 13, 0), "reference"),
        ("cpython", (3, 14, 1), "reference"),
        ("pypy", (3, 11, 0), "reference"),
    ],
)
@needs_durable
def test_auto_is_durable_wherever_that_can_be_imported(
    monkeypatch: pytest.MonkeyPatch, implementation: str, version: tuple[int, ...], name: str
) -> None:
    here = SimpleNamespace(
        implementation=SimpleNamespace(name=implementation), version_info=version
    )
    monkeypatch.setattr("cds.engine.sys", here)
    assert make_engine("auto", program()).name == name


@pytest.mark.parametrize("name", ["auto", "durable", "verify"])
def test_a_durable_rules_that_cannot_be_imported_is_an_error_and_no_silent_change_of_engine(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(
        "cds.engine.sys",
        SimpleNamespace(implementation=sys.implementation, version_info=(3, 12, 0)),
    )
    monkeypatch.delitem(sys.modules, "cds.engine.durable", raising=False)
    monkeypatch.setitem(sys.modules, "durable_rules_engine", None)
    with pytest.raises(EngineError, match="cannot be imported"):
        make_engine(name, program())


def test_an_unknown_engine_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match="auto, durable, reference, verify"):
        make_engine("drools", program())


@needs_durable
def test_verify_gives_what_both_engines_give() -> None:
    engine = make_engine("verify", program(rule("r", A), rule("s", found("r"))))
    assert engine.name == "verify"
    assert fired(engine, *facts("a")) == ["r", "s"]


@needs_durable
@pytest.mark.parametrize(
    ("other", "named"),
    [
        ([], "r, s"),
        ([Firing("s", ("finding/r",))], "r"),
        ([Firing("r", ()), Firing("s", ("finding/r",))], "r"),
        ([Firing("s", ("finding/r",)), Firing("r", ("lab/a",))], "their order"),
    ],
)
def test_verify_takes_any_difference_for_an_error_that_names_the_rules(
    monkeypatch: pytest.MonkeyPatch, other: list[Firing], named: str
) -> None:
    engine = make_engine("verify", program(rule("r", A), rule("s", found("r"))))
    monkeypatch.setattr("cds.engine.reference.ReferenceEngine.run", lambda self, facts: list(other))
    with pytest.raises(EngineError, match=rf"disagree on: {named};"):
        engine.run(facts("a"))


# ---------------------------------------------------------------- one engine, many patients


def test_threads_that_share_an_engine_all_get_their_own_patient_right(make: Make) -> None:
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        _work_in_threads(make)
    finally:
        sys.setswitchinterval(often)


def _work_in_threads(make: Make) -> None:
    rules = [rule(f"r{n}", AllOf((leaf(f"lab/{n}"), A)), AnyOf((B,))) for n in range(20)]
    engine = make(*rules, rule("after", AnyOf((found("r3"), found("r4")))))
    wrong: list[object] = []

    def work(start: int) -> None:
        for n in range(start, start + 200):
            mine = f"r{n % 20}"
            expected = [mine, "after"] if n % 20 in (3, 4) else [mine]
            got = fired(engine, fact(f"lab/{n % 20}"), fact("lab/a"))
            blocked = fired(engine, fact(f"lab/{n % 20}"), fact("lab/a"), fact("lab/b"))
            if got != expected or blocked:
                wrong.append((n, got, blocked))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


MANY_PATIENTS = """
from engine_programs import fact, leaf, program, rule
from cds.engine import make_engine
from cds.program import AllOf, AnyOf

keys = [f"lab/{n}" for n in range(6)]
rules = [rule(f"r{n}", AllOf(tuple(leaf(k) for k in keys[: n % 6 + 1]))) for n in range(6)]
rules.append(rule("u", AnyOf((leaf("finding/r2"), leaf("lab/0"))), AnyOf((leaf("lab/4"),))))
engine = make_engine("durable", program(*rules))

def patients(count):
    for n in range(count):
        assert engine.run([fact(k, low=n) for k in keys[: n % 7]]) or n % 7 == 0
    return int(open("/proc/self/statm").read().split()[1])  # pages

before = patients(2_000)
print(patients(50_000) - before)
"""


@needs_durable
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory in use")
@pytest.mark.slow
def test_fifty_thousand_patients_take_no_more_memory_than_two_thousand() -> None:
    run = subprocess.run(
        [sys.executable, "-c", MANY_PATIENTS],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 128, "pages, mostly of 4 KiB"


@needs_durable
@pytest.mark.bench
def test_four_times_the_rules_take_less_than_three_times_as_long() -> None:
    import timeit

    quiet = [fact(f"lab/{n}", low=50, age=1, high=50) for n in range(20)]

    def rules(count: int) -> Sequence[CompiledRule]:
        return [
            rule(
                f"r{n}",
                AllOf(
                    (
                        leaf(f"lab/{n % 40}", [("low", "lt", n % 7), ("age", "le", 7)]),
                        leaf(f"medication/{n % 90}"),
                        AnyOf((leaf(f"symptom/{n % 5}"), leaf(f"symptom/{n % 8}"))),
                    )
                ),
            )
            for n in range(count)
        ]

    def best(count: int) -> float:
        engine = make_engine("durable", program(*rules(count)))
        return min(timeit.repeat(lambda: engine.run(quiet), number=20, repeat=50))

    assert best(400) / best(100) < 3
