"""The clock of an update: waiting takes wall time and no processor time."""

import time

from ablate.system.timer import Timer


def test_waiting_counts_in_a_lap_and_not_in_processor_time():
    timer = Timer()
    time.sleep(0.05)
    timer.lap("time/update_s")
    while time.process_time() - timer.processor < 0.02:
        pass
    timer.lap("time/eval_s")
    measured = timer.metrics(10)
    assert measured["time/update_s"] >= 0.05 and measured["time/eval_s"] < timer.total
    assert 0.02 <= measured["time/cpu_s"] < 0.06
    assert measured["responses_per_second"] == 10 / measured["time/update_s"]
