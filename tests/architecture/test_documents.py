"""Documents that are made from the code, or name it, stay in step with it."""

import re
from pathlib import Path

from tools.draw_states import TARGET, drawing
from voltledger.config import describe_settings
from voltledger.domain.reconciliation.findings import FindingKind

ROOT = Path(__file__).parents[2]


def test_the_diagram_of_states_is_the_table() -> None:
    assert (ROOT / TARGET).read_text(encoding="utf-8") == drawing(), "run python -m tools.draw_states"


def test_every_kind_of_finding_is_explained_to_operators() -> None:
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`([a-z_]+)`", page))
    missing = {kind.value for kind in FindingKind} - explained
    assert not missing


def test_every_setting_that_documents_name_exists() -> None:
    known = {row.variable for row in describe_settings()} | {"VOLTLEDGER_DEV", "VOLTLEDGER_ENV"}
    for page in [*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]:
        named = set(re.findall(r"VOLTLEDGER_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8")))
        assert named <= known, (page.name, named - known)


def test_the_readme_shows_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make run" in readme
    assert "make test" in readme


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


def test_no_document_names_a_registry_or_a_path_of_a_machine() -> None:
    # The words are put together here so that this test does not find itself.
    work = "/wo" + "rk/"
    forbidden = ["py" + "pi.org", "registry." + "npmjs", work + "main", work + "shared", "/ro" + "ot/"]
    patterns = ("**/*.md", "requirements*", "src/**/*.py", "tests/**/*.py", "tools/*.py", "Makefile", "voltledger")
    for page in (page for pattern in patterns for page in ROOT.glob(pattern)):
        if page.is_dir() or ".voltledger" in str(page.relative_to(ROOT)):
            continue
        text = page.read_text(encoding="utf-8")
        assert not [word for word in forbidden if word in text], page
