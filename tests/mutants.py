"""Mutants of the provider's, the media and the dataset rooms: which changes of the code does no test notice?

python -m tests.mutants luma/response_rules.py media/keys.py    # these modules; without any, all of MODULES

Each module is mutated in a copy below `build/mutants/`, and each mutant is tried with the tests that MODULES names for
it: those that begin no server of their own, so that a mutant costs a fraction of a second. Survivors are printed; their
text is shown by `mutmut show NAME` in the copy. `make mutants MODULES=…` installs mutmut and calls this.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "mutants"
ANSWERS = ["tests/luma/test_responses.py", "tests/luma/test_wrappers.py"]
FLATTEN = ["tests/luma/test_flatten.py", "tests/pipeline/test_reflatten.py"]
DATASET = ["tests/dataset/test_dataset.py"]
MODULES: dict[str, list[str]] = {
    "luma/response_rules.py": ANSWERS,
    "luma/responses.py": ANSWERS,
    "luma/flatten.py": FLATTEN,
    "luma/stored_answers.py": FLATTEN,
    "luma/timestamps.py": ["tests/luma/test_flatten.py", "tests/properties/test_times.py"],
    "luma/links.py": ["tests/luma/test_another_provider.py", "tests/luma/test_dialect.py"],
    "luma/spec.py": ["tests/luma/test_another_provider.py", "tests/luma/test_dialect.py", "tests/luma/test_batch.py"],
    "luma/results.py": ["tests/luma/test_task_ids.py", *FLATTEN],
    "media/keys.py": ["tests/media/test_keys.py"],
    "media/object_decision.py": ["tests/media/test_object_decision.py"],
    "media/sniff.py": ["tests/media/test_file_types.py"],
    "media/movie_index.py": ["tests/media/test_facts.py"],
    "media/matroska.py": ["tests/media/test_facts.py"],
    "media/pictures.py": ["tests/media/test_facts.py"],
    "dataset/partition_file.py": DATASET,
    "dataset/schema.py": DATASET,
    "dataset/rows.py": DATASET,
    "dataset/manifest.py": ["tests/pipeline/test_videos_manifest.py"],
    "dataset/verdicts.py": ["tests/dataset/test_verdicts.py"],
    "engine/best_rows.py": ["tests/pipeline/test_asking.py"],
}
COPIED = ("luma_pipeline", "tests", "docs", "README.md", "setup.cfg", "LICENSE")
CONFIGURATION = """\
[project]
name = "mutants"
version = "0"

[tool.pytest.ini_options]
addopts = "-m 'not deployment'"
markers = ["deployment: not run here"]
timeout = 120

[tool.mutmut]
source_paths = ["luma_pipeline"]
only_mutate = ["luma_pipeline/{module}"]
also_copy = {copied}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:randomly", "-W", "ignore"]
pytest_add_cli_args_test_selection = {tests}
"""


def main(modules: list[str]) -> int:
    unknown = sorted(set(modules) - set(MODULES))
    if unknown:
        sys.exit(f"no tests are named for {', '.join(unknown)}; there are some for {', '.join(MODULES)}")
    for module in modules or MODULES:
        survivors = mutate(module, [test for test in MODULES[module] if (ROOT / test).exists()])
        sys.stdout.write(f"{module}: {len(survivors)} survivors\n" + "".join(f"  {name}\n" for name in survivors))
        sys.stdout.flush()
    return 0


def mutate(module: str, tests: list[str]) -> list[str]:
    """The names of a module's mutants that its tests do not notice."""
    folder = BUILD / module.replace("/", "_").removesuffix(".py")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    copied = [name for name in COPIED if name != "luma_pipeline"]
    (folder / "pyproject.toml").write_text(CONFIGURATION.format(module=module, tests=tests, copied=copied))
    mutmut = Path(sys.executable).with_name("mutmut")
    with (folder / "run.log").open("wb") as log:
        subprocess.run(
            [mutmut, "run", "--max-children", "1"], cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    results = subprocess.run([mutmut, "results"], cwd=folder, capture_output=True, text=True, check=False).stdout
    survivors = [line.strip().partition(": survived")[0] for line in results.splitlines() if ": survived" in line]
    untested = [line.strip() for line in results.splitlines() if ": no tests" in line]
    return [name for name in survivors if survives_alone(folder / "mutants", name, tests)] + untested


def survives_alone(folder: Path, name: str, tests: list[str]) -> bool:
    """Whether a mutant survives in a process of its own.

    mutmut forks when all is imported: what a module makes when it is imported, such as a table, is made without the
    mutant.
    """
    environment = {**os.environ, "MUTANT_UNDER_TEST": name, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    return not subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
