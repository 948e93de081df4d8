"""Every row of the fault table comes true: its event comes out of its last line, and nothing that must not."""

from __future__ import annotations

import re

import pytest

from engine.core.events import REJECT_REASONS
from tests.faults import FAULTS, Fault, holds, outcome, table, told
from tests.scenarios import HOLDS, TOPIC_OF, Body, kinds

rows = pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])


def found_in_order(fault: Fault, outputs: list[Body]) -> bool:
    """Whether the records a row names are all there, in its order."""
    left = iter(outputs)
    return all(any(holds(body, *expected) for body in left) for expected in fault.comes)


@rows
def test_event_comes_out_of_the_last_line_and_not_before(fault):
    result = told(fault)
    assert found_in_order(fault, result.last), result.last
    for expected in fault.comes[-1:]:
        assert any(holds(body, *expected) for body in result.earlier) is fault.again


@rows
def test_nothing_comes_out_that_must_not(fault):
    result = told(fault)
    assert not set(kinds(result.earlier + result.last)) & set(fault.never)


@rows
def test_last_line_is_counted_as_the_row_says(fault):
    assert told(fault).counted == fault.counted


@rows
def test_row_without_an_event_brings_none(fault):
    if not fault.comes:
        assert told(fault).last == []


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.off is not None], ids=lambda fault: fault.name)
def test_event_is_the_parameter_s_doing(fault):
    assert not found_in_order(fault, told(fault, **fault.off).last)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.counted != "accepted"], ids=lambda f: f.name)
def test_line_that_is_not_accepted_leaves_the_state_as_it_was(fault):
    *lines, _ = fault.all_lines()
    without = Fault(fault.name, fault.log, lines[-1], before=b"\n".join(lines[:-1]), options=fault.options)
    assert told(fault).desk.state() == told(without).desk.state()


def named(kind: str) -> set[str]:
    return {fields["reason"] for fault in FAULTS for expected, fields in fault.comes if expected == kind}


def test_each_reject_reason_of_the_contract_is_in_the_table():
    assert named("reject") == set(REJECT_REASONS)


def test_each_hold_reason_of_the_contract_is_in_the_table():
    assert named("liquidation_held") == set(HOLDS)


def test_each_hold_that_can_end_ends_in_the_table():
    assert named("liquidation_released") == set(HOLDS) - {"warming_up"}


def test_rows_name_types_that_exist_and_have_names_of_their_own():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert {kind for kind, _ in fault.comes} | set(fault.never) <= set(TOPIC_OF)
        assert fault.comes or fault.never


def test_table_has_a_row_for_each_fault_with_what_really_came_out():
    text = table()
    for fault in FAULTS:
        (line,) = [line for line in text.splitlines() if re.match(re.escape(fault.name) + r"\s\s", line)]
        assert fault.log in line
        assert line.endswith(outcome(fault)[0])
