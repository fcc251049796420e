"""Statistics on arrays: metrics, intervals, calibration, prediction sets, verdict.

Arguments have the same names everywhere and are described where they differ from this:

* ``y_true`` and ``y``: (n,) indices of the true classes, 0 … K − 1.
* ``y_prob`` and ``probs``: (n, K) probabilities, rows sum to 1.
* ``logits``: (n, K) real numbers; never mixed with probabilities.
* ``features``: (n, D) real numbers.
* ``class_names``: the K class names, in the order of the columns.
* ``groups``: (n,) labels of the units that are resampled or left out as a whole, such as
  patients, or a mapping from image id to that label; None means every image for itself.
* ``**how``: a :class:`~leukoscope.evaluation.statistics.intervals.Sampling`.

Functions that read these raise ``DataError`` where shapes do not fit, a true class is unknown,
or there is no image, and ``UnknownNameError`` for a metric that the classes do not have.
"""
