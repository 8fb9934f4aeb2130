"""Policy files to a Policy: from disk, or from the bytes in the log.

Invariants:
- All problems of all files are collected and raised together, in file order, as one PolicyError.
- ``extends`` opens nothing outside the policy's own folder, whatever it names and wherever links lead.
- ``extends`` is resolved inside the source's own files only: what was activated is all there is.
- A child can only tighten; both places are named where it does not.
- A source's digest is recomputed from its bytes before anything is believed.
- Total size is capped so that an activation, which carries every byte, fits one log entry.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.errors import PolicyError, Problem
from guardrails.policy.build import Document, read_document
from guardrails.policy.extend import fold
from guardrails.policy.model import LoadedPolicy, Policy
from guardrails.policy.schema import FILE_PATTERN
from guardrails.policy.when import nearest_name
from guardrails.policy.yaml_tree import Place
from guardrails.records import PolicySource

MAX_BYTES = 46_000
MAX_FILES = 8
_MAX_PROBLEMS = 200


def load_policy(path: Path) -> LoadedPolicy:
    """Read a policy file and every file that it extends; raises PolicyError with all problems."""
    root = path.name
    if not (root.isascii() and root.isprintable()):
        raise PolicyError(
            [Place("policy", 1, 1).problem(f"the file name {root!a:.80} is not printable ASCII")]
        )
    texts: dict[str, bytes] = {}
    documents: dict[str, Document] = {}
    problems: list[Problem] = []
    absent: set[str] = set()
    queue: list[tuple[str, Place]] = [(root, Place(root, 1, 1))]
    while queue:
        name, asked_at = queue.pop(0)
        if name in texts or name in absent:
            continue
        data = _read(path.parent / name, name, asked_at, problems, _room(texts))
        if data is None:
            absent.add(name)
            continue
        if len(texts) == MAX_FILES:
            problems.append(asked_at.problem(f"more than {MAX_FILES} files", "flatten 'extends'"))
            break
        texts[name] = data
        documents[name] = read_document(name, data)
        for target, place in documents[name].extends:
            wanted = _resolve(name, target)
            if _may_extend(target) and _leads_out(path.parent, wanted):
                told = f"'{wanted}' is a link that leads out of the policy's folder"
                problems.append(
                    place.problem(told, "copy the file there: a policy is the files of one folder")
                )
            elif _may_extend(target):
                queue.append((wanted, place))
    problems.extend(p for document in documents.values() for p in document.problems)
    _raise(problems)
    files = {name: data.decode("utf-8") for name, data in texts.items()}
    policy = _assemble(root, documents)
    source = PolicySource(policy.name, source_digest(files), tuple(files), files)
    _check_size(source)
    return LoadedPolicy(policy, source)


def parse_policy(source: PolicySource) -> Policy:
    """The policy in a source's bytes; raises PolicyError, also where digest, name or order do not fit."""
    here = Place(source.order[0] if source.order else source.name, 1, 1)
    if not source.order or sorted(source.order) != sorted(source.files) or len(source.order) > MAX_FILES:
        raise PolicyError([here.problem("the list of files does not fit the files")])
    if source_digest(source.files) != source.digest:
        raise PolicyError([here.problem(f"the files are not those of {source.digest}")])
    _check_size(source)
    documents = {
        name: read_document(name, text.encode("utf-8"), in_force=True) for name, text in source.files.items()
    }
    _raise([p for name in source.order for p in documents[name].problems])
    policy = _assemble(source.order[0], documents)
    if policy.name != source.name:
        raise PolicyError([here.problem(f"the policy is named '{policy.name}', not '{source.name}'")])
    return policy


def source_digest(files: dict[str, str]) -> Digest:
    """The digest of the manifest of files: name and digest of each."""
    manifest = {name: str(canonical.digest(text.encode("utf-8"))) for name, text in files.items()}
    return canonical.digest(canonical.encode(manifest))


# --- reading -------------------------------------------------------------------------------


def _room(texts: dict[str, bytes]) -> int:
    return MAX_BYTES - sum(len(data) for data in texts.values())


def _read(path: Path, name: str, asked_at: Place, problems: list[Problem], room: int) -> bytes | None:
    try:
        if not path.is_file():
            problems.append(asked_at.problem(_absent(path, name), _nearest_file(path)))
            return None
        with path.open("rb") as stream:
            data = stream.read(room + 1)
    except (OSError, ValueError) as error:
        problems.append(asked_at.problem(f"'{name}' cannot be read: {error}"))
        return None
    if len(data) > room:
        message = f"the policy and what it extends are larger than {MAX_BYTES} bytes"
        problems.append(asked_at.problem(message, "one log entry must hold it; shorten or split it"))
        return None
    return data


def _absent(path: Path, name: str) -> str:
    if path.is_dir():
        return f"'{name}' is a folder, not a file"
    if path.is_symlink():
        return f"'{name}' is a link that leads to no file"
    return f"'{name}' is not a file" if path.exists() else f"there is no file '{name}'"


def _nearest_file(path: Path) -> str:
    """What is there that somebody may have meant; else where the file was looked for."""
    beside: dict[str, str] = {}
    if path.parent.is_dir():
        # Without the suffix, which they share: it would make strangers look alike.
        beside = {
            p.stem: p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file()
        }
    close = nearest_name(path.stem, sorted(beside)[:200])
    return f"did you mean '{beside[close]}'?" if close else f"looked for it at {path}"


def _may_extend(target: str) -> bool:
    """Whether a file may be opened for ``extends``; what may not is refused by the schema, unread."""
    return re.fullmatch(FILE_PATTERN, target) is not None


def _leads_out(folder: Path, name: str) -> bool:
    """Whether a link takes a file of ``extends`` out of the policy's own folder."""
    try:
        return not (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False  # a circle of links: there is no file, which reading it says


def _resolve(file: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(file), target))


def _check_size(source: PolicySource) -> None:
    size = len(canonical.encode(dict(source.files)))
    if size > MAX_BYTES:
        here = Place(source.order[0], 1, 1)
        message = f"{size} bytes as the log would hold them; at most {MAX_BYTES}"
        raise PolicyError([here.problem(message, "shorten or split it")])


def _raise(problems: list[Problem]) -> None:
    if not problems:
        return
    unique = list(dict.fromkeys(problems))
    shown = unique[:_MAX_PROBLEMS]
    if len(unique) > len(shown):
        last = shown[-1]
        more = f"and {len(unique) - len(shown)} more problems"
        shown.append(Problem(last.file, last.line, last.column, more, "mend these first"))
    order = {name: i for i, name in enumerate(dict.fromkeys(p.file for p in shown))}
    raise PolicyError(sorted(shown, key=lambda p: (order[p.file], p.line, p.column)))


# --- putting files together ----------------------------------------------------------------


def _assemble(root: str, documents: dict[str, Document]) -> Policy:
    """Fold every document's parents into it, parents first; raises PolicyError."""
    problems: list[Problem] = []
    done: dict[str, Policy] = {}

    def visit(name: str, trail: tuple[str, ...]) -> Policy | None:
        if name in done:
            return done[name]
        document = documents[name]
        parents = []
        for target, place in document.extends:
            parent = _resolve(name, target)
            if parent in (*trail, name):
                chain = " > ".join((*trail, name, parent))
                problems.append(place.problem("'extends' runs in a circle", chain))
            elif parent not in documents:
                problems.append(place.problem(f"'{parent}' is not among the policy's files"))
            else:
                parents.append(visit(parent, (*trail, name)))
        known = [parent for parent in parents if parent is not None]
        policy, found = fold(document, known)
        problems.extend(found)
        done[name] = policy
        return policy

    policy = visit(root, ())
    _raise(problems)
    assert policy is not None  # noqa: S101 - visit returns None for nothing but a circle, raised above
    return policy


__all__ = ["FILE_PATTERN", "MAX_BYTES", "load_policy", "parse_policy", "source_digest"]
