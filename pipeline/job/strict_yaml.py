"""YAML text -> plain values. Refuses what PyYAML would silently drop; no message repeats a value.

Of two equal keys, PyYAML takes the last one. Its messages quote the text around a mistake, which may be a secret.
"""

from __future__ import annotations

from typing import Any

import yaml


def parse(text: str) -> Any:
    """The value of a YAML text. Raises ValueError with one line that says what is wrong and where, without the text."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except _DuplicateKey as error:
        raise ValueError(str(error)) from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"not valid YAML (a character that is not allowed, the {error.position + 1:,}th)") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ValueError(f"not valid YAML ({where}{_problem(error)})") from None
    except RecursionError:
        raise ValueError("not usable YAML (nested too deeply)") from None
    except Exception as error:
        # PyYAML converts text that looks like dates and numbers, and passes on any exception of the conversion.
        raise ValueError(f"not usable YAML (a date or a number that is none, {type(error).__name__})") from None
    finally:
        if loader is not None:
            loader.dispose()


def _problem(error: yaml.MarkedYAMLError) -> str:
    """The library's message, if it repeats at most one character of the text."""
    if isinstance(error, yaml.composer.ComposerError):
        return "an alias (*) without its one anchor (&); a value that begins with * or & needs quotes"
    if isinstance(error, yaml.constructor.ConstructorError) or "tag" in (error.problem or ""):
        return "a tag (!) or a key that has no meaning here; a value that begins with ! needs quotes"
    return str(error.problem)


class _DuplicateKey(Exception):
    pass


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse equal keys before merge keys (<<) are resolved: merged keys may be overridden."""
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            merge = key.tag == "tag:yaml.org,2002:merge"
            name = key.value if merge else self.construct_object(key)
            line = key.start_mark.line + 1
            if name in lines:
                where = f"lines {lines[name]} and {line}" if lines[name] != line else f"line {line}"
                raise _DuplicateKey(f"the key {key.value[:80]} is there twice ({where}); keep one of them")
            lines[name] = line
        return node
