"""Every guard that ``make mutants`` removes still stands where its patch looks for it, exactly once."""

import ast

import pytest
from guarantee.mutants import ROOT, PatchError, apply
from guarantee.mutants_list import MUTANTS, Edit, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_patch_applies_and_leaves_a_program(mutant, tmp_path):
    for edit in mutant.edits:
        path = tmp_path / edit.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / edit.path).read_text())
    apply(mutant, tmp_path)
    for edit in mutant.edits:
        ast.parse((tmp_path / edit.path).read_text())
        assert (tmp_path / edit.path).read_text() != (ROOT / edit.path).read_text()
    for argument in mutant.tests:
        assert not argument.startswith("tests/") or (ROOT / argument).is_file()


def test_a_patch_that_does_not_fit_is_an_error(tmp_path):
    (tmp_path / "x.py").write_text("a = 1\na = 1\n")
    for old in ("a = 1", "b = 1"):
        with pytest.raises(PatchError):
            apply(Mutant("x", (Edit("x.py", old, ""),), ()), tmp_path)
    (tmp_path / "x.py").write_text("a = 1\n")
    apply(Mutant("x", (Edit("x.py", "a = 1", "a = 2"),), ()), tmp_path)
    assert (tmp_path / "x.py").read_text() == "a = 2\n"


def test_no_guard_is_named_twice():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 18
