"""One fingerprint of the code's claims: bounds, declared capabilities, known failures, catalogue.

`docs/support.md` contains the fingerprint of the code from which it was made, and a test recomputes it, so that the
test finds a page that is older than a claim. Comments, docstrings and layout do not count, and no array library is
imported, so that the fingerprint is the same on a machine without any.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parents[1]

WHOLE = ("reference/bounds.py", "cases/catalogue*.py", "cases/hazards*.py")
"""Files in which every statement is a claim: the promised errors, and the cases on which they are judged."""

DECLARING = ("backends/*.py",)
"""Files in which only the declarations of a backend class are claims, not how it converts numbers."""

DECLARED = ("name", "library", "capabilities", "layouts", "known", "device")


def _docstrings(tree: ast.AST) -> set[int]:
    """The lines of all docstrings, those below an assignment included."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def essence(source: str) -> str:
    """The source without comments, docstrings, blank lines and trailing space.

    By position and not by `ast.unparse`, whose output differs between Python versions.
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    dropped = _docstrings(ast.parse(source))
    kept = (text.rstrip() for number, text in enumerate(lines, 1) if number not in dropped)
    return "\n".join(text for text in kept if text)


def declarations(source: str) -> Iterator[str]:
    """What each class declares: its name, its bases, and the assignments named in DECLARED."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = ", ".join(ast.get_source_segment(source, base) or "" for base in node.bases)
        for statement in node.body:
            targets = (
                statement.targets
                if isinstance(statement, ast.Assign)
                else [statement.target]
                if isinstance(statement, ast.AnnAssign)
                else []
            )
            names = [t.id for t in targets if isinstance(t, ast.Name)]
            value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
            if value is not None and any(name in DECLARED for name in names):
                text = " ".join((ast.get_source_segment(source, value) or "").split())
                yield f"{node.name}({bases}).{names[0]} = {text}"


def claims(folder: Path = HERE) -> str:
    """The fingerprint of everything the code in `folder` claims: sixteen hexadecimal digits."""
    digest = hashlib.sha256()
    for pattern in WHOLE:
        for file in sorted(folder.glob(pattern)):
            digest.update(f"{file.name}\n{essence(file.read_text(encoding='utf-8'))}\n".encode())
    for pattern in DECLARING:
        for file in sorted(folder.glob(pattern)):
            for text in declarations(file.read_text(encoding="utf-8")):
                digest.update(f"{file.name}: {text}\n".encode())
    return digest.hexdigest()[:16]
