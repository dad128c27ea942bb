"""A tamis job every night, as a DAG for Airflow 3.3. Put this file and exit_codes.py into the DAGs folder.

Airflow's BashOperator tries every failure again; this task fails at once where another try cannot help.
"""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from exit_codes import in_words, what_next

TAMIS = ["tamis"]
JOB = "/etc/tamis/nightly.yaml"  # with a schedule:, as deploy/jobs/nightly.yaml has it


def curate(day: str) -> None:
    """Run the job for one night. AirflowException: try again. AirflowFailException: a person must look."""
    command = [*TAMIS, "curate", JOB, "--date", day]
    code = subprocess.run(command, check=False).returncode
    match what_next(code):
        case "retry":
            raise AirflowException(in_words(code))
        case "page":
            raise AirflowFailException(in_words(code))


@dag(
    schedule="30 1 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=15)},
)
def tamis_nightly() -> None:
    task(task_id="curate")(curate)("{{ ds }}")


tamis_nightly()
