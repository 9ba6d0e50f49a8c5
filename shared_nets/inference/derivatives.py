"""The output folder as a BIDS derivatives dataset, when scans come from a BIDS dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from shared_nets import NOTICE, __version__, files
from shared_nets.data.bids import dataset_root
from shared_nets.data.names import RESULTS_FOLDER, paths_of
from shared_nets.errors import UsageError

DESCRIPTION = "dataset_description.json"
MAKER = "shared_nets"
BIDS_VERSION = "1.10.0"
# What a BIDS validator need not know about.
_BIDS_IGNORE = "*.csv\n*.html\n*.png\nmanifest.json\nshards/\n"

Case = Mapping[str, Any]


class Derivatives:
    """
    The description of an output folder, and what BIDS calls the datasets that its scans come from.

    Args:
        output_dir: the output folder.
        model: ``Name`` and ``Version`` of what makes the results.
    """

    def __init__(self, output_dir: Path, model: Mapping[str, Any]) -> None:
        self.output_dir = output_dir
        self.model = model
        self.links: dict[Path, str] = {}  # what BIDS's URIs call the datasets

    def check(self, cases: Iterable[Case]) -> None:
        """
        Refuse an output folder that is another BIDS dataset: `describe` would describe it anew.

        Raises:
            UsageError: if it is.
        """
        path = self.output_dir / DESCRIPTION
        roots = [root.resolve() for root in _roots_of(cases)]
        is_another = path.exists() and _maker(files.read_json(path)) != MAKER
        if roots and (is_another or self.output_dir.resolve() in roots):
            raise UsageError(
                f"{self.output_dir} is another dataset, which results would be mixed with: choose another "
                f"output folder, such as {self.output_dir / 'derivatives' / 'lesions'}."
            )

    def describe(self, cases: Iterable[Case]) -> None:
        """
        Make the output folder a BIDS derivatives dataset, if a scan comes from a BIDS dataset.

        Raises:
            OutputError: if a file cannot be written.
        """
        roots = _roots_of(cases)
        if not roots:
            return
        links = _named_links(
            files.read_json(self.output_dir / DESCRIPTION), [root.as_uri() for root in roots]
        )
        self.links = {root: name for root in roots for name, uri in links.items() if uri == root.as_uri()}
        description = {
            "Name": f"Stroke lesions by {self.model['Name']}",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": MAKER,
                    "Version": __version__,
                    "Description": f"{self.model['Name']} {self.model['Version']}. {NOTICE}",
                }
            ],
            "SourceDatasets": [{"URL": uri} for uri in links.values()],
            "DatasetLinks": links,
        }
        files.write_json(self.output_dir / DESCRIPTION, description)
        files.write_text(self.output_dir / ".bidsignore", _BIDS_IGNORE)

    def uri(self, path: Path) -> str:
        """BIDS's URI of a scan in a dataset that `describe` has named, else its path."""
        root = dataset_root(path)
        if root is None or root not in self.links:
            return str(path)
        return f"bids:{self.links[root]}:{path.relative_to(root).as_posix()}"


def _maker(description: Mapping[str, Any]) -> object:
    """What made a dataset first; None where its description, which may hold anything, does not say."""
    with suppress(LookupError, TypeError, AttributeError):
        return description["GeneratedBy"][0].get("Name")
    return None


def _roots_of(cases: Iterable[Case]) -> list[Path]:
    """The BIDS datasets that scans come from, each once."""
    found = [dataset_root(paths_of(case)[0]) for case in cases if RESULTS_FOLDER in case]
    return list(dict.fromkeys(root for root in found if root))


def _named_links(description: Mapping[str, Any], uris: Iterable[str]) -> dict[str, str]:
    """
    BIDS's DatasetLinks: ``raw``, ``raw2``... and the URI of each dataset.

    Names that earlier runs gave stay, as their sidecars use them; a dataset may only not be mounted now.
    """
    links = dict(description.get("DatasetLinks") or {})
    for uri in uris:
        if uri not in links.values():
            free = (f"raw{n}" if n > 1 else "raw" for n in count(1))
            links[next(name for name in free if name not in links)] = uri
    return links
