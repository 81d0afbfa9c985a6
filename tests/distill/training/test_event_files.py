"""Scalars that are written are read again; a restart drops the values of later steps."""

import math

from tensorboard.summary.writer import event_file_writer

from distill.training import event_files


def write(directory, step, rows):
    writer = event_files.ScalarWriter(directory, step)
    for number, values in rows:
        writer.write(number, values)
    writer.close()


def test_values_are_read_by_tag_in_the_order_of_steps(tmp_path):
    write(tmp_path, 0, [(1, {"loss": 2.5, "rate": 0.125}), (2, {"loss": 1.5})])
    assert event_files.read(tmp_path) == {"loss": [(1, 2.5), (2, 1.5)], "rate": [(1, 0.125)]}


def test_a_restart_drops_the_values_of_later_steps(tmp_path, monkeypatch):
    # Files of one second and process are read in the order of their names, which end in a number: 100 comes before 99.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    write(tmp_path, 0, [(step, {"loss": float(step)}) for step in (1, 2, 3, 4)])
    write(tmp_path, 2, [(3, {"loss": 30.0})])
    assert event_files.read(tmp_path) == {"loss": [(1, 1.0), (2, 2.0), (3, 30.0)]}


def test_values_that_are_not_finite_are_passed_over(tmp_path):
    write(tmp_path, 0, [(1, {"loss": math.nan}), (2, {"loss": 4.0}), (3, {"loss": math.inf})])
    assert event_files.read(tmp_path) == {"loss": [(2, 4.0)]}


def test_a_flushed_value_is_in_the_file_of_an_open_writer(tmp_path):
    writer = event_files.ScalarWriter(tmp_path, 0)
    writer.write(1, {"loss": 1})
    writer.flush()
    assert event_files.read(tmp_path) == {"loss": [(1, 1.0)]}
    writer.close()


def test_an_empty_folder_has_no_scalars(tmp_path):
    assert event_files.read(tmp_path) == {}
