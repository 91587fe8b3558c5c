"""The soak excuses what a killed process takes along from its last second, and nothing else."""

import numpy as np
import pytest
from bench.soak import Held

KILLED, LIVES = 7, 8
KILLS = {KILLED: 100.0}


def held(received: list[float], *, there: list[bool], process: int) -> Held:
    answered = np.array(received)
    found, wrote = Held(), np.where(there, process, 0)
    found.take(answered - 0.01, answered, np.array(there), wrote, KILLS)
    return found


def test_the_last_second_of_a_killed_process_is_excused_and_not_a_moment_more() -> None:
    found = held([98.0, 98.9, 99.5, 99.9], there=[True, False, False, False], process=KILLED)
    assert found.ages == pytest.approx([1.1, 0.5, 0.1])
    assert (found.lost, found.last) == (1, 2)


def test_what_a_killed_process_sent_and_we_read_when_it_was_gone_was_its_last() -> None:
    found = held([98.0, 100.005], there=[True, False], process=KILLED)
    assert (found.ages, found.lost) == ([0.0], 0)
    alone = held([100.005], there=[False], process=KILLED)
    assert (alone.ages, alone.lost) == ([0.0], 0)


def test_a_process_that_lives_on_may_lose_nothing_even_while_another_is_killed() -> None:
    assert held([99.5, 99.9], there=[True, False], process=LIVES).lost == 1
    assert held([99.9, 100.5], there=[False, False], process=LIVES).lost == 2  # asked again after the kill


def test_a_log_that_never_comes_to_the_disk_is_found() -> None:
    assert held([97.0, 98.0, 99.5], there=[False, False, False], process=KILLED).lost == 2


def test_no_answer_is_nothing_lost() -> None:
    assert held([float("nan")], there=[False], process=KILLED) == Held()
