"""`shoal trust`, `shoal submit --bundle` and the client's `bundle`, against a real server and real nodes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_pausing import a_node, first, shoal
from toy_desk import ServerBeside

from runners.bundles.content import decompress, unpack
from runners.bundles.errors import BundleError
from runners.bundles.keys import own_signer, verified
from runners.client import SentBundle, connect
from schemas.bundles import statement
from schemas.jobs import JobRequest, JobState
from schemas.nodes import NodeMended

OTHER = "ed25519:" + "A" * 43
WORKLOAD = "mine:workload"


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerBeside]:
    """A server in the default store."""
    monkeypatch.chdir(tmp_path)
    for name in ("SHOAL_SERVER", "SHOAL_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with ServerBeside(tmp_path / ".shoal") as made:
        yield made


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A user's workload, elsewhere."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "mine.py").write_text("import beside\n")
    (folder / "beside.py").write_text("x = 1\n")
    (folder / "words.txt").write_text("hello")
    return folder


def keys(*arguments: str) -> dict[str, str]:
    rows = json.loads(shoal("trust", "--json", *arguments).stdout)
    return {row["key"]: row["name"] for row in rows}


def test_a_machine_s_owner_says_whom_it_trusts(fleet: ServerBeside) -> None:
    own = own_signer(fleet.store).public
    assert list(keys()) == [own]
    said = shoal("trust", OTHER, "--name", "anna")
    assert (said.exit_code, said.stdout) == (0, "trusted: nodes know once they start\n")
    assert keys("--list")[OTHER] == "anna"
    table = shoal("trust").stdout
    assert all(word in table for word in (OTHER, "anna", own))
    assert shoal("trust", "anna", "--remove").stdout.startswith("no longer trusted")
    assert list(keys()) == [own]


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("ed25519:short",), 1, "no submitter's key"),
        ((OTHER, "--remove"), 1, "is not trusted here"),
        (("--remove",), 2, "whose?"),
        ((OTHER, "--list"), 2, "leave out KEY"),
    ],
)
def test_mistakes_are_told_in_a_line(fleet: ServerBeside, arguments: tuple[str, ...], code: int, problem: str) -> None:
    said = shoal("trust", *arguments)
    assert said.exit_code == code
    assert problem in said.stderr
    assert said.stderr.count("\n") == 1


def test_nodes_that_run_hear_of_it_at_once(fleet: ServerBeside) -> None:
    with a_node(fleet, "a"), a_node(fleet, "b", "--trust", OTHER):
        said = shoal("trust", OTHER)
        assert said.stdout == "trusted: a, b know at once\n"
        for node in ("a", "b"):
            assert first(fleet, node, NodeMended).reason == "its owner has changed whom it trusts"


def test_a_node_is_not_started_with_half_a_key(fleet: ServerBeside) -> None:
    said = shoal("node", "--trust", OTHER[:-1])
    assert said.exit_code == 1
    assert "no submitter's key" in said.stderr


def job_file(app: Path, **other: Any) -> str:
    lines = {"kind": "train", "workload": WORKLOAD, "rounds": 5, "id": "mine"} | other
    (app / "job.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
    return str(app / "job.toml")


def stored(fleet: ServerBeside, job: str) -> tuple[JobRequest, dict[str, bytes]]:
    """The request that the desk took, and the files in the bundle that it names."""

    async def read() -> tuple[JobRequest, bytes]:
        async with await connect(fleet.server.url) as client:
            state = await client.state(job)
            assert isinstance(state, JobState)
            assert state.request.bundle is not None
            return state.request, await client.bus.get_object(f"bundles/{state.request.bundle.digest}")

    request, data = fleet.call(read())
    assert request.bundle is not None
    return request, unpack(decompress(data, request.bundle.size))


def test_a_job_s_code_goes_along_signed(fleet: ServerBeside, app: Path) -> None:
    fleet.open_desk()
    said = shoal("submit", job_file(app, files=["*.txt"]), "--bundle", "--app-dir", str(app))
    assert said.exit_code == 0, said.output
    request, files = stored(fleet, "mine")
    source, own = request.bundle, own_signer(fleet.store)
    assert files == {"mine.py": b"import beside\n", "beside.py": b"x = 1\n", "words.txt": b"hello"}
    assert source is not None
    assert source.submitter == own.public
    assert verified(own.public, statement(WORKLOAD, source.digest, source.size), source.signature)
    assert f"bundle {source.digest[:12]}: 3 files" in said.stdout
    assert f"nodes elsewhere: shoal trust {own.public}" in said.stdout
    again = shoal("submit", job_file(app, files=["words.txt"]), "--bundle", "--app-dir", str(app), "--json")
    accepted = json.loads(again.stdout)
    assert (accepted["job"], accepted["bundle"]["digest"]) == ("mine", source.digest), "the same request, the same job"


def test_files_without_a_bundle_and_a_workload_that_isn_t_there_are_told(fleet: ServerBeside, app: Path) -> None:
    said = shoal("submit", job_file(app, files=["words.txt"]))
    assert (said.exit_code, "add --bundle" in said.stderr) == (2, True)
    said = shoal("submit", job_file(app, files="words.txt"), "--bundle")
    assert (said.exit_code, "must be a list" in said.stderr) == (2, True)
    said = shoal("submit", job_file(app), "--bundle")
    assert said.exit_code == 1
    assert "no module 'mine'" in said.stderr


def test_python_can_do_the_same(fleet: ServerBeside, app: Path) -> None:
    fleet.open_desk()

    async def submit(request: Any) -> Any:
        async with await connect(fleet.server.url, store=fleet.store) as client:
            return await client.submit(request, bundle=app, files=["words.txt", "!beside.py"])

    accepted = fleet.call(submit(JobRequest(kind="train", workload=WORKLOAD, id="typed")))
    assert isinstance(accepted.bundle, SentBundle)
    assert accepted.bundle.files == ("mine.py", "words.txt")
    assert set(stored(fleet, "typed")[1]) == {"mine.py", "words.txt"}
    with pytest.raises(BundleError, match="not of the form"):
        fleet.call(submit({"kind": "train"}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", "A" * 64),
        ("digest", "../../x"),
        ("size", 2**40),
        ("size", 0),
        ("submitter", "anna"),
        ("signature", ""),
        ("pickle", "x"),
    ],
)
def test_malformed_fields_are_refused_at_admission(fleet: ServerBeside, app: Path, field: str, value: object) -> None:
    fleet.open_desk()
    good = {"digest": "0" * 64, "size": 10, "submitter": OTHER, "signature": "A" * 86}
    text = Path(job_file(app)).read_text() + "\n[bundle]\n"
    (app / "job.toml").write_text(text + "".join(f"{k} = {json.dumps(v)}\n" for k, v in (good | {field: value}).items()))
    said = shoal("submit", str(app / "job.toml"))
    assert said.exit_code == 1
    assert f"refused at $.bundle{'' if field == 'pickle' else '.' + field}" in said.stderr
