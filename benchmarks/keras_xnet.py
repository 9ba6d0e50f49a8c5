"""
The original X-Net as a Keras model, built from its published description, for ``network.py --keras``.

Runs a batch for every line of standard input, and answers with the CPU seconds it took. Weights are random.
15,117,646 values, as published.

    python benchmarks/keras_xnet.py BATCH HEIGHT WIDTH
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
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
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    batch, height, width = map(int, sys.argv[1:])
    model = xnet(height, width)
    assert model.count_params() == 15_117_646, model.count_params()
    run = tf.function(lambda x: model(x, training=False))
    x = tf.constant(np.random.default_rng(0).random((batch, height, width, 1), dtype=np.float32))
    run(x)
    for _ in sys.stdin:
        start = time.process_time()
        run(x).numpy()
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
