"""The exception tree: its drawing, its exit codes, and what an error says."""

import pickle
import re

import pytest

from migrated import errors
from migrated.errors import EXIT_CODES, MigratedError


def children(cls: type[MigratedError]) -> list[type[MigratedError]]:
    own = [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]
    return sorted(own, key=lambda child: (errors.__doc__ or "").find(f" {child.__name__} "))


def descendants(cls: type[MigratedError]) -> list[type[MigratedError]]:
    return [cls] + [below for child in children(cls) for below in descendants(child)]


def render(cls: type[MigratedError], indent: str = "", branch: str = "") -> list[str]:
    lines = [f"{indent}{branch}{cls.__name__}".ljust(32) + f"{cls.exit_code:4}"]
    below = {"": "", "├── ": "│   ", "└── ": "    "}[branch]
    for child in children(cls):
        last = child is children(cls)[-1]
        lines += render(child, indent + below, "└── " if last else "├── ")
    return lines


ALL = descendants(MigratedError)


def test_the_drawing_is_the_tree() -> None:
    doc = errors.__doc__ or ""
    drawn = re.findall(r"^    ((?:[│├└─ ]*)\w+Error +\d+)\b.*$", doc, flags=re.MULTILINE)
    assert [re.sub(r" +(\d+)$", r" \1", line) for line in drawn] == [
        re.sub(r" +(\d+)$", r" \1", line) for line in render(MigratedError)
    ]


def test_every_error_is_public_and_says_so_in_its_name() -> None:
    names = {cls.__name__ for cls in ALL}
    assert set(errors.__all__) == names | {"EXIT_CODES"}
    assert all(name.endswith("Error") for name in names)


def test_reason_words_are_unique_and_fit_metrics() -> None:
    reasons = [cls.reason for cls in ALL]
    assert len(reasons) == len(set(reasons))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", reason) for reason in reasons)
    assert {cls.reason: cls.exit_code for cls in ALL} == EXIT_CODES


def test_only_relatives_share_an_exit_code() -> None:
    for code in {cls.exit_code for cls in ALL}:
        sharing = [cls for cls in ALL if cls.exit_code == code]
        heads = [cls for cls in sharing if all(issubclass(other, cls) for other in sharing)]
        assert heads, f"exit code {code} stands for {sharing}, none of which is the others' base"


def test_exit_codes_are_not_the_shells() -> None:
    # 126 and up mean "not executable", "not found" and "killed by signal N - 128"; 130 is Ctrl-C on purpose.
    assert all(1 <= cls.exit_code < 126 or cls.exit_code == 130 for cls in ALL)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_error_travels_from_a_worker_process_whole(cls: type[MigratedError]) -> None:
    error = cls("cannot do this", "do that")
    if hasattr(error, "code"):
        error.code = "why"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert vars(copy) == vars(error)
    assert str(copy) == "cannot do this; do that"


def test_without_a_hint_the_text_is_what_failed() -> None:
    assert str(MigratedError("cannot do this")) == "cannot do this"
