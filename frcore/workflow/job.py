"""What a rule gives its script: one checked object, as JSON in one word of the command line.

A job class is named as its rule, its script and the function of frcore/stages that does the work.
It holds the rule's files under the rule's own names, and values. `facts` is the part of the values
that changes the result, `code` names the code that runs; the digest of both is the rule's parameter
by which Snakemake sees what has to be made again. Imports no torch.

To add a rule: a class here, a function in frcore/stages, a script of one call, the rule.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from frcore.config import (
    DEFAULTS,
    Strict,
    add_folders,
)
from frcore.workflow.codehash import code_hash
from frcore.workflow.processes import say_full_disks_in_one_line

LONGEST = 32_000  # characters of a job on the command line (Linux takes 131,072 a word)
FOLDER = Path(".snakemake/frcore/jobs")  # where longer ones are
PROSE = {"title", "description", "source", "note", "licence", "what"}


class Files(BaseModel):
    """A rule's `input` or `output`: a path, or a list of them, under each name of the rule's."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Path | list[Path]]

    def paths(self) -> Iterator[Path]:
        """All of them."""
        for value in (self.__pydantic_extra__ or {}).values():
            yield from value if isinstance(value, list) else [value]

    if TYPE_CHECKING:  # a path or a list of them, as the rule has it

        def __getattr__(self, name: str) -> Any: ...


class Job(Strict):
    """One job of the workflow. `input` and `output` are the rule's files."""

    CODE: ClassVar[tuple[str, ...]] = ()  # of codehash.code_hash, besides the stage's function
    STAGE: ClassVar[str] = ""  # module of frcore/stages

    methods: tuple[str, ...] = ()  # users' folders
    metrics: tuple[str, ...] = ()
    input: Files = Files()
    output: Files = Files()

    @model_validator(mode="before")
    @classmethod
    def _folders(cls, data):
        if isinstance(data, dict):
            add_folders(data.get("methods") or (), data.get("metrics") or ())
        return data

    @classmethod
    def rule(cls) -> str:
        """RestoreFaces -> restore_faces: the name of the rule, the script and the function."""
        return "".join("_" + c.lower() if c.isupper() else c for c in cls.__name__)[1:]

    @classmethod
    def from_argument(cls, words: Sequence[str] | None = None):
        """The job that a script was called with: JSON, or @FILE that holds it.

        words: as sys.argv. Raises SystemExit with one line for anything else.
        """
        own = words is None
        words = sys.argv if words is None else words
        if len(words) != 2:
            raise SystemExit(f"usage: {Path(words[0]).name} JOB, as the rule gives it")
        text = words[1]
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        job = cls.model_validate_json(text)
        if own:
            say_full_disks_in_one_line(next(job.output.paths(), None))
        return job

    def argument(self, files: Path = FOLDER) -> str:
        """The word for the command line; what is long goes into a file named by its content."""
        text = self.model_dump_json(exclude_unset=True)
        if len(text) <= LONGEST:
            return text
        path = files / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{id(text)}.part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        return f"@{path}"

    def values(self) -> dict:
        """What changes the result, JSON-able: fields that were set, without files and folders."""
        return self.facts(exclude={"input", "output", "methods", "metrics"})

    def code(self) -> tuple[str, ...]:
        """Entries of codehash.code_hash besides the stage's function."""
        return self.CODE

    def digest(self) -> str:
        """The rule's parameter: {part: value or its hash} as JSON, so that a change can be read."""
        code = code_hash(f"frcore.stages.{self.STAGE}:{self.rule()}", *self.code())
        parts = {key: short(value) for key, value in self.values().items()}
        return json.dumps({"code": code, "defaults": DEFAULTS, **parts}, sort_keys=True)


def short(value):
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= 40 else hashlib.sha256(text.encode()).hexdigest()[:12]
