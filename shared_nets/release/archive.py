"""
Bundles as archives: one zip file that holds all a bundle needs, and unpacking one without trusting it.

An archive ``NAME_vX.Y.Z.zip`` has one folder ``NAME`` with the bundle, this package's source beside its
configs (so that MONAI finds it from the bundle's folder), the packages it needs as ``requirements.txt``, and
``SHA256SUMS`` of it all.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Mapping
from fnmatch import fnmatch
from importlib.metadata import requires
from pathlib import Path, PurePosixPath
from typing import Any

from monai.bundle import ConfigParser
from yaml import YAMLError

import shared_nets
from shared_nets.bundles import NOT_PASSED_ON, check_parts, read_metadata
from shared_nets.errors import UsageError
from shared_nets.files import new_folder, write_bytes
from shared_nets.inference.ranges import RANGES
from shared_nets.release.provenance import verify_bundle
from shared_nets.versions import check_version
from shared_nets.weights import CURRENT, SHIPPED

SUMS = "SHA256SUMS"
REQUIREMENTS = "requirements.txt"
PARTS = ("configs/metadata.json", "configs/inference.json", "docs/README.md", "LICENSE")
"""What a bundle has beside its weights, to be passed on."""
PACKAGE = Path(shared_nets.__file__).resolve().parent

OF_THE_PACKAGE = (".py", ".j2")
"""Endings of the package's files, as in pyproject.toml: notes and rejected patches are none of it."""

OF_A_MACHINE = r"%?(/\w|~\w*/|[A-Za-z]:[\\/]|\\{2,}\w|file:/)"
"""How a path begins that starts at a root, a home, a drive or a server; after ``%``, it is a config's."""

REFERENCE = r"[@%][\w#:]+"
"""To another value of the same config."""

BELOW_A_FOLDER = r"""(str\()?@[\w#]*(dir|root)\b\)?(\s*\+\s*('[^']*'|"[^"]*"|(str\()?@[\w#]+\)?))+"""
"""In an expression, what is added to a folder that is named elsewhere, as ``@bundle_root + '/models'``."""

LARGEST_ARCHIVE = 2**30
"""Bytes that an archive may unpack to, and be: the weights of a network twice, and room to spare."""
MOST_FILES = 10_000


def bundle_files(bundle: str | Path) -> dict[str, bytes]:
    """
    All that a bundle's archive holds, by its path in the bundle's folder.

    Args:
        bundle: the bundle's folder. Its weights must be the released ones, so that a bundle in which
            somebody trained is not passed on by mistake.

    Raises:
        UsageError: if it is no bundle, or made for another version of this package, or has ranges of other
            weights, or as `configs_to_pass_on`.
        WeightsError: see :func:`~shared_nets.release.provenance.verify_bundle`.
    """
    bundle = Path(bundle)
    check_parts(bundle, "to release", PARTS)
    check_version(bundle)
    verify_bundle(bundle)
    optional = [RANGES] if (bundle / RANGES).is_file() else []
    files = {name: (bundle / name).read_bytes() for name in (CURRENT, SHIPPED, *optional)}
    files |= configs_to_pass_on(bundle) | _tree(bundle / "docs", "docs")
    files["LICENSE"] = (bundle / "LICENSE").read_bytes()
    package = _tree(PACKAGE, "shared_nets")
    files |= {name: content for name, content in package.items() if name.endswith(OF_THE_PACKAGE)}
    files[REQUIREMENTS] = "".join(f"{line}\n" for line in requirements()).encode()
    card, pictures = _card(bundle)
    files |= {"docs/README.md": card, **pictures}
    files[SUMS] = sums(files)
    return files


def configs_to_pass_on(bundle: Path) -> dict[str, bytes]:
    """
    A bundle's configs, by their path in its folder.

    Args:
        bundle: the bundle's folder.

    Raises:
        UsageError: if one cannot be read, or tells where files of a machine lie, as a lab's own recipe does.
    """
    files = _tree(bundle / "configs", "configs")
    for name in files:
        if name.endswith((".json", ".yaml", ".yml")):
            try:
                content = ConfigParser.load_config_file(bundle / name)
            except (OSError, ValueError, YAMLError) as error:
                raise UsageError(f"{bundle / name} is no readable config: correct or remove it.") from error
            _check_private(content, "", bundle / name)
    return files


def _check_private(value: Any, key: str, path: Path) -> None:
    """Refuse a config in which a path of a machine stands, or any to the data."""
    if isinstance(value, (dict, list)):
        for one, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_private(item, f"{key}#{one}".lstrip("#"), path)
    refers = isinstance(value, str) and re.fullmatch(REFERENCE, value)
    names_data = bool(value) and key.split("#")[-1] == "dataset_dir" and not refers
    if names_data or (isinstance(value, str) and _is_of_a_machine(value)):
        raise UsageError(
            f"{path}: {key} tells where files of yours lie ({value}): empty it, or move that config."
        )


def _is_of_a_machine(value: str) -> bool:
    """Whether a config's value is a path of a machine, or an expression in which one stands."""
    if value.startswith("$"):
        return bool(re.search(rf"""['"]{OF_A_MACHINE}""", re.sub(BELOW_A_FOLDER, "", value)))
    return bool(re.match(OF_A_MACHINE, value))


def requirements() -> list[str]:
    """What this package needs, as pip takes it: its declared dependencies without the extras."""
    unpacked = PACKAGE.with_name(REQUIREMENTS)  # in an archive
    if unpacked.is_file():
        return unpacked.read_text(encoding="utf-8").splitlines()
    project = PACKAGE.with_name("pyproject.toml")  # in a clone, where what is installed may be older
    if project.is_file() and sys.version_info >= (3, 11):
        import tomllib

        return sorted(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"])
    return sorted(line for line in requires("shared_nets") or [] if "extra ==" not in line)


def archive_name(bundle: str | Path) -> str:
    """
    What a bundle's archive is called: ``NAME_vX.Y.Z.zip``, with the version of metadata.json.

    Args:
        bundle: the bundle's folder.

    Raises:
        UsageError: if it is no bundle.
    """
    bundle = Path(bundle).resolve()
    check_parts(bundle, "to release", PARTS)
    return f"{bundle.name}_v{read_metadata(bundle)['version']}.zip"


def write_archive(bundle: str | Path, folder: str | Path) -> Path:
    """
    Write a bundle's archive. The same bundle gives the same bytes, on every machine.

    Args:
        bundle: the bundle's folder.
        folder: where it is written, under the name of `archive_name`.

    Returns:
        The archive's path.

    Raises:
        UsageError, WeightsError: as `bundle_files`.
        OutputError: if it cannot be written.
    """
    bundle = Path(bundle).resolve()
    files = bundle_files(bundle)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{bundle.name}/{name}")  # of 1 January 1980
            entry.create_system = 3  # POSIX, whatever this system is
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            # Not compressed: weights hardly shrink, and other versions of zlib give other bytes.
            archive.writestr(entry, files[name], zipfile.ZIP_STORED)
    path = Path(folder, archive_name(bundle))
    write_bytes(path, content.getvalue())
    return path


def write_folder(bundle: str | Path, folder: str | Path) -> Path:
    """
    Write what a bundle's archive holds as a folder, laid out for the Hugging Face Hub.

    Its ``README.md`` is the model card under the head that the Hub reads.

    Args:
        bundle: the bundle's folder.
        folder: where the folder ``NAME`` is made; an earlier one of this function is replaced.

    Raises:
        UsageError: if something else of that name is there, or as `bundle_files`.
        WeightsError: as `bundle_files`.
        OutputError: if it cannot be written.
    """
    bundle = Path(bundle).resolve()
    target = replaceable(bundle, folder)
    files = bundle_files(bundle)
    card = files["docs/README.md"].decode()
    head = hub_head(read_metadata(bundle))
    # The card moves up one folder.
    files["README.md"] = (head + re.sub(r"(!\[[^]]*\]\()(?=images/)", r"\1docs/", card)).encode()
    files[SUMS] = sums({name: content for name, content in files.items() if name != SUMS})
    with new_folder(target, replaces=True) as part:
        for name, content in files.items():
            write_bytes(part / name, content)
    return target


def replaceable(bundle: str | Path, folder: str | Path) -> Path:
    """
    Where `write_folder` puts a bundle, if nothing else is there.

    Args:
        bundle: the bundle's folder.
        folder: where the folder ``NAME`` is made.

    Raises:
        UsageError: if something is there that `write_folder` did not write.
    """
    target = Path(folder, Path(bundle).resolve().name)
    # A clone of the Hub's repository has its history there.
    if target.exists() and ((target / ".git").exists() or not (target / SUMS).is_file()):
        raise UsageError(
            f"{target} is not of an earlier release, or a clone, and is not replaced: move it, or choose "
            f"another output folder."
        )
    return target


def hub_head(metadata: Mapping[str, object]) -> str:
    """
    The head of a model card for the Hugging Face Hub, in YAML.

    The Hub's licence is one of a list of its own; of weights under another than the code's it is "other", and
    the card tells.

    Args:
        metadata: the content of metadata.json.
    """
    licence = "other" if "weights_license" in metadata else "apache-2.0"
    return (
        "---\n"
        f"license: {licence}\n"
        "library_name: monai\n"
        "pipeline_tag: image-segmentation\n"
        "tags:\n"
        "- monai\n"
        "- medical\n"
        "- mri\n"
        "- brain\n"
        "- stroke\n"
        f"model_name: {json.dumps(metadata['name'])}\n"
        "---\n\n"
    )


def sums(files: Mapping[str, bytes]) -> bytes:
    """The lines that ``sha256sum --check`` takes, for files by name."""
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return "".join(lines).encode()


def unpack(archive: str | Path, folder: str | Path) -> Path:
    """
    Unpack a bundle's archive, if it is whole and writes nowhere but into a folder of its own.

    Args:
        archive: a zip file as `write_archive` writes it.
        folder: where the bundle's folder is made, which must not be there yet.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: if the file is not such an archive or damaged, has paths that lead out of its folder,
            links, another compression than deflate, or far more content than a bundle has, or if the folder
            is there already.
        OutputError: if the folder cannot be written.
    """
    archive = Path(archive)
    files = _read(archive)
    name = next(iter(files)).split("/")[0]
    target = Path(folder, name)
    with new_folder(target) as part:
        for path, content in files.items():
            write_bytes(part.joinpath(*PurePosixPath(path).parts[1:]), content)
    return target


def _read(path: Path) -> dict[str, bytes]:
    """The files of an archive by their paths in it, all checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_entries(path, archive.infolist())
            files = {}
            for entry in entries:
                with archive.open(entry) as stream:
                    # One byte more than it claims, and no further: the claim may be a lie.
                    files[entry.filename] = stream.read(entry.file_size + 1)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is not there: check the archive's path.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check the archive's path.") from error
    except UsageError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} is damaged or no zip archive: download it again.") from error
    _check_sums(path, files)
    return files


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse, before anything is read, an archive whose entries a bundle's archive would not have."""
    suspect = f"{path} is no bundle's archive and was not unpacked"
    if not 0 < len(entries) <= MOST_FILES:
        raise UsageError(f"{suspect}: it has {len(entries)} entries.")
    if len({entry.filename for entry in entries}) < len(entries):
        raise UsageError(f"{suspect}: it has two entries of one name.")
    roots = set()
    for entry in entries:
        name = entry.filename
        parts = PurePosixPath(name).parts
        # Only the plainest spelling: of b//x the part after b is /x. A colon would be a drive or a stream, a
        # backslash a folder, on Windows.
        plain = "/".join(parts) + "/" * entry.is_dir()
        if name != plain or name.startswith("/") or ".." in parts or re.search(r"[\\:\0-\x1f]", name):
            raise UsageError(f"{suspect}: the entry {name!r} would lie outside its folder.")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UsageError(f"{suspect}: the entry {name!r} is a link or device.")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UsageError(f"{suspect}: the entry {name!r} is compressed by another method than deflate.")
        roots.add(parts[0])
        if len(parts) == 1 and not entry.is_dir():
            raise UsageError(f"{suspect}: the entry {name!r} lies in no folder.")
    if len(roots) > 1:
        raise UsageError(f"{suspect}: it has more than one folder.")
    if sum(entry.file_size for entry in entries) > LARGEST_ARCHIVE:
        raise UsageError(f"{suspect}: it would take more than {LARGEST_ARCHIVE / 2**30:g} GiB.")


def _check_sums(path: Path, files: Mapping[str, bytes]) -> None:
    """Refuse an archive whose content is not what its SHA256SUMS says."""
    root = next(iter(files), "").split("/")[0]
    content = {name.removeprefix(f"{root}/"): data for name, data in files.items()}
    told = content.pop(SUMS, None)
    if told is None:
        raise UsageError(f"{path} is no bundle's archive and was not unpacked: it has no {SUMS}.")
    if told != sums(content):
        raise UsageError(f"{path} is damaged (its files are not those of its {SUMS}): download it again.")


def _tree(folder: Path, prefix: str) -> dict[str, bytes]:
    """The files under a folder by name, without links and what is no part of a bundle."""
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and not any(fnmatch(p, one) for p in path.relative_to(folder).parts for one in NOT_PASSED_ON)
    }


def _card(bundle: Path) -> tuple[bytes, dict[str, bytes]]:
    """The model card with its pictures beside it, wherever they lie in the repository."""
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    pictures = {}
    for link in set(re.findall(r"!\[[^]]*\]\(((?:\.\./)+[^)]+)\)", text)):
        source = bundle / "docs" / link
        if not source.is_file():
            raise UsageError(
                f"{bundle / 'docs' / 'README.md'}: there is no picture {link}; correct the link."
            )
        pictures[f"docs/images/{source.name}"] = source.read_bytes()
        text = text.replace(f"({link})", f"(images/{source.name})")
    return text.encode(), pictures
