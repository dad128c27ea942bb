"""Checks before any worker starts that the model and its tokenizer can do what the job asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.model.info import ModelInfo
from tamis.operators.problems import RowProblem
from tamis.operators.requests import Request
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.errors import ConfigError, TamisError, error_text
from tamis.pipeline.job.sections import ModelSpec
from tamis.pipeline.models import cache as model_cache
from tamis.pipeline.models.fetch import ModelSource, chat_template, digest_beside_weights, fetch
from tamis.pipeline.models.keys import content_of, model_keys_of
from tamis.pipeline.models.render_process import BoundedRenderer
from tamis.pipeline.storage.store import Store


@dataclass(frozen=True)
class OpenedModel:
    """The model without its weights. source: its folder, or the fetched part of it. content: digest of its files, as in
    a fingerprint. kept_under: the keys for the cache; None where nothing will be cached. known: the command that began
    this run has opened and checked exactly this model."""

    spec: ModelSpec
    source: ModelSource
    content: str
    kept_under: Mapping[str, Any] | None
    info: ModelInfo
    tokenizer: ChatTokenizer
    known: bool = False

    @property
    def keys(self) -> dict[str, Any]:
        """The model's part of a fingerprint."""
        return model_keys_of(self.spec, self.content, self.tokenizer)

    def keep(self, store: Store) -> None:
        """Cache the model's facts for the next command of this run."""
        if self.kept_under is not None and not self.known:
            model_cache.keep(store, self.kept_under, self.info, self.tokenizer)


def open_model(spec: ModelSpec, options: Mapping[str, Any] | None = None, store: Store | None = None) -> OpenedModel:
    """Configuration and tokenizer. ConfigError, in one line, if they cannot be used together.

    options: the job's storage_options. store: the run's store, where an earlier command may have cached them.
    """
    if spec.revision is not None and "://" in spec.name:
        raise ConfigError(f"model.revision is for names on the hub, and model.name is {spec.name}; leave it out")
    source = fetch(spec.name, spec.revision, weights=False, remote_code=spec.trust_remote_code, options=options)
    template = chat_template(spec.template, options)
    try:
        content = content_of(spec, source)
        keys = None if spec.trust_remote_code else _cache_keys(spec, source, content, template)
        if store is not None and keys is not None and (kept := model_cache.load(store, keys)):
            return OpenedModel(spec, source, content, keys, *kept, known=True)
        # Imported here, because it imports transformers and torch.
        from tamis.operators.model.architecture import describe_model

        info = describe_model(source.path, trust_remote_code=spec.trust_remote_code)
        tokenizer = ChatTokenizer.load(
            source.path, trust_remote_code=spec.trust_remote_code, template=template, renderer=BoundedRenderer
        )
        check_vocabulary(tokenizer, info)
    except BaseException as error:
        if not isinstance(error, Exception) and not _panicked(error):
            raise
        raise unusable(f"model {spec.name}", error) from None
    return OpenedModel(spec, source, content, keys, info, tokenizer)


def _panicked(error: BaseException) -> bool:
    """Whether the tokenizers' Rust code has panicked over a file. That is no Exception, and its class has no name to
    import."""
    return type(error).__name__ == "PanicException"


def unusable(what: str, error: BaseException) -> Exception:
    """The exception to raise when reading the files of a model raised `error`: transformers assumes their format, and
    may fail with any exception if they have another one."""
    if isinstance(error, TamisError | MemoryError):
        return error
    if isinstance(error, ValueError | OSError):
        # those of libraries have as many lines as they like
        return ConfigError(f"{what}: {' '.join(str(error).split())}")
    if isinstance(error, ImportError):
        return ConfigError(f"{what}: {error_text(error)}; install what it needs")
    return ConfigError(
        f"{what}: one of its files has not the form that transformers expects ({type(error).__name__}: "
        f"{error_text(error)}); fetch the model again"
    )


def _cache_keys(spec: ModelSpec, source: ModelSource, content: str, template: str | None) -> dict[str, Any]:
    """Everything that decides the model's description, its tokenizer and whether it passes the checks. This does not
    hold for a model with code of its own, which may do anything."""
    return {
        "content": content,
        "beside the weights": digest_beside_weights(source.path),
        "template": template,
        "allow_pickle_weights": spec.allow_pickle_weights,
    }


_FEW, _LONGEST_TRIAL = 16, 4096
_ONE_TURN = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
_WRITTEN = tuple(
    map(Conversation, (_ONE_TURN, [{"role": "system", "content": "x"}, *_ONE_TURN], [*_ONE_TURN, *_ONE_TURN]))
)


def check_vocabulary(tokenizer: ChatTokenizer, info: ModelInfo) -> None:
    """ValueError if the tokenizer does not work, or is not the model's: if it has many tokens without an embedding, or
    one that the chat template writes, which would be in every sample. Embeddings without tokens are padding.

    A few tokens that were added and never trained are common; the rows that have one are quarantined (bad_token_id).
    """
    beyond = tokenizer.highest_id + 1 - info.vocabulary
    if beyond > max(_FEW, info.vocabulary // 100):
        raise ValueError(
            f"its tokenizer has token ids up to {tokenizer.highest_id}, but its embedding has {info.vocabulary} rows "
            f"(0 to {info.vocabulary - 1}); take the tokenizer that belongs to the model, or resize the embedding"
        )
    tried = tokenizer.encode(_WRITTEN, max_tokens=_LONGEST_TRIAL, overlong="keep_end")
    for done in tried:
        if isinstance(done, RowProblem) and done.code == "tokenizer_error":
            raise ValueError(f"its tokenizer fails on a conversation of a few words: {done.message}")
        highest = -1 if isinstance(done, RowProblem) else int(done.input_ids.max(initial=-1))
        if highest >= info.vocabulary:
            raise ValueError(
                f"its chat template writes the token {tokenizer.spelling(highest)!r} (id {highest}), and its embedding "
                f"has {info.vocabulary} rows (0 to {info.vocabulary - 1}); set model.template to one that does not, or "
                "resize the embedding"
            )


def vocabulary_note(tokenizer: ChatTokenizer, info: ModelInfo) -> str | None:
    """What the plan says of a tokenizer that knows more tokens than the model has embeddings; None if it does not."""
    beyond = tokenizer.highest_id + 1 - info.vocabulary
    if beyond <= 0:
        return None
    first = tokenizer.spelling(info.vocabulary)
    return (
        f"the tokenizer has {beyond} token(s) without an embedding (from id {info.vocabulary}, {first!r}); rows that "
        "hold one are quarantined (bad_token_id)"
    )


def check_files(model: OpenedModel, blocks: int, *, head: bool, vectors: bool = True) -> int | None:
    """Check that the weights of the first `blocks` blocks are present and complete, without reading them. ConfigError
    if not.

    head: the LM head must be present, too. vectors: vectors will be taken from the blocks, which not every architecture
    allows. Returns the number of their parameters; None for a name on the hub, which is
    checked when it is fetched.
    """
    spec = model.spec
    if model.source.revision != "local":
        return None
    # Imported here, because it imports the code of all models, and a resumed run was checked when it began.
    from tamis.operators.forward.representations import check_model

    try:
        parameters = None
        if vectors:
            _, parameters = check_model(
                model.source.path,
                [Request(blocks - 1, "last_token")],
                trust_remote_code=spec.trust_remote_code,
                allow_pickle_weights=spec.allow_pickle_weights,
            )
        return _check_head(model) if head else parameters
    except Exception as error:
        raise unusable(f"model {spec.name}", error) from None


def _check_head(model: OpenedModel) -> int:
    from tamis.operators.model.architecture import HEADS, plan_full, read_config
    from tamis.operators.model.loading import check_cut, find_weights, open_weights

    path, spec = model.source.path, model.spec
    head = re.compile(rf"({'|'.join(HEADS)})\.")
    config = read_config(path, revision=None, trust_remote_code=spec.trust_remote_code)
    whole = plan_full(config, trust_remote_code=spec.trust_remote_code)
    files = find_weights(path, whole, revision=None, allow_pickle_weights=spec.allow_pickle_weights)
    with open_weights(files, whole) as weights:
        tied = getattr(config, "tie_word_embeddings", False)
        if not tied and not any(head.match(whole.renaming.final(name)) for name in weights):
            raise ValueError(
                f"there is no LM head ({' or '.join(HEADS)}) among its weights, so it cannot answer; the layer "
                "search and toss need the whole chat model (larf.layer: fisher or a block number do without)"
            )
    return check_cut(whole, files)
