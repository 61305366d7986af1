"""XGBoost: the loss as an objective and a metric, for its native and its scikit-learn interface. Does not import it."""

from typing import Any, final

from .. import _check
from .._typing import Weight
from ._derivatives import derivatives
from ._options import Options


@final
class Objective(Options):
    r"""Binary cross-entropy of several labels as a custom objective of XGBoost, with missing labels and soft labels.

    For margins x, labels y and the weights v of the rows, with y' = y*(1-eps) + eps/2 and
    (1-y)' = (1-y)*(1-eps) + eps/2, XGBoost gets for every row and label::

        gradient = v * weight * ((1-y)'*sigma(x) - pos_weight*y'*sigma(-x))
        hessian  = v * weight * ((1-y)' + pos_weight*y') * max(sigma(x)*sigma(-x), min_hessian)

    These are the values that its own ``binary:logistic`` computes, and exactly 0 where a label is missing.

    Parameters
    ----------
    weight, pos_weight : array, number or nested list, optional
        Factors of each label's terms, and of their positive parts; ``(C,)`` for C labels. ``scale_pos_weight`` is one
        number for all.
    label_smoothing : float
        eps in [0, 1]: moves every label towards 1/2.
    missing : float, optional
        The label that means "not observed", such as -1. XGBoost itself refuses NaN as a label.
    min_hessian : float
        Lower bound of sigma(x)*sigma(-x) for observed labels, before the weights. XGBoost's own bound is 1e-16.

    Raises
    ------
    TypeError, ValueError
        As for `mlsm.objectives.derivatives`; on construction for all checks that need no data.

    Notes
    -----
    One object serves ``xgboost.train(..., obj=objective)``, where it is called with (margins, DMatrix), and
    ``XGBClassifier(objective=objective)``, where it is called with (labels, margins). Weights of rows are those of the
    DMatrix, or ``fit(..., sample_weight=...)``.

    Pass ``"objective": "binary:logistic"`` and ``"base_score": 0.5`` in addition to ``obj=``: the margins then start
    at 0, and a model that is saved and loaded again predicts probabilities. If labels are missing, use `metric` with
    ``"disable_default_eval_metric": 1``, because XGBoost's own metric treats -1 as a label.

    If the labels are on a GPU, as CuPy arrays, the margins are moved there (XGBoost passes NumPy arrays), and the
    derivatives stay there.

    Objects are equal when their options are.

    References
    ----------
    XGBoost, "Custom Objective and Evaluation Metric" and "Multiple Outputs".

    Examples
    --------
    >>> import numpy as np
    >>> from mlsm.objectives.xgboost import Objective
    >>> objective = Objective(missing=-1)
    >>> objective
    Objective(missing=-1)
    >>> labels, margins = np.asarray([[1.0, -1.0]], np.float32), np.zeros((1, 2), np.float32)
    >>> gradient, hessian = objective(labels, margins)
    >>> gradient
    array([[-0.5,  0. ]], dtype=float32)

    With the library itself::

        params = {"objective": "binary:logistic", "base_score": 0.5, "disable_default_eval_metric": 1}
        booster = xgboost.train(params, xgboost.DMatrix(X, Y), obj=objective, custom_metric=objective.metric)
    """

    __slots__ = ("min_hessian",)

    min_hessian: float

    def __init__(
        self,
        weight: Weight | None = None,
        *,
        pos_weight: Weight | None = None,
        label_smoothing: float = 0.0,
        missing: float | None = None,
        min_hessian: float = 1e-16,
    ) -> None:
        super().__init__(weight, pos_weight, label_smoothing, missing)
        self._set(min_hessian=_check.check_min_hessian(min_hessian))

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Gradient and Hessian, of the margins' shape, from (margins, DMatrix) or from (labels, margins).

        Parameters
        ----------
        first, second : array and DMatrix, or two arrays
            The arguments with which XGBoost calls an objective.
        sample_weight : array of shape (N,), optional
            With two arrays: the weights of the rows.

        Returns
        -------
        gradient, hessian
            Arrays of the margins' shape and dtype.

        Raises
        ------
        TypeError, ValueError
            As for `mlsm.objectives.derivatives`.
        """
        margins, labels, sample_weight = _arguments(first, second, sample_weight)
        return derivatives(
            margins,
            labels,
            sample_weight=sample_weight,
            where=self.observed(labels),
            label_smoothing=self.label_smoothing,
            min_hessian=self.min_hessian,
            **self.factors(margins),
        )

    def metric(self, first: Any, second: Any, sample_weight: Any = None) -> Any:
        """Log loss over the observed labels, for ``custom_metric=`` and, in scikit-learn's interface, ``eval_metric=``.

        The sum of v * weight * -log(probability of the label) over the observed labels, divided by the sum of their
        v * weight: the built-in ``logloss`` if no label is missing. It ignores `pos_weight` and `label_smoothing`,
        which change the training and not the measure. It is 0 if no label was observed.

        Parameters
        ----------
        first, second, sample_weight
            As for the objective. XGBoost passes margins to a metric if it was given an objective.

        Returns
        -------
        (str, float) or float
            The metric's name and value for (margins, DMatrix), its value alone for (labels, margins).

        Raises
        ------
        TypeError, ValueError
            As for `mlsm.sigmoid_binary_cross_entropy`.
        """
        value = self.logloss(*_arguments(first, second, sample_weight))
        return ("mlsm_logloss", value) if hasattr(second, "get_label") else value

    def _key(self) -> tuple[Any, ...]:
        return (*super()._key(), self.min_hessian)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "min_hessian": self.min_hessian}


def _arguments(first: Any, second: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """(margins, labels, weights of the rows or None), of one library, from the arguments of either interface."""
    if hasattr(second, "get_label"):
        margins, labels, sample_weight = first, second.get_label(), second.get_weight()
    else:
        margins, labels = second, first
    if type(labels).__module__.partition(".")[0] == "cupy" and type(margins) is not type(labels):
        import cupy

        margins = cupy.asarray(margins)
    if sample_weight is not None and not sample_weight.size:
        sample_weight = None  # XGBoost passes an empty array for no weights
    # XGBoost passes the margins of one label without a class axis, and its labels with or without one.
    return margins, labels.reshape(margins.shape) if labels.size == margins.size else labels, sample_weight
