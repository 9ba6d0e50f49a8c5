"""
What made each result, kept beside it: which scan, model, weights and settings.

The JSON file beside a mask is BIDS's sidecar of it; by it a later run knows that the scan is finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared_nets import NOTICE, __version__, files
from shared_nets.data.formats import hash_scan
from shared_nets.data.names import paths_of
from shared_nets.errors import OutputError, ScanNotFoundError, UsageError
from shared_nets.inference.derivatives import Derivatives
from shared_nets.inference.described import described
from shared_nets.inference.outputs import (
    MASK_SUFFIX,
    SUFFIXES,
    LesionWriter,
    is_a_mask_of_ours,
    result_path,
)
from shared_nets.weights import sha256

Case = Mapping[str, Any]

MANIFEST = "manifest.json"
"""In the output folder: what ran."""


@dataclass
class Result:
    """
    What came of one scan.

    Args:
        row: its row in the table.
        lesions: a row a lesion.
        inputs: its files, each ``{"Path": ..., "SHA256": ...}``.
        earlier: whether it stood there from an earlier run.
    """

    row: dict[str, Any]
    lesions: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[dict[str, str]] = field(default_factory=list)
    earlier: bool = False


class Records:
    """
    Writes what made each scan's result, and finds the results that need not be made again.

    Args:
        writer: writes the results; says which files there must be.
        bundle_root: the bundle's folder.
        weights: the network's weights file.
        settings: by name, the settings that change results; transforms and inferers as `described` tells
            of them.
        overwrite: find nothing, so that all is made again.
    """

    def __init__(
        self,
        writer: LesionWriter,
        bundle_root: str | Path,
        weights: str | Path,
        settings: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.writer = writer
        self.output_dir = writer.output_dir
        # As they come back from a file: lists, no tuples.
        self.settings = json.loads(json.dumps(settings, default=described))
        self.overwrite = overwrite
        self.made_by = _made_by(Path(bundle_root), Path(weights))
        self.derivatives = Derivatives(self.output_dir, self.made_by)

    def check(self, cases: Sequence[Case]) -> None:
        """
        Refuse an output folder that is another dataset, or whose tables are of another model's results.

        Args:
            cases: what is to be segmented.

        Raises:
            UsageError: if it is; without `overwrite` in the latter case.
        """
        self.derivatives.check(cases)
        model = files.read_json(self.output_dir / MANIFEST).get("model")
        other = model.get("Name") if isinstance(model, dict) else None
        if other not in (None, self.made_by["Name"]) and not self.overwrite:
            raise UsageError(
                f"{self.output_dir} holds the results of {other}: choose another output folder for those of "
                f"{self.made_by['Name']}, or --overwrite."
            )

    def inputs(self, case: Case) -> list[dict[str, str]]:
        """
        A case's files, each with its hash.

        Raises:
            ScanNotFoundError: if one is not there or cannot be read.
        """
        return [{"Path": path, "SHA256": hash_scan(Path(path))} for path in paths_of(case)]

    def find(self, case: Case) -> Result | None:
        """
        The result of an earlier run, if its scan, model, weights and settings are this run's.

        Else all that an earlier run left under the scan's name is removed, so that a scan that fails, or a
        run that is killed, leaves no result of another scan or other settings. The result of a scan that
        cannot be reached now, as on a disk that is not mounted, stays.

        Raises:
            UsageError: if it is the result of another scan that is still there, or a mask that was made or
                changed elsewhere, and must not be overwritten.
            OutputError: if a file cannot be removed.
        """
        record = files.read_json(self._path(case))
        ours = _is_list_of_mappings(record.get("Inputs"))
        if not self.overwrite:
            self._check_mask(case, record if ours else {})
        if not ours:
            return None
        try:
            inputs = self.inputs(case)
        except ScanNotFoundError:
            if _paths_in(record) == paths_of(case):
                return None
            inputs = []
        if not self.overwrite:
            if self._is_this_runs(record, case, inputs):
                return Result(record["Result"], record["Lesions"], inputs, earlier=True)
            self._check_same_scan(record, case, inputs)
        self._remove(case)
        return None

    def write(self, case: Case, result: Result) -> None:
        """
        Write the sidecars of a finished scan; the mask's, which makes it count as finished, last.

        Raises:
            OutputError: if a file cannot be written.
        """
        sources = [self.derivatives.uri(Path(one["Path"])) for one in result.inputs]
        about = {
            "Type": "Lesion",
            "Sources": sources,
            "SpatialReference": sources[0] if sources else "n/a",
            "GeneratedBy": self.made_by,
            "Settings": self.settings,
            "Inputs": result.inputs,
            "Notice": NOTICE,
        }
        for suffix in self.writer.suffixes:
            if suffix.endswith(".nii.gz") and suffix != MASK_SUFFIX:
                files.write_json(_sidecar(result_path(self.output_dir, case, suffix)), about)
        about["MaskSHA256"] = files.sha256(result_path(self.output_dir, case, MASK_SUFFIX))
        files.write_json(self._path(case), about | {"Result": result.row, "Lesions": result.lesions})

    def _path(self, case: Case) -> Path:
        return _sidecar(result_path(self.output_dir, case, MASK_SUFFIX))

    def _is_this_runs(self, record: Case, case: Case, inputs: Sequence[Mapping[str, str]]) -> bool:
        """Whether this run would make the same, and all that it would write is there."""
        with suppress(KeyError, TypeError):
            return (
                record["GeneratedBy"] == self.made_by
                and record["Settings"] == self.settings
                and [i["SHA256"] for i in record["Inputs"]] == [i["SHA256"] for i in inputs]
                and record["Result"]["scan"] == case["name"]
                and all(_is_whole(result_path(self.output_dir, case, s)) for s in self.writer.suffixes)
            )
        return False

    def _check_mask(self, case: Case, record: Case) -> None:
        """Refuse to replace a mask that was drawn or corrected by hand; a killed run's has no record."""
        mask = result_path(self.output_dir, case, MASK_SUFFIX)
        if not _is_whole(mask):
            return
        made = files.sha256(mask)
        if not record and not is_a_mask_of_ours(mask):
            what = "was not made here"
        elif record.get("MaskSHA256", made) != made:
            what = "was changed after it was made"
        else:
            return
        raise UsageError(
            f"{mask} {what}: give it another name or choose another output folder, or --overwrite."
        )

    def _check_same_scan(self, record: Case, case: Case, inputs: Sequence[Mapping[str, str]]) -> None:
        """Refuse to do another scan of the same name; one that was moved or copied is the same."""
        ours = {os.path.realpath(path) for path in paths_of(case)} | {i["SHA256"] for i in inputs}
        there = [path for path in _paths_in(record) if os.path.exists(path)]
        theirs = {os.path.realpath(path) for path in there} | {i.get("SHA256") for i in record["Inputs"]}
        if there and not ours & theirs:
            raise UsageError(
                f"{self.output_dir} holds the result of {there[0]} under the name {case['name']}: "
                f"choose another output folder, or --overwrite."
            )

    def _remove(self, case: Case) -> None:
        """The mask's sidecar last, by which what is left is known as ours if this is interrupted."""
        results = [result_path(self.output_dir, case, suffix) for suffix in SUFFIXES]
        for path in [*results, *map(_sidecar, reversed(results))]:
            try:
                if os.path.isfile(path):
                    path.unlink()
            except OSError as error:
                raise OutputError(f"{path} cannot be removed: {files.reason(error)}") from error


def _made_by(bundle_root: Path, weights: Path) -> dict[str, Any]:
    metadata = files.read_json(bundle_root / "configs" / "metadata.json")
    config = bundle_root / "configs" / "inference.json"
    return {
        "Name": metadata.get("name", bundle_root.name),
        "Version": metadata.get("version", "n/a"),
        "WeightsSHA256": sha256(weights),
        "ConfigSHA256": files.sha256(config) if config.is_file() else "n/a",
        "CodeVersion": __version__,
    }


def _is_list_of_mappings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _paths_in(record: Case) -> list[str]:
    """The files of the case that a record is of."""
    return [str(one["Path"]) for one in record["Inputs"] if "Path" in one]


def _is_whole(path: Path) -> bool:
    """Whether a file is there; one with nothing in it was left by a machine that stopped."""
    return os.path.isfile(path) and path.stat().st_size > 0  # False too for a name that cannot be
