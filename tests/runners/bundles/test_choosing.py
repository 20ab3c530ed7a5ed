"""Which files go into a bundle."""

from pathlib import Path

import pytest

from runners.bundles.choosing import choose
from runners.bundles.content import MAX_FILES
from runners.bundles.errors import BundleError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project as people have them."""
    files = {
        "my_model.py": "import json, torch\nfrom layers import block\nimport numpy\n",
        "layers/__init__.py": "",
        "layers/block.py": "from ..nowhere import x\nimport helpers\n",
        "layers/vocabulary.json": "{}",
        "layers/__pycache__/block.cpython-311.pyc": "",
        "layers/.env": "PASSWORD=1",
        "layers/big/data.bin": "0",
        "helpers.py": "import schemas, agents.node\n",
        "unrelated.py": "",
        "torch.egg-info/x": "",
        "words/a.txt": "",
        "words/deep/b.txt": "",
        "words/c.csv": "",
        "notes/one.md": "",
        ".hidden/key": "",
        "agents/__init__.py": "",
        "layers/venv/pyvenv.cfg": "",
        "layers/venv/lib/numpy/__init__.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


CODE = {
    "my_model.py",
    "helpers.py",
    "layers/__init__.py",
    "layers/block.py",
    "layers/vocabulary.json",
    "layers/big/data.bin",
}


def test_the_workload_its_package_and_what_they_import_here_and_nothing_else(root: Path) -> None:
    chosen = choose("my_model:workload", root)
    assert set(chosen) == CODE
    assert all(path == root / name for name, path in chosen.items())
    assert set(choose("layers.block:thing", root)) == CODE - {"my_model.py"}
    assert set(choose("unrelated:x", root)) == {"unrelated.py"}


@pytest.mark.parametrize(
    ("patterns", "more", "less"),
    [
        (["words"], {"words/a.txt", "words/deep/b.txt", "words/c.csv"}, set()),
        (["words/*.txt", "./unrelated.py"], {"words/a.txt", "unrelated.py"}, set()),
        (["**/*.txt"], {"words/a.txt", "words/deep/b.txt"}, set()),
        (["words", "!*.csv", "!words/deep"], {"words/a.txt"}, set()),
        (["!words", "words/c.csv"], {"words/c.csv"}, set()),
        (["!layers/big/"], set(), {"layers/big/data.bin"}),
        (["!*.json", "!big"], set(), {"layers/vocabulary.json", "layers/big/data.bin"}),
        ([".hidden/key"], {".hidden/key"}, set()),
    ],
)
def test_files_are_added_and_taken_out_in_order(root: Path, patterns: list[str], more: set[str], less: set[str]) -> None:
    assert set(choose("my_model:workload", root, patterns)) == CODE - less | more


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../x", "words/../../x", "!../x", "!", ""])
def test_nothing_outside_the_directory(root: Path, pattern: str) -> None:
    with pytest.raises(BundleError, match="leads out of"):
        choose("my_model:workload", root, [pattern])


@pytest.mark.parametrize(
    ("workload", "patterns", "problem"),
    [
        ("my_modle:workload", [], "did you mean my_model:workload"),
        ("my_model", [], "module:attribute"),
        ("numpy:workload", [], "no module 'numpy'"),
        ("agents.mine:workload", [], "no module"),
        ("agents:workload", [], "a package of Shoal itself"),
        ("my_model:workload", ["wrods"], "no file in .* is named 'wrods'"),
        ("my_model:workload", ["*.parquet"], "no file"),
    ],
)
def test_mistakes_are_named(root: Path, workload: str, patterns: list[str], problem: str) -> None:
    with pytest.raises(BundleError, match=problem):
        choose(workload, root, patterns)


def test_a_link_to_a_file_counts_as_the_file_and_one_to_a_folder_is_refused(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "tools.py").write_text("x = 1\n")
    (root / "layers" / "tools.py").symlink_to(shared / "tools.py")
    assert choose("my_model:workload", root)["layers/tools.py"].read_text() == "x = 1\n"
    (root / "layers" / "loop").symlink_to(root)
    with pytest.raises(BundleError, match="layers/loop is a link to a folder"):
        choose("my_model:workload", root)


def test_a_folder_with_a_data_set_in_it_is_not_read_to_its_end(root: Path) -> None:
    (root / "layers" / "images").mkdir()
    for number in range(MAX_FILES + 1):
        (root / "layers" / "images" / f"{number}.png").touch()
    with pytest.raises(BundleError, match="layers holds more than"):
        choose("my_model:workload", root)
