"""What each part of a cohort did, kept beside the tables, so that all rows come into them in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_nets.errors import OutputError
from shared_nets.files import plain, read_json, reason, write_json
from shared_nets.inference.outputs import MASK_SUFFIX, result_path
from shared_nets.inference.records import Result
from shared_nets.inference.shards import Shard

Part = dict[str, Any]  # what one process did: what manifest.json says, and every result under "scans"


class Parts:
    """
    The parts of a cohort, each what one process does of it.

    Args:
        output_dir: the cohort's results; parts that do not wait for each other keep files in its ``shards``.
        cases: all scans of the cohort, each with ``name``.
        shard: the part that this process does.
    """

    def __init__(self, output_dir: Path, cases: Sequence[Mapping[str, Any]], shard: Shard) -> None:
        self.output_dir = output_dir
        self.cases = cases
        self.names = [str(case["name"]) for case in cases]
        self.shard = shard
        self.all = [Shard(number, shard.count) for number in range(1, shard.count + 1)]

    @property
    def table(self) -> Path:
        """This part's own table, which grows while it runs."""
        return self._file(self.shard, ".csv")

    def names_of(self, shard: Shard) -> list[str]:
        """The scans of one part."""
        return [self.names[index] for index in shard.indices(len(self.names))]

    def results(self, parts: Sequence[Part]) -> list[Result]:
        """What the given parts did, in the order of the cohort."""
        found = {scan["row"]["scan"]: Result(**scan) for part in parts for scan in part["scans"]}
        return [found[name] for name in self.names if name in found]

    def not_done(self, results: Sequence[Result]) -> dict[str, list[str]]:
        """The scans without a result, by the part that they belong to."""
        done = {result.row["scan"] for result in results}
        left = {shard.name: [name for name in self.names_of(shard) if name not in done] for shard in self.all}
        return {part: scans for part, scans in left.items() if scans}

    def keep(self, own: Part) -> None:
        """
        Write what this part did, and what an earlier run did of the scans that this one has not come to.

        Raises:
            OutputError: if it cannot be written.
        """
        own["scans"] += self._not_reached_again(own)
        write_json(self._file(self.shard, ".json"), own)

    def ended(self, own: Part) -> list[Part]:
        """The parts that have ended, in their order; those of another model or other settings are none."""
        return [part for shard in self.all if (part := self._read(shard, own))]

    def forget(self) -> None:
        """
        Remove what parts did in earlier runs: it is out of date once a process does all.

        Raises:
            OutputError: if a file cannot be removed.
        """
        for path in sorted(self._file(self.shard, "").parent.glob("[0-9]*-of-[0-9]*.*")):
            try:
                path.unlink()
            except OSError as error:
                raise OutputError(f"{path} cannot be removed: {reason(error)}") from error

    def _file(self, shard: Shard, ending: str) -> Path:
        return self.output_dir / "shards" / f"{shard.name}{ending}"

    def _read(self, shard: Shard, own: Part) -> Part | None:
        """What one part has done, if it ran as this one did."""
        part = read_json(self._file(shard, ".json"))
        if not part or any(part.get(key) != plain(own.get(key)) for key in ("model", "settings")):
            return None
        # Of fewer or more scans, as in an earlier run, some were others' then.
        theirs = set(self.names_of(shard))
        return {**part, "scans": [scan for scan in part["scans"] if scan["row"]["scan"] in theirs]}

    def _not_reached_again(self, own: Part) -> list[dict[str, Any]]:
        """What an earlier run of this part did of scans that this one, interrupted, has not come to."""
        before = self._read(self.shard, own) if "model" in own else None
        reached = {scan["row"]["scan"] for scan in own["scans"]}
        cases = dict(zip(self.names, self.cases, strict=True))
        return [
            scan | {"earlier": True}
            for scan in (before["scans"] if before else ())
            if (name := scan["row"]["scan"]) not in reached
            # Of the scan that was next, the old result may have been removed already.
            and (
                scan["row"]["status"] != "ok"
                or result_path(self.output_dir, cases[name], MASK_SUFFIX).is_file()
            )
        ]
