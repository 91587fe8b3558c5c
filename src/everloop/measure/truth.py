"""What came true, as it is reported: which class a value means, and which values cannot be a label."""

import math
from collections.abc import Sequence

from everloop.records import Task

Class = bool | int | float | str


def class_name(value: Class) -> str:
    """How a class stands as a name in JSON: true, not True."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def means(value: Class, each: Class) -> bool:
    """Is this the class? It may be written as text; a text is never read as a number."""
    if isinstance(value, str):
        return value == class_name(each)
    return not isinstance(each, str) and float(value) == float(each)


def unfit(value: Class | None, task: Task, classes: Sequence[Class]) -> str | None:
    """Why a value cannot be the label of such a task; None where it can. Nothing (null) takes a label back.

    Several classes may become more: only where there are two is another one a mistake.
    """
    if value is None:
        return None
    if task == "regression":
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return None if number else "a number is predicted: send one"
    if len(classes) != 2 or any(means(value, each) for each in classes):
        return None
    return f"it is {' or '.join(class_name(each) for each in classes)}: send one of these"
