"""The committed wire types are what the generator makes of the schemas."""

import pytest

from tools import generate_types


def test_the_committed_types_are_what_the_schemas_say() -> None:
    assert generate_types.main(["--check"]) == 0


def test_check_says_so_when_a_file_differs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    target = generate_types.ROOT / "no-such-file.py"
    monkeypatch.setattr(generate_types, "OUTPUT", {"v16": target})
    assert generate_types.main(["--check"]) == 1
    assert "make types" in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize("output", ["v16", "v2"])
def test_generating_twice_gives_the_same_text(output: str) -> None:
    assert generate_types.generate(output) == generate_types.generate(output)


@pytest.mark.parametrize(
    ("wire", "python"),
    [("idTag", "id_tag"), ("evseId", "evse_id"), ("vendorId", "vendor_id"), ("id", "id"), ("from", "from_")],
)
def test_member_names_become_python_names(wire: str, python: str) -> None:
    assert generate_types.snake(wire) == python
