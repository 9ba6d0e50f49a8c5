"""
The original X-Net as a Keras model, built from its description, for ``network.py`` and ``volume.py``.

Runs a batch for every line of standard input, and answers with the CPU seconds it took (several threads: by
the clock); or a whole scan, and tells them with those of its network and the peak memory. Weights are random.
15,117,646 values, as published.

    python benchmarks/keras_xnet.py BATCH HEIGHT WIDTH [--scan SCAN]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow.keras import layers as L

WIDTHS = (64, 128, 256, 512, 1024)


def norm_relu(x: tf.Tensor) -> tf.Tensor:
    return L.Activation("relu")(L.BatchNormalization()(x))


def xblock(x: tf.Tensor, width: int) -> tf.Tensor:
    main = x
    for _ in range(3):
        main = norm_relu(L.DepthwiseConv2D(3, padding="same", use_bias=False)(main))
        main = norm_relu(L.Conv2D(width, 1)(main))
    return L.Add()([main, norm_relu(L.Conv2D(width, 1)(x))])


class Similarity(L.Layer):
    """``f = α βᵀ / N``, then ``f g``, by the N×N affinities, as in the authors' code."""

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        alpha, beta, value = (tf.reshape(t, (tf.shape(t)[0], -1, t.shape[-1])) for t in inputs)
        affinity = tf.matmul(alpha, beta, transpose_b=True) / tf.cast(tf.shape(alpha)[1], alpha.dtype)
        return tf.reshape(tf.matmul(affinity, value), tf.shape(inputs[0]))


def fsm(x: tf.Tensor) -> tf.Tensor:
    channels = x.shape[-1]
    inner = channels // 8
    reduced = norm_relu(L.Conv2D(inner, 3, padding="same")(x))
    gathered = Similarity()([L.Conv2D(inner // 2, 1, use_bias=False)(reduced) for _ in range(3)])
    gathered = L.Add()([L.Conv2D(inner, 1, use_bias=False)(gathered), reduced])
    return L.Add()([norm_relu(L.Conv2D(channels, 3, padding="same")(gathered)), x])


def xnet(height: int, width: int) -> tf.keras.Model:
    image = x = L.Input((height, width, 1))
    skips = []
    for level in WIDTHS[:-1]:
        skips.append(xblock(x, level))
        x = L.MaxPooling2D()(skips[-1])
    x = fsm(xblock(x, WIDTHS[-1]))
    for level, skip in zip(WIDTHS[-2::-1], skips[::-1], strict=True):
        up = norm_relu(L.Conv2D(level, 3, padding="same")(L.UpSampling2D()(x)))
        x = xblock(L.Concatenate()([skip, up]), level)
    return tf.keras.Model(image, L.Conv2D(1, 1, activation="sigmoid")(x))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", type=int, nargs=3, metavar="SIZE", help="BATCH HEIGHT WIDTH")
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    batch, height, width = options.size
    model = xnet(height, width)
    assert model.count_params() == 15_117_646, model.count_params()
    run = tf.function(lambda x: model(x, training=False))
    x = tf.constant(np.random.default_rng(0).random((batch, height, width, 1), dtype=np.float32))
    run(x)
    if options.scan:
        print(json.dumps(volume(run, options.scan, batch, (height, width))))
        return
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for _ in sys.stdin:
        start = clock()
        run(x).numpy()
        print(clock() - start, flush=True)


def volume(
    run: Callable[[tf.Tensor], tf.Tensor], path: Path, batch: int, size: tuple[int, int]
) -> dict[str, float]:
    """From a scan's file to a mask's, all slices cut or padded to one size: what volume.py asks for."""
    import nibabel as nib

    once = time.process_time()
    voxels = nib.as_closest_canonical(nib.load(path)).get_fdata(dtype=np.float32)
    low, high = np.percentile(voxels, [0.5, 99.5])
    slices = np.clip((voxels - low) / (high - low), 0, 1).transpose(2, 1, 0)  # rows from back to front
    for axis, wanted in enumerate(size, start=1):
        kept = min(slices.shape[axis], wanted)
        spare, missing = (slices.shape[axis] - kept) // 2, wanted - kept
        slices = slices.take(range(spare, spare + kept), axis=axis)
        sides = [(0, 0)] * 3
        sides[axis] = (missing // 2, missing - missing // 2)
        slices = np.pad(slices, sides)
    network = 0.0
    found = []
    for first in range(0, len(slices), batch):
        # Always the same size of batch, or the function is traced anew.
        part = np.zeros((batch, *size, 1), np.float32)
        given = slices[first : first + batch]
        part[: len(given), ..., 0] = given
        start = time.process_time()
        found.append(run(tf.constant(part)).numpy()[: len(given), ..., 0])
        network += time.process_time() - start
    mask = (np.concatenate(found) > 0.5).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        nib.save(nib.Nifti1Image(mask, np.eye(4)), Path(folder, "mask.nii.gz"))
    done = time.process_time()
    # In KiB, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)
    return {"once": once, "scan": done - once, "network": network, "peak GiB": peak}


if __name__ == "__main__":
    main()
