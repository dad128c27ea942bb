"""Every row of the table of faults in docs/faults.md names tests, and these tests exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAOS = "chaos/test_chaos.py::test_after_a_round_of_chaos_every_byte_is_that_of_a_calm_run"
SET_ASIDE = "pipeline/capture/test_faults.py::test_shards_that_harm_their_workers_are_set_aside_and_tried_again"
SUBMITTED = "e2e/test_submitted_job.py::test_a_job_that_was_stopped_goes_on_and_outlives_a_node"
TESTS = {
    "the command or its machine is killed": [
        "e2e/test_resume.py::test_the_same_command_finishes_without_capturing_a_done_shard_again",
        "e2e/test_resume.py::test_the_output_is_that_of_an_undisturbed_run",
        CHAOS,
    ],
    "the command is stopped by Ctrl-C, SIGTERM or SIGHUP": [
        "e2e/test_terminal_output.py::test_a_run_that_is_stopped_says_so_and_goes_on",
        "pipeline/commands/test_stopping.py::test_the_second_one_ends_at_once",
    ],
    "a job of `ray job submit` is stopped (`ray job stop`)": [SUBMITTED],
    "something that nobody has foreseen": [
        "pipeline/commands/test_stopping.py::test_what_nobody_has_foreseen_is_one_line"
    ],
    "a worker process dies": [SET_ASIDE, CHAOS],
    "a worker hangs for `worker_timeout` seconds (1,800) at a shard or in a step of a training": [
        SET_ASIDE,
        "pipeline/references/test_reference_deaths.py::test_another_worker_goes_on_from_the_checkpoint_of_one_that_was",
        "pipeline/cluster/test_tasks.py::test_a_task_that_hangs_is_done_again",
    ],
    "one shard kills three workers, or makes one raise an error": [
        SET_ASIDE,
        "pipeline/capture/test_faults.py::test_only_what_was_set_aside_is_captured_again",
        "e2e/test_verify_command.py::test_an_incomplete_run",
    ],
    "memory runs out on a node": [
        "e2e/test_memory_pressure.py::test_it_ends_in_few_lines_and_goes_on_where_there_is_memory",
        "pipeline/capture/test_signs.py::test_the_run_goes_on_where_the_watch_is_killed",
    ],
    "Ray's raylet on this machine is killed": [
        "e2e/test_lost_ray.py::test_a_killed_raylet_is_named_and_the_run_goes_on"
    ],
    "Ray is slow to start": [
        "pipeline/cluster/test_session.py::test_a_ray_that_takes_too_long_is_tried_again_and_then_named"
    ],
    "the folder for Ray's files is full, too long or not writable": [
        "pipeline/cluster/test_own_ray.py::test_a_folder_that_the_user_has_named_is_taken_or_refused"
    ],
    "a node is lost": [CHAOS, SUBMITTED],
    "nodes are not there yet, or other jobs use the GPUs": [
        "e2e/test_gpus.py::test_a_cluster_that_others_use_is_waited_for",
        "e2e/test_gpus.py::test_patience_ends",
        "e2e/test_gpus.py::test_a_cluster_that_grows",
    ],
    "Ray counts GPUs and torch sees none": [
        "e2e/test_gpus.py::test_samples_on_gpus",
        "e2e/test_gpus.py::test_cuda_where_torch_sees_none",
    ],
    "the cluster does not answer, or dies": [
        "pipeline/cluster/test_session.py::test_a_cluster_that_does_not_answer_is_named_at_once"
    ],
    "the process may open too few files": ["pipeline/cluster/test_file_limit.py::test_too_few_files"],
    "the store throttles, fails with 5xx, resets, stalls or cuts off a body": [
        "e2e/test_object_store.py::test_it_ends_well_and_whole",
        "pipeline/storage/test_retrying.py::test_passing_trouble_is_asked_again",
        CHAOS,
    ],
    "the store is away for longer": ["pipeline/storage/test_retrying.py::test_patience_ends_with_what_to_do"],
    "credentials are wrong or missing": [
        "e2e/test_object_store.py::test_the_output_of_a_wrong_secret_is_one_line",
        "pipeline/storage/test_retrying.py::test_no_credentials_is_a_matter_of_configuration",
    ],
    "the disk is full": ["e2e/test_lost_storage.py::test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room"],
    "the output may not be written": [
        "e2e/test_lost_storage.py::test_a_disk_that_nobody_may_write_is_refused_before_anything_is_done"
    ],
    "the input vanishes while it is read": [
        "e2e/test_lost_storage.py::test_an_input_that_vanishes_is_named_and_the_run_goes_on_when_it_is_back"
    ],
    "the input changes after the plan": [
        "e2e/test_lost_storage.py::test_an_input_that_changes_is_never_mixed_with_what_it_was",
        "pipeline/inputs/test_shards.py::test_a_file_that_changed_or_vanished_after_the_plan",
    ],
    "settings differ from those of a begun or finished run": [
        "e2e/test_bad_input.py::test_a_folder_of_other_settings_is_refused_with_the_keys_named"
    ],
    "the artifact of a job is damaged, of an unfinished run, or made with another model, template or settings": [
        "pipeline/run/test_frozen.py::test_what_is_damaged_is_refused_in_one_line",
        "pipeline/run/test_frozen.py::test_an_unfinished_run_is_refused",
        "pipeline/planning/test_frozen_job.py::test_a_setting_that_differs_is_named_with_both_values",
        "pipeline/planning/test_frozen_job.py::test_all_that_differs_is_named_in_one_line",
    ],
    "the run, its captures or the input of `tamis select` or `tamis curate --from` are damaged or changed": [
        "e2e/test_curate_from.py::test_nothing_is_written_where_the_captures_do_not_allow_it",
        "pipeline/capture/test_kept.py::test_a_reference_shard_is_missing",
        "e2e/test_select.py::test_a_damaged_run_is_refused_before_anything_is_written",
        "e2e/test_select.py::test_changed_input_is_refused",
    ],
    "new data is not like that of the artifact": [
        "e2e/test_artifact.py::test_drift_ends_with_code_6_and_the_output_is_whole"
    ],
    "two commands work on one output": [
        "e2e/test_two_drivers.py::test_the_second_is_told",
        "e2e/test_two_drivers.py::test_unlock_says_whose_it_was_and_the_output_is_that_of_a_calm_run",
    ],
    "a night of a schedule does not end, and the next one comes": [
        "e2e/test_nights.py::test_a_killed_night_leaves_its_files_to_the_next",
        "pipeline/nights/test_night.py::test_the_next_night_takes_the_files_of_one_that_failed_and_it_cannot_go_on",
    ],
    "other users on the machine look for tamis's Ray": [
        "pipeline/cluster/test_own_ray.py::test_another_user_gets_nowhere"
    ],
    "the folder in which tamis is started holds a `torch.py`": [
        "e2e/test_working_folder.py::test_with_a_ray_of_its_own"
    ],
    "rows are broken or hostile": [
        "e2e/test_hostile_input.py::test_every_hostile_line_is_kept_dropped_or_quarantined",
        "e2e/test_bad_input.py::test_too_many_bad_rows_fail_with_numbers_and_reasons",
    ],
    "JSON rows bring ever new keys": [
        "pipeline/capture/test_driver.py::test_columns_without_end_are_quarantined",
        "pipeline/capture/test_totals.py::test_keys_without_end_stop_the_run_as_soon_as_they_are_too_many",
    ],
    "a chat template loops, doubles its text or fills the memory": [
        "pipeline/models/test_render_process.py::test_the_plan_names_the_model_and_what_to_set",
        "pipeline/models/test_render_process.py::test_a_template_that_passed_is_bounded_row_by_row",
    ],
    "a `config.json` has the numbers of no model, or others than its weights": [
        "pipeline/models/test_model_checks.py::test_a_config_with_numbers_of_no_model",
        "pipeline/models/test_model_checks.py::test_a_config_that_the_weights_contradict",
    ],
    "an archive unpacks to over 1 GiB and 200 times its size": [
        "e2e/test_hostile_input.py::test_an_archive_bomb_is_refused_by_the_plan"
    ],
    "the rows of a shard of a Parquet or Arrow file are over 2 GiB when they are read": [
        "pipeline/capture/test_driver.py::test_a_shard_that_is_a_parquet_bomb_is_set_aside",
        "pipeline/cluster/test_tasks.py::test_rows_that_are_too_large_can_be_left_out",
    ],
    "a file that an earlier stage or command wrote (a capture, an artifact, a receipt, the output itself) is damaged "
    "or missing": [
        "pipeline/run/test_damage.py::test_samples",
        "pipeline/run/test_damaged_tokens.py::test_tokens",
        "pipeline/run/test_damaged_layers.py::test_layers",
        "pipeline/run/test_mending.py::test_no_damaged_file_is_published",
    ],
    "something else lies in `kept/`, `dropped/`, `quarantine/` or `scores/`": [
        "pipeline/run/test_mending.py::test_what_others_put_there_is_refused_and_stays"
    ],
    "the storage gives back other bytes than it was given, time and again": [
        "pipeline/run/test_mending.py::test_a_storage_that_does_not_keep_what_it_is_given"
    ],
    "an input file is replaced by one of the same size and time": [
        "pipeline/run/test_folder.py::test_a_finished_run_of_an_input_that_was_touched",
        "pipeline/inputs/test_originals.py::test_rows_that_are_not_those_that_were_captured",
    ],
    "the manifest of a finished run is damaged": ["pipeline/terminal/test_text.py::test_a_manifest_that_others_wrote"],
    "a file of the finished output is damaged, missing, or added later": ["e2e/test_verify_command.py::test_damage"],
}


def rows() -> list[str]:
    """The first cells of the table."""
    section = (ROOT / "docs/faults.md").read_text(encoding="utf-8").split("## When things fail\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [line.split("|")[1].strip() for line in lines[1:]]


def test_every_row_has_its_tests() -> None:
    assert rows() == list(TESTS)


@pytest.mark.parametrize("test", sorted({test for tests in TESTS.values() for test in tests}))
def test_the_test_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
