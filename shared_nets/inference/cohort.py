"""Many scans, one after the other: what goes wrong with one of them does not touch the others."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
from monai.data import Dataset
from monai.engines import Evaluator
from torch import distributed
from tqdm import tqdm

from shared_nets import NOTICE
from shared_nets.data.cases import left_out_of
from shared_nets.errors import (
    NO_SPACE,
    OutputError,
    StrokeSegError,
    WeightsError,
    few,
    one_sentence,
    own_error,
    scan_warnings,
)
from shared_nets.files import held, in_turn, make_output_folder, plain, write_json
from shared_nets.inference.engine import Case, run_engine
from shared_nets.inference.outputs import LesionWriter, write_table
from shared_nets.inference.parts import Part, Parts
from shared_nets.inference.records import MANIFEST, Records, Result
from shared_nets.inference.report import write_report
from shared_nets.inference.shards import Shard, Terminated, ended_by_sigterm, find_shard
from shared_nets.inference.tables import (
    COMPONENT_COLUMNS,
    GrowingTables,
    Row,
    measured_rows,
    write_scan_table,
)
from shared_nets.versions import software

COMPONENTS = "components.csv"
REPORT = "report.html"
SUMMARY = "summary.csv"


class Loaded(NamedTuple):
    """A case, what is odd about its scans, the seconds it took to load, its files, or an earlier result."""

    case: Case
    odd: str
    seconds: float
    inputs: list[dict[str, str]]
    earlier: Result | None


class Segmented(NamedTuple):
    """A case with all that came out of network and postprocessing, and what was known of it before."""

    case: Case
    odd: str
    seconds: float
    inputs: list[dict[str, str]]


class Cohort:
    """
    Runs an evaluator over scans, one engine run a scan, and keeps a table of what came out.

    While the network works on a scan, the next one is loaded and the results of the one before are measured
    and written, each in a thread. The table is written anew as it grows. A scan that fails is a row with
    the reason, and the others go on; no space, an output folder that cannot be written, or unusable weights
    end the run. One run at a time writes an output folder.

    With ``records``, scans that an earlier run finished are left alone, and the folder also gets
    ``components.csv`` (a row a lesion), ``manifest.json`` (what ran) and ``report.html``.

    Several processes may share the scans, see :func:`~shared_nets.inference.shards.find_shard`. Those of a
    process group wait for each other, and the first writes the table of all. Others each write what they did
    into ``shards``, and whatever of all parts is there by then into the tables and the report.

    Args:
        evaluator: a MONAI evaluator. Its data loader is replaced.
        dataset: loads one case by index; its ``data`` holds the case dicts, each with ``name``.
        output_dir: where the table goes; created if need be.
        writer: writes what came out of each scan.
        table: the table's file name.
        measures: functions from the finished case (everything loaded and everything that came out) to
            further columns, placed before ``seconds``.
        summarise: called with the paths of the finished table and of its summary, when at least one scan was
            done. A summary of an earlier run is removed first.
        records: finds and writes what made each result.
        shard: which part of the scans this process does: ``"auto"``, ``"group"``, ``"none"`` or ``"1/3"``.
        quiet: no progress bar and no summary; failures are still told.
        json_lines: instead of bar and summary a JSON object a line on standard output, for each scan and for
            the whole.
        debug: let the first error through, with its traceback.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        dataset: Dataset,
        output_dir: str | Path,
        writer: LesionWriter | None = None,
        table: str = "lesions.csv",
        measures: Sequence[Callable[[Case], Mapping[str, Any]]] = (),
        summarise: Callable[[Path, Path], Any] | None = None,
        records: Records | None = None,
        shard: str = "auto",
        quiet: bool = False,
        json_lines: bool = False,
        debug: bool = False,
    ) -> None:
        self.evaluator = evaluator
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.writer = writer
        self.table = self.output_dir / table
        self.measures = tuple(measures)
        self.summary = self.output_dir / SUMMARY
        self.summarise = summarise
        self.records = records
        self.shard = shard
        self.quiet = quiet or json_lines
        self.json_lines = json_lines
        self.debug = debug
        self.results: list[Result] = []
        self.not_done: dict[str, list[str]] = {}

    @property
    def rows(self) -> list[Row]:
        """The table's rows."""
        return [result.row for result in self.results]

    def run(self) -> list[Row]:
        """
        Run all scans, in the order of the dataset.

        Returns:
            The table's rows.

        Raises:
            UsageError: if the output folder is another BIDS dataset or another model's, or there is no such
                shard.
            SystemExit: with code 1 if a scan failed or the output folder cannot be written, 130 after Ctrl-C
                and 143 after SIGTERM; all has been told by then.
        """
        self.results, self.not_done = [], {}
        shard = find_shard(self.shard)
        parts = Parts(self.output_dir, self.dataset.data, shard)
        started = _now()
        stopped, code = "", 0
        if self.records is not None:
            self.records.check(self.dataset.data)
        try:
            make_output_folder(self.output_dir)
            with (
                held(self.output_dir, shard.number, shard.count),
                ended_by_sigterm(),
                _silent_about_plans(self.debug),
            ):
                try:
                    if shard.count == 1:
                        parts.forget()
                    self._say_what_runs(parts, started)
                    if self.summarise is not None and self.summary.is_file():
                        self.summary.unlink()
                    try:
                        self._run_all(parts)
                    except KeyboardInterrupt as interrupt:
                        stopped, code = _interruption(interrupt)
                    stopped = self._collect(parts, started, stopped)
                except KeyboardInterrupt as interrupt:  # while tables and report are written
                    stopped, code = _interruption(interrupt)
        except (OutputError, WeightsError) as error:
            if self.debug:
                raise
            stopped = str(error)
            if _in_group():  # the others wait
                stopped = self._collect(parts, started, stopped)
        self._tell(parts, stopped)
        self._tell_what_is_missing(shard)
        whole = not stopped and any(row["status"] == "ok" for row in self.rows)
        if self.summarise is not None and whole and self._is_first(shard):
            self.summarise(self.table, self.summary)
        if code or stopped or any(row["status"] == "failed" for row in self.rows):
            raise SystemExit(code or 1)
        return self.rows

    def _run_all(self, parts: Parts) -> None:
        names = parts.names
        mine = parts.shard.indices(len(names))
        table = self._table_on_the_way(parts)

        def write() -> None:
            if table is not None:
                self._write_tables(table, self.results)

        def warn(error: OutputError) -> None:
            tqdm.write(f"Warning: {error} It is tried again with each scan.", file=sys.stderr)

        tables = GrowingTables(write, warn)
        before = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-scan")
        after = ThreadPoolExecutor(max_workers=1, thread_name_prefix="results")
        with tqdm(total=len(mine), unit="scan", disable=self.quiet, file=sys.stderr) as bar:
            leaving: Future[Result] | None = None

            def keep() -> None:
                """Wait for the results that are being written, and list them."""
                nonlocal leaving
                if leaving is None:
                    return
                wait([leaving])
                this, leaving = leaving, None
                self.results.append(this.result())
                if not self.results[-1].earlier:
                    tables.grow()
                self._say(self.results[-1], bar)
                bar.update()

            try:
                coming = before.submit(self._load, *mine[:1])
                for index, following in zip_longest(mine, mine[1:]):
                    bar.set_description(names[index][:32])
                    # One worker: the next scan starts to load when this one has loaded, not before.
                    loaded, coming = coming, before.submit(self._load, following)
                    segmented = self._segment(index, loaded.result)
                    # One scan's results at a time: no more than three scans are in memory.
                    keep()
                    leaving = after.submit(self._finish, index, segmented)
            finally:
                before.shutdown(cancel_futures=True)
                try:
                    keep()  # also when the run is interrupted: they are nearly there
                finally:
                    after.shutdown()
                    tables.catch_up()

    def _load(self, index: int | None = None) -> Loaded:
        """The case and what is to be known of it; nothing past the last one."""
        start = time.perf_counter()
        case: Case = {}
        inputs: list[dict[str, str]] = []
        with scan_warnings() as odd:
            if index is not None:
                earlier = self.records.find(self.dataset.data[index]) if self.records else None
                if earlier is not None:
                    return Loaded(case, "", 0.0, inputs, earlier)
                case = self.dataset[index]
                inputs = self.records.inputs(self.dataset.data[index]) if self.records else []
        return Loaded(case, " ".join(odd), time.perf_counter() - start, inputs, None)

    def _segment(self, index: int, load: Callable[[], Loaded]) -> Segmented | Result:
        """What the network makes of one scan, or a result that is there; raises what would fail all scans."""
        start = time.perf_counter()
        loading = 0.0
        try:
            case, odd, loading, inputs, earlier = load()
            if earlier is not None:
                return earlier
            start = time.perf_counter()
            finished = run_engine(self.evaluator, case)
            return Segmented(finished, odd, loading + time.perf_counter() - start, inputs)
        except Exception as error:
            return self._failure(index, error, loading + time.perf_counter() - start)

    def _finish(self, index: int, segmented: Segmented | Result) -> Result:
        """Write and measure what came out of one scan; raises what would fail every scan."""
        if isinstance(segmented, Result):
            return segmented
        given = self.dataset.data[index]
        name = str(given["name"])
        start = time.perf_counter()
        try:
            if self.writer is not None:
                self.writer.write(segmented.case)
            row, lesions = measured_rows(segmented.case)
            for columns in self.measures:
                row.update(columns(segmented.case))
            seconds = round(segmented.seconds + time.perf_counter() - start, 2)
            row = {"scan": name, "status": "ok", **row, "seconds": seconds, "message": segmented.odd}
            result = Result(row, [{"scan": name, **lesion} for lesion in lesions], segmented.inputs)
            if self.records is not None:
                self.records.write(given, result)
            return result
        except Exception as error:
            return self._failure(index, error, segmented.seconds + time.perf_counter() - start)

    def _failure(self, index: int, error: Exception, seconds: float) -> Result:
        """The row of a scan that failed; raises what would fail every scan, and everything with debug."""
        if self.debug:
            raise error
        ours = own_error(error)
        if ours is not None and self._concerns_all(ours):
            raise type(ours)(str(ours)) from error
        name = str(self.dataset.data[index]["name"])
        row = {"scan": name, "status": "failed", "seconds": round(seconds, 2)}
        return Result({**row, "message": one_sentence(error, name)})

    def _concerns_all(self, error: StrokeSegError) -> bool:
        """Whether every further scan would fail alike; one file, or one subject's folder, does not say so."""
        if not isinstance(error, OutputError):
            return isinstance(error, WeightsError)
        if getattr(error.__cause__, "errno", None) in NO_SPACE:
            return True
        try:
            make_output_folder(self.output_dir)
        except OutputError:
            return True
        return False

    # ---- what all processes did ----

    def _part(self, shard: Shard, started: str, ended: str | None, stopped: str) -> Part:
        about: Part = {"command": sys.argv, "started": started, "ended": ended, "stopped": stopped or None}
        if shard.count > 1:
            about["shard"] = shard.name
        if self.records is not None:
            about["model"] = self.records.made_by
            about["settings"] = self.records.settings
            about["left_out"] = left_out_of(self.dataset.data)
        about |= {"software": software(), "device": str(self.evaluator.state.device), "notice": NOTICE}
        return about | {"scans": [asdict(result) for result in self.results]}

    def _say_what_runs(self, parts: Parts, started: str) -> None:
        """Into the manifest, and of a part of the scans in words."""
        shard = parts.shard
        if self.records is not None:
            self.records.derivatives.describe(self.dataset.data)
            if shard.count == 1:
                write_json(self.output_dir / MANIFEST, self._part(shard, started, None, ""))
        if shard.count == 1 or _in_group() or self.json_lines:
            return
        length, number = len(parts.names), len(parts.names_of(shard))
        if not self.quiet or number == 0:
            part = f"Shard {shard.number} of {shard.count} ({shard.origin})"
            print(
                f"{part}: {number} of {_count(length, 'scan')}; --shard none does all here.", file=sys.stderr
            )

    def _collect(self, parts: Parts, started: str, stopped: str) -> str:
        """Take what all processes did, as far as it is there, into the tables; what stopped one of them."""
        own = self._part(parts.shard, started, _now(), stopped)
        if _in_group():
            gathered: list[Part] = [{}] * idist.get_world_size()
            distributed.all_gather_object(gathered, own)
            stopped = next((part["stopped"] for part in gathered if part["stopped"]), "")
            if self._is_first(parts.shard):
                self.results = parts.results(gathered)
                try:
                    if not stopped:
                        self._put_together(parts, own, gathered)
                except OutputError as error:
                    stopped = str(error)
            told = [stopped]
            distributed.broadcast_object_list(told, src=0)  # all end alike
            stopped = str(told[0])
        elif parts.shard.count == 1:
            self._put_together(parts, own, [own])
        else:
            parts.keep(own)
            with in_turn(self.output_dir):
                self._put_together(parts, own, parts.ended(own))
        return stopped

    def _put_together(self, parts: Parts, own: Part, ended: Sequence[Part]) -> None:
        """Tables, manifest and report of all that the parts did which have ended."""
        results = parts.results(ended)
        self.not_done = parts.not_done(results)
        writers = [partial(self._write_tables, self.table, results)]
        if self.records is not None:
            manifest = {**own, "not_done": self.not_done, "scans": [asdict(result) for result in results]}
            if len(ended) > 1:
                manifest["shards"] = [{k: v for k, v in part.items() if k != "scans"} for part in ended]
            writers.append(partial(write_json, self.output_dir / MANIFEST, manifest))
            # Thousands of pictures take minutes: of a cohort in parts only the last to end puts them in.
            pictures = parts.shard.count == 1 or not self.not_done
            report = (self.output_dir / REPORT, results, self.dataset.data, self.records)
            writers.append(partial(write_report, *report, self.not_done, pictures))
        _write_each(writers)

    def _is_first(self, shard: Shard) -> bool:
        """Whether this process writes the tables of all: of a process group the first, else each."""
        return shard.number == 1 or not _in_group()

    def _table_on_the_way(self, parts: Parts) -> Path | None:
        """The table that grows with each scan."""
        if parts.shard.count == 1:
            return self.table
        if _in_group():
            return self.table if parts.shard.number == 1 else None
        return parts.table

    def _write_tables(self, table: Path, results: Sequence[Result]) -> None:
        write_scan_table(table, [result.row for result in results])
        if self.records is not None and table == self.table:
            lesions = [lesion for result in results for lesion in result.lesions]
            write_table(self.output_dir / COMPONENTS, lesions, COMPONENT_COLUMNS)

    # ---- what is told ----

    def _say(self, result: Result, bar: Any) -> None:
        """One scan's end, beside the progress bar."""
        if self.json_lines:
            print(json.dumps(plain({**result.row, "earlier": result.earlier})), flush=True)
        elif not self.quiet and result.row["message"] and result.row["status"] == "ok" and not result.earlier:
            bar.write(f"Warning: {result.row['message']}", file=sys.stderr)

    def _tell(self, parts: Parts, stopped: str) -> None:
        """The summary on standard output, failures on standard error."""
        if not self._is_first(parts.shard):
            return
        failed = [row for row in self.rows if row["status"] == "failed"]
        done = [result for result in self.results if result.row["status"] == "ok"]
        earlier = sum(result.earlier for result in done)
        found = sum(result.row["side"] != "none" for result in done)
        if self.json_lines:
            whole = {"segmented": len(done), "earlier": earlier, "with_lesion": found, "failed": len(failed)}
            print(json.dumps({**whole, "stopped": stopped or None, "output": str(self.output_dir.resolve())}))
            return
        if not self.quiet and self.rows:
            before = f" ({earlier} of them by an earlier run)" if earlier else ""
            print(
                f"{_count(len(done), 'scan')} segmented{before}, {found} with a lesion, {len(failed)} failed."
            )
            others = f", report: {REPORT}" if self.records is not None else ""
            print(f"Results: {self.output_dir.resolve()} (table: {self.table.name}{others})")
        for row in failed:
            print(f"Failed: {row['message']}", file=sys.stderr)
        if stopped:
            mine = len(parts.names if _in_group() else parts.names_of(parts.shard))
            print(f"Stopped, {_count(mine - len(self.rows), 'scan')} left: {stopped}", file=sys.stderr)

    def _tell_what_is_missing(self, shard: Shard) -> None:
        """Last of all, of tables that other parts of the scans are still to come into."""
        if not self.not_done or shard.count == 1 or _in_group():
            return
        parts = [f"{len(scans)} of part {part}" for part, scans in self.not_done.items()]
        missing = sum(map(len, self.not_done.values()))
        print(
            f"{self.table} lacks {missing} of {_count(len(self.dataset.data), 'scan')} ({few(parts, 10)}): "
            f"wait until these parts end, or run them again.",
            file=sys.stderr,
        )


def _interruption(interrupt: KeyboardInterrupt) -> tuple[str, int]:
    """What is told of it, and the exit code."""
    by_scheduler = isinstance(interrupt, Terminated)
    what = "terminated" if by_scheduler else "interrupted"
    return f"{what}; run again to continue.", 143 if by_scheduler else 130


def _write_each(writers: Sequence[Callable[[], None]]) -> None:
    """Call each, though what one before it writes cannot be written; raises the first such error then."""
    errors = []
    for write in writers:
        try:
            write()
        except OutputError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _in_group() -> bool:
    """Whether processes of one process group share the scans, and can wait for each other."""
    return idist.get_world_size() > 1


@contextmanager
def _silent_about_plans(debug: bool) -> Iterator[None]:
    """What libraries plan to change is nothing for the user, once a scan least of all."""
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
