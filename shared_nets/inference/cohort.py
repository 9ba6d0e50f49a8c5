"""Many scans, one after the other: what goes wrong with one of them does not touch the others."""

from __future__ import annotations

import errno
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
from ignite.engine import Events
from monai.data import Dataset, list_data_collate
from monai.engines import Evaluator
from torch import distributed
from tqdm import tqdm

from shared_nets.errors import OutputError, StrokeSegError, WeightsError, own_error, scan_warnings
from shared_nets.inference.lesions import head_midline, measure_lesions
from shared_nets.inference.outputs import engine_cases, make_output_folder, write_table

Case = dict[str, Any]
Row = dict[str, Any]


class Loaded(NamedTuple):
    """A case, sentences about what is odd about its scans, and the seconds it took to load."""

    case: Case
    odd: str
    seconds: float


# What the table says, apart from what `measures` add before `seconds`.
FIRST_COLUMNS = ("scan", "status", "volume_ml", "lesion_count", "largest_ml", "side", "max_probability")
LAST_COLUMNS = ("seconds", "message")


def lesion_columns(case: Mapping[str, Any]) -> Row:
    """
    The table's lesion measurements of one case, see :class:`~shared_nets.inference.lesions.LesionSummary`.

    Args:
        case: ``image`` (preprocessed), ``pred`` (1, X, Y, Z) on the scan's grid, and ``probability`` if kept.

    Returns:
        ``volume_ml``, ``lesion_count``, ``largest_ml``, ``side``, ``max_probability``; mL to the
        microlitre and probabilities to four digits.
    """
    mask = case["pred"]
    summary = measure_lesions(mask, case.get("probability"), mask.affine, head_midline(case["image"]))
    digits = {"volume_ml": 3, "largest_ml": 3, "max_probability": 4}
    return {
        key: round(value, digits[key]) if key in digits else value for key, value in vars(summary).items()
    }


class Cohort:
    """
    Runs an evaluator over scans, one engine run a scan, and keeps a table of what came out.

    The next scan is loaded in the background while the network works on this one. After each scan the
    table is written anew. A scan that fails is a row with the reason, and the others go on; an output folder
    that cannot be written, or unusable weights, end the run. Several processes (``torchrun``) share the
    scans, and the first writes the table of all.

    Args:
        evaluator: a MONAI evaluator; its handlers write what is to be written. Its data loader is replaced.
        dataset: loads one case by index; its ``data`` holds the case dicts, each with ``name``.
        output_dir: where the table goes; created if need be.
        table: the table's file name.
        measures: functions from the finished case (everything loaded and everything that came out) to
            further columns, placed before ``seconds``.
        finish: called with the finished table's path, when at least one scan was done: evaluation writes
            its summary.
        quiet: no progress bar and no summary; failures are still told.
        debug: let the first error through, with its traceback.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        dataset: Dataset,
        output_dir: str | Path,
        table: str = "lesions.csv",
        measures: Sequence[Callable[[Case], Mapping[str, Any]]] = (),
        finish: Callable[[Path], Any] | None = None,
        quiet: bool = False,
        debug: bool = False,
    ) -> None:
        self.evaluator = evaluator
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.table = self.output_dir / table
        self.measures = tuple(measures)
        self.finish = finish
        self.quiet = quiet
        self.debug = debug
        self.rows: list[Row] = []

    def run(self) -> list[Row]:
        """
        Run all scans, in the order of the dataset.

        Returns:
            The table's rows.

        Raises:
            SystemExit: with code 1 if a scan failed or the output folder cannot be written; all has been
                told by then.
        """
        self.rows = []
        stopped = ""
        try:
            make_output_folder(self.output_dir)
            with warnings.catch_warnings():
                if not self.debug:
                    # What libraries plan to change is nothing for the user, once a scan least of all.
                    warnings.simplefilter("ignore", FutureWarning)
                    warnings.simplefilter("ignore", DeprecationWarning)
                self._run_all()
        except (OutputError, WeightsError) as error:
            if self.debug:
                raise
            stopped = str(error)
        stopped = self._gather(stopped)
        if idist.get_rank() == 0:
            self._tell(stopped)
            if self.finish is not None and any(row["status"] == "ok" for row in self.rows):
                self.finish(self.table)
        if stopped or any(row["status"] == "failed" for row in self.rows):
            raise SystemExit(1)
        return self.rows

    def _run_all(self) -> None:
        names = [str(case["name"]) for case in self.dataset.data]
        first, step = idist.get_rank(), idist.get_world_size()
        background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-scan")
        try:
            coming = background.submit(self._load, first)
            mine = range(first, len(names), step)
            with tqdm(total=len(mine), unit="scan", disable=self.quiet, file=sys.stderr) as bar:
                for index in mine:
                    name = names[index]
                    bar.set_description(name[:32])
                    # One worker: the next scan starts to load when this one has loaded, not before.
                    this, coming = coming, background.submit(self._load, index + step)
                    row = self._run_one(name, this.result)
                    self.rows.append(row)
                    if row["status"] == "ok" and row["message"]:
                        bar.write(f"Warning: {row['message']}", file=sys.stderr)
                    if first == 0:
                        write_table(self.table, self.rows, self._columns())
                    bar.update()
        finally:
            background.shutdown(cancel_futures=True)

    def _gather(self, stopped: str) -> str:
        """Take all processes' rows, in the dataset's order, into the first one's table; what stopped any."""
        if idist.get_world_size() == 1:
            return stopped
        parts: list[Any] = [None] * idist.get_world_size()
        distributed.all_gather_object(parts, (self.rows, stopped))
        self.rows = [row for turn in zip_longest(*(rows for rows, _ in parts)) for row in turn if row]
        stopped = next((told for _, told in parts if told), "")
        if idist.get_rank() == 0 and not stopped:
            write_table(self.table, self.rows, self._columns())
        return stopped

    def _load(self, index: int) -> Loaded:
        """The case, what is odd about it, and the seconds its loading took; nothing past the last one."""
        start = time.perf_counter()
        with scan_warnings() as odd:
            case = self.dataset[index] if index < len(self.dataset) else {}
        return Loaded(case, " ".join(odd), time.perf_counter() - start)

    def _run_one(self, name: str, load: Callable[[], Loaded]) -> Row:
        """One row of the table, also when the scan fails; raises what would fail every scan."""
        start = time.perf_counter()
        loading = 0.0
        try:
            case, odd, loading = load()
            start = time.perf_counter()
            row = {"scan": name, "status": "ok", **self._segment(case), "message": odd}
        except Exception as error:
            if self.debug:
                raise
            ours = own_error(error)
            if ours is not None and _concerns_all(ours):
                raise type(ours)(str(ours)) from error
            row = {"scan": name, "status": "failed", "message": one_sentence(error, name)}
        return row | {"seconds": round(loading + time.perf_counter() - start, 2)}

    def _segment(self, case: Case) -> Row:
        """Run the engine on one loaded case, and measure what comes out."""
        engine = self.evaluator
        engine.data_loader = [list_data_collate([case])]
        engine.state.epoch_length = 1
        # Otherwise ignite keeps the ended generator of a run that failed, and the next run does nothing.
        engine.interrupt_resume_enabled = False
        row: Row = {}

        def measure() -> None:
            (finished,) = engine_cases(engine)
            for columns in (lesion_columns, *self.measures):
                row.update(columns(finished))

        # Ignite logs errors before it raises them; here they become rows.
        engine.logger.addFilter(_is_no_error)
        try:
            with engine.add_event_handler(Events.ITERATION_COMPLETED, measure):
                engine.run()
        finally:
            engine.logger.removeFilter(_is_no_error)
            # The volumes; the next scan is loading.
            engine.data_loader = []
            engine.state.dataloader = engine.state.batch = engine.state.output = None
        return row

    def _columns(self) -> list[str]:
        """The table's columns, those of the measures between the first and the last."""
        known = {*FIRST_COLUMNS, *LAST_COLUMNS}
        further = [key for row in self.rows for key in row if key not in known]
        return [*FIRST_COLUMNS, *dict.fromkeys(further), *LAST_COLUMNS]

    def _tell(self, stopped: str) -> None:
        """The summary on standard output, failures on standard error."""
        failed = [row for row in self.rows if row["status"] == "failed"]
        done = [row for row in self.rows if row["status"] == "ok"]
        if not self.quiet and self.rows:
            found = sum(row["side"] != "none" for row in done)
            print(f"{_count(len(done), 'scan')} segmented, {found} with a lesion, {len(failed)} failed.")
            print(f"Results: {self.output_dir.resolve()} (table: {self.table.name})")
        for row in failed:
            print(f"Failed: {row['message']}", file=sys.stderr)
        if stopped:
            left = len(self.dataset) - len(self.rows)
            print(f"Stopped, {_count(left, 'scan')} left: {stopped}", file=sys.stderr)


def one_sentence(error: BaseException, name: str) -> str:
    """
    What to tell the user about an error, however deeply MONAI wrapped it.

    Args:
        error: the exception caught.
        name: the scan's name.

    Returns:
        The message of the :class:`StrokeSegError` in its chain, otherwise its first cause; one line that
        names the scan.
    """
    ours = own_error(error)
    if ours is not None:
        sentence = " ".join(str(ours).split())
        return sentence if name in sentence else f"{name}: {sentence}"
    *_, cause = _chain(error)
    first_line = next(iter(str(cause).strip().splitlines()), "").rstrip(".")
    what = f"{type(cause).__name__}: {first_line}" if first_line else type(cause).__name__
    return f"{name}: unexpected {what}; run again with debug to see where."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, its cause, the cause's cause."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _concerns_all(error: StrokeSegError) -> bool:
    """Whether every further scan would fail alike; a folder in one file's place or its long name does not."""
    if isinstance(error, OutputError):
        return getattr(error.__cause__, "errno", None) not in (errno.EISDIR, errno.ENAMETOOLONG)
    return isinstance(error, WeightsError)


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
