"""`tamis push`: a finished output -> a dataset on the Hugging Face hub, in one commit.

Without --yes nothing is sent: it is said what would be. The output is verified first, file by file; afterwards the
hub's own digests are compared with those of the manifest. Files of an earlier push that this one does not have are
removed in the same commit, so no row of another cut stays among them. The token is that of the environment (HF_TOKEN)
or of `hf auth login`; nothing here shows it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tamis.pipeline.commands.verify import Verified, verify
from tamis.pipeline.errors import ConfigError, DamagedError, IncompleteError, InputError, StorageError, error_text
from tamis.pipeline.report import render_card
from tamis.pipeline.report.text import size
from tamis.pipeline.run.folder import facts_in
from tamis.pipeline.run.paths import (
    ARTIFACT,
    CARD,
    DEMONSTRATIONS,
    DROPPED,
    KEPT,
    LAYERS_PAGE,
    MANIFEST,
    PARTS,
    QUARANTINE,
    REPORT,
    SCORES,
)
from tamis.pipeline.storage.retrying import retrying
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import at_work, phase, waiting

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_ROWS = (KEPT, DROPPED, SCORES)
"""With the card, all that is uploaded unless everything is asked for: what its configs name."""
_OURS = (*PARTS, ARTIFACT, CARD, DEMONSTRATIONS, REPORT, LAYERS_PAGE, MANIFEST)
"""What a push may have written to a repository, and may remove from it."""
_GIT = ".gitattributes"
"""The only file of a new repository."""
_SENDERS = ("httpx", "httpx2", "hf_xet")
_TAG = "tamis"
"""In the tags of every card that tamis writes."""


@dataclass(frozen=True)
class File:
    """name: in the output and in the repository. sha256: as the manifest says; None for the manifest itself."""

    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class There:
    """The repository as it is. private: None where there is none. names: of its files. commit: of its main branch."""

    private: bool | None
    names: frozenset[str] = frozenset()
    commit: str | None = None
    is_ours: bool = False

    @property
    def is_new(self) -> bool:
        return self.private is None


@dataclass(frozen=True)
class Pushed:
    """left_out: folders and files of the output that are not uploaded. removed: files of an earlier push that are.
    knows: whether there is a token, without which a private dataset is not seen. places: of input files, whole paths of
    this machine that their rows bear as `source`. commit: None if nothing was sent."""

    repository: str
    url: str
    there: There
    public: bool
    files: list[File]
    rows: Mapping[str, int]
    left_out: list[str]
    removed: list[str]
    knows: bool
    places: list[str]
    commit: str | None = None

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def lines(self) -> list[str]:
        """What was done, or would be, for a person."""
        kind = "public" if self.public else "private"
        sent = self.commit is not None
        first = f"{'made' if sent else 'would make'} the {kind} dataset" if self.there.is_new else f"the {kind} dataset"
        lines = [f"{first} {self.repository} ({self.url})"]
        for part in dict.fromkeys(file.name.partition("/")[0] for file in self.files):
            mine = [file for file in self.files if file.name.partition("/")[0] == part]
            rows = f", {self.rows[part]:,} rows" if part in self.rows else ""
            files = f"{len(mine):,} file{'s' * (len(mine) != 1)}, " if part != mine[0].name else ""
            lines.append(f"  {part + '/' if part != mine[0].name else part:<14} {files}{size(_bytes(mine))}{rows}")
        if DROPPED in self.rows:
            lines.append(f"  {DROPPED}/ holds what was taken out as a risk, and may hold harmful text")
        if self.places:
            lines.append(f"  warning: the column source {'shows' if sent else 'would show'} places on this machine, as "
                         f"{self.places[0]}")  # fmt: skip
        if self.left_out:
            lines.append(f"not uploaded: {', '.join(self.left_out)} (--all uploads them: they name places on this "
                         "machine, and show texts)")  # fmt: skip
        if self.removed:
            done = "removed" if sent else "would remove"
            lines.append(f"{done} there: {len(self.removed):,} files of an earlier push")
        if not self.knows:
            lines.append("there is no token (HF_TOKEN, or `hf auth login`): a private dataset of this name is not seen")
        lines.append(
            f"commit {self.commit}; the hub's digests of all {len(self.files):,} files are those of the output"
            if sent
            else "nothing was uploaded; add --yes to do it"
        )
        return lines


@at_work()
def push(store: Store, repository: str, *, public: bool, everything: bool, confirmed: bool) -> Pushed:
    """Upload the finished output in `store` to the dataset `repository`, ORG/NAME; or, unless confirmed, say what would
    be uploaded. public: a new dataset is public, and one that is there may be. everything: artifact, report, manifest
    and quarantine, too.

    Raises ConfigError for what the user must change, InputError for an output that is not whole, StorageError where the
    hub does not do it, DamagedError if what lies there afterwards is not the output.
    """
    from huggingface_hub import HfApi, get_token, is_offline_mode, logging
    from huggingface_hub.utils import disable_progress_bars

    if not _NAME.fullmatch(repository):
        raise ConfigError(f"push: {repository} is no name of a dataset; write it as ORG/NAME")
    if not store.is_local:
        raise ConfigError(f"push: {store.path()} is no folder of this machine; copy the output to one first")
    if is_offline_mode():
        raise ConfigError("push: HF_HUB_OFFLINE is set, so the hub may not be asked; unset it")
    checked = _whole(store)
    files, left_out = _chosen(store, everything)
    disable_progress_bars()
    logging.set_verbosity_error()
    if confirmed and get_token() is None:
        raise ConfigError("push: there is no token for the hub; set HF_TOKEN, or run `hf auth login`")
    hub = HfApi()
    phase("push", f"asking the hub for {repository}")
    there = _there(hub, repository)
    _refuse(repository, there, public)
    names = {file.name for file in files}
    removed = sorted(name for name in there.names - names if name.partition("/")[0] in _OURS)
    rows = {part: checked.rows[part] for part in (*_ROWS, QUARANTINE) if any(n.startswith(f"{part}/") for n in names)}
    plan = Pushed(
        repository=repository,
        url=f"{hub.endpoint}/datasets/{repository}",
        there=there,
        public=there.private is False or (there.is_new and public),
        files=files,
        rows=rows,
        left_out=left_out,
        removed=removed,
        knows=get_token() is not None,
        places=_places(facts_in(store, MANIFEST)),
    )
    if not confirmed:
        return plan
    commit = _send(hub, store, plan)
    _compare(hub, store, plan, commit)
    return replace(plan, commit=commit)


def _whole(store: Store) -> Verified:
    found = verify(store)
    if found.problems:
        raise InputError(f"{len(found.problems):,} things are wrong in {store.path()}:", found.problems)
    if not found.complete:
        raise IncompleteError("push: the run is incomplete; run the same `tamis curate` command again first")
    return found


def _chosen(store: Store, everything: bool) -> tuple[list[File], list[str]]:
    """The files to upload, and what of the output stays."""
    manifest = facts_in(store, MANIFEST)
    entries = {entry["name"]: entry for entry in manifest["files"]}
    listed = [File(safe_name(name, MANIFEST), entry["bytes"], entry["sha256"]) for name, entry in entries.items()]
    listed.append(File(MANIFEST, len(store.read(MANIFEST)), None))
    if CARD not in entries or store.read(CARD) != render_card(manifest).encode():
        raise ConfigError(
            f"push: {store.path(CARD)} is none that this version of tamis has written: it may name places on this "
            "machine, and no configs; write it anew with `tamis report`"
        )
    files = [file for file in listed if everything or file.name.partition("/")[0] in (*_ROWS, CARD)]
    parts = {file.name: file.name.partition("/") for file in listed if file not in files}
    left_out = sorted({f"{head}{slash}" for head, slash, _ in parts.values()})
    return sorted(files, key=lambda file: (file.name != CARD, file.name)), left_out


def _places(manifest: Mapping[str, Any]) -> list[str]:
    """Names of input files that are their whole paths: of files that have no folder in common."""
    files = manifest.get("input", {}).get("files", ())
    local = [(str(file["path"]), str(file["url"]).removeprefix("file://")) for file in files]
    return [name for name, path in local if path.startswith("/") and name.lstrip("/") == path.lstrip("/")]


def _bytes(files: Sequence[File]) -> int:
    return sum(file.bytes for file in files)


# --- the hub ------------------------------------------------------------------------------------------------------


def _there(hub: Any, repository: str) -> There:
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    def ask() -> There:
        try:
            info = hub.repo_info(repository, repo_type="dataset")
        except RepositoryNotFoundError as error:
            if _status(error) == 401 and get_token() is not None:
                raise  # with a token that it takes, the hub says 404
            return There(None)
        names = frozenset(str(file.rfilename) for file in info.siblings or ())
        return There(bool(info.private), names, str(info.sha), _TAG in (info.tags or ()))

    with _explained(repository):
        return retrying(ask, f"hf://datasets/{repository}")


def _refuse(repository: str, there: There, public: bool) -> None:
    """ConfigError for a repository that is somebody else's, or that more people see than was meant."""
    if there.names - {_GIT} and not there.is_ours:
        raise ConfigError(
            f"push: {repository} is there and holds something that tamis has not written; choose another name"
        )
    if there.private is False and not public:
        raise ConfigError(f"push: {repository} is there and is public; add --public if everyone may read this output")
    if there.private and public:
        raise ConfigError(f"push: {repository} is there and is private; leave out --public, or change that on the hub")


def _send(hub: Any, store: Store, plan: Pushed) -> str:
    """The commit with all files. Nothing is seen of them before it is made."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = plan.there
    root = Path(store.path())
    with _explained(plan.repository):
        if there.is_new:
            phase("push", f"making {plan.repository}")
            hub.create_repo(plan.repository, repo_type="dataset", private=not plan.public)
            there = _there(hub, plan.repository)
            if there.private is plan.public or there.is_new:
                raise StorageError(f"push: {plan.repository} was made, but is not as private as asked; look at the hub")
        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=root / file.name) for file in plan.files
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in plan.removed]
        with waiting("push", f"uploading {len(plan.files):,} files, {size(plan.bytes)}"):
            # parent_commit: where somebody else has written meanwhile, the hub refuses.
            made = hub.create_commit(
                plan.repository,
                operations,
                commit_message="Output of tamis",
                repo_type="dataset",
                parent_commit=there.commit,
            )
    return str(made.oid)


def _compare(hub: Any, store: Store, plan: Pushed, commit: str) -> None:
    """DamagedError for a file that the hub does not hold as the manifest says."""
    from huggingface_hub.hf_api import RepoFile

    where = f"hf://datasets/{plan.repository}"
    phase("push", "comparing the hub's digests with the manifest")

    def listed() -> list[Any]:
        return [*hub.list_repo_tree(plan.repository, recursive=True, revision=commit, repo_type="dataset")]

    with _explained(plan.repository):
        held = {each.path: each for each in retrying(listed, where) if isinstance(each, RepoFile)}
    for file in plan.files:
        found = held.get(file.name)
        if found is None or not _same(found, file, store):
            raise DamagedError(f"{where}/{file.name}: is not on the hub as it is in the output; push again")
    if left := sorted(set(plan.removed) & held.keys()):
        raise DamagedError(f"{where}/{left[0]}: of an earlier push, is still there; push again")


def _same(found: Any, file: File, store: Store) -> bool:
    if found.lfs is not None and file.sha256 is not None:
        return bool(found.lfs.sha256 == file.sha256)
    data = store.read(file.name)
    if found.lfs is not None:
        return bool(found.lfs.sha256 == hashlib.sha256(data).hexdigest())
    as_was = file.sha256 is None or hashlib.sha256(data).hexdigest() == file.sha256
    # A small file is one of git's own, which has no other digest.
    return as_was and bool(found.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())


def _status(error: Any) -> int | None:
    """The HTTP status of an error of the hub's library."""
    return getattr(error.response, "status_code", None)


def _refused_token() -> ConfigError:
    return ConfigError(
        "push: the hub refuses this token (401: it is wrong, or has expired); set another as HF_TOKEN, or run "
        "`hf auth login`"
    )


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Errors of the hub as one line that says what to do, without the token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"push: {repository} is no name of a dataset ({error_text(error)})") from None
    except RepositoryNotFoundError as error:
        if _status(error) == 401 and get_token() is not None:
            raise _refused_token() from None
        raise ConfigError(
            f"push: {repository} is not there for this token; check the name, and that the token may write"
        ) from None
    except HfHubHTTPError as error:
        token = get_token() or "\0"
        said = error_text(error).replace(token, "***")
        status = _status(error)
        if status == 401 and get_token() is not None:
            raise _refused_token() from None
        if status in (401, 403):
            raise ConfigError(
                f"push: the hub refuses {repository} ({said}); check the name, and that the token may write to it"
            ) from None
        if status in (409, 412):
            raise ConfigError(
                f"push: {repository} has changed meanwhile, and nothing was uploaded ({said}); look, and push again"
            ) from None
        raise StorageError(f"push: the hub does not do it ({said}); push again later") from None
    except Exception as error:
        # Of the libraries that send: errors of the network, and of xet.
        if (
            not isinstance(error, OSError | ValueError | RuntimeError)
            and type(error).__module__.partition(".")[0] not in _SENDERS
        ):
            raise
        token = get_token() or "\0"
        raise StorageError(f"push: {repository}: {error_text(error).replace(token, '***')}; push again later") from None
