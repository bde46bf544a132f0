"""One tree of errors. Whatever goes wrong inside is raised as one of these, with the number that decides.

PintpotError
├── UsageError              exit 2   the command or call cannot be meant like this
│   ├── UnsupportedPlatform          not Linux, or a machine without what is needed
│   └── InUse                        another process holds the pack
├── DoesNotFit              exit 3   no plan keeps the budget
│   └── DiskTooSmall                 the disk has no room for what would be written
├── BadInput                exit 4   a file, folder or value from outside is not what it should be
│   ├── BadFile                      truncated, inconsistent or hostile
│   ├── UnsupportedModel             an architecture, tokenizer or format without a home here
│   │   └── NoFamily                 an architecture without native arithmetic here; transformers may have it
│   └── BadPack                      changed or incomplete
│       └── NewerPack                of a format that only a newer version reads
├── PromiseBroken           exit 1   measured against promised, and it did not hold
├── Diverged                exit 1   learning came to values that are no numbers
├── EndedElsewhere          exit 1   another of the processes that learn together ended, and says why
├── Busy                             more is asked than can wait; the same may do later
├── NotApplicable                    a technique's reason for not applying (planning catches it)
└── Interrupted             exit 130 the person pressed Ctrl-C
"""

from __future__ import annotations

from typing import ClassVar


class PintpotError(Exception):
    """The root; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 4


class UsageError(PintpotError):
    """The command or call cannot be meant like this."""

    exit_code = 2


class UnsupportedPlatform(UsageError):
    """This machine lacks something without which nothing runs."""


class InUse(UsageError):
    """Another process is using what was to be changed."""


class DoesNotFit(PintpotError):
    """No plan keeps the budget; the message holds the smallest that would, and `smallest_bytes` is it."""

    exit_code = 3

    def __init__(self, why: str = "", smallest_bytes: int | None = None) -> None:
        super().__init__(why)
        self.smallest_bytes = smallest_bytes


class DiskTooSmall(DoesNotFit):
    """The disk has no room for what would be written."""


class BadInput(PintpotError):
    """Something from outside is not what it should be."""

    exit_code = 4


class BadFile(BadInput):
    """A file is truncated, inconsistent or hostile."""


class UnsupportedModel(BadInput):
    """An architecture, tokenizer or format that has no home here."""


class NoFamily(UnsupportedModel):
    """An architecture that no native family serves."""


class BadPack(BadInput):
    """A pack was changed, is incomplete, or has a newer format."""


class NewerPack(BadPack):
    """A pack that is whole, and of a format that only a newer version reads."""


class PromiseBroken(PintpotError):
    """What was measured does not keep what was promised."""

    exit_code = 1


class Diverged(PintpotError):
    """Learning came to values that are no numbers, or to infinite ones."""

    exit_code = 1


class EndedElsewhere(PintpotError):
    """Another of several processes ended; it is the one that says why."""

    exit_code = 1


class Busy(PintpotError):
    """More is asked at once than can wait its turn."""


class NotApplicable(PintpotError):
    """A technique's reason for not applying to this model, machine or form."""


class Interrupted(PintpotError):
    """The person asked to stop."""

    exit_code = 130


def need(condition: bool, why: str, error: type[PintpotError] = BadInput) -> None:
    """Raise `error(why)` unless `condition` holds."""
    if not condition:
        raise error(why)


def error_named(name: str) -> type[PintpotError]:
    """The error of this name, as another process reports it; the root for any other name."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, PintpotError) else PintpotError
