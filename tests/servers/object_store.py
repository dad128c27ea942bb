"""What a running store tells its clients: where it is, and the environment with its credentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class S3:
    """An S3 endpoint and the account on it."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    @property
    def environment(self) -> dict[str, str]:
        """For the clients. Older servers do not know the checksums that newer clients send unasked."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            # No look at a file or a metadata service that the machine may have.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """What a job needs to find it, without any credential."""
        return {"endpoint_url": self.endpoint}

    def client(self, *, endpoint: str | None = None, attempts: int = 4, read_timeout: float = 60) -> Any:
        """A boto3 client, through `endpoint` if that is another (a proxy). attempts: 1 = no retry of any kind."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"mode": "standard", "total_max_attempts": attempts},
                read_timeout=read_timeout,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def make_bucket(self, name: str) -> str:
        """Its URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"
