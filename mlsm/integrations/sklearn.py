"""scikit-learn: logistic regression of several labels at once, with missing and soft labels. No formula is here."""

import warnings
from importlib.util import find_spec
from typing import Any

if find_spec("sklearn") is None:
    raise ImportError(
        "`mlsm.integrations.sklearn` needs scikit-learn, which is not installed: python -m pip install 'mlsm[sklearn]'"
    )

import numpy as np
import scipy.optimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .._loss import value_and_grad
from ..libraries import library_of

_Base: Any = BaseEstimator  # as Any: scikit-learn ships no types


class MultiLabelLogisticRegression(ClassifierMixin, _Base):  # type: ignore[misc]  # _Base is Any
    r"""Logistic regression of C labels, each of which may be missing or soft.

    Minimises, over the coefficients and intercepts of all labels together::

        C * sum over rows and observed labels of v * (pos_weight*y'*softplus(-z) + (1-y)'*softplus(z))
          + 1/2 * sum of coefficients^2                      with z = X @ coef_.T + intercept_

    where v is the sample weight, y' = y*(1-eps) + eps/2 and (1-y)' = (1-y)*(1-eps) + eps/2. That is
    ``LogisticRegression`` for each label on the rows in which it was observed.

    Parameters
    ----------
    C : float
        Inverse strength of the penalty, as in ``LogisticRegression``.
    fit_intercept : bool
        Whether each label has an intercept, which is not penalised.
    pos_weight : array of shape (C,), number or list, optional
        Factor of the positive part of each label; ``class_weight={1: pos_weight}`` of ``LogisticRegression``.
    label_smoothing : float
        eps in [0, 1]: moves every label towards 1/2.
    tol : float
        The solver stops when no component of the gradient, divided by the sum of the rows' weights, is larger.
    max_iter : int
        Largest number of iterations of the solver, L-BFGS. Reaching it gives a ConvergenceWarning.
    warm_start : bool
        Whether `fit` starts from the coefficients of the previous call.

    Attributes
    ----------
    coef_ : array of shape (C, D)
    intercept_ : array of shape (C,)
    classes_ : array
        ``arange(C)`` for labels of two dimensions, the two classes for labels of one dimension.
    n_iter_ : int
    n_features_in_ : int

    Raises
    ------
    ImportError
        On import of the module, if scikit-learn is not installed.

    Notes
    -----
    Labels of shape (N, C) are numbers in [0, 1], or NaN where a label was not observed. Labels of shape (N,) have two
    classes of any kind, as everywhere in scikit-learn.

    Features that are arrays of another library (PyTorch, JAX, CuPy) stay on their device for the loss and its
    gradient. Only the coefficients and their gradient are copied, and the fitted attributes are NumPy arrays. Use
    float64 there, if the device has it.

    References
    ----------
    ``sklearn.linear_model.LogisticRegression``, and ``MultiOutputClassifier``, neither of which takes a NaN in `y`
    (scikit-learn#22360).

    Examples
    --------
    >>> import numpy as np
    >>> from mlsm.integrations.sklearn import MultiLabelLogisticRegression
    >>> X = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> Y = np.asarray([[0, 1], [0, np.nan], [1, 0.5], [np.nan, 0]])
    >>> model = MultiLabelLogisticRegression().fit(X, Y)
    >>> model.coef_.shape, model.predict_proba(X).shape
    ((2, 1), (4, 2))
    >>> model.predict(X[[0, 3]])
    array([[0, 1],
           [1, 0]])
    """

    coef_: Any
    intercept_: Any

    def __init__(
        self,
        C: float = 1.0,
        *,
        fit_intercept: bool = True,
        pos_weight: Any = None,
        label_smoothing: float = 0.0,
        tol: float = 1e-4,
        max_iter: int = 100,
        warm_start: bool = False,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.pos_weight = pos_weight
        self.label_smoothing = label_smoothing
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MultiLabelLogisticRegression":
        """Fit the coefficients.

        Parameters
        ----------
        X : array of shape (N, D)
            Finite features.
        y : array of shape (N, C) or (N,)
            Numbers in [0, 1], NaN where not observed; or, of one dimension, two classes.
        sample_weight : array of shape (N,) or (N, C), optional
            Weights of rows, or of each label of each row.

        Returns
        -------
        MultiLabelLogisticRegression
            This estimator, fitted.

        Raises
        ------
        ValueError
            If shapes do not fit, if a label is outside [0, 1], or if `C` is not positive.
        TypeError
            As for `mlsm.value_and_grad`.
        """
        if not self.C > 0:
            raise ValueError(f"`C` must be positive; got {self.C!r}.")
        X, xp, device = self._features(X, reset=True)
        y, where = self._labels(y, X, xp, device)
        weight, total = _weights(sample_weight, X, y, xp, device)
        options = {
            "weight": None if weight is None else weight[..., None],
            "where": None if where is None else where[..., None],
            "pos_weight": _pos_weight(self.pos_weight, X, xp, device),
            "label_smoothing": self.label_smoothing,
        }
        features, labels = X.shape[1], y.shape[1]
        fitted = getattr(self, "coef_", None) if self.warm_start else None
        start = np.zeros((labels, features + 1))
        if fitted is not None and fitted.shape == (labels, features):
            start[:, :-1], start[:, -1] = fitted, self.intercept_
        strength = 1 / (self.C * total)

        def objective(flat: Any) -> tuple[float, Any]:
            own = flat.reshape(labels, -1)
            coef = xp.asarray(np.ascontiguousarray(own[:, :features]), dtype=X.dtype, device=device)
            z = X @ coef.T
            if self.fit_intercept:
                z = z + xp.asarray(np.ascontiguousarray(own[:, features]), dtype=X.dtype, device=device)
            # Each element as a row of one class: the sum is then not divided by the number of labels.
            value, of_logits = value_and_grad(z[..., None], y[..., None], reduction="sum", **options)
            of_logits = of_logits[..., 0]
            gradient = np.empty_like(own)
            gradient[:, :features] = _host(of_logits.T @ X)
            if self.fit_intercept:
                gradient[:, features] = _host(xp.sum(of_logits, axis=0))
            gradient /= total
            gradient[:, :features] += strength * own[:, :features]
            penalty = 0.5 * strength * float(np.sum(own[:, :features] ** 2))
            return float(value) / total + penalty, gradient.reshape(-1)

        used = start if self.fit_intercept else np.ascontiguousarray(start[:, :-1])
        found = scipy.optimize.minimize(
            objective,
            used.reshape(-1),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": self.max_iter, "gtol": self.tol, "ftol": 64 * np.finfo(float).eps, "maxls": 50},
        )
        if found.nit >= self.max_iter and not found.success:
            warnings.warn(
                f"L-BFGS stopped after `max_iter` = {self.max_iter} iterations: raise it, or scale the features.",
                ConvergenceWarning,
                stacklevel=2,
            )
        own = found.x.reshape(labels, -1)
        self.coef_ = np.ascontiguousarray(own[:, :features])
        self.intercept_ = np.ascontiguousarray(own[:, features]) if self.fit_intercept else np.zeros(labels)
        self.n_iter_ = found.nit
        return self

    def decision_function(self, X: Any) -> Any:
        """The logits, of shape (N, C), or (N,) if the labels had one dimension."""
        check_is_fitted(self)
        X, xp, device = self._features(X, reset=False)
        coef, intercept = (xp.asarray(v, dtype=X.dtype, device=device) for v in (self.coef_, self.intercept_))
        z = X @ coef.T + intercept
        return z[:, 0] if self._one else z

    def predict_proba(self, X: Any) -> Any:
        """The probability of each label, of shape (N, C); of each of two classes if the labels had one dimension."""
        z = self.decision_function(X)
        xp = library_of(z, "X").xp
        on = _logistic(z)
        return xp.stack((_logistic(-z), on), axis=-1) if self._one else on

    def predict(self, X: Any) -> Any:
        """Whether each probability is above 1/2: 0 and 1 of shape (N, C), or the more probable class of shape (N,)."""
        z = self.decision_function(X)
        if self._one:
            return self.classes_[(_host(z) > 0).astype(int)]
        xp = library_of(z, "X").xp
        return xp.astype(z > 0, xp.int64)

    def _features(self, X: Any, reset: bool) -> tuple[Any, Any, Any]:
        """Features, their namespace and device; all but arrays of other libraries become float64 NumPy arrays."""
        if _is_host(X):
            X = validate_data(self, X, dtype=np.float64, reset=reset)
            return X, library_of(X, "X").xp, "cpu"
        library = library_of(X, "X")
        xp, device = library.xp, library.form(X, "X").device
        if X.ndim != 2:
            raise ValueError(f"`X` must have the shape (N, D); got {tuple(X.shape)}.")
        if not bool(xp.all(xp.isfinite(X))):
            raise ValueError("Input X contains NaN or infinity.")
        if reset:
            self.n_features_in_ = X.shape[1]
        elif X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {X.shape[1]} features, but it was fitted with {self.n_features_in_}.")
        return X, xp, device

    def _labels(self, y: Any, X: Any, xp: Any, device: Any) -> tuple[Any, Any]:
        """Labels of shape (N, C) in the library of the features, and where they were observed (None: everywhere)."""
        if y is None:
            raise ValueError("This estimator requires y to be passed, but the target y is None.")
        y = y if _is_host(y) else _host(y)
        y = check_array(y, ensure_2d=False, dtype=None, ensure_all_finite="allow-nan", input_name="y")
        if y.shape[0] != X.shape[0]:
            raise ValueError(f"`y` must have as many rows as `X`, {X.shape[0]}; got {y.shape[0]}.")
        self._one = y.ndim == 1
        if self._one:
            if y.dtype.kind == "f" and not (y == np.floor(y)).all():
                raise ValueError(f"Unknown label type: {type_of_target(y)}. Give soft labels the shape (N, 1).")
            self.classes_, y = np.unique(y, return_inverse=True)
            if len(self.classes_) != 2:
                raise ValueError(
                    "Only binary classification is supported for labels of one dimension: they must have two classes; "
                    f"got {len(self.classes_)} class{'es' * (len(self.classes_) != 1)}."
                )
            y = y[:, None]
        else:
            self.classes_ = np.arange(y.shape[1])
        y = y.astype(np.float64)
        missing = np.isnan(y)
        if ((y < 0) | (y > 1)).any():
            raise ValueError("Unknown label type: `y` must have numbers in [0, 1], or NaN where it was not observed.")
        where = xp.asarray(~missing, device=device) if missing.any() else None
        return xp.asarray(y, dtype=X.dtype, device=device), where


def _is_host(values: Any) -> bool:
    """Whether the values are a NumPy array, or something that scikit-learn converts to one."""
    if isinstance(values, np.ndarray) or not hasattr(values, "dtype"):
        return True
    return type(values).__module__.partition(".")[0] in ("pandas", "polars", "scipy", "numpy")


def _host(values: Any) -> Any:
    """The values as a NumPy array."""
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return values.get() if hasattr(values, "get") else np.asarray(values)


def _weights(sample_weight: Any, X: Any, y: Any, xp: Any, device: Any) -> tuple[Any, float]:
    """Weights that broadcast to the labels, and the divisor of the objective: their sum over the rows."""
    rows = X.shape[0]
    if sample_weight is None:
        return None, float(rows)
    weight = np.asarray(sample_weight if _is_host(sample_weight) else _host(sample_weight))
    if weight.ndim == 2:
        weight = check_array(weight, dtype=np.float64, input_name="sample_weight")
        if weight.shape != tuple(y.shape):
            raise ValueError(f"`sample_weight` must have the shape of `y`, {tuple(y.shape)}; got {weight.shape}.")
    else:
        weight = _check_sample_weight(weight, np.empty((rows, 1)), dtype=np.float64)[:, None]
    total = float(weight.sum()) / weight.shape[1]
    return xp.asarray(weight, dtype=X.dtype, device=device), total or 1.0


def _pos_weight(value: Any, X: Any, xp: Any, device: Any) -> Any:
    """An array as a column, because each element is a row of one class; a number unchanged."""
    if value is None or np.ndim(value) == 0:
        return value
    value = value if _is_host(value) else _host(value)
    return xp.asarray(np.asarray(value, dtype=np.float64)[:, None], dtype=X.dtype, device=device)


def _logistic(z: Any) -> Any:
    """The logistic function with all its digits: the gradient of the loss for a label of 0."""
    from ..objectives import derivatives

    return derivatives(z, library_of(z, "X").xp.zeros_like(z))[0]
