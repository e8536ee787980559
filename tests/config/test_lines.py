"""Where keys stand in a TOML text."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.config.lines import key_lines

TEXT = '''\
# comment = 1
[send]  # [not.this]
level = 3
"bandwidth" = "1gbit" # = "]"
text = """
[fake]
key = 1
"""

raw = \'\'\'
other = "x
\'\'\'
[guests."a b"]
resume = [
  "one", # ]
  "level = 1",
]
path = '/dev"/x'
[guests]
c.kind = "shm"
d = { kind = "demo", path = "/x" }
'''


def test_keys_are_found_where_they_stand():
    tomllib.loads(TEXT)
    assert key_lines(TEXT) == {
        ("send",): 2,
        ("send", "level"): 3,
        ("send", "bandwidth"): 4,
        ("send", "text"): 5,
        ("send", "raw"): 10,
        ("guests",): 13,
        ("guests", "a b"): 13,
        ("guests", "a b", "resume"): 14,
        ("guests", "a b", "path"): 18,
        ("guests", "c"): 20,
        ("guests", "c", "kind"): 20,
        ("guests", "d"): 21,
    }


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_line_endings(ending):
    assert key_lines(f"[send]{ending}{ending}level = 1{ending}") == {("send",): 1, ("send", "level"): 3}


VALUES = ["1", '"]"', "'''\n\n'''", '"""a\n"""', "[\n1,\n2\n]", '"\\""', "true # x ["]


@given(st.lists(st.tuples(st.sampled_from(VALUES), st.integers(0, 2))))
def test_what_stands_before_does_not_matter(lines):
    text, expected = "", {}
    for number, (value, blank) in enumerate(lines):
        text += "\n" * blank
        expected[f"key-{number}",] = text.count("\n") + 1
        text += f"key-{number} = {value}\n"
    tomllib.loads(text)
    assert key_lines(text) == expected
