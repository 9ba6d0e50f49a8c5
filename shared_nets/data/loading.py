"""Scans and lesion masks from files to channel-first MetaTensors, checked on the way."""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialResample
from monai.utils import MetaKeys, SpaceKeys
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from shared_nets.data.bids import has_bval
from shared_nets.data.checks import (
    Grid,
    check_affine,
    check_binary,
    check_claimed_size,
    check_contrast,
    check_dimension,
    check_file,
    check_finite,
    check_head,
    check_head_size,
    check_intensities,
    check_overlap,
    check_same_grid,
    check_same_head,
    is_nifti,
    warn_of_large_mask,
)
from shared_nets.data.formats import Scan, as_nifti, is_other_format, scan_name
from shared_nets.data.names import flair_of, modality_of
from shared_nets.data.preprocessing import background_of
from shared_nets.errors import (
    ScanMismatchError,
    StrokeSegError,
    UnreadableScanError,
    UsageError,
    warn_of_scan,
)

# What nibabel says of headers it mends names no file; those that matter are told by shared_nets.data.checks.
logging.getLogger("nibabel.global").setLevel(logging.ERROR)


class Volume(NamedTuple):
    """One scan: its voxels (volumes, X, Y, Z) as float32, its affine (4, 4) to RAS mm, and its path."""

    array: NDArray[np.float32]
    affine: NDArray[np.float64]
    path: str

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""
        return Grid(self.affine, self.array.shape[1:], self.path)


class LoadScand(MapTransform):
    """
    Check and load a scan onto its own grid, one channel a modality.

    A case's ``image`` is a path, a list of one path, or for two modalities: ``[DWI, FLAIR]`` with ``None``
    for one that is missing, or one path. That one file is a stack (X, Y, Z, 2), or DWI alone, or FLAIR alone
    if its name says so; a FLAIR of the same file name in a folder ``flair`` beside it goes with it. FLAIR is
    resampled onto the DWI's grid, its background where it does not reach; a missing modality is a channel of
    zeros. A file with a ``.bval`` beside it is a diffusion series, and no stack.
    In a path's place may stand an image in memory: nibabel's, or a MetaTensor.

    The result is a float32 MetaTensor (modalities, X, Y, Z) in the file's own orientation. Its meta names the
    file whose grid it is (``filename_or_obj``: the DWI where there is one), with ``affine``,
    ``original_affine`` and ``spatial_shape``. Other keys of the case pass untouched.

    Args:
        keys: keys of the scans.
        modalities: ``("T1w",)`` or ``("DWI", "FLAIR")``: the channels, in order.
        allow_missing_keys: whether a case may lack the keys.
        tell_lone_second: warn of a FLAIR without its DWI, in which a network of both finds hardly anything.

    Raises:
        StrokeSegError: the subclass that tells what is wrong with the file, see
            :mod:`shared_nets.data.checks`.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        modalities: Sequence[str] = ("T1w",),
        allow_missing_keys: bool = False,
        tell_lone_second: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.modalities = tuple(modalities)
        self.tell_lone_second = tell_lone_second
        if len(self.modalities) not in (1, 2):
            raise UsageError(
                f"A scan has one modality or two, not {len(self.modalities)}: {self.modalities}."
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Args:
            data: a case of :func:`shared_nets.data.find_cases`.

        Returns:
            the case with each key's path replaced by its scan.
        """
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            loaded[key] = self._load(loaded[key])
        return loaded

    def shown(self, image: Any) -> list[bool]:
        """
        Which of two modalities a case's image has: by its names, or by the header of what may be a stack.

        Args:
            image: as in a case. Of one file that cannot be read, the first: its loading tells why.
        """
        first, second = self._files(image)
        if first is None or not self._may_be_stack(image, first, second):
            return [first is not None, second is not None]
        with suppress(StrokeSegError), _open(first) as (nifti, _):
            return [True, check_dimension(nifti.header, scan_name(first), (1, 2))[3] == 2]
        return [True, False]

    def _load(self, image: Any) -> MetaTensor:
        first, second = self._files(image)
        if first is None:
            if second is None:
                raise UsageError("A case names no scan at all: give at least one of its modalities a path.")
            flair = read_scan(second)
            check_contrast(flair.path, self.modalities[1])
            if self.tell_lone_second:
                one, other = self.modalities
                warn_of_scan(
                    f"{flair.path} is a {other} without its {one}, and hardly any lesion is found on it: "
                    f"0 mL does not say that there is none."
                )
            both = np.concatenate([np.zeros_like(flair.array), flair.array])
            return _to_tensor(both, flair.affine, flair.path)
        if _is_one_file(first, second):
            one, other = self.modalities
            raise ScanMismatchError(f"{scan_name(first)} is given as {one} and as {other}: name both files.")

        scan = read_scan(first, volumes=(1, 2) if self._may_be_stack(image, first, second) else (1,))
        if len(scan.array) == 1:
            check_contrast(scan.path, self.modalities[0])
        if len(scan.array) == len(self.modalities):
            if isinstance(first, str) and len(scan.array) == 2:
                one, other = self.modalities
                warn_of_scan(
                    f"{first} holds two volumes: the first is taken for {one}, the second for {other}; check "
                    f"that they are."
                )
            return _to_tensor(*scan)
        both = np.concatenate([scan.array, self._second_channel(second, scan)])
        return _to_tensor(both, scan.affine, scan.path)

    def _may_be_stack(self, image: Any, first: Scan | None, second: Scan | None) -> bool:
        """Whether one file or image may hold both modalities: its name says none, and it is no series."""
        one = len(self.modalities) == 2 and second is None and not isinstance(image, (list, tuple))
        return one and (
            not isinstance(first, str) or (modality_of(first) is None and not has_bval(Path(first)))
        )

    def _second_channel(self, second: Scan | None, scan: Volume) -> NDArray[np.float32]:
        """The second modality on the first one's grid; zeros if it is missing."""
        if second is None:
            return np.zeros_like(scan.array)
        try:
            moving = read_scan(second)
        except StrokeSegError as error:
            said = str(error).removesuffix(".")
            raise type(error)(f"{said}, or give {self.modalities[0]} alone.") from error
        if Path(moving.path).name != Path(scan.path).name:  # MONAI Label's FLAIR bears the name of its DWI
            check_contrast(moving.path, self.modalities[1])
        resampled = resample_to(moving, scan)
        check_same_head(scan.array[0], scan.affine, scan.path, moving.array[0], moving.affine, moving.path)
        return resampled

    def _files(self, image: Any) -> tuple[Scan | None, Scan | None]:
        """The files or images in memory of the first and second modality."""
        scans = list(image) if isinstance(image, (list, tuple)) else [image]
        kinds = (str, os.PathLike, SpatialImage, MetaTensor)
        for scan in scans:
            if scan is not None and not isinstance(scan, kinds):
                raise UsageError(
                    f"A scan is a path, a nibabel image or a MetaTensor, or a list of these, not a "
                    f"{type(scan).__name__}: give one that says where its voxels lie."
                )
        if not 1 <= len(scans) <= len(self.modalities):
            raise UsageError(
                f"{len(scans)} files were given for a scan of {' and '.join(self.modalities)}: "
                f"give one a modality."
            )
        named = [os.fspath(s) or None if isinstance(s, (str, os.PathLike)) else s for s in scans]
        if len(named) == 2 or len(self.modalities) == 1 or not isinstance(named[0], str):
            return named[0], named[1] if len(named) == 2 else None
        path = named[0]
        if modality_of(path) == self.modalities[1]:
            return None, path
        sibling = flair_of(Path(path))
        return path, str(sibling) if sibling.is_file() else None


class LoadMaskd(MapTransform):
    """
    Check and load a lesion mask on its scan's grid.

    A mask holds 0 and one other whole number; nothing marked is a legitimate mask. A list of masks is merged:
    what any of them marks is lesion.

    Args:
        keys: keys of the masks: a path or a list of paths.
        reference: key of the scan, loaded by :class:`LoadScand` before.
        allow_missing_keys: whether a case may lack the keys.

    Raises:
        MaskError: if a mask is not binary.
        ScanMismatchError: if a mask is on another grid than its scan.
        StrokeSegError: another subclass that tells what is wrong with the file.
    """

    def __init__(
        self, keys: KeysCollection = "label", reference: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference = reference

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Args:
            data: a case whose scan is loaded.

        Returns:
            the case with each key's paths replaced by a uint8 MetaTensor (1, X, Y, Z) of 0 and 1.
        """
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            paths = loaded[key] if isinstance(loaded[key], (list, tuple)) else [loaded[key]]
            if not paths:
                raise UsageError(f"The list of masks under {key!r} is empty: name at least one file.")
            loaded[key] = self._load([os.fspath(p) for p in paths], loaded[self.reference])
        return loaded

    def _load(self, paths: list[str], scan: Any) -> MetaTensor:
        if not isinstance(scan, MetaTensor):
            raise UsageError(f"LoadMaskd needs the scan {self.reference!r} loaded: put LoadScand before it.")
        meta = scan.meta
        shape = tuple(int(n) for n in meta["spatial_shape"])
        grid = Grid(np.asarray(meta["original_affine"]), shape, str(meta["filename_or_obj"]))
        # The scan's own affine: the masks' may differ by rounding.
        return _to_tensor(read_merged_mask(paths, grid).astype(np.uint8), grid.affine, paths[0])


def read_scan(scan: Scan, volumes: Sequence[int] = (1,)) -> Volume:
    """
    Read one scan of a head.

    Args:
        scan: a .nii or .nii.gz file, or what :func:`shared_nets.data.formats.as_nifti` takes.
        volumes: how many volumes it may hold along a fourth axis.

    Returns:
        its voxels (volumes, X, Y, Z), affine and path.

    Raises:
        StrokeSegError: the subclass that tells what is wrong with it.
    """
    path = scan_name(scan)
    with _open(scan) as (image, rest):
        shape = check_dimension(image.header, path, volumes)
        check_affine(image.header, image.affine, path)
        check_head_size(image.affine, shape, path)
        volume = _read_voxels(image, path, shape, rest)
    for channel in volume.array:
        check_intensities(channel, path)
        check_head(channel, image.affine, path)
    return volume


def read_merged_mask(paths: Sequence[str], grid: Grid) -> NDArray[np.bool_]:
    """
    What any of a case's masks marks.

    Args:
        paths: the masks' files.
        grid: the scan's.

    Returns:
        ``(1, X, Y, Z)``.

    Raises:
        MaskError: if a mask is not binary.
        ScanMismatchError: if a mask is on another grid.
        StrokeSegError: another subclass that tells what is wrong with a file.
    """
    merged = np.zeros((1, *grid.shape), dtype=bool)
    for path in paths:
        mask = read_mask(path)
        check_same_grid(mask.grid, grid)
        merged |= mask.array != 0
    return merged


def read_grid(scan: Scan) -> Grid:
    """
    Where a scan's voxels lie; they themselves are not read from a NIfTI file.

    Args:
        scan: as in :func:`read_scan`, of one volume or of two.

    Raises:
        StrokeSegError: the subclass that tells what is wrong with it.
    """
    path = scan_name(scan)
    with _open(scan) as (image, _):
        shape = check_dimension(image.header, path, volumes=(1, 2))
        check_affine(image.header, image.affine, path)
        return Grid(np.array(image.affine, dtype=np.float64), shape[:3], path)


def read_mask(path: str) -> Volume:
    """
    Read one lesion mask.

    Args:
        path: a .nii or .nii.gz file, or another that :func:`shared_nets.data.formats.as_nifti` takes.

    Returns:
        its values (1, X, Y, Z), of which those that are not 0 are lesion, its affine and path.

    Raises:
        StrokeSegError: the subclass that tells what is wrong with the file.
    """
    with _open(path) as (image, rest):
        shape = check_dimension(image.header, path)
        check_affine(image.header, image.affine, path)
        volume = _read_voxels(image, path, shape, rest)
    check_finite(volume.array, path)
    check_binary(volume.array, path)
    warn_of_large_mask(volume.array, volume.affine, path)
    return volume


def resample_to(moving: Volume, fixed: Volume) -> NDArray[np.float32]:
    """
    Bring one scan onto another's grid, linearly, its background outside: 0, if not one exact other value.

    Args:
        moving: the scan to resample (FLAIR).
        fixed: the scan whose grid counts (DWI).

    Returns:
        (volumes, X, Y, Z) on the grid of ``fixed``.

    Raises:
        ScanMismatchError: if the two hardly overlap in space, or nothing but background of ``moving`` is in
            the overlap.
    """
    shape = fixed.array.shape[1:]
    check_overlap(fixed.grid, moving.grid)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=np.float32)
    # Where it does not reach it is to be as dark as its air, which is not 0 after a z-score.
    air = np.float32(background_of(moving.array[0]) or 0)
    tensor = MetaTensor(torch.from_numpy(moving.array - air), affine=torch.from_numpy(moving.affine))
    there = resample(tensor, dst_affine=torch.from_numpy(fixed.affine), spatial_size=shape)
    array = np.ascontiguousarray(cast(MetaTensor, there).numpy())
    if not array.any():
        raise ScanMismatchError(
            f"{moving.path} shows nothing where {fixed.path} lies: check that both are of one session."
        )
    return array + air


def _is_one_file(first: Scan, second: Scan | None) -> bool:
    """Whether two scans are the same image or file, be it under two names."""
    if not isinstance(first, str) or not isinstance(second, str):
        return first is second
    return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)


@contextmanager
def _open(scan: Scan) -> Iterator[tuple[Any, IO[bytes] | None]]:
    """A scan as a NIfTI image, and the stream it is read from if its voxels are still to be read."""
    if is_other_format(scan):
        try:
            yield as_nifti(scan), None
        except (EOFError, OSError, zlib.error) as error:  # nibabel reads the voxels when they are used
            raise UnreadableScanError(
                f"{scan_name(scan)} cannot be read ({_reason(error)}): copy or convert the scan again."
            ) from error
    else:
        with open_nifti(scan_name(scan)) as opened:
            yield opened


@contextmanager
def open_nifti(path: str) -> Iterator[tuple[Any, IO[bytes]]]:
    """
    A NIfTI image whose voxels are still to be read, and the open stream to read them from.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file, its ending in capitals or not.

    Raises:
        ScanNotFoundError: if it is not there.
        UnreadableScanError: if it is no NIfTI file, truncated or corrupt.
    """
    check_file(path)
    zipped = path.lower().endswith(".gz")
    try:
        with gzip.open(path) if zipped else open(path, "rb") as stream:
            start = stream.read(544)
            if not is_nifti(start):
                raise UnreadableScanError(f"{path} is not a NIfTI file: convert the scan to NIfTI.")
            stream.seek(0)
            kind = nib.Nifti2Image if start[4:8] == b"n+2\0" else nib.Nifti1Image
            try:
                image = kind.from_stream(cast(Any, stream))
            except (EOFError, OSError, zlib.error, MemoryError):
                raise
            except Exception as error:  # whatever a hostile header makes nibabel stumble over
                raise UnreadableScanError(
                    f"{path} has a broken NIfTI header ({_reason(error)}): convert it again."
                ) from error
            yield image, cast(IO[bytes], stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "is truncated" if isinstance(error, EOFError) else "is corrupt"
        raise UnreadableScanError(
            f"{path} {what} (gzip: {_reason(error)}): copy or convert the scan again."
        ) from error
    except OSError as error:
        if error.errno is None:  # nibabel's own: fewer bytes than the header claims
            raise UnreadableScanError(f"{path} is truncated: copy or convert the scan again.") from error
        raise UnreadableScanError(
            f"{path} cannot be read ({_reason(error)}): copy or convert the scan again."
        ) from error


def _reason(error: BaseException) -> str:
    """Another library's message on one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _read_voxels(image: Any, path: str, shape: tuple[int, int, int, int], stream: IO[bytes] | None) -> Volume:
    if stream is not None:
        # nibabel clears the offset in the header it keeps.
        offset, zipped = int(image.dataobj.offset), isinstance(stream, gzip.GzipFile)
        check_claimed_size(image.header, offset, path, zipped=zipped)
    # float64 beyond float32 becomes infinite, which is reported as such.
    with np.errstate(over="ignore", invalid="ignore"):
        voxels = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    if isinstance(stream, gzip.GzipFile):
        # gzip keeps its checksum at the end: read on to have it checked, but not for ever.
        for _ in range(64):
            if not stream.read(2**20):
                break
    array = np.ascontiguousarray(np.moveaxis(voxels, -1, 0))
    # mmap of an uncompressed float32 file must not outlive the file.
    array = array.copy() if not array.flags.owndata or not array.flags.writeable else array
    return Volume(array, np.array(image.affine, dtype=np.float64), path)


def _to_tensor(array: NDArray[Any], affine: NDArray[np.float64], path: str) -> MetaTensor:
    """Voxels (channels, X, Y, Z) as a MetaTensor with the meta that MONAI's readers give."""
    meta = {
        "filename_or_obj": path,
        MetaKeys.ORIGINAL_AFFINE.value: affine.copy(),
        MetaKeys.SPATIAL_SHAPE.value: np.asarray(array.shape[1:]),
        MetaKeys.SPACE.value: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM.value: 0,
    }
    return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(affine), meta=meta)
