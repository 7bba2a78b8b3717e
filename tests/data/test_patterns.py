"""Files by pattern."""

import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.data import patterns


@pytest.fixture
def root(tmp_path):
    for name in ("test/a.txt", "train/a.txt", "train/b.txt", "validation/a.txt", "train/train.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def files(root, pattern, split="train"):
    found = patterns.files("text", f"{root}/{pattern}", split)
    return [path.removeprefix(f"{root}/") for path in found]


def test_splits(root):
    def splits(pattern):
        return patterns.splits("text", f"{root}/{pattern}")

    assert splits("{split}/*.txt") == ("train", "test", "validation")
    assert splits("{split}/[ab].txt") == ("train", "test", "validation")
    assert splits("{split}/b.txt") == splits("*/*.txt") == ("train",)
    assert splits("{split}/{split}.txt") == ("train",)
    assert splits("**/{split}/a.txt")[0] == "train"
    with pytest.raises(UserError, match=r"no file matches text:.*\.md"):
        splits("{split}/*.md")


def test_files(root):
    assert files(root, "{split}/?.txt") == ["train/a.txt", "train/b.txt"]
    assert files(root, "{split}/*.txt", "test") == ["test/a.txt"]
    assert files(root, "**/{b,a}.txt") == [
        "train/b.txt",
        "test/a.txt",
        "train/a.txt",
        "validation/a.txt",
    ]
    assert files(root, "t*/a.txt") == ["test/a.txt", "train/a.txt"]
    with pytest.raises(UserError, match="no file matches text:"):  # a folder is no file
        files(root, "trai*")


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("a.tar", ["a.tar"]),
        ("a{08..11}", ["a08", "a09", "a10", "a11"]),
        ("{x,y}{0..1}", ["x0", "x1", "y0", "y1"]),
        ("{split}-{1..2}", ["{split}-1", "{split}-2"]),
        ("{3..2}", []),
    ],
)
def test_braces(pattern, expanded):
    assert patterns.expand_braces(pattern) == expanded


def test_a_path_that_exists_is_taken_literally(tmp_path):
    folder = tmp_path / "we [1] {a,b}"
    folder.mkdir()
    for name in ("t.csv", "what?.csv", "we [1].csv", "u1.csv", "u2.csv"):
        (folder / name).write_text(name)
    root = str(folder)
    assert files(root, "t.csv") == ["t.csv"]
    assert files(root, "we [1].csv") == ["we [1].csv"]
    assert files(root, "{t,u1}.csv") == ["t.csv", "u1.csv"]
    assert files(root, "u[!1].csv") == ["u2.csv"]
    assert patterns.splits("csv", f"{root}/{{split}}[12].csv") == ("u",)
    assert patterns.splits("csv", f"{root}/{{split}}[!1?].csv") == ("u",)
    # Escaped.
    assert files(root, "what[?].csv") == files(root, "*[?].csv") == ["what?.csv"]
    assert files(str(tmp_path), "*/we [[]1].csv") == ["we [1] {a,b}/we [1].csv"]
    with pytest.raises(UserError, match="no file matches"):
        files(root, "v[1].csv")
