"""
The tables of ``docs/reliability.md``, made by running the tests.

A test marked ``@pytest.mark.reliability(KIND, DONE, PROMISE)`` is a row: what is done to the program and
what it promises. What happened is what the test hands to the fixture ``happened``, and whether it passed.
Several parameters of one test may share a row. ``--reliability-table=FILE`` writes the rows into FILE,
between its two marks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

KINDS = (
    "Bad input",
    "Fuzzing",
    "Weights and configs",
    "Crash safety",
    "Resources",
    "Determinism",
    "Supply chain",
    "Medical safety",
    "Longer runs",
)
START, END = "<!-- made by make reliability: start -->\n", "<!-- made by make reliability: end -->\n"
HEADER = ("| what is done | what is promised | what happened |", "| --- | --- | --- |")
RESULT = {"passed": "", "failed": "**Broken promise.** ", "skipped": "Not tried here: "}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability-table", metavar="FILE", help="write the rows of marked tests into FILE")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "reliability(kind, done, promise): a row of the table in docs/reliability.md"
    )
    if config.getoption("--reliability-table"):
        if config.args_source is pytest.Config.ArgsSource.ARGS:
            raise pytest.UsageError(
                "--reliability-table: choose tests with -k, not by files: rows of all others would be lost"
            )
        config.pluginmanager.register(TableWriter(config), "reliability-table-writer")


@pytest.fixture
def happened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[object], None]:
    """``happened(text)``: what the program did, for the row; folders of the test are left out."""

    def record(text: object) -> None:
        words = " ".join(str(text).split())
        request.node.user_properties.append(("happened", words.replace(f"{tmp_path}/", "")))

    return record


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rows keep the order in which tests stand in their files, whichever process runs them."""
    for number, item in enumerate(items):
        if mark := item.get_closest_marker("reliability"):
            item.user_properties.append(("reliability", [*row_of(mark), number]))


def row_of(mark: pytest.Mark) -> tuple[str, str, str]:
    """Kind, what is done, what is promised."""
    kind, done, promise = mark.args
    if kind not in KINDS:
        raise pytest.UsageError(f"reliability: {kind!r} is none of {', '.join(KINDS)}")
    return kind, done, promise


class TableWriter:
    """Gathers the reports of marked tests, and writes them when the session ends."""

    def __init__(self, config: pytest.Config) -> None:
        self.file = Path(config.getoption("--reliability-table"))
        self.rows: dict[tuple[str, str, str], list[tuple[int, str, str]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # The call, or what kept the test from being called.
        if report.when != "call" and report.outcome == "passed":
            return
        told: dict[str, Any] = dict(report.user_properties)
        if "reliability" in told:
            *row, number = told["reliability"]
            text = told.get("happened", "")
            if report.skipped and isinstance(report.longrepr, tuple):
                text = report.longrepr[2].removeprefix("Skipped: ")
            self.rows.setdefault((row[0], row[1], row[2]), []).append((number, report.outcome, text))

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """A row that was left out this time (a longer run) stays as it was."""
        for item in items:
            for name, value in item.user_properties:
                if name == "reliability":
                    *row, number = value
                    self.rows.setdefault((row[0], row[1], row[2]), []).append((number, "left out", ""))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.rows and not hasattr(session.config, "workerinput"):
            old = self.file.read_text() if self.file.exists() else START + END
            self.file.write_text(laid_in(old, table(self.rows, old.splitlines())))


def table(rows: dict[tuple[str, str, str], list[tuple[int, str, str]]], before: Sequence[str] = ()) -> str:
    """A heading and a Markdown table for each kind of row; rows left out as they stand in ``before``."""
    lines: list[str] = []
    for kind in KINDS:
        mine = sorted((min(tries), row, tries) for row, tries in rows.items() if row[0] == kind)
        if mine:
            lines += ["", f"### {kind}", "", *HEADER]
        for _, (_, done, promise), tries in mine:
            start = f"| {cell(done)} | {cell(promise)} | "
            told = [line for line in before if line.startswith(start)] or [f"{start}Not run yet. |"]
            lines += (
                told[:1] if any(one[1] == "left out" for one in tries) else [f"{start}{outcome_of(tries)} |"]
            )
    return "\n".join([*lines[1:], ""])


def outcome_of(tries: Sequence[tuple[int, str, str]]) -> str:
    """What happened in one try or in several variants: the worst of them, else the first."""
    worst = max(tries, key=lambda one: ("passed", "skipped", "failed").index(one[1]))
    _, outcome, text = worst if worst[1] != "passed" else min(tries)
    text = text or ("As promised." if outcome == "passed" else "")
    return cell(RESULT[outcome] + text) + (f" ({len(tries)} variants)" if len(tries) > 1 else "")


def cell(text: str) -> str:
    """Text that stays inside a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def laid_in(document: str, made: str) -> str:
    """The document with ``made`` between its marks."""
    pattern = re.escape(START) + ".*?" + re.escape(END)
    if not re.search(pattern, document, flags=re.DOTALL):
        raise pytest.UsageError(f"the file has not the marks {START.strip()} and {END.strip()}")
    return re.sub(pattern, lambda _: f"{START}\n{made}\n{END}", document, count=1, flags=re.DOTALL)
