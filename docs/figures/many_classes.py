"""Draws one figure: `python docs/figures/many_classes.py` writes many-classes.svg. It also needs PyTorch.

The figure shows the memory that a training step needs beyond its arguments and gradients, against the number of
classes: for the linear head with labels, and for `F.linear` with PyTorch's own loss and a dense target. Each is
measured in a process of its own.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from make import HERE, ONE, OURS, STYLE, plt, written

CLASSES = tuple(2**k for k in range(13, 18))
STEP = """
import resource, sys
import torch, mlsm
kind, c = sys.argv[1], int(sys.argv[2])
n, d = 512, 64
F = torch.nn.functional
h, W = torch.randn(n, d).requires_grad_(), torch.full((c, d), 0.01).requires_grad_()
indices = torch.randint(0, c, (n, 5))

def step(W, c, kind):
    if kind == "head":
        loss = mlsm.linear_multilabel_soft_margin_loss(h, W, mlsm.Labels(indices % c, num_classes=c))
    else:
        y = torch.zeros(n, c).scatter_(1, indices % c, 1.0)
        loss = F.multilabel_soft_margin_loss(F.linear(h, W), y)
    return torch.autograd.grad(loss, (h, W))

step(W[:9].detach().requires_grad_(), 9, kind)  # what is imported and compiled once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = step(W, c, kind)
used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(used - sum(v.numel() * v.element_size() for v in found) / 2**20)
"""


def used(kind: str, classes: int) -> float:
    """MiB beyond the arguments and the gradients."""
    found = subprocess.run(
        [sys.executable, "-c", STEP, kind, str(classes)], check=True, capture_output=True, text=True
    ).stdout
    return max(1.0, float(found))


def drawn() -> Any:
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for kind, name, colour in (("torch", "F.linear and PyTorch's loss", ONE), ("head", "mlsm's linear head", OURS)):
        found = [used(kind, c) for c in CLASSES]
        print(name, [round(v) for v in found])
        axes.plot(CLASSES, found, marker="o", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("classes")
    axes.set_ylabel("MiB beyond arguments\nand gradients")
    axes.legend()
    return figure


def main() -> None:
    caption = "Memory of a training step of 512 rows beyond its arguments and gradients, against the number of classes."
    with plt.rc_context(STYLE):
        Path(HERE / "many-classes.svg").write_text(written(drawn(), caption), encoding="utf-8")


if __name__ == "__main__":
    main()
