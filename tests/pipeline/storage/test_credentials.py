"""What looks like a credential is refused under whatever name, and not repeated; what only looks odd is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import load_job, storage_options
from tamis.pipeline.storage.credentials import secret_in

MINIMAL = {"input": "a.jsonl", "output": "out", "model": "m", "method": "larf"}


@pytest.mark.parametrize(
    "value",
    [
        "hf_" + "aBcD1234" * 4,
        "ghp_" + "0a1B2c3D" * 4,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "AKIA" + "ABCDEFGH1234",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzzzz",
        "0123456789abcdef" * 2,
        "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ==",
    ],
)
def test_a_token_under_a_name_that_says_nothing(value: str) -> None:
    for options in ({"x": value}, {"client_kwargs": {"headers": [value]}}):
        assert "looks like a credential" in str(secret_in(options))
        for refused in (
            lambda options=options: load_job(None, {**MINIMAL, "storage_options": options}),
            lambda: load_job(None, MINIMAL, [f"storage_options.x={value}"]),
            lambda: storage_options([f"x={value}"]),
        ):
            with pytest.raises(ConfigError) as caught:
                refused()
            assert value not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint_url": "https://MyHost01.storage.Example-Cloud2.com:9000"},
        {"tenant_id": "00000000-aaaa-1111-bbbb-222222222222", "client_id": "0123456789abcdef" * 2},
        {"s3_additional_kwargs": {"SSEKMSKeyId": "arn:aws:kms:eu-west-1:111122223333:key/1234abcd"}},
        {"project": "MyTrainingProject2024Europe", "account_name": "trainingdata0123456789"},
        {"x": "a-long-name-of-lower-letters-and-2-digits"},
        {"client_kwargs": {"verify": "/etc/ssl/Certs2/MyCompanyRoot.pem"}},
    ],
)
def test_a_name_is_no_credential(options: dict[str, Any]) -> None:
    assert secret_in(options) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("storage_options", "hunter2hunter2"),
        ("seed", "hf_" + "aBcD1234" * 4),
        ("max_tokens", "Bearer hunter2hunter2"),
        ("workers", "https://me:hunter2hunter2@host"),
    ],
)
def test_a_value_in_the_wrong_place_is_not_repeated(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(None, {**MINIMAL, key: value})
    assert key in str(caught.value)
    assert value not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError, match=r"^seed: .*\(got 'aaa") as caught:
        load_job(None, {**MINIMAL, "seed": "a" * 5000})
    assert len(str(caught.value)) < 300
