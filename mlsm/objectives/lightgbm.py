"""LightGBM: the loss as an objective of several labels, which its data sets cannot hold. Does not import LightGBM."""

import weakref
from typing import Any, final

from .._typing import Array, Weight
from ._derivatives import derivatives
from ._options import Options

ROWS = 2**24  # LightGBM keeps labels in float32, in which every row number up to here is exact


@final
class Objective(Options):
    r"""Binary cross-entropy of several labels as a custom objective of LightGBM, with missing labels and soft labels.

    For raw scores x, labels y and the weights v of the rows, with y' = y*(1-eps) + eps/2 and
    (1-y)' = (1-y)*(1-eps) + eps/2, LightGBM gets for every row and label::

        gradient = v * weight * ((1-y)'*sigma(x) - pos_weight*y'*sigma(-x))
        hessian  = v * weight * ((1-y)' + pos_weight*y') * sigma(x)*sigma(-x)

    These are the values that its own ``binary`` computes for one label (``cross_entropy`` for a soft one), and exactly
    0 where a label is missing.

    Parameters
    ----------
    target : array of shape (N, C)
        The labels, bool, integer or floating, of all rows of all data sets of this objective, including the validation
        sets. The array is kept, not copied.
    weight, pos_weight : array, number or nested list, optional
        Factors of each label's terms, and of their positive parts; ``(C,)`` for C labels.
    label_smoothing : float
        eps in [0, 1]: moves every label towards 1/2.
    missing : float, optional
        The label that means "not observed", such as -1 or NaN.

    Raises
    ------
    TypeError, ValueError
        If `target` does not have two dimensions or has more than 2^24 rows, and as for `mlsm.objectives.derivatives`.

    Notes
    -----
    A LightGBM data set holds one label per row, so `dataset` gives it the row's number, in float32, and this object
    looks the labels up: at most 2^24 rows. The subsets that LightGBM makes (``lightgbm.cv``, ``Dataset.subset``) keep
    the row numbers. Train with ``{"objective": objective, "num_class": C}`` (without ``num_class`` if C is 1).
    Predictions are raw scores, whose probability is 1/(1+exp(-x)). Scores start at 0, as with
    ``boost_from_average=false``.

    LightGBM copies its parameters, so a deep copy of this object is the object itself. Objects are equal when their
    options are and their `target` is the same array.

    References
    ----------
    LightGBM, "Parameters": ``objective``, ``num_class``; and the documentation of ``lightgbm.train``.

    Examples
    --------
    >>> import numpy as np
    >>> from mlsm.objectives.lightgbm import Objective
    >>> labels = np.asarray([[1.0, 0.0], [np.nan, 1.0]])
    >>> objective = Objective(labels, missing=np.nan)
    >>> objective
    Objective(<target of shape (2, 2)>, missing=nan)

    With the library itself::

        booster = lightgbm.train({"objective": objective, "num_class": 2}, objective.dataset(X))
        probability = scipy.special.expit(booster.predict(X))
    """

    __slots__ = ("_looked_up", "target")

    target: Any
    _looked_up: Any  # data set -> its labels, mask and weights

    def __init__(
        self,
        target: Array,
        weight: Weight | None = None,
        *,
        pos_weight: Weight | None = None,
        label_smoothing: float = 0.0,
        missing: float | None = None,
    ) -> None:
        shape = getattr(target, "shape", None)
        if shape is None:
            raise TypeError(f"`target` must be an array of shape (N, C); got a {type(target).__qualname__}.")
        if len(shape) != 2:
            raise ValueError(f"`target` must have the shape (N, C), one column per label; got {tuple(shape)}.")
        if shape[0] > ROWS:
            raise ValueError(
                f"`target` must have at most 2**24 = {ROWS} rows, because LightGBM keeps their numbers in float32; "
                f"got {shape[0]}. Train one booster per label, or on fewer rows."
            )
        super().__init__(weight, pos_weight, label_smoothing, missing)
        self._set(target=target, _looked_up=weakref.WeakKeyDictionary())

    def dataset(self, data: Any, **options: Any) -> Any:
        """A ``lightgbm.Dataset`` of all N rows of `target`, whose labels are the row numbers.

        Parameters
        ----------
        data : array, DataFrame or other data that ``lightgbm.Dataset`` accepts
            The features, of N rows.
        **options
            Passed to ``lightgbm.Dataset``: ``weight=``, ``free_raw_data=False`` …

        Returns
        -------
        lightgbm.Dataset

        Raises
        ------
        ValueError
            If `data` has another number of rows than `target`.
        ImportError
            If LightGBM is not installed.
        """
        import numpy as np

        rows = data.shape[0] if hasattr(data, "shape") else len(data)
        if rows != self.target.shape[0]:
            raise ValueError(f"`data` must have as many rows as `target`, {self.target.shape[0]}; got {rows}.")
        try:
            import lightgbm
        except ImportError as error:
            raise ImportError(
                "`dataset` needs LightGBM, which is not installed: python -m pip install 'mlsm[lightgbm]'"
            ) from error
        return lightgbm.Dataset(data, label=np.arange(rows, dtype=np.float32), **options)

    def __call__(self, preds: Any, dataset: Any) -> tuple[Any, Any]:
        """Gradient and Hessian of the rows of a data set, of the scores' shape and memory order.

        Parameters
        ----------
        preds : array of shape (n,) or (n, C)
            Raw scores.
        dataset : lightgbm.Dataset
            Made by `dataset`, or a subset of one that was.

        Returns
        -------
        gradient, hessian
            Arrays like `preds`.

        Raises
        ------
        ValueError
            If the labels of the data set are not row numbers of `target`, and as for `mlsm.objectives.derivatives`.
        """
        labels, where, sample_weight = self._labels(preds, dataset)
        return derivatives(
            preds,
            labels,
            sample_weight=sample_weight,
            where=where,
            label_smoothing=self.label_smoothing,
            **self.factors(preds),
        )

    def metric(self, preds: Any, dataset: Any) -> tuple[str, float, bool]:
        """Log loss over the observed labels, for ``feval=``.

        The sum of v * weight * -log(probability of the label) over the observed labels, divided by the sum of their
        v * weight. It ignores `pos_weight` and `label_smoothing`, which change the training and not the measure. It is
        0 if no label was observed.

        Parameters
        ----------
        preds, dataset
            As for the objective.

        Returns
        -------
        (str, float, bool)
            The metric's name, its value, and False because larger is not better.

        Raises
        ------
        ValueError
            As for the objective.
        """
        labels, _, sample_weight = self._labels(preds, dataset)
        return "mlsm_logloss", self.logloss(preds, labels, sample_weight), False

    def _labels(self, preds: Any, dataset: Any) -> tuple[Any, Any, Any]:
        """Labels, mask and weights of a data set's rows; looked up once, in the memory order of the scores."""
        found = self._looked_up.get(dataset)
        if found is None:
            import numpy as np

            numbers = dataset.get_label()
            rows = np.asarray(numbers, dtype=np.int64)
            if rows.size and not ((rows == numbers).all() and 0 <= rows.min() <= rows.max() < len(self.target)):
                raise ValueError(
                    "`dataset` must be made by `Objective.dataset`, or be a subset of one that was; got labels that "
                    f"are not row numbers of `target`, which has {len(self.target)} rows."
                )
            labels = np.asarray(self.target)[rows].reshape(preds.shape)
            labels = np.asarray(labels, order="F" if preds.flags.f_contiguous else "C")
            weights = dataset.get_weight()
            weights = None if weights is None or not len(weights) else np.asarray(weights)
            found = self._looked_up[dataset] = (labels, self.observed(labels), weights)
        return found  # type: ignore[no-any-return]  # a WeakKeyDictionary of Any

    def __deepcopy__(self, memo: Any) -> "Objective":
        return self

    def __repr__(self) -> str:
        options = super().__repr__().partition("(")[2]
        return f"Objective(<target of shape {tuple(self.target.shape)}>{', ' if options != ')' else ''}{options}"

    def _key(self) -> tuple[Any, ...]:
        return (*super()._key(), id(self.target))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "target": self.target}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set(**state, _looked_up=weakref.WeakKeyDictionary())
